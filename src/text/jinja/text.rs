//! Values as text: Python's `str` and `repr`.

use std::{fmt::Write as _, rc::Rc};

use super::{
    datum::Datum,
    error::{Result, fail},
    meter::{Meter, NESTING_MAX},
};

/// `str(value)`, paid for.
pub(super) fn str_of(value: &Datum, meter: &Meter) -> Result<Rc<str>> {
    match value {
        Datum::Str(text) => Ok(Rc::clone(text)),
        other => {
            let mut text = String::new();
            write_str(&mut text, other, meter)?;
            Ok(text.into())
        }
    }
}

/// Appends `str(value)`.
pub(super) fn write_str(out: &mut String, value: &Datum, meter: &Meter) -> Result<()> {
    match value {
        Datum::Str(text) => {
            meter.bytes(text.len() as u64)?;
            meter.size((out.len() + text.len()) as u64)?;
            out.push_str(text);
            Ok(())
        }
        Datum::Undefined(_) => Ok(()),
        other => write_repr(out, other, 0, meter),
    }
}

/// Appends `repr(value)`.
pub(super) fn write_repr(
    out: &mut String,
    value: &Datum,
    depth: usize,
    meter: &Meter,
) -> Result<()> {
    meter.steps(1)?;
    meter.size(out.len() as u64)?;
    // Only namespaces can be deeper than this; Python ends there too.
    if depth > NESTING_MAX + 20 {
        fail!("a namespace lies in itself and cannot be written");
    }
    match value {
        Datum::Undefined(_) => out.push_str("Undefined"),
        Datum::None => out.push_str("None"),
        Datum::Bool(true) => out.push_str("True"),
        Datum::Bool(false) => out.push_str("False"),
        Datum::Int(value) => _ = write!(out, "{value}"),
        Datum::Float(value) => out.push_str(&float(*value)),
        Datum::Str(text) => {
            meter.bytes(text.len() as u64)?;
            quote(out, text);
        }
        Datum::List(items) => list(out, "[", items.values(), "]", depth, meter)?,
        Datum::Tuple(items) => {
            let end = if items.values().len() == 1 { ",)" } else { ")" };
            list(out, "(", items.values(), end, depth, meter)?;
        }
        Datum::View(name, items) => {
            out.push_str(name);
            list(out, "([", items.values(), "])", depth, meter)?;
        }
        Datum::Dict(dict) => {
            let entries = dict.entries().iter();
            pairs(
                out,
                entries.map(|(key, value)| (key.clone(), value.clone())),
                depth,
                meter,
            )?;
        }
        Datum::Namespace(namespace) => {
            out.push_str("<Namespace ");
            // A copy, so that nothing is borrowed while the values are written.
            let entries = namespace.entries.borrow().clone();
            let entries = entries
                .into_iter()
                .map(|(name, value)| (Datum::Str(name), value));
            pairs(out, entries, depth, meter)?;
            out.push('>');
        }
        Datum::Range(first, end, 1) => _ = write!(out, "range({first}, {end})"),
        Datum::Range(first, end, step) => _ = write!(out, "range({first}, {end}, {step})"),
        Datum::Loop(state) => {
            let (index, len) = (state.index.get() + 1, state.items.values().len());
            _ = write!(out, "<LoopContext {index}/{len}>");
        }
        Datum::Macro(found) => _ = write!(out, "<Macro '{}'>", found.def.name),
        Datum::Method(method) => {
            _ = write!(
                out,
                "<method '{}' of '{}' objects>",
                method.1,
                method.0.type_name()
            );
        }
        Datum::Function(name) => _ = write!(out, "<function {name}>"),
        Datum::Generator(_) => out.push_str("<generator object>"),
    }
    meter.size(out.len() as u64)
}

fn list(
    out: &mut String,
    open: &str,
    values: &[Datum],
    close: &str,
    depth: usize,
    meter: &Meter,
) -> Result<()> {
    out.push_str(open);
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write_repr(out, value, depth + 1, meter)?;
    }
    out.push_str(close);
    Ok(())
}

fn pairs(
    out: &mut String,
    entries: impl Iterator<Item = (Datum, Datum)>,
    depth: usize,
    meter: &Meter,
) -> Result<()> {
    out.push('{');
    for (index, (key, value)) in entries.enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write_repr(out, &key, depth + 1, meter)?;
        out.push_str(": ");
        write_repr(out, &value, depth + 1, meter)?;
    }
    out.push('}');
    Ok(())
}

/// A text in quotes, as `repr` writes it.
fn quote(out: &mut String, text: &str) {
    let mark = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == mark => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                _ = match code {
                    0..=0xFF => write!(out, "\\x{code:02x}"),
                    0x100..=0xFFFF => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(mark);
}

/// `str.isprintable`, but for letters that Unicode has not assigned.
fn is_printable(c: char) -> bool {
    let is_space = c != ' ' && c.is_whitespace();
    let is_format = matches!(c, '\u{AD}' | '\u{600}'..='\u{605}' | '\u{61C}' | '\u{6DD}' | '\u{70F}' | '\u{180E}'
        | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}'
        | '\u{FFF9}'..='\u{FFFB}' | '\u{E000}'..='\u{F8FF}' | '\u{E0000}'..='\u{10FFFF}');
    !(c.is_control() || is_space || is_format)
}

/// `repr` of a float: the fewest digits that read back as the same number, with an exponent below -4 and from 16 on.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') {
            plain
        } else {
            plain + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
