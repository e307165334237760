//! The filter `tojson` of chat templates, as transformers defines it: Python's `json.dumps` with
//! `ensure_ascii=False`, where the engine's own escapes `<`, `>`, `&` and `'` for HTML.

use minijinja::Error;
use minijinja::value::{Kwargs, Value, ValueKind};

/// The filter.
pub(in crate::text) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(usize::try_from(indent)?),
    };
    let separators = options.get::<Option<Value>>("separators")?;
    let mut json = Json {
        out: String::new(),
        indent,
        item: if indent.is_some() { "," } else { ", " }.to_owned(),
        key: ": ".to_owned(),
        ascii: options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
        sort: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    if let Some(pair) = separators.filter(|pair| !pair.is_none()) {
        json.item = pair.get_item_by_index(0)?.to_string();
        json.key = pair.get_item_by_index(1)?.to_string();
    }
    options.assert_all_used()?;
    json.write(value, 0)?;
    Ok(json.out)
}

/// `json.dumps`.
struct Json {
    out: String,
    indent: Option<usize>,
    /// Between two items.
    item: String,
    /// Between a key and its value.
    key: String,
    ascii: bool,
    sort: bool,
}

impl Json {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&value.to_string()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list('[', ']', items.len(), depth, |json, index| {
                    json.write(&items[index], depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.list('{', '}', keys.len(), depth, |json, index| {
                    json.string(&keys[index].to_string());
                    let separator = json.key.clone();
                    json.out.push_str(&separator);
                    json.write(&value.get_item(&keys[index])?, depth + 1)
                })?;
            }
            _ => self.string(&value.to_string()),
        }
        Ok(())
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        len: usize,
        depth: usize,
        mut write: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for index in 0..len {
            if index > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.line(depth + 1);
            write(self, index)?;
        }
        if len > 0 {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&mut self, text: &str) {
        // serde_json escapes exactly what json.dumps escapes when it may leave letters alone.
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            self.out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    self.out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}
