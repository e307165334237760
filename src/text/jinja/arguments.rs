//! Arguments that a function was given, taken by place or by name as in Python.

use super::{
    ast::Name,
    datum::{Datum, a},
    error::{Result, fail},
};

/// What a call gives. A function takes its arguments in their order and then ends.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) plain: std::collections::VecDeque<Datum>,
    pub(super) named: Vec<(Name, Datum)>,
}

impl Given {
    /// The next argument, by place or else by its name.
    pub(super) fn take(&mut self, name: &str) -> Option<Datum> {
        if let Some(value) = self.plain.pop_front() {
            return Some(value);
        }
        self.take_named(name)
    }

    /// An argument that is given by name alone.
    pub(super) fn take_named(&mut self, name: &str) -> Option<Datum> {
        let place = self.named.iter().position(|(found, _)| **found == *name)?;
        Some(self.named.remove(place).1)
    }

    /// The next argument, which must be there.
    pub(super) fn need(&mut self, name: &str) -> Result<Datum> {
        match self.take(name) {
            Some(value) => Ok(value),
            None => fail!("the argument {name:?} is missing"),
        }
    }

    /// A whole number.
    pub(super) fn int(&mut self, name: &str, default: i128) -> Result<i128> {
        match self.take(name) {
            None => Ok(default),
            Some(value) => match value.as_int() {
                Some(value) => Ok(value),
                None => fail!(
                    "the argument {name:?} is {}, no whole number",
                    a(value.type_name())
                ),
            },
        }
    }

    pub(super) fn flag(&mut self, name: &str, default: bool) -> bool {
        self.take(name).map_or(default, |value| value.is_true())
    }

    /// A text; `None` where there is none, or Python's `None`.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<std::rc::Rc<str>>> {
        match self.take(name) {
            None | Some(Datum::None) => Ok(None),
            Some(Datum::Str(text)) => Ok(Some(text)),
            Some(other) => fail!("the argument {name:?} is {}, no text", a(other.type_name())),
        }
    }

    /// Nothing more is given.
    pub(super) fn end(self) -> Result<()> {
        if !self.plain.is_empty() {
            fail!("too many arguments");
        }
        match self.named.first() {
            None => Ok(()),
            Some((name, _)) => fail!("no argument is called {name:?}"),
        }
    }
}
