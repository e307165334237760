//! Frequencies beyond the positions of the first training.
//!
//! Every formula is that of transformers' `modeling_rope_utils.py`, in its order of operations.

use core::{f32, f64};
use std::sync::Arc;

use serde::Serialize;

use crate::config::Known;

/// How frequencies are stretched to positions beyond those of the first training.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by `factor` (position interpolation, arXiv:2306.15595).
    Linear {
        /// Above 0.
        factor: f32,
    },
    /// Llama 3.1: long waves divided by `factor`, short ones kept, those between blended.
    Llama3 {
        /// Above 0.
        factor: f32,
        /// Waves longer than `original_positions / low_freq_factor` are long.
        low_freq_factor: f32,
        /// Waves shorter than `original_positions / high_freq_factor` are short.
        high_freq_factor: f32,
        /// Positions of the first training.
        original_positions: usize,
    },
    /// The base grows with the length of a text that is longer than those of the first training (dynamic NTK).
    Dynamic {
        /// Above 0.
        factor: f32,
        /// Positions of the first training.
        original_positions: usize,
    },
    /// Long waves divided by `factor`, short ones kept, those between blended; cosines and sines are multiplied by a
    /// factor of attention (YaRN, arXiv:2309.00071).
    Yarn {
        /// Above 0.
        factor: f32,
        /// Positions of the first training.
        original_positions: usize,
        /// A wave that turns this often within the first training is short.
        beta_fast: f32,
        /// A wave that turns less often is long.
        beta_slow: f32,
        /// The bounds of the blend are rounded to whole pairs.
        truncate: bool,
        /// What cosines and sines are multiplied by.
        attention_factor: f32,
    },
    /// A factor for each frequency: one list up to the positions of the first training, another beyond (LongRoPE,
    /// arXiv:2402.13753).
    LongRope {
        /// One a pair; all layers share the list.
        short: Arc<[f32]>,
        /// One a pair; all layers share the list.
        long: Arc<[f32]>,
        /// Positions of the first training.
        original_positions: usize,
        /// What cosines and sines are multiplied by.
        attention_factor: f32,
    },
}

impl RopeScaling {
    /// Every word of `rope_type`, and a golden model of transformers 5.23.0 that has it.
    pub const KNOWN: [Known; 7] = [
        Known::new("default", "llama_bf16_untied"),
        Known::new("linear", "llama_rope_linear"),
        Known::new("dynamic", "llama_rope_dynamic"),
        Known::new("yarn", "llama_rope_yarn"),
        Known::new("longrope", "phi3_longrope"),
        Known::new("llama3", "llama_f32_tied"),
        Known::new("proportional", "gemma4_ple_bf16"),
    ];

    /// The word of `config.json` for it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::None => "default",
            Self::Linear { .. } => "linear",
            Self::Llama3 { .. } => "llama3",
            Self::Dynamic { .. } => "dynamic",
            Self::Yarn { .. } => "yarn",
            Self::LongRope { .. } => "longrope",
        }
    }

    /// Positions of the first training, where the stretch depends on them.
    pub const fn original_positions(&self) -> Option<usize> {
        match *self {
            Self::None | Self::Linear { .. } => None,
            Self::Llama3 {
                original_positions, ..
            }
            | Self::Dynamic {
                original_positions, ..
            }
            | Self::Yarn {
                original_positions, ..
            }
            | Self::LongRope {
                original_positions, ..
            } => Some(original_positions),
        }
    }

    /// Whether keys of a text of `before` tokens are turned otherwise once it has `after`, by more than its growth.
    pub(super) const fn turns_again(&self, before: usize, after: usize) -> bool {
        match *self {
            Self::LongRope {
                original_positions, ..
            } => before > 0 && before <= original_positions && after > original_positions,
            _ => false,
        }
    }

    /// What cosines and sines are multiplied by.
    pub(super) const fn attention_factor(&self) -> f32 {
        match self {
            Self::Yarn {
                attention_factor, ..
            }
            | Self::LongRope {
                attention_factor, ..
            } => *attention_factor,
            Self::None | Self::Linear { .. } | Self::Llama3 { .. } | Self::Dynamic { .. } => 1.0,
        }
    }

    /// Radians a position for each pair of `r` features, in a text of `tokens` tokens.
    pub(super) fn frequencies(&self, theta: f64, r: usize, tokens: usize) -> Vec<f32> {
        match *self {
            Self::None => plain(theta, r).collect(),
            Self::Linear { factor } => plain(theta, r).map(|f| f / factor).collect(),
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_positions,
            } => {
                let original = original_positions as f32;
                let stretched = |f| {
                    let wave = f32::consts::TAU / f;
                    if wave > original / low {
                        f / factor
                    } else if wave < original / high {
                        f
                    } else {
                        let blend = (original / wave - low) / (high - low);
                        (1.0 - blend) * f / factor + blend * f
                    }
                };
                plain(theta, r).map(stretched).collect()
            }
            Self::Dynamic {
                factor,
                original_positions,
            } => {
                let tokens = tokens.max(original_positions) as f32;
                let growth = factor * tokens / original_positions as f32 - (factor - 1.0);
                let power = r as f64 / (r as f64 - 2.0);
                plain(theta * f64::from(growth.powf(power as f32)), r).collect()
            }
            Self::Yarn {
                factor,
                original_positions,
                beta_fast,
                beta_slow,
                truncate,
                ..
            } => {
                // The pair whose wave turns this often within the first training, between two pairs as a rule.
                let pair_of = |turns: f32| {
                    let wave = original_positions as f64 / (f64::from(turns) * f64::consts::TAU);
                    r as f64 * wave.ln() / (2.0 * theta.ln())
                };
                let (first, last) = (pair_of(beta_fast), pair_of(beta_slow));
                let (first, last) = match truncate {
                    true => (first.floor(), last.ceil()),
                    false => (first, last),
                };
                let (first, last) = (first.max(0.0) as f32, last.min(r as f64 - 1.0) as f32);
                let width = if first == last { 0.001 } else { last - first };
                let stretched = |(pair, f): (usize, f32)| {
                    let long = ((pair as f32 - first) / width).clamp(0.0, 1.0);
                    f / factor * long + f * (1.0 - long)
                };
                plain(theta, r).enumerate().map(stretched).collect()
            }
            Self::LongRope {
                ref short,
                ref long,
                original_positions,
                ..
            } => {
                let factors = match tokens > original_positions {
                    true => long,
                    false => short,
                };
                let pairs = plain(theta, r).zip(&**factors);
                pairs.map(|(f, factor)| f / factor).collect()
            }
        }
    }
}

/// `theta^(-2i/r)` for each pair `i`.
fn plain(theta: f64, r: usize) -> impl Iterator<Item = f32> {
    let theta = theta as f32;
    (0..r.div_ceil(2)).map(move |i| 1.0 / theta.powf((2 * i) as f32 / r as f32))
}
