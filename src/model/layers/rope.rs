//! Rotary position embedding: pairs of features of a head, turned by an angle that grows with the
//! position.
//!
//! Letters: `b` batch, `h` heads, `t` tokens, `d` features of a head, `r` features of them that are rotated.
//!
//! ```text
//! pair i of r/2 is (x[i], x[i + r/2])            half-split, as most Hugging Face checkpoints are stored
//!               or (x[2i], x[2i + 1])            interleaved, as Burn's RotaryEncoding has them
//! angle(position, i) = position * frequency[i]
//! frequency[i]       = theta^(-2i/r), then scaled
//! ```
//!
//! Angles, sines and cosines are computed on the host in `f32`, in the order of operations of
//! transformers, once a pass and for the positions of that pass only. A table for every position of a
//! 128k context would be 64 MiB of device memory to save a hundred sines a token, and WGSL promises
//! nothing about the sine of a large angle.

use core::{f32::consts::TAU, ops::Range};

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Serialize;

/// What turns the heads of a layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RotarySpec {
    /// Base of the frequencies.
    pub theta: f64,
    /// `r`, an even number: the first features of a head are rotated, the others stay as they are.
    pub features: usize,
    /// Which features turn together.
    pub pairs: Pairs,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
    /// Frequencies are those of the whole head, and the pairs beyond the first `features / 2` have none (Gemma 4).
    pub proportional: bool,
}

impl RotarySpec {
    /// Halves of `features` features, not stretched.
    pub const fn new(features: usize, theta: f64) -> Self {
        Self {
            theta,
            features,
            pairs: Pairs::Halves,
            scaling: RopeScaling::None,
            proportional: false,
        }
    }
}

/// Which features of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairs {
    /// One of the first half, one of the second.
    Halves,
    /// Neighbours.
    Interleaved,
}

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
    /// The base grows with the length of the text (dynamic NTK).
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
        /// One a pair.
        short: Vec<f32>,
        /// One a pair.
        long: Vec<f32>,
        /// Positions of the first training.
        original_positions: usize,
        /// What cosines and sines are multiplied by.
        attention_factor: f32,
    },
}

impl RopeScaling {
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

    /// A frequency after the stretch; `None` where this library cannot stretch yet.
    fn apply(&self, frequency: f32) -> Option<f32> {
        match *self {
            Self::None => Some(frequency),
            Self::Linear { factor } => Some(frequency / factor),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_positions,
            } => {
                let original = original_positions as f32;
                let wave = TAU / frequency;
                Some(if wave > original / low_freq_factor {
                    frequency / factor
                } else if wave < original / high_freq_factor {
                    frequency
                } else {
                    let blend =
                        (original / wave - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - blend) * frequency / factor + blend * frequency
                })
            }
            Self::Dynamic { .. } | Self::Yarn { .. } | Self::LongRope { .. } => None,
        }
    }
}

/// The frequencies of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Radians a position, `[r/2]`.
    frequencies: Vec<f32>,
    pairs: Pairs,
}

/// Cosines and sines of one pass, shared by all layers that turn alike.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// `[t, r/2]`.
    cos: Tensor<2>,
    /// `[t, r/2]`.
    sin: Tensor<2>,
    pairs: Pairs,
}

impl Rope {
    /// The names of the scalings that [`new`](Self::new) takes.
    pub(crate) const SCALINGS: &str = "default, linear, llama3";

    /// `None` for a rotation that this library cannot compute yet.
    pub fn new(spec: &RotarySpec) -> Option<Self> {
        if spec.proportional {
            return None;
        }
        let (r, theta) = (spec.features, spec.theta as f32);
        let frequencies = (0..r / 2)
            .map(|i| 1.0 / theta.powf((2 * i) as f32 / r as f32))
            .map(|frequency| spec.scaling.apply(frequency))
            .collect::<Option<_>>()?;
        Some(Self {
            frequencies,
            pairs: spec.pairs,
        })
    }

    /// Whether every angle up to the last of `positions` is a number: a base or factor far from those of
    /// any model overflows.
    pub(crate) fn reaches(&self, positions: usize) -> bool {
        let mut angles = self.frequencies.iter().map(|f| positions as f32 * f);
        angles.all(f32::is_finite)
    }

    /// The rotation at `positions`, in the type that activations are in.
    pub fn at(&self, positions: Range<usize>, device: &Device, dtype: DType) -> Rotation {
        let shape = [positions.len(), self.frequencies.len()];
        let angles: Vec<f32> = positions
            .flat_map(|position| self.frequencies.iter().map(move |f| position as f32 * f))
            .collect();
        let place = |values: Vec<f32>| {
            Tensor::from_data(
                TensorData::new(values, shape).convert_dtype(dtype),
                (device, dtype),
            )
        };
        Rotation {
            cos: place(angles.iter().map(|angle| angle.cos()).collect()),
            sin: place(angles.iter().map(|angle| angle.sin()).collect()),
            pairs: self.pairs,
        }
    }
}

impl Rotation {
    /// `x` `[b, h, t, d]`, its first `r` features rotated.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let ([_, _, _, d], [_, half]) = (x.dims(), self.cos.dims());
        let r = 2 * half;
        if r == d {
            return self.turn(x);
        }
        let rotated = self.turn(x.clone().narrow(3, 0, r));
        Tensor::cat(vec![rotated, x.narrow(3, r, d - r)], 3)
    }

    /// `x` `[b, h, t, r]`, rotated.
    fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, h, t, r] = x.dims();
        let (cos, sin) = (self.cos.clone().unsqueeze(), self.sin.clone().unsqueeze());
        let (first, second) = match self.pairs {
            Pairs::Halves => (x.clone().narrow(3, 0, r / 2), x.narrow(3, r / 2, r / 2)),
            Pairs::Interleaved => {
                let pairs = x.reshape([b, h, t, r / 2, 2]);
                let side = |side| {
                    let side = pairs.clone().narrow(4, side, 1);
                    side.reshape([b, h, t, r / 2])
                };
                (side(0), side(1))
            }
        };
        let turned = vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            second * cos + first * sin,
        ];
        match self.pairs {
            Pairs::Halves => Tensor::cat(turned, 3),
            Pairs::Interleaved => Tensor::stack::<5>(turned, 4).reshape([b, h, t, r]),
        }
    }
}
