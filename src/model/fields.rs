//! Reads fields of a `config.json` and refuses, by name, what cannot be.

use serde_json::{Map, Value};

use super::error::ConfigError;
use crate::source::json;

/// Larger counts than any model has, small enough that the product of two is still exact.
pub(super) const COUNT_MAX: u64 = (1 << 31) - 1;

/// More entries than a list of numbers or words has that is read: one a layer, or one a pair of features.
const LIST_MAX: usize = 1 << 16;

/// Characters of a value that a message shows.
const SHOWN: usize = 60;

/// More fields than lead to any object that is read: `text_config`, `rope_parameters`, `full_attention`.
const DEPTH: usize = 4;

/// An object inside a `config.json`.
///
/// A field that is `null` counts as absent, as it does where such files are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// How the object is reached, for messages: `""` or `"rope_scaling."`, and fields below that.
    path: [&'a str; DEPTH],
}

impl<'a> Fields<'a> {
    /// The whole file.
    pub(crate) fn root(json: &'a Value) -> Result<Self, ConfigError> {
        Self::of(json, "config.json", [""; DEPTH])
    }

    /// The object in a field, if the field is there.
    pub(crate) fn object(
        self,
        field: &str,
        path: &'a str,
    ) -> Result<Option<Fields<'a>>, ConfigError> {
        let mut whole = [""; DEPTH];
        whole[0] = path;
        let inner = self.get(field);
        inner
            .map(|value| Fields::of(value, field, whole))
            .transpose()
    }

    /// The object in a field, if the field is there; messages name the way to it.
    pub(crate) fn inside(self, field: &'a str) -> Result<Option<Fields<'a>>, ConfigError> {
        let mut path = self.path;
        if let Some(end) = path.iter_mut().find(|step| step.is_empty()) {
            *end = field;
        }
        let inner = self.get(field);
        let name = || self.name(field);
        inner
            .map(|value| Fields::of(value, &name(), path))
            .transpose()
    }

    fn of(json: &'a Value, field: &str, path: [&'a str; DEPTH]) -> Result<Self, ConfigError> {
        match json {
            Value::Object(object) => Ok(Self { object, path }),
            other => Err(ConfigError::Value {
                field: field.to_owned(),
                found: shown(json::text(other)),
                expected: "an object".to_owned(),
            }),
        }
    }

    /// The value of a field, if the field is there.
    pub(crate) fn get(self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    /// Whether the field is written at all, be it as `null`.
    pub(crate) fn names(self, field: &str) -> bool {
        self.object.contains_key(field)
    }

    /// Every field that is there, and its value.
    pub(crate) fn entries(self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let entries = self.object.iter().filter(|(_, value)| !value.is_null());
        entries.map(|(name, value)| (name.as_str(), value))
    }

    /// Whether there is nothing in the object.
    pub(crate) fn is_empty(self) -> bool {
        self.object.is_empty()
    }

    /// The first field that is an object itself.
    pub(crate) fn nested(self) -> Option<&'a str> {
        let mut fields = self.object.iter();
        let (name, _) = fields.find(|(_, value)| value.is_object())?;
        Some(name)
    }

    /// A whole number of at least 1.
    pub(crate) fn count(self, field: &str) -> Result<Option<usize>, ConfigError> {
        self.read(field, "a whole number from 1 to 2147483647", |value| {
            let count = value.as_u64()?;
            let fits = (1..=COUNT_MAX).contains(&count);
            fits.then(|| usize::try_from(count).ok()).flatten()
        })
    }

    /// A whole number of at least 0.
    pub(crate) fn index(self, field: &str) -> Result<Option<usize>, ConfigError> {
        self.read(field, "a whole number from 0 to 2147483647", |value| {
            let index = value.as_u64().filter(|index| *index <= COUNT_MAX)?;
            usize::try_from(index).ok()
        })
    }

    /// A number that is finite and above 0 as `f32` too, which is what it is computed with.
    pub(crate) fn positive(self, field: &str) -> Result<Option<f64>, ConfigError> {
        self.read(field, "a number above 0 within the range of f32", |value| {
            let fits = |number: &f64| (*number as f32).is_finite() && (*number as f32) > 0.0;
            value.as_f64().filter(fits)
        })
    }

    /// A finite number.
    pub(crate) fn number(self, field: &str) -> Result<Option<f64>, ConfigError> {
        self.read(field, "a number within the range of f32", |value| {
            value.as_f64().filter(|n| (*n as f32).is_finite())
        })
    }

    /// A list of numbers that are finite and above 0 as `f32`.
    pub(crate) fn positives(self, field: &str) -> Result<Option<Vec<f32>>, ConfigError> {
        let fits = |number: &f32| number.is_finite() && *number > 0.0;
        self.read(
            field,
            "a list of numbers above 0 within the range of f32",
            |value| {
                let numbers = list(value)?.iter();
                let numbers = numbers.map(|n| n.as_f64().map(|n| n as f32).filter(fits));
                numbers.collect()
            },
        )
    }

    /// A list of whole numbers of at least 1.
    pub(crate) fn counts(self, field: &str) -> Result<Option<Vec<usize>>, ConfigError> {
        self.read(
            field,
            "a list of whole numbers from 1 to 2147483647",
            |value| {
                let counts = list(value)?.iter().map(|count| {
                    let count = count
                        .as_u64()
                        .filter(|count| (1..=COUNT_MAX).contains(count))?;
                    usize::try_from(count).ok()
                });
                counts.collect()
            },
        )
    }

    /// A list of whole numbers of at least 0.
    pub(crate) fn indices(self, field: &str) -> Result<Option<Vec<usize>>, ConfigError> {
        self.read(
            field,
            "a list of whole numbers from 0 to 2147483647",
            |value| {
                let indices = list(value)?.iter().map(|index| {
                    let index = index.as_u64().filter(|index| *index <= COUNT_MAX)?;
                    usize::try_from(index).ok()
                });
                indices.collect()
            },
        )
    }

    /// A flag that is `absent` where it is absent, and off where it is `null`.
    pub(crate) fn flag_or(self, field: &str, absent: bool) -> Result<bool, ConfigError> {
        match self.names(field) {
            true => Ok(self.flag(field)?.unwrap_or(false)),
            false => Ok(absent),
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(self, field: &str) -> Result<Option<bool>, ConfigError> {
        self.read(field, "true or false", Value::as_bool)
    }

    /// A text.
    pub(crate) fn text(self, field: &str) -> Result<Option<&'a str>, ConfigError> {
        self.read(field, "a text", Value::as_str)
    }

    /// A list of texts.
    pub(crate) fn texts(self, field: &str) -> Result<Option<Vec<&'a str>>, ConfigError> {
        self.read(field, "a list of texts", |value| {
            list(value)?.iter().map(Value::as_str).collect()
        })
    }

    /// The error of a field that has to be there and is not.
    pub(crate) fn missing(self, field: &str) -> ConfigError {
        ConfigError::Missing {
            field: self.name(field),
        }
    }

    /// The error of a field whose value cannot be.
    pub(crate) fn value(
        self,
        field: &str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Value {
            field: self.name(field),
            found: shown(found.to_string()),
            expected: expected.into(),
        }
    }

    /// The error of a field that asks for something this library does not do.
    pub(crate) fn unsupported(
        self,
        field: &str,
        found: impl ToString,
        supported: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Unsupported {
            field: self.name(field),
            found: shown(found.to_string()),
            supported: supported.into(),
        }
    }

    fn read<T>(
        self,
        field: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            // Infinity or NaN: a text that nobody wrote.
            Some(value) if json::word(value).is_some() => {
                Err(self.value(field, json::text(value), expected))
            }
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.value(field, json::text(value), expected)),
            },
        }
    }

    /// The field with the way to it: `rope_scaling.factor`.
    fn name(self, field: &str) -> String {
        let steps = self.path.iter().filter(|step| !step.is_empty());
        let way: String = steps
            .map(|step| format!("{}.", step.trim_end_matches('.')))
            .collect();
        way + field
    }
}

/// A list that is not longer than any that is read.
fn list(value: &Value) -> Option<&Vec<Value>> {
    value.as_array().filter(|list| list.len() <= LIST_MAX)
}

/// The beginning of a long value: a message is read by a person.
pub(super) fn shown(value: String) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value,
    }
}
