//! A packed weight on a device: gives rows back, and multiplies without giving them back.
//!
//! Each operation is the twin of one on the host: [`Format::dequantize_rows`] and what [`mod@linear`] has.

pub(crate) mod read;
mod unpack;

use core::ops::Range;

use cubecl::{client::Client, ir::ElemType, prelude::*};

use crate::float::FloatBits;
use crate::format::Format;
use crate::launch::{self, Buffer};
use crate::{fp4, linear, nested, nf4, pack};
use read::StoredLaunch;

/// A packed weight in device memory.
#[derive(Debug, Clone)]
pub struct Weight {
    /// What the words mean.
    pub format: Format,
    /// `[o, i]` of the weight, not of the words: fewer than 2^32 weights.
    pub shape: [usize; 2],
    /// Codes: [`Format::words_len`] elements of `u32`.
    pub words: Buffer,
    /// Scales: [`Format::scales_len`] elements of `u32`.
    pub scales: Buffer,
}

/// The most inputs that [`Weight::linear`] takes together.
pub const INPUTS: usize = 8;

impl Weight {
    /// The rows `rows`, `[rows, i]` in the type `dtype`.
    ///
    /// In `f32` these are the host's bits, but for results, and FP8 scales, below 2^-126, which a device may
    /// take for 0. In a half they are rounded as the device casts.
    ///
    /// # Panics
    ///
    /// When a buffer's length or the range does not fit the shape.
    pub fn dequantize(&self, client: &Client, rows: Range<usize>, dtype: FloatBits) -> Buffer {
        let [o, i] = self.shape;
        assert!(
            rows.start <= rows.end && rows.end <= o,
            "rows {rows:?} of {:?}",
            self.shape
        );
        let out = Buffer::empty(client, rows.len() * i, dtype.size());
        let stored = self.stored(client);
        if out.is_empty() {
            return out;
        }
        let (count, dim) = launch::grid(client, out.len());
        let first = (rows.start * i) as u32;
        let dtype = launch::elem(dtype);
        unpack::dequantize::launch(client, count, dim, stored, first, out.arg(1), dtype);
        out
    }

    /// The rows `ids`, `[ids, i]` in the type `dtype`: an embedding. Other rows are not unpacked.
    ///
    /// An id out of range gives a row of NaN, since a device cannot refuse it.
    ///
    /// # Panics
    ///
    /// When a buffer's length does not fit the shape, or `id_type` is none of `i32`, `i64` and `u32`.
    pub fn rows(
        &self,
        client: &Client,
        ids: &Buffer,
        id_type: ElemType,
        dtype: FloatBits,
    ) -> Buffer {
        let [o, i] = self.shape;
        let id_words = if id_type == i64::elem_type_native() {
            2
        } else {
            let narrow = [i32::elem_type_native(), u32::elem_type_native()];
            assert!(narrow.contains(&id_type), "ids of type {id_type:?}");
            1
        };
        let out = Buffer::empty(client, ids.len() * i, dtype.size());
        let stored = self.stored(client);
        if out.is_empty() {
            return out;
        }
        let (count, dim) = launch::grid(client, out.len());
        unpack::rows::launch(
            client,
            count,
            dim,
            stored,
            o as u32,
            ids.words(id_words),
            out.arg(1),
            id_words,
            launch::elem(dtype),
        );
        out
    }

    /// `y = x * transpose(w)`, with `x` `[m, i]` and `y` `[m, o]`, both in the type `x_type`.
    ///
    /// Unpacks and multiplies at once, and sums in `f32`. The order of a sum depends on the device's planes,
    /// neither on `m` nor on the run.
    ///
    /// # Panics
    ///
    /// When a buffer's length does not fit the shape, or `m` is above [`INPUTS`]: with more inputs it is
    /// faster to give the weight back.
    pub fn linear(&self, client: &Client, x: &Buffer, x_type: FloatBits, m: usize) -> Buffer {
        let [o, i] = self.shape;
        assert!(m <= INPUTS, "{m} inputs");
        assert_eq!(x.len(), m * i, "{m} inputs to {:?}", self.shape);
        let out = Buffer::empty(client, m * o, x_type.size());
        let stored = self.stored(client);
        if out.is_empty() {
            return out;
        }
        let (count, dim) = launch::grid(client, out.len());
        linear::cube::linear::launch(
            client,
            count,
            dim,
            stored,
            x.arg(1),
            o as u32,
            out.arg(1),
            launch::elem(x_type),
        );
        out
    }

    /// The weight as a kernel's argument.
    fn stored(&self, client: &Client) -> StoredLaunch {
        let Self {
            format,
            shape: shape @ [o, i],
            ref words,
            ref scales,
        } = *self;
        let n = o * i;
        assert!(u32::try_from(n).is_ok(), "a weight of {shape:?}");
        assert_eq!(
            words.len(),
            format.words_len(shape),
            "words of {format} {shape:?}"
        );
        assert_eq!(
            scales.len(),
            format.scales_len(shape),
            "scales of {format} {shape:?}"
        );
        let levels = match format {
            Format::Nf4(_) => Buffer::upload(client, &nf4::LEVELS.map(f32::to_bits)),
            Format::Fp4(_) => Buffer::upload(client, &fp4::LEVELS.map(f32::to_bits)),
            Format::Fp8(..) => scales.clone(),
        };
        let (map, upper) = match format {
            Format::Nf4(blocks) | Format::Fp4(blocks) if blocks.nested => (
                Buffer::upload(client, &nested::MAP.map(f32::to_bits)),
                blocks.count(n).div_ceil(pack::CODES8),
            ),
            _ => (scales.clone(), 0),
        };
        StoredLaunch::new(
            words.arg(1),
            scales.arg(1),
            levels.arg(1),
            map.arg(1),
            i as u32,
            upper as u32,
            0,
            format,
        )
    }
}
