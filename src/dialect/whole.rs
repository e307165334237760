//! Whole numbers with scales, in the words of compressed-tensors; AWQ and GPTQ have them too.

use firebox_kernels::formats::wna16::{ScaleGroup, Wna16};
use serde::{Deserialize, Serialize};

/// How some weights are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Whole {
    pub(crate) bits: usize,
    pub(crate) scale: ScaleSpan,
    pub(crate) symmetric: bool,
    /// Into words: `pack-quantized`. Else a byte each: `int-quantized`.
    pub(crate) words: bool,
}

/// Which weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ScaleSpan {
    Tensor,
    Channel,
    Group(usize),
}

impl ScaleSpan {
    /// Scales, as rows and columns.
    pub(super) fn grid(self, [o, i]: [usize; 2]) -> [usize; 2] {
        match self {
            Self::Tensor => [1, 1],
            Self::Channel => [o, 1],
            Self::Group(group) => [o, i.div_ceil(group)],
        }
    }
}

impl Whole {
    /// The words for what `method` makes.
    pub(super) fn of(method: &Wna16) -> Self {
        Self {
            bits: method.bits,
            scale: match method.scale {
                ScaleGroup::Tensor => ScaleSpan::Tensor,
                ScaleGroup::Channel => ScaleSpan::Channel,
                ScaleGroup::Group(group) => ScaleSpan::Group(group),
            },
            symmetric: method.symmetric,
            words: true,
        }
    }
}
