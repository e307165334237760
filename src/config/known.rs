//! Words that people write, and what shows that they are understood.

use serde::Serialize;

/// A word, and what its meaning was compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Known {
    /// The word.
    pub name: &'static str,
    /// The library or the golden model, and what of it was compared.
    pub verified: &'static str,
}

impl Known {
    pub(crate) const fn new(name: &'static str, verified: &'static str) -> Self {
        Self { name, verified }
    }

    /// All words, as an error lists them: `a, b or c`.
    pub(crate) fn names(known: &[Self]) -> String {
        let names = known.iter().map(|known| known.name);
        let names = names.collect::<Vec<_>>().join(", ");
        match names.rsplit_once(", ") {
            Some((first, last)) => format!("{first} or {last}"),
            None => names,
        }
    }
}
