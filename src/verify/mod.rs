//! How far a quantization is from its source, tensor by tensor, what is too far, and what to do with it.
//!
//! ```text
//! plan ─► pipeline ─► finished weight ─► compared with its source ─► Stats ─► within the Limits?
//!                                          (read again, in tiles)               │ no
//!                       plan of these tensors alone ◄── the next fallback ◄─────┘
//! ```
//!
//! [`Loader::verify`](crate::Loader::verify) packs as a load would, on the same target, and compares each weight
//! with the numbers it was packed from. [`Loader::verify_against`](crate::Loader::verify_against) compares what a
//! quantized checkpoint holds with the checkpoint that it was made from.
//!
//! [`LoadConfig::verify`](crate::LoadConfig::verify) does so during a load: a weight passes on to the module when it is
//! within the limits, or else the first fallback that is.
//!
//! In memory are one finished weight, what the pipeline has in flight, and a tile of the source; on a device that packs,
//! the source of one part of the weight beside it. A source is read once more than a load reads it, and again for each fallback that
//! is tried.
//!
//! # What the numbers are of special weights
//!
//! Only weights that are finite in the source and come back finite are compared; the others are counted. The relative
//! error, cosine and signal to noise of a weight that is zero throughout and comes back so are 0, 1 and infinite;
//! where it comes back as anything else they are infinite, 0 and minus infinite.

mod guard;
mod report;
mod sink;

pub(crate) use guard::Guard;
pub use report::{Fallback, TensorCheck, VerifyReport};
pub(crate) use report::{check, numbers};
pub(crate) use sink::{CompareSink, Original};

use core::fmt;

pub use firebox_kernels::compare::Stats;
use firebox_kernels::format::Format;
use serde::Serialize;

use crate::{
    plan::{Step, Stored},
    quant::QuantSpec,
    source::StoredType,
};

/// What to verify by, and what to try instead of what is beyond it.
#[derive(Debug, Clone, Default)]
pub struct VerifyConfig {
    pub(crate) limits: Limits,
    pub(crate) fallbacks: Vec<QuantSpec>,
}

impl VerifyConfig {
    /// How far a weight may be from its source.
    pub fn new(limits: Limits) -> Self {
        let fallbacks = Vec::new();
        Self { limits, fallbacks }
    }

    /// Adds a quantization for weights that are beyond the limits. The first that is within them is chosen, so that
    /// narrow ones come first and [`QuantSpec::None`], which keeps what is stored, last. One that cannot pack a
    /// weight is passed over.
    #[must_use]
    pub fn fallback(mut self, quant: QuantSpec) -> Self {
        self.fallbacks.push(quant);
        self
    }
}

/// How far a weight may be from its source. Where any limit is given, a weight with a number that is not finite, in the
/// source or in what comes back, is beyond it: nothing can be said of such a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Limits {
    /// Most that [`Stats::relative_error`] may be.
    pub max_relative: Option<f64>,
    /// Least that [`Stats::sqnr`] may be, in dB.
    pub min_sqnr: Option<f64>,
    /// Least that [`Stats::cosine`] may be.
    pub min_cosine: Option<f64>,
    /// Largest part of the compared weights, 0 to 1, that may be saturated.
    pub max_saturated: Option<f64>,
}

impl Limits {
    /// Limits the relative error.
    #[must_use]
    pub fn max_relative(mut self, most: f64) -> Self {
        self.max_relative = Some(most);
        self
    }

    /// Limits the signal to noise ratio, in dB.
    #[must_use]
    pub fn min_sqnr(mut self, least: f64) -> Self {
        self.min_sqnr = Some(least);
        self
    }

    /// Limits the cosine.
    #[must_use]
    pub fn min_cosine(mut self, least: f64) -> Self {
        self.min_cosine = Some(least);
        self
    }

    /// Limits the part of the weights that is saturated.
    #[must_use]
    pub fn max_saturated(mut self, most: f64) -> Self {
        self.max_saturated = Some(most);
        self
    }

    /// What of `stats` is beyond.
    pub fn beyond(&self, stats: &Stats) -> Vec<Beyond> {
        let mut beyond = Vec::new();
        let saturated = stats.saturated as f64 / (stats.compared as f64).max(1.0);
        // Written so that a NaN is beyond.
        let most = |found: f64, most: f64| found <= most;
        let least = |found: f64, least: f64| found >= least;
        type Within = fn(f64, f64) -> bool;
        for (limit, found, asked, within) in [
            (
                Limit::MaxRelative,
                stats.relative_error,
                self.max_relative,
                most as Within,
            ),
            (Limit::MinSqnr, stats.sqnr, self.min_sqnr, least),
            (Limit::MinCosine, stats.cosine, self.min_cosine, least),
            (Limit::MaxSaturated, saturated, self.max_saturated, most),
        ] {
            if let Some(asked) = asked
                && !within(found, asked)
            {
                beyond.push(Beyond {
                    limit,
                    found,
                    asked,
                });
            }
        }
        let lost = stats.lost_sources.max(stats.lost_results);
        if lost > 0 && *self != Self::default() {
            beyond.push(Beyond {
                limit: Limit::Finite,
                found: lost as f64,
                asked: 0.0,
            });
        }
        beyond
    }
}

/// A limit that a weight is beyond.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Beyond {
    /// Which.
    pub limit: Limit,
    /// What the weight has.
    pub found: f64,
    /// What was asked for.
    pub asked: f64,
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Limit {
    /// [`Limits::max_relative`].
    MaxRelative,
    /// [`Limits::min_sqnr`].
    MinSqnr,
    /// [`Limits::min_cosine`].
    MinCosine,
    /// [`Limits::max_saturated`].
    MaxSaturated,
    /// Numbers that are not finite, of which every limit asks for none.
    Finite,
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { found, asked, .. } = self;
        match self.limit {
            Limit::MaxRelative => write!(f, "relative error {found:.5} above {asked}"),
            Limit::MinSqnr => write!(f, "SQNR {found:.2} dB below {asked} dB"),
            Limit::MinCosine => write!(f, "cosine {found:.6} below {asked}"),
            Limit::MaxSaturated => write!(f, "saturated part {found:.6} above {asked}"),
            Limit::Finite => write!(f, "{found} numbers that are not finite"),
        }
    }
}

/// Weights that cannot be compared, or are too far from their source to be loaded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Nothing is quantized.
    #[error(
        "no weight of {model} is quantized: say how, or name the checkpoint that it was made from"
    )]
    NothingPacked {
        /// The checkpoint.
        model: String,
    },
    /// Balanced weights are others than the checkpoint has.
    #[error(
        "weights that are balanced before they are packed cannot be compared with those of the checkpoint; leave `presinq` out"
    )]
    Balanced,
    /// Weights that come from where packed ones are kept were verified, if at all, when they were packed.
    #[error(
        "weights that are kept packed cannot be compared with their source while they are loaded; leave out the limits, or the cache of packed weights"
    )]
    Cached,
    /// Packed in the checkpoint already, so that its source is elsewhere.
    #[error(
        "{tensor} is packed as {format} in the checkpoint and its source is not there; name the checkpoint that it was made from"
    )]
    Kept {
        /// The tensor.
        tensor: String,
        /// How it is packed.
        format: Format,
    },
    /// Beyond the limits, while it was loaded, and so is every fallback.
    #[error(
        "{tensor} as {quant} is beyond the limits ({}), and none of {tried} fallbacks is within them; add a wider one, or `none`",
        .beyond.iter().map(Beyond::to_string).collect::<Vec<_>>().join(", ")
    )]
    Beyond {
        /// The tensor.
        tensor: String,
        /// As what it was packed.
        quant: String,
        /// What it is beyond.
        beyond: Vec<Beyond>,
        /// Fallbacks that were tried, or could not pack it.
        tried: usize,
    },
    /// The source lacks a tensor.
    #[error(
        "{against} has no tensor {tensor}; it is not what the quantized checkpoint was made from"
    )]
    Missing {
        /// The tensor.
        tensor: String,
        /// The source.
        against: String,
    },
    /// The source has another shape.
    #[error(
        "{tensor} is {found:?} in {against}, and {expected:?} in the quantized checkpoint; they are of different models"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// The source.
        against: String,
        /// Its shape there.
        found: Vec<usize>,
        /// Its shape in the quantized checkpoint.
        expected: Vec<usize>,
    },
    /// The source does not have it as plain numbers.
    #[error(
        "{tensor} is stored as {found} in {against}; what is compared with is F32, F16 or BF16"
    )]
    Dtype {
        /// The tensor.
        tensor: String,
        /// The source.
        against: String,
        /// Its type there.
        found: StoredType,
    },
}

/// Refuses weights that the checkpoint has packed.
pub(crate) fn refuse_kept(steps: &[Step]) -> Result<(), VerifyError> {
    for step in steps {
        if let (Stored::Packed(adopt), Some(_)) = (&step.source, step.action.format()) {
            return Err(VerifyError::Kept {
                tensor: step.slot.name.clone(),
                format: adopt.format,
            });
        }
    }
    Ok(())
}
