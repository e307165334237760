//! The filter `tojson` of chat templates, as transformers defines it: Python's `json.dumps` with
//! `ensure_ascii=False`, where Jinja2's own escapes `<`, `>`, `&` and `'` for HTML.

use std::{fmt::Write as _, rc::Rc};

use super::{
    arguments::Given,
    datum::{Datum, a},
    error::{Result, fail},
    meter::Meter,
    sort::sort,
    text::{float, str_of},
};

/// The filter.
pub(super) fn tojson(value: &Datum, mut given: Given, meter: &Meter) -> Result<Datum> {
    let ascii = given
        .take("ensure_ascii")
        .is_some_and(|value| value.is_true());
    let indent = match given.take("indent") {
        None | Some(Datum::None) => None,
        Some(Datum::Str(text)) => Some(text.to_string()),
        Some(count) => match count.as_int() {
            Some(count) => {
                let count = u64::try_from(count).unwrap_or(0);
                meter.bytes(count)?;
                Some(" ".repeat(usize::try_from(count).unwrap_or(0)))
            }
            None => fail!("tojson: the indent is {}, no number", a(count.type_name())),
        },
    };
    let (mut item, mut key): (Rc<str>, Rc<str>) = (
        if indent.is_some() { "," } else { ", " }.into(),
        ": ".into(),
    );
    if let Some(separators) = given
        .take("separators")
        .filter(|value| !matches!(value, Datum::None))
    {
        let pair = separators.iterate(meter)?;
        let [between, behind] = pair.values() else {
            fail!("tojson: the separators are no pair");
        };
        (item, key) = (str_of(between, meter)?, str_of(behind, meter)?);
    }
    let sort = given.take("sort_keys").is_some_and(|value| value.is_true());
    given.end()?;
    let mut json = Json {
        out: String::new(),
        indent,
        item,
        key,
        ascii,
        sort,
        meter,
    };
    json.write(value, 0)?;
    Datum::text(json.out, meter)
}

/// `json.dumps`.
struct Json<'l> {
    out: String,
    indent: Option<String>,
    /// Between two items.
    item: Rc<str>,
    /// Between a key and its value.
    key: Rc<str>,
    ascii: bool,
    sort: bool,
    meter: &'l Meter,
}

impl Json<'_> {
    fn write(&mut self, value: &Datum, depth: usize) -> Result<()> {
        self.meter.steps(1)?;
        self.meter.size(self.out.len() as u64)?;
        match value {
            Datum::None => self.out.push_str("null"),
            Datum::Bool(true) => self.out.push_str("true"),
            Datum::Bool(false) => self.out.push_str("false"),
            Datum::Int(value) => _ = write!(self.out, "{value}"),
            Datum::Float(value) => self.float(*value),
            Datum::Str(text) => self.string(text)?,
            Datum::List(items) | Datum::Tuple(items) => {
                let items = items.values();
                self.list('[', ']', items.len(), depth, |json, index| {
                    json.write(&items[index], depth + 1)
                })?;
            }
            Datum::Dict(dict) => {
                let mut entries: Vec<&(Datum, Datum)> = dict.entries().iter().collect();
                if self.sort {
                    let mut sorted = Vec::with_capacity(entries.len());
                    for entry in entries {
                        let place = sorted.len();
                        sorted.push((entry, place));
                    }
                    sort(&mut sorted, |(entry, _)| &entry.0, self.meter)?;
                    entries = sorted.into_iter().map(|(entry, _)| entry).collect();
                }
                self.list('{', '}', entries.len(), depth, |json, index| {
                    let (key, value) = entries[index];
                    json.name(key)?;
                    let separator = Rc::clone(&json.key);
                    json.out.push_str(&separator);
                    json.write(value, depth + 1)
                })?;
            }
            other => fail!("tojson: {} is nothing that JSON has", a(other.type_name())),
        }
        Ok(())
    }

    fn float(&mut self, value: f64) {
        match value {
            value if value.is_nan() => self.out.push_str("NaN"),
            f64::INFINITY => self.out.push_str("Infinity"),
            f64::NEG_INFINITY => self.out.push_str("-Infinity"),
            value => self.out.push_str(&float(value)),
        }
    }

    fn name(&mut self, key: &Datum) -> Result<()> {
        match key {
            Datum::Str(text) => self.string(text),
            Datum::None | Datum::Bool(_) | Datum::Int(_) | Datum::Float(_) => {
                self.out.push('"');
                self.write(key, 0)?;
                self.out.push('"');
                Ok(())
            }
            other => fail!("tojson: {} cannot be a key", a(other.type_name())),
        }
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        len: usize,
        depth: usize,
        mut write: impl FnMut(&mut Self, usize) -> Result<()>,
    ) -> Result<()> {
        self.out.push(open);
        for index in 0..len {
            if index > 0 {
                let separator = Rc::clone(&self.item);
                self.meter.bytes(separator.len() as u64)?;
                self.out.push_str(&separator);
            }
            self.line(depth + 1)?;
            write(self, index)?;
        }
        if len > 0 {
            self.line(depth)?;
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) -> Result<()> {
        if let Some(indent) = &self.indent {
            let bytes = indent.len() * depth;
            self.meter.bytes(bytes as u64)?;
            self.meter.size((self.out.len() + bytes) as u64)?;
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<()> {
        self.meter.bytes(text.len() as u64)?;
        // serde_json escapes exactly what json.dumps escapes when it may leave letters alone.
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            self.out.push_str(&quoted);
            return Ok(());
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    _ = write!(self.out, "\\u{unit:04x}");
                }
            }
        }
        Ok(())
    }
}
