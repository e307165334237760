//! Rows of heads as a cache keeps them.
//!
//! Letters: `b` batch, `n` heads, `s` tokens, `d` features of a row, `w = ceil(d / 4)` words of a row of bytes.

use core::ops::Range;

use burn::tensor::{DType, Int, IntDType, Tensor, s};

use crate::{config::KvCacheDtype, target::ToBurn};

/// Bytes of a word.
const BYTES: usize = 4;

/// The largest code.
const CODE_MAX: f32 = 127.0;

/// Rows of heads of all tokens.
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "a layer has two, and tensors are not boxed"
)]
pub enum KeptRows {
    /// `[b, n, s, d]`, in a type of their own.
    Plain(Tensor<4>),
    /// Bytes with factors.
    Scaled(ScaledRows),
}

/// Rows of whole numbers from -127 to 127, each row with a factor.
#[derive(Debug, Clone)]
pub struct ScaledRows {
    /// `[b, n, s, w]`: four numbers in each, the first in the lowest byte, as two's complements.
    pub words: Tensor<4, Int>,
    /// `[b, n, s, 1]`, f32.
    pub scales: Tensor<4>,
    /// `d`.
    pub features: usize,
}

impl From<Tensor<4>> for KeptRows {
    fn from(rows: Tensor<4>) -> Self {
        Self::Plain(rows)
    }
}

impl KeptRows {
    /// Rows `[b, n, t, d]` in the type `dtype`, or as they are.
    pub fn new(rows: Tensor<4>, dtype: Option<KvCacheDtype>) -> Self {
        match dtype.map(KvCacheDtype::float) {
            None => Self::Plain(rows),
            Some(Some(float)) => Self::Plain(rows.cast(float.burn())),
            Some(None) => Self::Scaled(ScaledRows::new(rows)),
        }
    }

    /// `[b, n, s, d]`.
    pub fn dims(&self) -> [usize; 4] {
        match self {
            Self::Plain(rows) => rows.dims(),
            Self::Scaled(rows) => {
                let [b, n, s, _] = rows.words.dims();
                [b, n, s, rows.features]
            }
        }
    }

    /// Rows of some tokens.
    pub fn tokens(&self, tokens: Range<usize>) -> Self {
        let (first, len) = (tokens.start, tokens.len());
        match self {
            Self::Plain(rows) => Self::Plain(rows.clone().narrow(2, first, len)),
            Self::Scaled(rows) => Self::Scaled(ScaledRows {
                words: rows.words.clone().narrow(2, first, len),
                scales: rows.scales.clone().narrow(2, first, len),
                features: rows.features,
            }),
        }
    }

    /// The rows as floats, `[b, n, s, d]`.
    pub fn dense(self, dtype: DType) -> Tensor<4> {
        match self {
            Self::Plain(rows) => rows.cast(dtype),
            Self::Scaled(rows) => rows.dense().cast(dtype),
        }
    }

    /// Zeros of the same kind for `room` tokens.
    pub(super) fn empty(&self, room: usize) -> Self {
        match self {
            Self::Plain(rows) => {
                let [b, n, _, d] = rows.dims();
                Self::Plain(Tensor::zeros(
                    [b, n, room, d],
                    (&rows.device(), rows.dtype()),
                ))
            }
            Self::Scaled(rows) => {
                let [b, n, _, w] = rows.words.dims();
                let device = rows.words.device();
                Self::Scaled(ScaledRows {
                    words: Tensor::zeros([b, n, room, w], (&device, DType::I32)),
                    scales: Tensor::zeros([b, n, room, 1], (&device, DType::F32)),
                    features: rows.features,
                })
            }
        }
    }

    /// The same rows with others of the same kind from the token `first` on, in the same memory where nobody else reads it.
    pub(super) fn written(self, first: usize, rows: Self) -> Self {
        let tokens = first..first + rows.dims()[2];
        match (self, rows) {
            (Self::Plain(all), Self::Plain(new)) => {
                Self::Plain(all.slice_assign(s![.., .., tokens, ..], new))
            }
            (Self::Scaled(all), Self::Scaled(new)) => Self::Scaled(ScaledRows {
                words: all
                    .words
                    .slice_assign(s![.., .., tokens.clone(), ..], new.words),
                scales: all.scales.slice_assign(s![.., .., tokens, ..], new.scales),
                features: all.features,
            }),
            _ => unreachable!("rows of one cache are kept in one way"),
        }
    }
}

impl ScaledRows {
    /// The nearest codes of rows `[b, n, t, d]`, ties to even. A row of zeros has the factor 0.
    pub fn new(rows: Tensor<4>) -> Self {
        let [b, n, t, d] = rows.dims();
        let rows = rows.cast(DType::F32);
        let scales = rows.clone().abs().max_dim(3) / CODE_MAX;
        // Nothing is divided by 0.
        let divisors = scales
            .clone()
            .mask_fill(scales.clone().equal_elem(0.0), 1.0);
        let codes = (rows / divisors).round().clamp(-CODE_MAX, CODE_MAX);
        let words = d.div_ceil(BYTES);
        let codes = match words * BYTES - d {
            0 => codes,
            rest => {
                let zeros = Tensor::zeros([b, n, t, rest], (&codes.device(), DType::F32));
                Tensor::cat(vec![codes, zeros], 3)
            }
        };
        let codes = codes
            .int()
            .cast(IntDType::I32)
            .reshape([b * n * t, words, BYTES]);
        let byte = |nth| codes.clone().narrow(2, nth, 1);
        // Two's complements of the lower three; the highest has its sign from the word.
        let unsigned = |nth| {
            let byte = byte(nth);
            let wraps = byte.clone().lower_elem(0).int().cast(IntDType::I32) * 256;
            byte + wraps
        };
        let words_of =
            unsigned(0) + unsigned(1) * (1 << 8) + unsigned(2) * (1 << 16) + byte(3) * (1 << 24);
        Self {
            words: words_of.reshape([b, n, t, words]),
            scales,
            features: d,
        }
    }

    /// The rows in f32, `[b, n, s, d]`.
    pub fn dense(self) -> Tensor<4> {
        let [b, n, s, words] = self.words.dims();
        let all = self.words.reshape([b * n * s, words, 1]);
        // Shifted up to the sign, and back with it.
        let byte = |nth: i32| {
            let up = all.clone().bitwise_left_shift_scalar(8 * (3 - nth));
            up.bitwise_right_shift_scalar(24)
        };
        let codes = Tensor::cat((0..BYTES as i32).map(byte).collect(), 2);
        let codes = codes.reshape([b, n, s, words * BYTES]);
        let codes = codes.narrow(3, 0, self.features).float().cast(DType::F32);
        codes * self.scales
    }
}
