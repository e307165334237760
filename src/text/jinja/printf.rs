//! `'%s has %d' % ('a', 3)` and `'{} has {:>4}'.format('a', 3)`.

use std::rc::Rc;

use super::{
    access::{attribute, item},
    arguments::Given,
    ast::Name,
    datum::{Datum, a},
    error::{JinjaError, Result, fail},
    meter::Meter,
    text::{float, str_of, write_repr},
};

/// How one value is written.
#[derive(Debug, Clone, Copy)]
struct Style {
    fill: char,
    /// `<`, `>`, `^` or `=`; none where the type of the value decides.
    align: Option<char>,
    /// `+` or a space; `-` for neither.
    sign: char,
    alternate: bool,
    grouping: Option<char>,
    width: usize,
    precision: Option<usize>,
    kind: Option<char>,
}

const PLAIN: Style = Style {
    fill: ' ',
    align: None,
    sign: '-',
    alternate: false,
    grouping: None,
    width: 0,
    precision: None,
    kind: None,
};

/// Digits of a float that can be asked for; a float has at most 1,100.
const PRECISION_MAX: usize = 2000;

/// Reads a number out of a format.
fn number(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Option<usize>> {
    let mut found: Option<usize> = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        let value = found
            .unwrap_or(0)
            .checked_mul(10)
            .and_then(|value| value.checked_add(digit as usize));
        found = Some(
            value
                .filter(|value| *value < 1 << 40)
                .ok_or_else(|| JinjaError::new("a width in a format is too large"))?,
        );
    }
    Ok(found)
}

/// `format % values`.
pub(super) fn printf(format: &str, values: &Datum, meter: &Meter) -> Result<Datum> {
    meter.bytes(format.len() as u64)?;
    let (list, is_tuple) = match values {
        Datum::Tuple(items) => (items.values(), true),
        other => (std::slice::from_ref(other), false),
    };
    let mut left = list.iter();
    let mut next = || {
        left.next()
            .ok_or_else(|| JinjaError::new("a format asks for more values than there are"))
    };
    let mut by_name = false;
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = PLAIN;
        let mut named = None;
        if chars.next_if_eq(&'(').is_some() {
            let mut name = String::new();
            loop {
                match chars.next() {
                    Some(')') => break,
                    Some(c) => name.push(c),
                    None => fail!("a name in a format does not end"),
                }
            }
            let Datum::Dict(dict) = values else {
                fail!("a format asks for {name:?}, and there is no dictionary");
            };
            let name = Name::from(name);
            by_name = true;
            named = Some(match dict.named(&name) {
                Some(value) => value,
                None => fail!("a format asks for {name:?}, which is not there"),
            });
        }
        while let Some(flag) = chars.next_if(|c| "#0- +".contains(*c)) {
            match flag {
                '#' => spec.alternate = true,
                '0' if spec.align.is_none() => (spec.fill, spec.align) = ('0', Some('=')),
                '-' => (spec.fill, spec.align) = (' ', Some('<')),
                ' ' if spec.sign == '-' => spec.sign = ' ',
                '+' => spec.sign = '+',
                _ => {}
            }
        }
        let star = |value: Result<&Datum>| match value?.as_int() {
            Some(value) => Ok(value),
            None => Err(JinjaError::new("* in a format wants a whole number")),
        };
        if chars.next_if_eq(&'*').is_some() {
            let width = star(next())?;
            if width < 0 {
                (spec.fill, spec.align) = (' ', Some('<'));
            }
            spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
        } else {
            spec.width = number(&mut chars)?.unwrap_or(0);
        }
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(if chars.next_if_eq(&'*').is_some() {
                usize::try_from(star(next())?).unwrap_or(0)
            } else {
                number(&mut chars)?.unwrap_or(0)
            });
        }
        while chars.next_if(|c| "hlL".contains(*c)).is_some() {}
        let Some(kind) = chars.next() else {
            fail!("a format ends behind its %");
        };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => next()?,
        };
        percent(&mut out, value, kind, spec, meter)?;
        meter.size(out.len() as u64)?;
    }
    if left.next().is_some()
        && !by_name
        && (is_tuple || !matches!(values, Datum::Dict(_) | Datum::List(_)))
    {
        fail!("not all values of a format are used");
    }
    Datum::text(out, meter)
}

/// One value behind a `%`.
fn percent(
    out: &mut String,
    value: &Datum,
    kind: char,
    mut spec: Style,
    meter: &Meter,
) -> Result<()> {
    let align = spec.align.unwrap_or('>');
    match kind {
        's' | 'r' | 'a' => {
            let mut text = str_of(value, meter)?.to_string();
            if kind != 's' {
                text.clear();
                write_repr(&mut text, value, 0, meter)?;
            }
            if let Some(precision) = spec.precision {
                text = text.chars().take(precision).collect();
            }
            spec.fill = ' ';
            spec.align = Some(if align == '<' { '<' } else { '>' });
            pad(out, "", &text, spec, meter)
        }
        'c' => {
            let letter = match value {
                Datum::Str(text) if text.chars().count() == 1 => text.to_string(),
                other => match other
                    .as_int()
                    .and_then(|code| u32::try_from(code).ok())
                    .and_then(char::from_u32)
                {
                    Some(letter) => letter.to_string(),
                    None => fail!("%c wants a letter or its number"),
                },
            };
            spec.align = Some(if align == '<' { '<' } else { '>' });
            pad(out, "", &letter, spec, meter)
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let whole = match value {
                Datum::Float(value)
                    if matches!(kind, 'd' | 'i' | 'u')
                        && value.is_finite()
                        && value.abs() < 1e38 =>
                {
                    Some(*value as i128)
                }
                other => other.as_int(),
            };
            let Some(whole) = whole else {
                fail!("%{kind} wants a number, not {}", a(value.type_name()));
            };
            let mut digits = radix(whole, kind);
            if let Some(precision) = spec.precision {
                meter.bytes(precision as u64)?;
                digits = format!(
                    "{}{digits}",
                    "0".repeat(precision.saturating_sub(digits.len()))
                );
            }
            let prefix = if spec.alternate { prefix(kind) } else { "" };
            spec.align = Some(align);
            pad(
                out,
                &format!("{}{prefix}", sign(whole < 0, spec)),
                &digits,
                spec,
                meter,
            )
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let Some(number) = value.as_float() else {
                fail!("%{kind} wants a number, not {}", a(value.type_name()));
            };
            spec.align = Some(align);
            spec.kind = Some(kind);
            number_in(out, number, spec, meter)
        }
        other => fail!("%{other} is no format that is known"),
    }
}

fn sign(negative: bool, spec: Style) -> &'static str {
    match (negative, spec.sign) {
        (true, _) => "-",
        (false, '+') => "+",
        (false, ' ') => " ",
        _ => "",
    }
}

fn prefix(kind: char) -> &'static str {
    match kind {
        'x' => "0x",
        'X' => "0X",
        'o' => "0o",
        'b' => "0b",
        _ => "",
    }
}

/// The digits of a whole number without its sign.
fn radix(whole: i128, kind: char) -> String {
    let whole = whole.unsigned_abs();
    match kind {
        'x' => format!("{whole:x}"),
        'X' => format!("{whole:X}"),
        'o' => format!("{whole:o}"),
        'b' => format!("{whole:b}"),
        _ => whole.to_string(),
    }
}

/// Appends a float.
fn number_in(out: &mut String, number: f64, spec: Style, meter: &Meter) -> Result<()> {
    let kind = spec.kind.unwrap_or('g');
    let precision = spec.precision.unwrap_or(6);
    if precision > PRECISION_MAX {
        fail!("a format asks for {precision} digits, and at most {PRECISION_MAX} are written");
    }
    let size = number.abs();
    let mut digits = if !number.is_finite() {
        if number.is_nan() { "nan" } else { "inf" }.to_owned()
    } else {
        match kind.to_ascii_lowercase() {
            'f' => format!("{size:.precision$}"),
            '%' => format!("{:.precision$}", size * 100.0),
            'e' => exponent(size, precision),
            _ => general(size, precision.max(1), spec.alternate),
        }
    };
    if let Some(mark) = spec.grouping {
        digits = grouped(&digits, mark);
    }
    if kind == '%' {
        digits.push('%');
    }
    if kind.is_ascii_uppercase() {
        digits = digits.to_uppercase();
    }
    let negative = number.is_sign_negative() && !number.is_nan();
    let spec = if number.is_finite() || spec.fill != '0' {
        spec
    } else {
        Style {
            fill: ' ',
            align: Some('>'),
            ..spec
        }
    };
    pad(out, sign(negative, spec), &digits, spec, meter)
}

fn exponent(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// `%g`: the shorter of the two, without zeros at the end.
fn general(size: f64, precision: usize, keeps_zeros: bool) -> String {
    let scientific = exponent(size, precision - 1);
    let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let trim = |digits: &str| match digits.contains('.') && !keeps_zeros {
        true => digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        false => digits.to_owned(),
    };
    if power < -4 || power >= i32::try_from(precision).unwrap_or(i32::MAX) {
        let (_, tail) = scientific.split_at(digits.len());
        return trim(digits) + tail;
    }
    let after =
        usize::try_from(i32::try_from(precision).unwrap_or(i32::MAX) - 1 - power).unwrap_or(0);
    trim(&format!("{size:.after$}"))
}

/// Digits in groups of three.
fn grouped(digits: &str, mark: char) -> String {
    let whole = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let mut out = String::new();
    for (index, digit) in digits[..whole].chars().enumerate() {
        if index > 0 && (whole - index).is_multiple_of(3) {
            out.push(mark);
        }
        out.push(digit);
    }
    out + &digits[whole..]
}

/// Appends a text that is filled up to the width; a sign stays in front where the fill lies behind it.
fn pad(out: &mut String, sign: &str, text: &str, spec: Style, meter: &Meter) -> Result<()> {
    let len = sign.len() + text.chars().count();
    let room = spec.width.saturating_sub(len);
    meter.bytes(
        (room as u64)
            .saturating_mul(spec.fill.len_utf8() as u64)
            .saturating_add(text.len() as u64),
    )?;
    meter.size((out.len() as u64).saturating_add(room as u64))?;
    let fill = |count: usize, out: &mut String| out.extend(std::iter::repeat_n(spec.fill, count));
    match spec.align.unwrap_or('<') {
        '=' => {
            out.push_str(sign);
            fill(room, out);
            out.push_str(text);
        }
        align => {
            let before = match align {
                '>' => room,
                '^' => room / 2,
                _ => 0,
            };
            fill(before, out);
            out.push_str(sign);
            out.push_str(text);
            fill(room - before, out);
        }
    }
    Ok(())
}

/// `format.format(values)`.
pub(super) fn str_format(format: &str, given: &Given, meter: &Meter) -> Result<Datum> {
    let mut out = String::new();
    fields(&mut out, format, given, &mut 0, 0, meter)?;
    Datum::text(out, meter)
}

fn fields(
    out: &mut String,
    format: &str,
    given: &Given,
    next: &mut usize,
    depth: usize,
    meter: &Meter,
) -> Result<()> {
    if depth > 2 {
        fail!("fields of a format lie too deep in each other");
    }
    meter.bytes(format.len() as u64)?;
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' if chars.next_if_eq(&'{').is_some() => out.push('{'),
            '}' if chars.next_if_eq(&'}').is_some() => out.push('}'),
            '}' => fail!("a single '}}' stands in a format"),
            '{' => {
                let mut field = String::new();
                let mut open = 1;
                loop {
                    let c = chars
                        .next()
                        .ok_or_else(|| JinjaError::new("a field of a format does not end"))?;
                    match c {
                        '{' => open += 1,
                        '}' => open -= 1,
                        _ => {}
                    }
                    if open == 0 {
                        break;
                    }
                    field.push(c);
                }
                let (path, spec) = field.split_once(':').unwrap_or((&field, ""));
                let (path, conversion) = match path.split_once('!') {
                    Some((path, conversion)) => (path, Some(conversion)),
                    None => (path, None),
                };
                let value = value_of(path, given, next, meter)?;
                let mut inner = String::new();
                fields(&mut inner, spec, given, next, depth + 1, meter)?;
                let value = match conversion {
                    None => value,
                    Some("s") => Datum::Str(str_of(&value, meter)?),
                    Some("r" | "a") => {
                        let mut text = String::new();
                        write_repr(&mut text, &value, 0, meter)?;
                        Datum::from(text)
                    }
                    Some(other) => fail!("!{other} in a format is not known"),
                };
                field_of(out, &value, &inner, meter)?;
            }
            c => out.push(c),
        }
        meter.size(out.len() as u64)?;
    }
    Ok(())
}

/// The value that a field names: `0`, `name`, `name.attribute`, `name[key]`, or the next one.
fn value_of(path: &str, given: &Given, next: &mut usize, meter: &Meter) -> Result<Datum> {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (first, mut rest) = path.split_at(end);
    let missing = || JinjaError::new(format!("a format asks for {first:?}, which is not there"));
    let mut value = if first.is_empty() {
        *next += 1;
        given.plain.get(*next - 1).cloned().ok_or_else(missing)?
    } else if let Ok(index) = first.parse::<usize>() {
        given.plain.get(index).cloned().ok_or_else(missing)?
    } else {
        let found = given.named.iter().find(|(name, _)| &**name == first);
        found.map(|(_, value)| value.clone()).ok_or_else(missing)?
    };
    while !rest.is_empty() {
        meter.steps(1)?;
        let found = if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            rest = after;
            attribute(&value, &Name::from(name))?
        } else {
            let inner = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let (key, after) =
                inner.ok_or_else(|| JinjaError::new("a subscript in a format does not end"))?;
            rest = after;
            let key = key.parse().map_or_else(|_| Datum::from(key), Datum::Int);
            item(&value, &key, meter)?
        };
        if found.is_undefined() {
            return Err(missing());
        }
        value = found;
    }
    Ok(value)
}

/// Appends a value by `[[fill]align][sign][#][0][width][grouping][.precision][type]`.
fn field_of(out: &mut String, value: &Datum, format: &str, meter: &Meter) -> Result<()> {
    if format.is_empty() {
        let text: Rc<str> = str_of(value, meter)?;
        out.push_str(&text);
        return Ok(());
    }
    let mut spec = PLAIN;
    let letters: Vec<char> = format.chars().take(3).collect();
    let is_align = |c: Option<&char>| c.copied().filter(|c| "<>^=".contains(*c));
    let mut chars = format.chars().peekable();
    if let Some(align) = is_align(letters.get(1)) {
        (spec.fill, spec.align) = (letters[0], Some(align));
        chars.nth(1);
    } else if let Some(align) = is_align(letters.first()) {
        spec.align = Some(align);
        chars.next();
    }
    if let Some(sign) = chars.next_if(|c| "+- ".contains(*c)) {
        spec.sign = sign;
    }
    spec.alternate = chars.next_if_eq(&'#').is_some();
    if chars.next_if_eq(&'0').is_some() && spec.align.is_none() {
        (spec.fill, spec.align) = ('0', Some('='));
    }
    spec.width = number(&mut chars)?.unwrap_or(0);
    spec.grouping = chars.next_if(|c| ",_".contains(*c));
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = number(&mut chars)?;
    }
    spec.kind = chars.next();
    if chars.next().is_some() {
        fail!("{format:?} is no format that is known");
    }
    match (value, spec.kind) {
        (Datum::Str(text), None | Some('s')) => {
            let text: String = text
                .chars()
                .take(spec.precision.unwrap_or(usize::MAX))
                .collect();
            if spec.align == Some('=') {
                spec.align = Some('<');
            }
            pad(out, "", &text, spec, meter)
        }
        (Datum::Int(_) | Datum::Bool(_), None | Some('d' | 'x' | 'X' | 'o' | 'b' | 'n')) => {
            let whole = value.as_int().unwrap_or_default();
            let kind = spec.kind.unwrap_or('d');
            let mut digits = radix(whole, kind);
            if let Some(mark) = spec.grouping {
                digits = grouped(&digits, mark);
            }
            let prefix = if spec.alternate { prefix(kind) } else { "" };
            spec.align = Some(spec.align.unwrap_or('>'));
            pad(
                out,
                &format!("{}{prefix}", sign(whole < 0, spec)),
                &digits,
                spec,
                meter,
            )
        }
        (Datum::Float(number), None) if spec.precision.is_none() => {
            let mut digits = float(number.abs());
            if let Some(mark) = spec.grouping {
                digits = grouped(&digits, mark);
            }
            spec.align = Some(spec.align.unwrap_or('>'));
            pad(
                out,
                sign(number.is_sign_negative(), spec),
                &digits,
                spec,
                meter,
            )
        }
        (
            Datum::Int(_) | Datum::Float(_) | Datum::Bool(_),
            None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%'),
        ) => {
            spec.align = Some(spec.align.unwrap_or('>'));
            number_in(out, value.as_float().unwrap_or_default(), spec, meter)
        }
        _ => fail!("{} cannot be written as {format:?}", a(value.type_name())),
    }
}
