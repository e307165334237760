//! The host half of choosing codes.

use rayon::prelude::*;

use super::{E2M1, Micro, SPAN, power};
use crate::arith::float::{DType, absmax};
use crate::arith::lanes::{each, for_processors};
use crate::arith::pack;
use crate::format::FormatError;
use crate::format::{Format, Fp8Kind};
use crate::packer::{self, FeedOrder, Packer};

/// Packs a weight of `shape` `[o, i]`. Reads the source twice for a global scale, else once.
///
/// # Errors
///
/// [`FormatError::Columns`] where `i` is not whole groups; [`FormatError::Size`].
pub fn packer(
    shape: [usize; 2],
    source: DType,
    micro: Micro,
) -> Result<Box<dyn Packer>, FormatError> {
    let format = Format::Micro(micro);
    format.validate_shape(shape)?;
    packer::check_size(shape)?;
    Ok(Box::new(MicroPacker {
        source,
        micro,
        // Rows are whole groups, and groups whole words of codes.
        order: FeedOrder::new(format, shape, source, 1, micro.passes()),
        largest: 0.0,
        scales: vec![0; shape[0] * (shape[1] / micro.group())],
    }))
}

struct MicroPacker {
    source: DType,
    micro: Micro,
    order: FeedOrder,
    /// Largest magnitude of the weight so far, where there is a global scale.
    largest: f32,
    /// `[o, i / group]`.
    scales: Vec<u8>,
}

/// Weights of a job: whole groups of any size.
const JOB: usize = 4096;

impl Packer for MicroPacker {
    packer::in_order!();

    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8], words: &mut [u32]) {
        self.order.accept(pass, first_row, tile, words);
        if pass + 1 < self.order.passes() {
            self.largest = absmax(&[self.largest, packer::largest(self.source, tile)]);
            return;
        }
        let (source, micro, encode) = (self.source, self.micro, encode(self.largest));
        let first = first_row * self.order.shape[1];
        let scales = &mut self.scales[first / micro.group()..];
        tile.par_chunks(JOB * source.size())
            .zip(words.par_chunks_mut(JOB / micro.codes()))
            .zip(scales.par_chunks_mut(JOB / micro.group()))
            .for_each(|((bytes, words), scales)| {
                pack_groups(micro, source, encode, bytes, words, scales);
            });
    }

    fn finish(self: Box<Self>) -> Vec<u32> {
        self.order.finish();
        let global = self.micro.is_global().then_some(self.largest / SPAN);
        self.micro.join(&self.scales, global)
    }
}

for_processors! {
    /// Chooses scales and codes of the groups of a job.
    fn pack_groups(
        micro: Micro,
        source: DType,
        encode: f32,
        bytes: &[u8],
        words: &mut [u32],
        scales: &mut [u8],
    ) {
        let mut values = [0.0; JOB];
        let values = &mut values[..bytes.len() / source.size()];
        source.widen_here(bytes, values);
        match micro {
            Micro::Mxfp4 => mxfp4(source, values, words, scales),
            Micro::Mxfp8 => mxfp8(source, values, words, scales),
            Micro::Nvfp4 { .. } => nvfp4(source, encode, values, words, scales),
        }
    }
}

/// The factor of scales before they are stored. Without a global scale the largest magnitude is 0.
fn encode(largest: f32) -> f32 {
    if largest == 0.0 { 1.0 } else { SPAN / largest }
}

/// The E8M0 byte that is no number.
const NAN: u8 = 255;

/// The E8M0 byte of a group: `amax / largest` in the source's type, up to the next power of two.
#[inline(always)]
fn exponent(source: DType, values: &[f32], largest: f32) -> u8 {
    /// 2^-127.
    const SMALLEST: u32 = 1 << 22;
    let scale = source.round(absmax(values) / largest).to_bits();
    match scale {
        0 => 127,
        1..=SMALLEST => 0,
        // A value above a power of two carries into the exponent.
        _ if scale < f32::INFINITY.to_bits() => ((scale + 0x7f_ffff) >> 23) as u8,
        _ => NAN,
    }
}

/// The factor of the weights of a group with this E8M0 byte. A quotient by a power of two is exact, unless it
/// is so small that its code is 0, so that it needs no rounding to the source's type.
#[inline(always)]
fn inverse(byte: u8) -> f32 {
    1.0 / power(byte)
}

#[inline(always)]
fn mxfp4(source: DType, values: &[f32], words: &mut [u32], scales: &mut [u8]) {
    const GROUP: usize = Micro::Mxfp4.group();
    let groups = values.as_chunks::<GROUP>().0.iter();
    let words = words.as_chunks_mut::<{ GROUP / 8 }>().0;
    for ((values, words), scale) in groups.zip(words).zip(scales) {
        *scale = exponent(source, values, Micro::Mxfp4.largest());
        let by = inverse(*scale);
        // NaN times anything is code 0.
        *words = pack4(&each(
            values,
            #[inline(always)]
            |value| e2m1(value * by),
        ));
    }
}

#[inline(always)]
fn mxfp8(source: DType, values: &[f32], words: &mut [u32], scales: &mut [u8]) {
    const GROUP: usize = Micro::Mxfp8.group();
    let groups = values.as_chunks::<GROUP>().0.iter();
    let words = words.as_chunks_mut::<{ GROUP / 4 }>().0;
    for ((values, words), scale) in groups.zip(words).zip(scales) {
        *scale = exponent(source, values, Micro::Mxfp8.largest());
        let by = inverse(*scale);
        let codes = each(
            values,
            #[inline(always)]
            |value| Fp8Kind::E4m3.encode(value * by),
        );
        // Which NaN a product is differs between processors.
        let codes = if *scale == NAN { [0; GROUP] } else { codes };
        for (word, four) in words.iter_mut().zip(codes.as_chunks().0) {
            *word = u32::from_le_bytes(*four);
        }
    }
}

/// The source's type is chosen outside the loop.
#[inline(always)]
fn nvfp4(source: DType, encode: f32, values: &[f32], words: &mut [u32], scales: &mut [u8]) {
    match source {
        DType::F32 => nvfp4_with(encode, values, words, scales, |value| value),
        DType::F16 => nvfp4_with(encode, values, words, scales, |value| {
            DType::F16.round(value)
        }),
        DType::Bf16 => nvfp4_with(encode, values, words, scales, |value| {
            DType::Bf16.round(value)
        }),
    }
}

#[inline(always)]
fn nvfp4_with(
    encode: f32,
    values: &[f32],
    words: &mut [u32],
    scales: &mut [u8],
    round: impl Fn(f32) -> f32,
) {
    const MICRO: Micro = Micro::Nvfp4 { global: false };
    const GROUP: usize = MICRO.group();
    let groups = values.as_chunks::<GROUP>().0.iter();
    let words = words.as_chunks_mut::<{ GROUP / 8 }>().0;
    for ((values, words), stored) in groups.zip(words).zip(scales) {
        let scale = round(absmax(values) / MICRO.largest()) * encode;
        // NaN saturates as well.
        *stored = Fp8Kind::E4m3.encode(scale).min(0x7e);
        let scale = Fp8Kind::E4m3.values()[usize::from(*stored)];
        // Where the scale is 0, infinities, or NaN in place of zeros.
        let values = each(
            values,
            #[inline(always)]
            |value| round(value / scale) * encode,
        );
        let huge = values.iter().any(|value| value.abs() >= HUGE);
        *words = pack4(&if huge {
            each(&values, nearest)
        } else {
            each(&values, e2m1)
        });
    }
}

/// From here on differences to E2M1 values are no longer all exact.
const HUGE: f32 = 4_194_304.0;

/// The nearest E2M1 code of a magnitude below [`HUGE`], a tie to the smaller one; never that of -0. 0 for NaN.
#[inline(always)]
fn e2m1(value: f32) -> u8 {
    /// The middles between neighbours.
    const MIDDLES: [f32; 7] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    let magnitude = value.abs();
    let mut code = 0;
    for middle in MIDDLES {
        code += u32::from(magnitude > middle);
    }
    let sign = value.to_bits() >> 31 << 3;
    (if code == 0 { 0 } else { code | sign }) as u8
}

/// The first E2M1 code whose difference to `value` is least, each rounded to `f32`: for infinities, and long before
/// them, the first of all.
#[cold]
fn nearest(value: f32) -> u8 {
    let differences = E2M1.map(|level| (value - level).abs());
    let mut least = 0;
    for (k, difference) in differences.iter().enumerate() {
        if *difference < differences[least] {
            least = k;
        }
    }
    least as u8
}

/// Codes as words, `WORDS` times eight of them.
#[inline(always)]
fn pack4<const CODES: usize, const WORDS: usize>(codes: &[u8; CODES]) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    for (word, eight) in words.iter_mut().zip(codes.as_chunks().0) {
        *word = pack::join8::<4>(*eight) as u32;
    }
    words
}
