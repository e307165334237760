//! What one of several ranks keeps of a weight, as a fact of its step.

use core::ops::Range;

use serde::{Deserialize, Serialize};

/// What one of several ranks keeps of a weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankPart {
    /// The shape of the weight in the model.
    pub of: Vec<usize>,
    /// Rows of that as a matrix, one range after another: those that are kept or that the kept [`bytes`](Self::bytes) are
    /// made from.
    pub rows: Vec<Range<usize>>,
    /// Columns, in the same way.
    pub cols: Range<usize>,
    /// Whether the whole weight is read and finished, and the part is cut out of it, because a scale depends on values
    /// outside of the part or because its file can only be read whole.
    pub from_whole: bool,
    /// The bytes that are kept of the codes and the scales of the whole weight, or of its dense values; `None` for all that
    /// the rows and columns have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<[Range<usize>; 2]>,
}

impl RankPart {
    /// Rows and columns of the part.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows.iter().map(Range::len).sum(), self.cols.len()]
    }

    /// Whether more is finished than is kept.
    pub(crate) const fn is_cut(&self) -> bool {
        self.from_whole || self.bytes.is_some()
    }

    pub(super) fn is_all(&self, shape: [usize; 2]) -> bool {
        self.shape() == shape
    }
}
