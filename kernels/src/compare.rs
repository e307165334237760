//! How far a packed weight is from its source, in one pass over both.
//!
//! Only weights that are finite in the source and come back finite are compared; the others are counted.
//!
//! The signal to quantization noise ratio is `10 log10(sum s^2 / sum (s - r)^2)` in dB, 20 dB for a relative error
//! of a tenth. It is infinite where nothing is lost, of a weight that is zero throughout too, and minus infinity
//! where a weight of zeros comes back as anything else.
//!
//! A weight is *saturated* when its source lies outside the range of its scale by more than 1/128 of the largest magnitude
//! there, which is more than rounding the scale explains. The range of a scale:
//!
//! ```text
//! nf4, fp4   from -scale to scale
//! fp8        from -largest * scale to largest * scale, largest being 448 or 57344
//! int8       from -scale to scale, the scale being the largest magnitude of the row
//! micro      from -largest * scale to largest * scale, largest being 6 or 448
//! affine     from the weight of code 0 to that of the last code, or the other way round
//! gguf       from the weight of the least code to that of the greatest, under the scale of a part of a block
//! ```
//!
//! On the host sums are `f64`, on a device `f32`, each the sum of few enough partial sums that
//! [`TOLERANCE`] holds.

#[cfg(feature = "cube")]
mod cube;

use rayon::prelude::*;

#[cfg(feature = "cube")]
pub use cube::compare;

use crate::arith::float::DType;
use crate::format::{Along, Format, Packed};
use crate::formats::bits4::Scales;
use crate::formats::gguf;

/// The error that the sums of a device may have, relative to sums of magnitudes, up to 2^30 weights: fewer than
/// 256 additions that each round by 2^-24.
pub const TOLERANCE: f64 = 1.6e-5;

/// Part of the largest magnitude that a weight may lie outside before it counts as saturated.
const SLACK: f32 = 1.0 / 128.0;

/// Fields of [`Sums`], in the order of a device's words: six `f32`, then four counts.
pub const SUMS: usize = 10;

/// Sums over the weights of a matrix; `s` is a source value, `r` the dequantized value, `e` their difference.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sums {
    /// Largest `|e|`.
    pub largest: f64,
    /// Sum of `|e|`.
    pub errors: f64,
    /// Sum of `e * e`.
    pub error_squares: f64,
    /// Sum of `s * s`.
    pub source_squares: f64,
    /// Sum of `r * r`.
    pub result_squares: f64,
    /// Sum of `s * r`.
    pub products: f64,
    /// Weights that are compared.
    pub compared: u64,
    /// Weights that are saturated, of those.
    pub saturated: u64,
    /// Sources that are NaN or infinite.
    pub lost_sources: u64,
    /// Results that are NaN or infinite.
    pub lost_results: u64,
}

/// How far a packed weight is from its source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    /// Largest error.
    pub max_error: f64,
    /// Mean error; 0 of no weights.
    pub mean_error: f64,
    /// Norm of the errors over the norm of the source: 0 where both are 0.
    pub relative_error: f64,
    /// Cosine of the angle between source and result: 1 where both are 0.
    pub cosine: f64,
    /// Signal to quantization noise in dB: infinite where there is no error, minus infinity where the source is 0
    /// throughout and the result is not.
    pub sqnr: f64,
    /// Weights that are compared.
    pub compared: u64,
    /// Weights that are saturated, of those.
    pub saturated: u64,
    /// Sources that are NaN or infinite.
    pub lost_sources: u64,
    /// Results that are NaN or infinite.
    pub lost_results: u64,
}

impl Sums {
    /// Sums out of the words of a device's buffer.
    pub fn from_words(words: [u32; SUMS]) -> Self {
        let float = |k: usize| f64::from(f32::from_bits(words[k]));
        let count = |k: usize| u64::from(words[k]);
        Self {
            largest: float(0),
            errors: float(1),
            error_squares: float(2),
            source_squares: float(3),
            result_squares: float(4),
            products: float(5),
            compared: count(6),
            saturated: count(7),
            lost_sources: count(8),
            lost_results: count(9),
        }
    }

    /// The words that [`from_words`](Self::from_words) reads: sums as `f32`, counts as far as `u32` goes.
    pub fn to_words(self) -> [u32; SUMS] {
        let float = |sum: f64| (sum as f32).to_bits();
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        [
            float(self.largest),
            float(self.errors),
            float(self.error_squares),
            float(self.source_squares),
            float(self.result_squares),
            float(self.products),
            count(self.compared),
            count(self.saturated),
            count(self.lost_sources),
            count(self.lost_results),
        ]
    }

    /// The figures that follow from the sums.
    pub fn stats(self) -> Stats {
        let ratio = |a: f64, b: f64, none| if a == 0.0 && b == 0.0 { none } else { a / b };
        let norms = (self.source_squares * self.result_squares).sqrt();
        let both_zero = self.source_squares == 0.0 && self.result_squares == 0.0;
        Stats {
            max_error: self.largest,
            mean_error: ratio(self.errors, self.compared as f64, 0.0),
            relative_error: ratio(self.error_squares, self.source_squares, 0.0).sqrt(),
            cosine: ratio(self.products, norms, if both_zero { 1.0 } else { 0.0 }),
            sqnr: 10.0 * ratio(self.source_squares, self.error_squares, f64::INFINITY).log10(),
            compared: self.compared,
            saturated: self.saturated,
            lost_sources: self.lost_sources,
            lost_results: self.lost_results,
        }
    }

    /// The sums over these weights and others.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            largest: self.largest.max(other.largest),
            errors: self.errors + other.errors,
            error_squares: self.error_squares + other.error_squares,
            source_squares: self.source_squares + other.source_squares,
            result_squares: self.result_squares + other.result_squares,
            products: self.products + other.products,
            compared: self.compared + other.compared,
            saturated: self.saturated + other.saturated,
            lost_sources: self.lost_sources + other.lost_sources,
            lost_results: self.lost_results + other.lost_results,
        }
    }

    fn add(&mut self, source: f32, result: f32, [low, high]: [f32; 2]) {
        self.lost_sources += u64::from(!source.is_finite());
        self.lost_results += u64::from(!result.is_finite());
        if !source.is_finite() || !result.is_finite() {
            return;
        }
        let slack = low.abs().max(high.abs()) * SLACK;
        self.saturated += u64::from(source < low - slack || source > high + slack);
        self.compared += 1;
        let (source, result) = (f64::from(source), f64::from(result));
        let error = (source - result).abs();
        self.largest = self.largest.max(error);
        self.errors += error;
        self.error_squares += error * error;
        self.source_squares += source * source;
        self.result_squares += result * result;
        self.products += source * result;
    }
}

/// Compares on the host. `bytes` is the source, `[o, i]`.
///
/// # Panics
///
/// When a length does not fit the shape.
pub fn host(source: DType, bytes: &[u8], packed: &Packed) -> Sums {
    let [o, i] = packed.shape;
    assert_eq!(
        bytes.len(),
        o * i * source.size(),
        "bytes of {:?}",
        packed.shape
    );
    host_rows(source, bytes, packed, 0)
}

/// Compares some rows on the host. `bytes` is the source of those that begin with `first`, `[rows, i]`.
///
/// # Panics
///
/// When these are not whole rows of the weight.
pub fn host_rows(source: DType, bytes: &[u8], packed: &Packed, first: usize) -> Sums {
    let [o, i] = packed.shape;
    if bytes.is_empty() {
        return Sums::default();
    }
    let row_bytes = i * source.size();
    assert!(
        bytes.len().is_multiple_of(row_bytes) && first + bytes.len() / row_bytes <= o,
        "{} bytes from row {first} of {:?}",
        bytes.len(),
        packed.shape
    );
    let rows = bytes.par_chunks(row_bytes).enumerate();
    let sums: Vec<Sums> = rows
        .map_init(
            || (vec![0.0; i], vec![0.0; i]),
            |(sources, results), (r, bytes)| {
                let r = first + r;
                source.widen(bytes, sources);
                let (words, scales) = (&packed.words, &packed.scales);
                packed
                    .format
                    .dequantize_rows(packed.shape, words, scales, r..r + 1, results);
                let (mut sums, mut c) = (Sums::default(), 0);
                while c < i {
                    let (range, end) = (range(packed, r, c), c + alike(packed, r, c));
                    for (source, result) in sources[c..end].iter().zip(&results[c..end]) {
                        sums.add(*source, *result, range);
                    }
                    c = end;
                }
                sums
            },
        )
        .collect();
    // In the order of the rows, whatever the threads.
    sums.into_iter().fold(Sums::default(), Sums::join)
}

/// Compares dense values, none of which is saturated.
///
/// # Panics
///
/// When there are more of the one than of the other.
pub fn plain(sources: &[f32], results: &[f32]) -> Sums {
    assert_eq!(sources.len(), results.len(), "sources and results");
    let mut sums = Sums::default();
    for (source, result) in sources.iter().zip(results) {
        sums.add(*source, *result, [f32::NEG_INFINITY, f32::INFINITY]);
    }
    sums
}

/// Weights of row `r` from column `c` on that certainly have the same range.
fn alike(packed: &Packed, r: usize, c: usize) -> usize {
    let i = packed.shape[1];
    let k = r * i + c;
    let alike = match packed.format {
        Format::Nf4(blocks) | Format::Fp4(blocks) => blocks.block - k % blocks.block,
        Format::Fp8(_, tile) => {
            let [_, cols] = tile.sides(packed.shape);
            cols - c % cols
        }
        Format::Int8 | Format::Half(_) => i,
        Format::Micro(micro) => micro.group() - k % micro.group(),
        Format::Gguf(kind) => kind.part() - c % kind.part(),
        Format::Affine(affine) if affine.along == Along::Flat => affine.group - k % affine.group,
        Format::Affine(_) => 1,
    };
    alike.min(i - c)
}

/// The least and the greatest that the scale of row `r`, column `c` can give.
fn range(packed: &Packed, r: usize, c: usize) -> [f32; 2] {
    let [o, i] = packed.shape;
    let k = r * i + c;
    let most = match packed.format {
        Format::Nf4(blocks) | Format::Fp4(blocks) => {
            Scales::new(blocks, o * i, &packed.scales).get(k / blocks.block)
        }
        Format::Fp8(kind, tile) => {
            let ([rows, cols], [_, across]) = (tile.sides(packed.shape), tile.grid(packed.shape));
            let scale = packed.scales[r / rows * across + c / cols];
            kind.largest() * f32::from_bits(scale)
        }
        Format::Int8 => f32::from_bits(packed.scales[r]),
        Format::Half(half) => half.largest(),
        Format::Micro(micro) => micro.largest() * micro.scale(&packed.scales, k / micro.group()),
        Format::Gguf(kind) => return gguf::range(kind, packed.shape, &packed.words, [r, c]),
        Format::Affine(affine) => {
            let group = affine.group_of(packed.shape, &packed.scales, [r, c]);
            let (scale, offset) = affine.params(&packed.scales, group);
            let last = ((1 << affine.bits) - 1) as f32;
            let [first, last] = [0.0, last].map(|code| affine.weight(code, scale, offset));
            return [first.min(last), first.max(last)];
        }
    };
    [-most.abs(), most.abs()]
}
