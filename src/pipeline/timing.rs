//! Where the time of a tensor goes.

use std::time::Duration;

use crate::observe::{Span, Spans, extend};

/// Where the time of one tensor went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timing {
    /// Bytes read: more than the tensor has where a format needs to see it twice.
    pub bytes: u64,
    /// Reading its bytes, and unpacking them where they are a packed source, which overlaps with converting earlier
    /// tensors.
    pub read: Duration,
    /// Converting, which overlaps with placing earlier tensors on a host target.
    pub convert: Duration,
    /// Placing.
    pub place: Duration,
    /// When each of these was.
    pub spans: Spans,
}

impl Timing {
    pub(super) fn read(&mut self, bytes: u64, span: Span) {
        self.bytes += bytes;
        self.read += span.took();
        extend(&mut self.spans.read, span);
    }

    pub(super) fn converted(&mut self, span: Span) {
        self.convert += span.took();
        extend(&mut self.spans.convert, span);
    }

    pub(super) fn placed(&mut self, span: Span) {
        self.place += span.took();
        extend(&mut self.spans.place, span);
    }
}
