//! Rotary position embedding: pairs of features of a head, turned by an angle that grows with the
//! position.
//!
//! Letters: `b` batch, `h` heads, `t` tokens, `d` features of a head.
//!
//! ```text
//! pair i of d/2 is (x[i], x[i + d/2])            half-split, as Hugging Face checkpoints are stored;
//!                                                 Burn's RotaryEncoding pairs (x[2i], x[2i + 1])
//! angle(position, i) = position * frequency[i]
//! frequency[i]       = theta^(-2i/d), then scaled
//! ```
//!
//! Angles, sines and cosines are computed on the host in `f32`, in the order of operations of
//! transformers, once a pass and for the positions of that pass only. A table for every position of a
//! 128k context would be 64 MiB of device memory to save a hundred sines a token, and WGSL promises
//! nothing about the sine of a large angle.

use core::{f32::consts::TAU, ops::Range};

use burn::tensor::{DType, Device, Tensor, TensorData};

/// How frequencies are stretched to positions beyond those of the first training.
#[derive(Debug, Clone, Copy, PartialEq)]
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
}

/// The frequencies of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Radians a position, `[d/2]`.
    frequencies: Vec<f32>,
}

/// Cosines and sines of one pass, shared by all its layers.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// `[t, d/2]`.
    cos: Tensor<2>,
    /// `[t, d/2]`.
    sin: Tensor<2>,
}

impl Rope {
    /// For heads of `d` features, an even number.
    pub fn new(d: usize, theta: f64, scaling: RopeScaling) -> Self {
        let theta = theta as f32;
        let frequencies = (0..d / 2)
            .map(|i| 1.0 / theta.powf((2 * i) as f32 / d as f32))
            .map(|frequency| scaling.apply(frequency))
            .collect();
        Self { frequencies }
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
        }
    }
}

impl Rotation {
    /// `x` `[b, h, t, d]`, rotated.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, _, d] = x.dims();
        let (cos, sin) = (self.cos.clone().unsqueeze(), self.sin.clone().unsqueeze());
        let first = x.clone().narrow(3, 0, d / 2);
        let second = x.narrow(3, d / 2, d / 2);
        Tensor::cat(
            vec![
                first.clone() * cos.clone() - second.clone() * sin.clone(),
                second * cos + first * sin,
            ],
            3,
        )
    }
}

impl RopeScaling {
    fn apply(self, frequency: f32) -> f32 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_positions,
            } => {
                let original = original_positions as f32;
                let wave = TAU / frequency;
                if wave > original / low_freq_factor {
                    frequency / factor
                } else if wave < original / high_freq_factor {
                    frequency
                } else {
                    let blend =
                        (original / wave - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - blend) * frequency / factor + blend * frequency
                }
            }
        }
    }
}
