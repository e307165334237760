//! Rotary position embedding: pairs of features of a head, turned by an angle that grows with the
//! position.
//!
//! Letters: `b` batch, `h` heads, `t` tokens, `d` features of a head, `r` features of them that are rotated.
//!
//! ```text
//! pair i of r/2 is (x[i], x[i + r/2])            half-split, as most Hugging Face checkpoints are stored
//!               or (x[2i], x[2i + 1])            interleaved, as Burn's RotaryEncoding has them
//! angle(position, i) = position * frequency[i]
//! frequency[i]       = theta^(-2i/r), then stretched (scaling.rs)
//! ```
//!
//! Angles, sines and cosines are computed on the host in `f32`, in the order of operations of
//! transformers, once a pass and for the positions of that pass only. A table for every position of a
//! 128k context would be 64 MiB of device memory to save a hundred sines a token, and WGSL promises
//! nothing about the sine of a large angle.

mod scaling;

use core::ops::Range;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Serialize;

pub use scaling::RopeScaling;

use super::documents::Documents;
#[cfg(feature = "cpu")]
use super::host;

/// What turns the heads of a layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RotarySpec {
    /// Base of the frequencies.
    pub theta: f64,
    /// `r`: the first features of a head are rotated, the others stay as they are. An odd number has one pair more than
    /// its half.
    pub features: usize,
    /// Which features turn together.
    pub pairs: Pairs,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
    /// The last pairs, this many, do not turn (Gemma 4's proportional rotation).
    pub still: usize,
}

impl RotarySpec {
    /// Halves of `features` features, not stretched.
    pub const fn new(features: usize, theta: f64) -> Self {
        Self {
            theta,
            features,
            pairs: Pairs::Halves,
            scaling: RopeScaling::None,
            still: 0,
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

/// The frequencies of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    spec: RotarySpec,
}

/// Cosines and sines of one pass, shared by all layers that turn alike.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// `[1 or b, 1, t, r/2]`.
    cos: Tensor<4>,
    /// The same.
    sin: Tensor<4>,
    pairs: Pairs,
}

impl Rope {
    /// The frequencies that `spec` asks for.
    pub const fn new(spec: RotarySpec) -> Self {
        Self { spec }
    }

    /// Radians a position `[r/2]`, in a text of `tokens` tokens.
    fn frequencies(&self, tokens: usize) -> Vec<f32> {
        let (theta, r) = (self.spec.theta, self.spec.features);
        let mut frequencies = self.spec.scaling.frequencies(theta, r, tokens);
        let turning = frequencies.len().saturating_sub(self.spec.still);
        frequencies[turning..].fill(0.0);
        frequencies
    }

    /// Whether every angle up to the last of `positions` is a number: a base or factor far from those of
    /// any model overflows.
    pub(crate) fn reaches(&self, positions: usize) -> bool {
        let frequencies = self.frequencies(positions);
        let mut angles = frequencies.iter().map(|f| positions as f32 * f);
        angles.all(f32::is_finite)
    }

    /// Whether keys that were turned in a text of `before` tokens do not fit a text of `after` tokens: LongRoPE has one
    /// list of factors for short texts and one for long ones, as if they were two models.
    ///
    /// Keys of a base that grows with the text (dynamic NTK) stay as they are, as in transformers: each token would turn
    /// all of them again.
    pub(crate) fn turns_again(&self, before: usize, after: usize) -> bool {
        self.spec.scaling.turns_again(before, after)
    }

    /// The rotation at `positions`, in the type that activations are in.
    ///
    /// Where frequencies depend on the length of the text, it ends with `positions`.
    pub fn at(&self, positions: Range<usize>, device: &Device, dtype: DType) -> Rotation {
        let tokens = positions.len();
        let angles = self.angles(positions);
        self.rotation(&angles, [1, tokens], device, dtype)
    }

    /// The rotation of tokens at their positions in their documents, in the type that activations are in.
    ///
    /// Where frequencies depend on the length of the text, that is the length of the document.
    pub fn in_documents(&self, documents: &Documents, device: &Device, dtype: DType) -> Rotation {
        let angles = documents
            .ranges()
            .flat_map(|tokens| self.angles(0..tokens.len()));
        let angles: Vec<f32> = angles.collect();
        self.rotation(&angles, documents.shape(), device, dtype)
    }

    /// The angles of `positions` in a text that ends with them, `[t, r/2]`.
    fn angles(&self, positions: Range<usize>) -> Vec<f32> {
        let frequencies = self.frequencies(positions.end);
        positions
            .flat_map(|position| frequencies.iter().map(move |f| position as f32 * f))
            .collect()
    }

    /// The rotation by angles `[b, t, r/2]`.
    fn rotation(
        &self,
        angles: &[f32],
        [b, t]: [usize; 2],
        device: &Device,
        dtype: DType,
    ) -> Rotation {
        let shape = [b, 1, t, angles.len() / (b * t).max(1)];
        let factor = self.spec.scaling.attention_factor();
        let place = |values: Vec<f32>| {
            Tensor::from_data(
                TensorData::new(values, shape).convert_dtype(dtype),
                (device, dtype),
            )
        };
        Rotation {
            cos: place(angles.iter().map(|angle| angle.cos() * factor).collect()),
            sin: place(angles.iter().map(|angle| angle.sin() * factor).collect()),
            pairs: self.spec.pairs,
        }
    }
}

impl Rotation {
    /// `x` `[b, h, t, d]`, its first `r` features rotated.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "cpu")]
        if host::takes(&x) && host::takes(&self.cos) {
            // Heads of a token lie one after another where they come from a product.
            let turns = [&self.cos, &self.sin].map(Tensor::clone);
            let interleaved = self.pairs == Pairs::Interleaved;
            return host::rotate(x.swap_dims(1, 2), turns, interleaved).swap_dims(1, 2);
        }
        let ([_, _, _, d], [_, _, _, half]) = (x.dims(), self.cos.dims());
        let r = 2 * half;
        if r == d {
            return self.turn(x);
        }
        let rotated = self.turn(x.clone().narrow(3, 0, r));
        Tensor::cat(vec![rotated, x.narrow(3, r, d - r)], 3)
    }

    /// The same on `device`.
    pub(crate) fn on(self, device: &Device) -> Self {
        Self {
            cos: self.cos.to_device(device),
            sin: self.sin.to_device(device),
            pairs: self.pairs,
        }
    }

    /// `x` `[b, h, t, r]`, rotated.
    fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, h, t, r] = x.dims();
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
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
