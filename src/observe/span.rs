//! When something was done.

use std::time::{Duration, Instant};

/// From when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// It began.
    pub from: Instant,
    /// It ended.
    pub to: Instant,
}

impl Span {
    /// Until now.
    pub fn since(from: Instant) -> Self {
        let to = Instant::now();
        Self { from, to }
    }

    /// How long.
    pub fn took(self) -> Duration {
        self.to - self.from
    }

    /// Both, and what is between them.
    pub fn join(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            to: self.to.max(other.to),
        }
    }
}

/// When the stages of one tensor were at work, from the first tile to the last; `None` of one that had nothing to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spans {
    /// Reading.
    pub read: Option<Span>,
    /// Converting, and waiting for tiles to convert.
    pub convert: Option<Span>,
    /// Placing.
    pub place: Option<Span>,
}

/// Makes `whole` reach over `part`.
pub(crate) fn extend(whole: &mut Option<Span>, part: Span) {
    *whole = Some(whole.map_or(part, |whole| whole.join(part)));
}
