//! Methods of Python's strings, lists and dictionaries. Those that change a value are refused, as in the sandbox.

use std::rc::Rc;

use super::{
    arguments::Given,
    datum::{Datum, Dict, Items, a},
    error::{JinjaError, Result, fail},
    meter::Meter,
    names::{CHANGE_DICT, CHANGE_LIST, is_in},
    printf::str_format,
    text::str_of,
};

/// Calls a method.
pub(super) fn call_method(
    value: &Datum,
    name: &str,
    mut given: Given,
    meter: &Meter,
) -> Result<Datum> {
    let made = match value {
        Datum::Str(text) => return text_method(text, name, given, meter),
        Datum::Dict(_) if is_in(CHANGE_DICT, name) => {
            fail!("{name:?} changes a dictionary, which templates may not")
        }
        Datum::List(_) if is_in(CHANGE_LIST, name) => {
            fail!("{name:?} changes a list, which templates may not")
        }
        Datum::Dict(dict) => match name {
            "get" => {
                let key = given.need("key")?;
                let default = given.take("default");
                dict.get(&key, meter)?
                    .cloned()
                    .or(default)
                    .unwrap_or(Datum::None)
            }
            "items" | "keys" | "values" => {
                let entries = dict.entries().iter();
                let values = match name {
                    "keys" => entries.map(|(key, _)| key.clone()).collect(),
                    "values" => entries.map(|(_, value)| value.clone()).collect(),
                    _ => {
                        let pairs = entries.map(|(key, value)| {
                            Datum::tuple(vec![key.clone(), value.clone()], meter)
                        });
                        pairs.collect::<Result<_>>()?
                    }
                };
                let name = match name {
                    "keys" => "dict_keys",
                    "values" => "dict_values",
                    _ => "dict_items",
                };
                Datum::View(name, Items::new(values, meter)?)
            }
            _ => value.clone(),
        },
        Datum::List(items) | Datum::Tuple(items) => match name {
            "copy" => value.clone(),
            _ => {
                let wanted = given.need("value")?;
                let mut found = Vec::new();
                for (index, item) in items.values().iter().enumerate() {
                    if item.equals(&wanted, meter)? {
                        found.push(index);
                    }
                }
                match name {
                    "count" => Datum::from(found.len()),
                    _ => match found.first() {
                        Some(index) => Datum::from(*index),
                        None => fail!("a list has no such value"),
                    },
                }
            }
        },
        Datum::Loop(state) => return state.method(name, given, meter),
        Datum::Function(_) => {
            let keys = given.need("keys")?.iterate(meter)?;
            let value = given.take("value").unwrap_or(Datum::None);
            let entries = keys.values().iter().map(|key| (key.clone(), value.clone()));
            Datum::Dict(Dict::new(entries.collect(), meter)?)
        }
        other => fail!("{} has no method {name:?}", a(other.type_name())),
    };
    given.end()?;
    Ok(made)
}

fn text_method(text: &Rc<str>, name: &str, mut given: Given, meter: &Meter) -> Result<Datum> {
    meter.bytes(text.len() as u64)?;
    let made = match name {
        "format" => return str_format(text, &given, meter),
        "format_map" => {
            let Datum::Dict(dict) = given.need("mapping")? else {
                fail!("format_map wants a dictionary");
            };
            meter.steps(dict.entries().len() as u64)?;
            let named = dict.entries().iter();
            let named = named.filter_map(|(key, value)| match key {
                Datum::Str(name) => Some((Rc::clone(name), value.clone())),
                _ => None,
            });
            let named = named.collect();
            return str_format(
                text,
                &Given {
                    named,
                    ..Given::default()
                },
                meter,
            );
        }
        "strip" | "lstrip" | "rstrip" => {
            let letters = given.text("chars")?;
            let is_cut = |c: char| match &letters {
                None => is_space(c),
                Some(letters) => letters.contains(c),
            };
            if let Some(letters) = &letters {
                meter.steps((text.len() as u64).saturating_mul(letters.len() as u64) / 64)?;
            }
            Datum::from(match name {
                "strip" => text.trim_matches(is_cut),
                "lstrip" => text.trim_start_matches(is_cut),
                _ => text.trim_end_matches(is_cut),
            })
        }
        "split" | "rsplit" => {
            let separator = given.text("sep")?;
            let max = given.int("maxsplit", -1)?;
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            let parts = match separator.as_deref() {
                Some("") => fail!("a text cannot be split at nothing"),
                Some(separator) if name == "split" => {
                    text.splitn(max.saturating_add(1), separator).collect()
                }
                Some(separator) => reversed(text.rsplitn(max.saturating_add(1), separator)),
                None if name == "split" => words(text, max),
                None => words_from_end(text, max),
            };
            texts(parts, meter)?
        }
        "splitlines" => {
            let keeps = given.flag("keepends", false);
            texts(lines(text, keeps), meter)?
        }
        "partition" | "rpartition" => {
            let separator = part(&mut given, "sep")?;
            if separator.is_empty() {
                fail!("a text cannot be split at nothing");
            }
            let parts = match name {
                "partition" => text
                    .split_once(&*separator)
                    .map_or([&**text, "", ""], |(one, two)| [one, &separator, two]),
                _ => text
                    .rsplit_once(&*separator)
                    .map_or(["", "", &**text], |(one, two)| [one, &separator, two]),
            };
            Datum::tuple(parts.map(Datum::from).to_vec(), meter)?
        }
        "startswith" | "endswith" => {
            let wanted = given.need("prefix")?;
            let (first, end) = (given.int("start", 0)?, given.take("end"));
            let end = end.and_then(|end| end.as_int()).unwrap_or(i128::MAX);
            let text = between(text, first, end);
            let matches = |wanted: &Datum| match wanted.as_str() {
                Some(part) if name == "startswith" => {
                    Ok(text.is_some_and(|text| text.starts_with(part)))
                }
                Some(part) => Ok(text.is_some_and(|text| text.ends_with(part))),
                None => Err(JinjaError::new(format!(
                    "{name} wants a text or a tuple of texts, not {}",
                    a(wanted.type_name())
                ))),
            };
            let mut found = false;
            match &wanted {
                Datum::Tuple(items) => {
                    for item in items.values() {
                        found = found || matches(item)?;
                    }
                }
                one => found = matches(one)?,
            }
            Datum::Bool(found)
        }
        "replace" => {
            let (old, new) = (part(&mut given, "old")?, part(&mut given, "new")?);
            let count = given.int("count", -1)?;
            replace(text, &old, &new, count, meter)?
        }
        "removeprefix" => {
            let part = part(&mut given, "prefix")?;
            Datum::from(text.strip_prefix(&*part).unwrap_or(text))
        }
        "removesuffix" => {
            let part = part(&mut given, "suffix")?;
            Datum::from(text.strip_suffix(&*part).unwrap_or(text))
        }
        "title" => Datum::from(title(text)),
        "upper" => Datum::text(text.to_uppercase(), meter)?,
        "lower" | "casefold" => Datum::text(text.to_lowercase(), meter)?,
        "capitalize" => Datum::from(capitalize(text)),
        "swapcase" => Datum::from(text.chars().map(swapped).collect::<String>()),
        "join" => {
            let list = given.need("iterable")?;
            let items = list.iterate(meter)?;
            meter.steps(items.values().len() as u64)?;
            for (index, item) in items.values().iter().enumerate() {
                if item.as_str().is_none() {
                    fail!("join: item {index} is {}, no text", a(item.type_name()));
                }
            }
            join(items.values(), text, meter)?
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let wanted = part(&mut given, "sub")?;
            let (first, end) = (given.int("start", 0)?, given.take("end"));
            let end = end.and_then(|end| end.as_int()).unwrap_or(i128::MAX);
            let inside = between(text, first, end);
            let start = resolved(text, first);
            if name == "count" {
                let count = match inside {
                    None => 0,
                    Some(inside) if wanted.is_empty() => inside.chars().count() + 1,
                    Some(inside) => inside.matches(&*wanted).count(),
                };
                Datum::from(count)
            } else {
                let at = inside.and_then(|inside| {
                    let at = if name.starts_with('r') {
                        inside.rfind(&*wanted)
                    } else {
                        inside.find(&*wanted)
                    };
                    Some(start + inside[..at?].chars().count())
                });
                match at {
                    Some(at) => Datum::from(at),
                    None if name.ends_with("index") => fail!("a text has no such part"),
                    None => Datum::Int(-1),
                }
            }
        }
        "isdigit" | "isnumeric" | "isdecimal" | "isalpha" | "isalnum" | "isspace" => {
            let is_kind = |c: char| match name {
                "isalpha" => c.is_alphabetic(),
                "isalnum" => c.is_alphanumeric(),
                "isspace" => is_space(c),
                _ => c.is_numeric(),
            };
            Datum::Bool(!text.is_empty() && text.chars().all(is_kind))
        }
        "islower" => Datum::Bool(
            text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
        ),
        "isupper" => Datum::Bool(
            text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
        ),
        "istitle" => Datum::Bool(text.chars().any(char::is_alphabetic) && **text == title(text)),
        "isascii" => Datum::Bool(text.is_ascii()),
        "isidentifier" => {
            let begins = |c: char| c == '_' || c.is_alphabetic();
            let mut chars = text.chars();
            Datum::Bool(
                chars.next().is_some_and(begins) && chars.all(|c| begins(c) || c.is_numeric()),
            )
        }
        "zfill" => {
            let width = given.int("width", 0)?;
            let (sign, digits) = match text.strip_prefix(['+', '-']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", &**text),
            };
            let room = room(text, width, 1, meter)?;
            Datum::from(format!("{sign}{}{digits}", "0".repeat(room)))
        }
        "center" | "ljust" | "rjust" => {
            let width = given.int("width", 0)?;
            let fill = given.text("fillchar")?.unwrap_or_else(|| " ".into());
            if fill.chars().count() != 1 {
                fail!("{name}: the text that fills is no single letter");
            }
            let room = room(text, width, fill.len(), meter)?;
            let before = match name {
                "rjust" => room,
                "ljust" => 0,
                // Python puts the odd one in front where the width is odd.
                _ => room / 2 + (room & usize::try_from(width).unwrap_or(0) & 1),
            };
            Datum::from([&fill.repeat(before), &**text, &fill.repeat(room - before)].concat())
        }
        "expandtabs" => {
            let every = usize::try_from(given.int("tabsize", 8)?.clamp(0, 1 << 16)).unwrap_or(8);
            meter.bytes((text.matches('\t').count() as u64).saturating_mul(every as u64))?;
            let (mut out, mut column) = (String::new(), 0);
            for c in text.chars() {
                match c {
                    '\t' if every > 0 => {
                        let count = every - column % every;
                        out.extend(std::iter::repeat_n(' ', count));
                        column += count;
                    }
                    '\t' => {}
                    '\n' | '\r' => {
                        out.push(c);
                        column = 0;
                    }
                    c => {
                        out.push(c);
                        column += 1;
                    }
                }
            }
            Datum::text(out, meter)?
        }
        other => fail!("a text has no method {other:?}"),
    };
    given.end()?;
    Ok(made)
}

/// An argument that is a text.
fn part(given: &mut Given, name: &str) -> Result<Rc<str>> {
    match given.need(name)? {
        Datum::Str(text) => Ok(text),
        other => fail!("the argument {name:?} is {}, no text", a(other.type_name())),
    }
}

/// How many letters fill a text up to a width.
fn room(text: &str, width: i128, bytes: usize, meter: &Meter) -> Result<usize> {
    let room = width.saturating_sub(text.chars().count() as i128).max(0);
    let room = u64::try_from(room).unwrap_or(u64::MAX);
    meter.bytes(room.saturating_mul(bytes as u64))?;
    Ok(usize::try_from(room).unwrap_or(usize::MAX))
}

/// White space as Python's `str.isspace` has it: that of Unicode and four separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1C'..='\x1F').contains(&c)
}

fn texts(parts: Vec<&str>, meter: &Meter) -> Result<Datum> {
    meter.bytes(parts.len() as u64 * 32)?;
    Datum::list(parts.into_iter().map(Datum::from).collect(), meter)
}

fn reversed<'t>(parts: impl Iterator<Item = &'t str>) -> Vec<&'t str> {
    let mut parts: Vec<&str> = parts.collect();
    parts.reverse();
    parts
}

/// `split()`: at white space, without empty parts.
fn words(text: &str, max: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == max {
            parts.push(rest);
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

fn words_from_end(text: &str, max: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == max {
            parts.push(rest);
            break;
        }
        let start = rest.char_indices().rev().find(|(_, c)| is_space(*c));
        let start = start.map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// `splitlines`: at everything that Python takes for the end of a line.
pub(super) fn lines(text: &str, keeps_ends: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0B' | '\x0C' | '\x1C'..='\x1E' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_end).unwrap_or(rest.len());
        let after = match rest[end..].chars().next() {
            Some('\r') if rest[end + 1..].starts_with('\n') => end + 2,
            Some(c) => end + c.len_utf8(),
            None => end,
        };
        lines.push(&rest[..if keeps_ends { after } else { end }]);
        rest = &rest[after..];
    }
    lines
}

/// A place from the front or the back, in letters, inside of the text.
fn resolved(text: &str, index: i128) -> usize {
    let len = text.chars().count() as i128;
    let index = if index < 0 {
        index.saturating_add(len).max(0)
    } else {
        index.min(len)
    };
    usize::try_from(index).unwrap_or(0)
}

/// The part between two places; `None` where the first lies behind the text.
fn between(text: &str, first: i128, end: i128) -> Option<&str> {
    if first == 0 && end == i128::MAX {
        return Some(text);
    }
    let beyond = first > text.chars().count() as i128;
    let (first, end) = (resolved(text, first), resolved(text, end));
    if beyond || end < first {
        return None;
    }
    let at = |count: usize| {
        text.char_indices()
            .nth(count)
            .map_or(text.len(), |(at, _)| at)
    };
    Some(&text[at(first)..at(end)])
}

/// `replace`, with the size of the result paid for first.
pub(super) fn replace(
    text: &str,
    old: &str,
    new: &str,
    count: i128,
    meter: &Meter,
) -> Result<Datum> {
    let max = usize::try_from(count).unwrap_or(usize::MAX);
    meter.steps(text.len() as u64 / 4)?;
    let found = text.matches(old).take(max).count() as u64;
    meter.bytes(
        found
            .saturating_mul(new.len() as u64)
            .saturating_add(text.len() as u64),
    )?;
    Ok(Datum::from(text.replacen(old, new, max)))
}

/// Texts with one between.
pub(super) fn join(items: &[Datum], between: &str, meter: &Meter) -> Result<Datum> {
    let mut out = String::new();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            meter.bytes(between.len() as u64)?;
            out.push_str(between);
        }
        let text = str_of(item, meter)?;
        meter.bytes(text.len() as u64)?;
        out.push_str(&text);
        meter.size(out.len() as u64)?;
    }
    Ok(Datum::from(out))
}

/// `str.title`: a letter is large behind what is no letter.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

/// The first letter large, all others small.
pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase(),
        None => String::new(),
    }
}

fn swapped(c: char) -> String {
    if c.is_uppercase() {
        c.to_lowercase().collect()
    } else {
        c.to_uppercase().collect()
    }
}
