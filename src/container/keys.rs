//! The keys of a file, each asked for as what it has to be.

use std::{cell::RefCell, collections::BTreeSet};

use super::ContainerError;
use crate::source::gguf::{GgufHeader, GgufList, GgufValue};

/// The keys of a file, and which of them were asked for.
pub(super) struct Keys<'a> {
    pub(super) file: &'a str,
    header: &'a GgufHeader,
    architecture: &'a str,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(file: &'a str, header: &'a GgufHeader) -> Result<Self, ContainerError> {
        let mut keys = Self {
            file,
            header,
            architecture: "",
            asked: RefCell::default(),
        };
        const ARCHITECTURE: &str = "general.architecture";
        keys.architecture = match header.keys.get(ARCHITECTURE) {
            None => return Err(keys.missing(ARCHITECTURE)),
            Some(GgufValue::Text(text)) => text,
            Some(found) => return Err(keys.wrong(ARCHITECTURE, found, "a text")),
        };
        Ok(keys)
    }

    pub(super) const fn architecture(&self) -> &'a str {
        self.architecture
    }

    /// The name of a key of the architecture.
    fn own(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn missing(&self, key: &str) -> ContainerError {
        ContainerError::NoKey {
            file: self.file.to_owned(),
            key: key.to_owned(),
        }
    }

    /// The error of a value; `key` is the whole name.
    fn wrong(&self, key: &str, found: impl ToString, expected: impl ToString) -> ContainerError {
        ContainerError::Value {
            file: self.file.to_owned(),
            key: key.to_owned(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// The error of a value of a key of the architecture.
    pub(super) fn refused(
        &self,
        key: &str,
        found: impl ToString,
        expected: impl ToString,
    ) -> ContainerError {
        self.wrong(&self.own(key), found, expected)
    }

    /// The error of a divisor of frequencies that none can be.
    pub(super) fn divisor(&self, k: usize, found: f32) -> ContainerError {
        let expected = "a finite number above 0";
        self.wrong(
            &format!("element {k} of rope_freqs.weight"),
            found,
            expected,
        )
    }

    /// Says that a key of the architecture is known, whatever it is.
    pub(super) fn ask(&self, key: &str) {
        self.get(&self.own(key));
    }

    fn get(&self, key: &str) -> Option<&'a GgufValue> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.header.keys.get(key)
    }

    /// A whole number above 0, of the architecture.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, ContainerError> {
        let key = self.own(key);
        self.get(&key)
            .map(|value| self.whole(&key, value))
            .transpose()
    }

    /// The same, which has to be there.
    pub(super) fn need(&self, key: &str) -> Result<usize, ContainerError> {
        self.size(key)?.ok_or_else(|| self.missing(&self.own(key)))
    }

    /// A whole number above 0, that may be written for each layer if it is always the same.
    pub(super) fn size_of_all(&self, key: &str) -> Result<Option<usize>, ContainerError> {
        let key = self.own(key);
        let several = match self.get(&key) {
            Some(GgufValue::List(GgufList::Unsigned(list))) => list.clone(),
            Some(GgufValue::List(GgufList::Signed(list))) => {
                let list = list.iter().map(|one| u64::try_from(*one).unwrap_or(0));
                list.collect()
            }
            Some(value) => return self.whole(&key, value).map(Some),
            None => return Ok(None),
        };
        match &several[..] {
            [first, rest @ ..] if rest.iter().all(|one| one == first) => {
                self.whole(&key, &GgufValue::Unsigned(*first)).map(Some)
            }
            list => Err(self.wrong(&key, format!("{list:?}"), "the same for every layer")),
        }
    }

    /// A whole number above 0 for each of `layers` layers, or one for all.
    pub(super) fn sizes(
        &self,
        key: &str,
        layers: usize,
    ) -> Result<Option<Vec<usize>>, ContainerError> {
        let key = self.own(key);
        let list: Vec<u64> = match self.get(&key) {
            None => return Ok(None),
            Some(GgufValue::List(GgufList::Unsigned(list))) => list.clone(),
            Some(GgufValue::List(GgufList::Signed(list))) => {
                let list = list.iter().map(|one| u64::try_from(*one).unwrap_or(0));
                list.collect()
            }
            Some(value) => return Ok(Some(vec![self.whole(&key, value)?; layers])),
        };
        if list.len() != layers {
            let expected = format!("a list of {layers}, one for each layer");
            return Err(self.wrong(&key, format!("a list of {}", list.len()), expected));
        }
        let sizes = list.iter();
        let sizes = sizes.map(|one| self.whole(&key, &GgufValue::Unsigned(*one)));
        sizes.collect::<Result<_, _>>().map(Some)
    }

    fn whole(&self, key: &str, value: &GgufValue) -> Result<usize, ContainerError> {
        let number = counted(value).filter(|number| *number > 0);
        number.ok_or_else(|| self.wrong(key, value, "a whole number above 0"))
    }

    /// A whole number, of the architecture, which may be 0.
    pub(super) fn number(&self, key: &str) -> Result<Option<usize>, ContainerError> {
        let key = self.own(key);
        let Some(value) = self.get(&key) else {
            return Ok(None);
        };
        let number = counted(value).map(Some);
        number.ok_or_else(|| self.wrong(&key, value, "a whole number"))
    }

    /// Yes or no, of the architecture.
    pub(super) fn own_flag(&self, key: &str) -> Result<Option<bool>, ContainerError> {
        let key = self.own(key);
        match self.get(&key) {
            None => Ok(None),
            Some(GgufValue::Bool(flag)) => Ok(Some(*flag)),
            Some(found) => Err(self.wrong(&key, found, "true or false")),
        }
    }

    /// Yes or no for each layer, of the architecture; `None` where the key is absent or one number.
    pub(super) fn own_flags(&self, key: &str) -> Result<Option<&'a [bool]>, ContainerError> {
        let key = self.own(key);
        match self.get(&key) {
            None | Some(GgufValue::Unsigned(_)) => Ok(None),
            Some(GgufValue::List(GgufList::Bools(list))) => Ok(Some(list)),
            Some(found) => Err(self.wrong(&key, found, "a list of truth values, or a number")),
        }
    }

    /// A float of the architecture, as the shortest number that is the same in `f32`.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, ContainerError> {
        let key = self.own(key);
        let Some(value) = self.get(&key) else {
            return Ok(None);
        };
        match value {
            GgufValue::Float(float) if float.is_finite() => {
                let short = (*float as f32).to_string().parse();
                Ok(Some(short.unwrap_or(*float)))
            }
            found => Err(self.wrong(&key, found, "a finite float")),
        }
    }

    /// The same, which has to be there.
    pub(super) fn need_float(&self, key: &str) -> Result<f64, ContainerError> {
        self.float(key)?.ok_or_else(|| self.missing(&self.own(key)))
    }

    /// A text of the architecture.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ContainerError> {
        let key = self.own(key);
        match self.get(&key) {
            None => Ok(None),
            Some(GgufValue::Text(text)) => Ok(Some(text)),
            Some(found) => Err(self.wrong(&key, found, "a text")),
        }
    }

    /// The id of a token, by the whole name of its key.
    pub(super) fn token(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(GgufValue::Unsigned(id)) => Some(*id),
            _ => None,
        }
    }

    /// Refuses keys of the architecture that nobody asked for and that are not in `harmless`.
    pub(super) fn check_all_asked(&self, harmless: &[&str]) -> Result<(), ContainerError> {
        let prefix = self.own("");
        let asked = self.asked.borrow();
        let unknown = self.header.keys.iter().find(|(key, _)| {
            let own = key.strip_prefix(&prefix);
            own.is_some_and(|own| !asked.contains(*key) && !harmless.contains(&own))
        });
        match unknown {
            None => Ok(()),
            Some((key, found)) => Err(ContainerError::UnknownKey {
                file: self.file.to_owned(),
                key: key.clone(),
                found: found.to_string(),
            }),
        }
    }

    /// A key of the tokenizer, and its whole name.
    fn of_tokenizer(&self, key: &str) -> (String, Option<&'a GgufValue>) {
        let key = format!("tokenizer.ggml.{key}");
        let value = self.get(&key);
        (key, value)
    }

    /// The error of a value of a key of the tokenizer.
    pub(super) fn refused_tokenizer(
        &self,
        key: &str,
        found: impl ToString,
        expected: impl ToString,
    ) -> ContainerError {
        self.wrong(&format!("tokenizer.ggml.{key}"), found, expected)
    }

    pub(super) fn tokenizer_text(&self, key: &str) -> Result<Option<&'a str>, ContainerError> {
        match self.of_tokenizer(key) {
            (_, None) => Ok(None),
            (_, Some(GgufValue::Text(text))) => Ok(Some(text)),
            (key, Some(found)) => Err(self.wrong(&key, found, "a text")),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&'a [String]>, ContainerError> {
        match self.of_tokenizer(key) {
            (_, None) => Ok(None),
            (_, Some(GgufValue::List(GgufList::Texts(list)))) => Ok(Some(list)),
            (key, Some(found)) => Err(self.wrong(&key, found, "a list of texts")),
        }
    }

    pub(super) fn numbers(&self, key: &str) -> Result<Option<&'a [i64]>, ContainerError> {
        match self.of_tokenizer(key) {
            (_, None) => Ok(None),
            (_, Some(GgufValue::List(GgufList::Signed(list)))) => Ok(Some(list)),
            (key, Some(found)) => Err(self.wrong(&key, found, "a list of numbers with signs")),
        }
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<&'a [f64]>, ContainerError> {
        match self.of_tokenizer(key) {
            (_, None) => Ok(None),
            (_, Some(GgufValue::List(GgufList::Floats(list)))) => Ok(Some(list)),
            (key, Some(found)) => Err(self.wrong(&key, found, "a list of floats")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ContainerError> {
        match self.of_tokenizer(key) {
            (_, None) => Ok(None),
            (_, Some(GgufValue::Bool(flag))) => Ok(Some(*flag)),
            (key, Some(found)) => Err(self.wrong(&key, found, "true or false")),
        }
    }

    pub(super) fn chat_template(&self) -> Result<Option<&'a str>, ContainerError> {
        const KEY: &str = "tokenizer.chat_template";
        match self.get(KEY) {
            None => Ok(None),
            Some(GgufValue::Text(text)) => Ok(Some(text)),
            Some(found) => Err(self.wrong(KEY, found, "a text")),
        }
    }
}

/// A whole number that 32 bits can hold.
fn counted(value: &GgufValue) -> Option<usize> {
    let number = match value {
        GgufValue::Unsigned(value) => usize::try_from(*value).ok(),
        GgufValue::Signed(value) => usize::try_from(*value).ok(),
        _ => None,
    };
    number.filter(|number| *number <= u32::MAX as usize)
}
