//! How far packed weights may be from their source, and what to try instead of what is beyond it.

use core::fmt;

use firebox_kernels::compare::Stats;
use serde::{Deserialize, Serialize};

use super::quant::QuantSpec;

/// What to verify by, and what to try instead of what is beyond it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
