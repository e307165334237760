//! From codes to values: rows of a weight in any format, and which format's code does it.

use core::ops::Range;

use rayon::prelude::*;

use super::bits4::levels::{Fp4, Nf4};
use super::{affine, bits4, fp8, gguf, halves, int8, micro};
use crate::arith::lanes::{self, Lanes, Work};
use crate::arith::number::{Narrow, Number, Room};
use crate::format::{Format, Packed, PackedRows};

/// Weights that a thread dequantizes at a time.
const PIECE: usize = 1 << 16;

impl Format {
    /// Dequantizes the rows `rows` of a weight of `shape` into `out`, `[rows, i]`.
    ///
    /// A value is one f32 product (and in two formats one step more), rounded once more where `out` holds halves.
    /// Runs on the current rayon pool where there are many.
    ///
    /// # Panics
    ///
    /// When a buffer's length or the range does not fit the shape, or the shape does not fit the format, or a list of
    /// columns is one that [`Packed::new`] refuses.
    pub fn dequantize_rows<T: Number>(
        self,
        shape: [usize; 2],
        words: &[u32],
        scales: &[u32],
        rows: Range<usize>,
        out: &mut [T],
    ) {
        self.fill(shape, words, scales, rows, T::room(out));
    }

    fn fill(
        self,
        shape: [usize; 2],
        words: &[u32],
        scales: &[u32],
        rows: Range<usize>,
        out: Room<'_>,
    ) {
        self.assert_lengths(shape, words, scales);
        assert!(
            rows.start <= rows.end && rows.end <= shape[0],
            "rows {rows:?} of {shape:?}"
        );
        assert_eq!(
            out.len(),
            rows.len() * shape[1],
            "values of rows {rows:?} of {shape:?}"
        );
        let part = PackedRows {
            shape,
            words,
            scales,
            first_row: rows.start,
        };
        match out {
            Room::F32(out) => self.pieces(part, out),
            Room::F16(out) => self.pieces(part, out),
            Room::Bf16(out) => self.pieces(part, out),
        }
    }

    /// As many rows as `out` takes.
    fn pieces<T: Narrow>(self, part: PackedRows<'_>, out: &mut [T]) {
        let format = self;
        if out.len() < 2 * PIECE {
            lanes::run(Unpack { format, part, out });
            return;
        }
        let i = part.shape[1];
        let piece = (PIECE / i).max(1);
        let pieces = out.par_chunks_mut(piece * i).enumerate();
        pieces.for_each(|(k, out)| {
            let first_row = part.first_row + k * piece;
            let part = PackedRows { first_row, ..part };
            lanes::run(Unpack { format, part, out });
        });
    }
}

impl Packed {
    /// Gives the weight back, `[o, i]`; see [`Format::dequantize_rows`].
    ///
    /// # Panics
    ///
    /// When the fields were changed so that the lengths no longer fit.
    pub fn dequantize(&self) -> Vec<f32> {
        let [o, i] = self.shape;
        let mut out = vec![0.0; o * i];
        self.format
            .dequantize_rows(self.shape, &self.words, &self.scales, 0..o, &mut out);
        out
    }
}

/// Dequantizes rows on this thread, until `out` is full.
struct Unpack<'a, T> {
    format: Format,
    part: PackedRows<'a>,
    out: &'a mut [T],
}

impl<T: Narrow> Work for Unpack<'_, T> {
    type Output = ();

    #[inline(always)]
    fn on<L: Lanes>(self, lanes: L) {
        let Self { format, part, out } = self;
        match format {
            Format::Nf4(blocks) => bits4::unpack::<Nf4, L, T>(lanes, blocks, part, out),
            Format::Fp4(blocks) => bits4::unpack::<Fp4, L, T>(lanes, blocks, part, out),
            Format::Fp8(kind, tile) => fp8::unpack(kind, tile, part, out),
            Format::Affine(affine) => affine::unpack(lanes, affine, part, out),
            Format::Int8 => int8::unpack(part, out),
            Format::Micro(micro) => micro::unpack(lanes, micro, part, out),
            Format::Half(half) => halves::unpack(lanes, half, part, out),
            Format::Gguf(kind) => gguf::unpack(lanes, kind, part, out),
        }
    }
}
