//! Filters, as Jinja2 and transformers have them.

use std::{cmp::Ordering, rc::Rc};

use super::{
    access::{attribute, item, undefined},
    arguments::Given,
    ast::{Arithmetic, Name},
    datum::{Datum, Dict, Items, a},
    error::{JinjaError, Result, fail},
    meter::Meter,
    methods::{call_method, capitalize, is_space, join, lines, replace},
    names::has_method,
    ops::arithmetic,
    predicates::test,
    printf::printf,
    sort::sort_by,
    text::{str_of, write_repr},
    tojson::tojson,
};

/// Sends a value through a filter.
pub(super) fn filter(name: &str, value: &Datum, given: Given, meter: &Meter) -> Result<Datum> {
    if let Datum::Str(text) = value {
        meter.bytes(text.len() as u64)?;
    }
    match name {
        "map" => map(value, given, meter),
        "select" | "reject" | "selectattr" | "rejectattr" => select(name, value, given, meter),
        "tojson" => tojson(value, given, meter),
        _ => plain(name, value, given, meter),
    }
}

/// Filters that call no others.
fn plain(name: &str, value: &Datum, mut given: Given, meter: &Meter) -> Result<Datum> {
    let made = match name {
        "abs" => match value {
            Datum::Float(value) => Datum::Float(value.abs()),
            other => match other.as_int().and_then(i128::checked_abs) {
                Some(value) => Datum::Int(value),
                None => fail!("abs: {} is no number", a(other.type_name())),
            },
        },
        "attr" => {
            let name: Name = str_of(&given.need("name")?, meter)?;
            match value {
                // Only what the type has, not what is in it.
                Datum::Dict(_) if !has_method(value, &name) => Datum::undefined(name),
                _ => attribute(value, &name)?,
            }
        }
        "batch" | "slice" => return parts(name, value, given, meter),
        "capitalize" => Datum::from(capitalize(&str_of(value, meter)?)),
        "center" => {
            let text = str_of(value, meter)?;
            let width = given.take("width").unwrap_or(Datum::Int(80));
            given.end()?;
            let given = Given {
                plain: [width].into(),
                named: Vec::new(),
            };
            return call_method(&Datum::Str(text), "center", given, meter);
        }
        "count" | "length" => match value.len_paid(meter)? {
            Some(len) => Datum::from(len),
            None => fail!("{} has no length", a(value.type_name())),
        },
        "d" | "default" => {
            let default = given
                .take("default_value")
                .unwrap_or_else(|| Datum::from(""));
            let falsy = given.flag("boolean", false);
            if value.is_undefined() || falsy && !value.is_true() {
                default
            } else {
                value.clone()
            }
        }
        "dictsort" => return dictsort(value, given, meter),
        "e" | "escape" | "forceescape" => {
            let text = str_of(value, meter)?;
            meter.bytes(text.len() as u64 * 5)?;
            let text = text
                .replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;");
            Datum::from(text.replace('"', "&#34;").replace('\'', "&#39;"))
        }
        "first" => match value {
            Datum::Generator(generator) => {
                let next = generator.next.get();
                let found = generator.items.values().get(next).cloned();
                generator.next.set(next + usize::from(found.is_some()));
                found.unwrap_or_else(|| Datum::undefined("first"))
            }
            list => list
                .iterate(meter)?
                .values()
                .first()
                .cloned()
                .unwrap_or_else(|| Datum::undefined("first")),
        },
        "last" => match value {
            Datum::Generator(_) => fail!("last: a generator has no last value"),
            list => list
                .iterate(meter)?
                .values()
                .last()
                .cloned()
                .unwrap_or_else(|| Datum::undefined("last")),
        },
        "float" => {
            let default = given.take("default").unwrap_or(Datum::Float(0.0));
            match number(value)? {
                Some(number) => Datum::Float(number),
                None => default,
            }
        }
        "int" => {
            let default = given.take("default").unwrap_or(Datum::Int(0));
            let base = given.int("base", 10)?;
            int(value, base)?.unwrap_or(default)
        }
        "format" => {
            let format = str_of(value, meter)?;
            if !given.named.is_empty() {
                if !given.plain.is_empty() {
                    fail!("format: values by place and by name exclude each other");
                }
                let named = given
                    .named
                    .into_iter()
                    .map(|(name, value)| (Datum::Str(name), value));
                return printf(
                    &format,
                    &Datum::Dict(Dict::new(named.collect(), meter)?),
                    meter,
                );
            }
            return printf(&format, &Datum::tuple(given.plain.into(), meter)?, meter);
        }
        "groupby" => return groupby(value, given, meter),
        "indent" => indent(&str_of(value, meter)?, &mut given, meter)?,
        "items" => match value {
            Datum::Undefined(_) => Datum::generator(Vec::new(), meter)?,
            Datum::Dict(dict) => {
                let pairs = dict.entries().iter();
                let pairs =
                    pairs.map(|(key, value)| Datum::tuple(vec![key.clone(), value.clone()], meter));
                Datum::generator(pairs.collect::<Result<_>>()?, meter)?
            }
            other => fail!("items: {} is no dictionary", a(other.type_name())),
        },
        "join" => {
            let between = given
                .take("d")
                .map_or_else(|| Ok("".into()), |value| str_of(&value, meter))?;
            let path = given.take("attribute");
            let mut items = value.iterate(meter)?.values().to_vec();
            if let Some(path) = path {
                for item in &mut items {
                    *item = at(item, &path, None, meter)?;
                }
            }
            join(&items, &between, meter)?
        }
        "list" => Datum::List(Items::new(value.iterate(meter)?.values().to_vec(), meter)?),
        "lower" => Datum::text(str_of(value, meter)?.to_lowercase(), meter)?,
        "upper" => Datum::text(str_of(value, meter)?.to_uppercase(), meter)?,
        "max" | "min" => {
            let sensitive = given.flag("case_sensitive", false);
            let path = given.take("attribute");
            let mut best: Option<(Datum, Datum)> = None;
            for item in value.iterate(meter)?.values() {
                let key = sort_key(item, path.as_ref(), sensitive, meter)?;
                let wanted = if name == "max" {
                    Ordering::Greater
                } else {
                    Ordering::Less
                };
                let is_better = match &best {
                    None => true,
                    Some((found, _)) => key.compare(found, meter)? == Some(wanted),
                };
                if is_better {
                    best = Some((key, item.clone()));
                }
            }
            best.map_or_else(|| Datum::undefined(name), |(_, item)| item)
        }
        "pprint" => {
            let mut text = String::new();
            write_repr(&mut text, value, 0, meter)?;
            Datum::from(text)
        }
        "replace" => {
            let (old, new) = (
                str_of(&given.need("old")?, meter)?,
                str_of(&given.need("new")?, meter)?,
            );
            let count = given
                .take("count")
                .filter(|count| !matches!(count, Datum::None));
            let count = count.map_or(Some(-1), |count| count.as_int());
            replace(
                &str_of(value, meter)?,
                &old,
                &new,
                count.unwrap_or(-1),
                meter,
            )?
        }
        "reverse" => match value {
            Datum::Str(text) => Datum::text(text.chars().rev().collect(), meter)?,
            list => {
                let mut items = list.iterate(meter)?.values().to_vec();
                items.reverse();
                Datum::generator(items, meter)?
            }
        },
        "round" => round(value, &mut given)?,
        "safe" => match value {
            Datum::Str(_) => value.clone(),
            other => Datum::Str(str_of(other, meter)?),
        },
        "sort" => {
            let reverse = given.flag("reverse", false);
            let sensitive = given.flag("case_sensitive", false);
            let path = given.take("attribute");
            let mut keyed = Vec::new();
            for item in value.iterate(meter)?.values() {
                let mut keys = Vec::new();
                for path in paths(path.as_ref()) {
                    keys.push(sort_key(item, path.as_ref(), sensitive, meter)?);
                }
                let key = if keys.len() == 1 {
                    keys.remove(0)
                } else {
                    Datum::tuple(keys, meter)?
                };
                keyed.push((key, item.clone()));
            }
            sort_by(&mut keyed, |(key, _)| key, reverse, meter)?;
            Datum::list(keyed.into_iter().map(|(_, item)| item).collect(), meter)?
        }
        "string" => Datum::Str(str_of(value, meter)?),
        "striptags" => {
            let text = str_of(value, meter)?;
            let mut out = String::new();
            let mut rest = &*text;
            while let Some((before, after)) = rest.split_once('<') {
                let Some((_, behind)) = after.split_once('>') else {
                    break;
                };
                out.push_str(before);
                rest = behind;
            }
            out.push_str(rest);
            let words: Vec<&str> = out
                .split(is_space)
                .filter(|word| !word.is_empty())
                .collect();
            Datum::text(words.join(" "), meter)?
        }
        "sum" => {
            let path = given.take("attribute");
            let mut total = given.take("start").unwrap_or(Datum::Int(0));
            for item in value.iterate(meter)?.values() {
                let item = match &path {
                    Some(path) => at(item, path, None, meter)?,
                    None => item.clone(),
                };
                if matches!(total, Datum::Str(_)) {
                    fail!("sum: texts are joined, not summed");
                }
                total = arithmetic(Arithmetic::Add, &total, &item, meter)?;
            }
            total
        }
        "title" => {
            let text = str_of(value, meter)?;
            let (mut out, mut inside) = (String::new(), false);
            for c in text.chars() {
                if inside {
                    out.extend(c.to_lowercase());
                } else {
                    out.extend(c.to_uppercase());
                }
                inside = !(is_space(c) || "-({[<".contains(c));
            }
            Datum::text(out, meter)?
        }
        "trim" => {
            let letters = given.text("chars")?;
            let text = str_of(value, meter)?;
            let letters = letters.map(Datum::Str);
            let given = Given {
                plain: letters.into_iter().collect(),
                named: given.named,
            };
            return call_method(&Datum::Str(text), "strip", given, meter);
        }
        "truncate" => truncate(&str_of(value, meter)?, &mut given, meter)?,
        "unique" => {
            let sensitive = given.flag("case_sensitive", false);
            let path = given.take("attribute");
            let mut seen = std::collections::HashSet::new();
            let mut kept = Vec::new();
            for item in value.iterate(meter)?.values() {
                if seen.insert(sort_key(item, path.as_ref(), sensitive, meter)?.key(meter)?) {
                    kept.push(item.clone());
                }
            }
            Datum::generator(kept, meter)?
        }
        "wordcount" => {
            let text = str_of(value, meter)?;
            let is_part = |c: char| c == '_' || c.is_alphanumeric();
            Datum::from(
                text.split(|c| !is_part(c))
                    .filter(|word| !word.is_empty())
                    .count(),
            )
        }
        other => fail!("no filter is called {other:?}"),
    };
    given.end()?;
    Ok(made)
}

/// The value at a path such as `function.name`, or an index.
fn at(value: &Datum, path: &Datum, default: Option<&Datum>, meter: &Meter) -> Result<Datum> {
    let mut found = value.clone();
    match path {
        Datum::Str(path) => {
            for part in path.split('.') {
                meter.steps(1)?;
                let key = match part.parse::<i128>() {
                    Ok(index) if !part.starts_with(['+', '-']) => Datum::Int(index),
                    _ => Datum::from(part),
                };
                found = item(&found, &key, meter)?;
                if let Some(default) = default
                    && found.is_undefined()
                {
                    found = default.clone();
                }
            }
            Ok(found)
        }
        index => item(&found, index, meter),
    }
}

/// `a,b` as the attribute of `sort`: several keys.
fn paths(path: Option<&Datum>) -> Vec<Option<Datum>> {
    match path {
        Some(Datum::Str(path)) => path
            .split(',')
            .map(|path| Some(Datum::from(path)))
            .collect(),
        other => vec![other.cloned()],
    }
}

/// What a value is sorted by: small letters, unless case counts.
fn sort_key(value: &Datum, path: Option<&Datum>, sensitive: bool, meter: &Meter) -> Result<Datum> {
    let key = match path {
        Some(Datum::None) | None => value.clone(),
        Some(path) => at(value, path, None, meter)?,
    };
    match key {
        Datum::Str(text) if !sensitive => {
            meter.bytes(text.len() as u64)?;
            Ok(Datum::from(text.to_lowercase()))
        }
        key => Ok(key),
    }
}

fn map(value: &Datum, mut given: Given, meter: &Meter) -> Result<Datum> {
    let items = value.iterate(meter)?;
    let mut made = Vec::with_capacity(items.values().len());
    if let (true, Some(path)) = (given.plain.is_empty(), given.take_named("attribute")) {
        let default = given.take_named("default");
        given.end()?;
        for item in items.values() {
            made.push(at(item, &path, default.as_ref(), meter)?);
        }
    } else {
        let Some(Datum::Str(name)) = given.plain.pop_front() else {
            fail!("map wants the name of a filter, or an attribute");
        };
        for item in items.values() {
            meter.enter(1)?;
            let given = Given {
                plain: given.plain.clone(),
                named: given.named.clone(),
            };
            let value = filter(&name, item, given, meter);
            meter.leave(1);
            made.push(value?);
        }
    }
    Datum::generator(made, meter)
}

fn select(name: &str, value: &Datum, mut given: Given, meter: &Meter) -> Result<Datum> {
    let path = match name.ends_with("attr") {
        true => Some(given.need("attribute")?),
        false => None,
    };
    let by = given.plain.pop_front();
    let mut kept = Vec::new();
    for item in value.iterate(meter)?.values() {
        let tested = match &path {
            Some(path) => at(item, path, None, meter)?,
            None => item.clone(),
        };
        let passes = match &by {
            None => tested.is_true(),
            Some(by) => {
                let given = Given {
                    plain: given.plain.clone(),
                    named: given.named.clone(),
                };
                test(&str_of(by, meter)?, &tested, given, meter)?
            }
        };
        meter.steps(1)?;
        if passes == name.starts_with("select") {
            kept.push(item.clone());
        }
    }
    Datum::generator(kept, meter)
}

fn dictsort(value: &Datum, mut given: Given, meter: &Meter) -> Result<Datum> {
    let Datum::Dict(dict) = value else {
        fail!("dictsort: {} is no dictionary", a(value.type_name()));
    };
    let sensitive = given.flag("case_sensitive", false);
    let by = given.text("by")?.unwrap_or_else(|| "key".into());
    let reverse = given.flag("reverse", false);
    given.end()?;
    let mut keyed = Vec::new();
    for (key, value) in dict.entries() {
        let by = match &*by {
            "key" => key,
            "value" => value,
            _ => fail!("dictsort sorts by \"key\" or by \"value\""),
        };
        let pair = Datum::tuple(vec![key.clone(), value.clone()], meter)?;
        keyed.push((sort_key(by, None, sensitive, meter)?, pair));
    }
    sort_by(&mut keyed, |(key, _)| key, reverse, meter)?;
    Datum::list(keyed.into_iter().map(|(_, pair)| pair).collect(), meter)
}

fn groupby(value: &Datum, mut given: Given, meter: &Meter) -> Result<Datum> {
    let path = given.need("attribute")?;
    let default = given.take("default");
    let sensitive = given.flag("case_sensitive", false);
    given.end()?;
    let mut keyed = Vec::new();
    for item in value.iterate(meter)?.values() {
        let key = at(item, &path, default.as_ref(), meter)?;
        keyed.push((sort_key(&key, None, sensitive, meter)?, (key, item.clone())));
    }
    sort_by(&mut keyed, |(key, _)| key, false, meter)?;
    let mut groups: Vec<(Datum, Datum, Vec<Datum>)> = Vec::new();
    for (key, (shown, item)) in keyed {
        match groups.last_mut() {
            Some((last, _, items)) if last.equals(&key, meter)? => items.push(item),
            _ => groups.push((key, shown, vec![item])),
        }
    }
    let groups = groups
        .into_iter()
        .map(|(_, key, items)| Datum::tuple(vec![key, Datum::list(items, meter)?], meter));
    Datum::list(groups.collect::<Result<_>>()?, meter)
}

/// `batch`: rows of a length. `slice`: so many rows, the first ones longer.
fn parts(name: &str, value: &Datum, mut given: Given, meter: &Meter) -> Result<Datum> {
    let count = given.int(
        if name == "batch" {
            "linecount"
        } else {
            "slices"
        },
        0,
    )?;
    let Some(count) = usize::try_from(count).ok().filter(|count| *count > 0) else {
        fail!("{name} wants a number above 0");
    };
    let fill = given
        .take("fill_with")
        .filter(|fill| !matches!(fill, Datum::None));
    given.end()?;
    let items = value.iterate(meter)?;
    let items = items.values();
    let mut rows = Vec::new();
    if name == "batch" {
        for row in items.chunks(count) {
            let mut row = row.to_vec();
            if let Some(fill) = &fill {
                meter.bytes((count as u64).saturating_mul(32))?;
                row.resize(count, fill.clone());
            }
            rows.push(Datum::list(row, meter)?);
        }
    } else {
        meter.bytes((count as u64).saturating_mul(32))?;
        let (len, longer) = (items.len() / count, items.len() % count);
        let mut next = 0;
        for index in 0..count {
            let end = next + len + usize::from(index < longer);
            let mut row = items[next..end].to_vec();
            next = end;
            if let Some(fill) = &fill
                && index >= longer
                && longer > 0
            {
                row.push(fill.clone());
            }
            rows.push(Datum::list(row, meter)?);
        }
    }
    Datum::generator(rows, meter)
}

fn indent(text: &str, given: &mut Given, meter: &Meter) -> Result<Datum> {
    let by = match given.take("width").unwrap_or(Datum::Int(4)) {
        Datum::Str(by) => by,
        width => match width.as_int() {
            Some(width) => {
                let width = u64::try_from(width).unwrap_or(0);
                meter.bytes(width)?;
                " ".repeat(usize::try_from(width).unwrap_or(0)).into()
            }
            None => fail!("indent wants a number or a text"),
        },
    };
    let (first, blank) = (given.flag("first", false), given.flag("blank", false));
    let mut lines = lines(text, false);
    // Jinja2 adds an end of line first, so that the last one is not lost.
    if text.is_empty() || text.ends_with('\n') {
        lines.push("");
    }
    meter.bytes(
        (lines.len() as u64)
            .saturating_mul(by.len() as u64 + 1)
            .saturating_add(text.len() as u64),
    )?;
    let mut out = String::new();
    for (index, line) in lines.into_iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let is_indented = if index == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        if is_indented {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(Datum::from(out))
}

fn truncate(text: &Rc<str>, given: &mut Given, meter: &Meter) -> Result<Datum> {
    let len = given.int("length", 255)?;
    let kills = given.flag("killwords", false);
    let end = given.text("end")?.unwrap_or_else(|| "...".into());
    let leeway = given.int("leeway", 5)?;
    meter.bytes(text.len() as u64)?;
    let count = text.chars().count() as i128;
    let room = len - end.chars().count() as i128;
    if room < 0 || leeway < 0 {
        fail!("truncate: the length is below that of the end");
    }
    if count <= len.saturating_add(leeway) {
        return Ok(Datum::Str(Rc::clone(text)));
    }
    let cut: String = text
        .chars()
        .take(usize::try_from(room).unwrap_or(usize::MAX))
        .collect();
    let cut = if kills {
        &*cut
    } else {
        cut.rsplit_once(' ').map_or(&*cut, |(before, _)| before)
    };
    Datum::text([cut, &*end].concat(), meter)
}

/// `float(value)`; `None` where the text is no number.
fn number(value: &Datum) -> Result<Option<f64>> {
    match value {
        Datum::Undefined(name) => Err(undefined(name)),
        Datum::Str(text) => {
            let text = text.trim_matches(is_space).replace('_', "").to_lowercase();
            let is_word = text
                .trim_start_matches(['+', '-'])
                .starts_with(|c: char| c.is_alphabetic());
            let word = matches!(
                text.trim_start_matches(['+', '-']),
                "inf" | "infinity" | "nan"
            );
            Ok(if is_word && !word {
                None
            } else {
                text.parse().ok()
            })
        }
        other => Ok(other.as_float()),
    }
}

/// `int(value)`; `None` where it is no number.
fn int(value: &Datum, base: i128) -> Result<Option<Datum>> {
    if let Datum::Str(text) = value {
        let text = text.trim_matches(is_space).replace('_', "").to_lowercase();
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => (-1, digits),
            None => (1, text.strip_prefix('+').unwrap_or(&text)),
        };
        let Some(base) = u32::try_from(base)
            .ok()
            .filter(|base| (2..=36).contains(base))
        else {
            fail!("int: the base {base} is not known");
        };
        let mark = match base {
            16 => "0x",
            8 => "0o",
            2 => "0b",
            _ => "",
        };
        let digits = digits.strip_prefix(mark).unwrap_or(digits);
        if digits.starts_with(|c: char| c.is_alphanumeric())
            && let Ok(value) = i128::from_str_radix(digits, base)
        {
            return Ok(Some(Datum::Int(sign * value)));
        }
    }
    if let Some(value) = value.as_int() {
        return Ok(Some(Datum::Int(value)));
    }
    match number(value)? {
        Some(number) if number.is_finite() && number.abs() < 1e38 => {
            Ok(Some(Datum::Int(number as i128)))
        }
        Some(number) if number.is_finite() => fail!("a whole number is too large for this program"),
        Some(number) if number.is_infinite() => fail!("infinity is no whole number"),
        _ => Ok(None),
    }
}

/// `round`, half to even as Python does.
fn round(value: &Datum, given: &mut Given) -> Result<Datum> {
    let precision = given.int("precision", 0)?;
    let method = given.text("method")?.unwrap_or_else(|| "common".into());
    let Some(number) = value.as_float() else {
        fail!("round: {} is no number", a(value.type_name()));
    };
    let Ok(precision) = i32::try_from(precision.clamp(-400, 400)) else {
        fail!("round: the precision is too large");
    };
    let scale = 10_f64.powi(precision);
    let scaled = |round: fn(f64) -> f64| Datum::Float(round(number * scale) / scale);
    Ok(match &*method {
        "ceil" => scaled(f64::ceil),
        "floor" => scaled(f64::floor),
        "common" => match value {
            Datum::Float(_) if !number.is_finite() => value.clone(),
            Datum::Float(_) if precision >= 0 => {
                let digits = usize::try_from(precision).unwrap_or(0);
                Datum::Float(
                    format!("{number:.digits$}")
                        .parse()
                        .map_err(|_| JinjaError::new("round failed"))?,
                )
            }
            Datum::Float(_) => Datum::Float((number * scale).round_ties_even() / scale),
            whole if precision >= 0 => Datum::Int(whole.as_int().unwrap_or_default()),
            whole => {
                let unit = 10_i128.checked_pow(precision.unsigned_abs());
                let Some(unit) = unit.filter(|unit| *unit < i128::MAX / 4) else {
                    return Ok(Datum::Int(0));
                };
                let whole = whole.as_int().unwrap_or_default();
                let (down, rest) = (whole.div_euclid(unit), whole.rem_euclid(unit));
                let up = rest * 2 > unit || rest * 2 == unit && down % 2 != 0;
                Datum::Int((down + i128::from(up)) * unit)
            }
        },
        other => fail!("round: no method is called {other:?}"),
    })
}
