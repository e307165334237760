//! Choosing codes as llama.cpp chooses them without an importance matrix: `quantize_row_*_ref` of `ggml-quants.c`, and
//! `quantize_iq4_nl` (MIT License, Georgi Gerganov and contributors; ggml 0.25).
//!
//! Every operation is rounded to `f32`, sums go in the order of the weights, and nothing is fused: the bytes are those of
//! the x86-64 library. Builds for ARM fuse, and choose other codes for some blocks.

mod affine;
mod legacy;
mod levels;
mod parts;
mod symmetric;

use rayon::prelude::*;

use crate::arith::float::DType;
use crate::arith::lanes::for_processors;
use crate::arith::pack::{self, CODES8};
use crate::arith::whole;
use crate::format::{Format, FormatError, Gguf};
use crate::packer::{self, FeedOrder, Packer};

/// Packs a weight of `shape` `[o, i]`.
///
/// # Errors
///
/// [`FormatError::BlockColumns`] where rows are not whole blocks, [`FormatError::Unchosen`] for a type whose codes are not
/// chosen here; [`FormatError::Size`].
pub fn packer(
    shape: [usize; 2],
    source: DType,
    kind: Gguf,
) -> Result<Box<dyn Packer>, FormatError> {
    check(kind)?;
    let format = Format::Gguf(kind);
    format.validate_shape(shape)?;
    packer::check_size(shape)?;
    let order = FeedOrder::new(format, shape, source, tile_rows(shape, kind), 1);
    Ok(Box::new(GgufPacker {
        source,
        kind,
        order,
    }))
}

/// Refuses types whose codes are not chosen here.
pub(crate) fn check(kind: Gguf) -> Result<(), FormatError> {
    if Gguf::CHOSEN.contains(&kind) {
        Ok(())
    } else {
        Err(FormatError::Unchosen { kind })
    }
}

/// Rows that are whole words.
pub(crate) const fn tile_rows([o, i]: [usize; 2], kind: Gguf) -> usize {
    whole::tile_rows([o, kind.row_bytes(i)], 1, CODES8)
}

struct GgufPacker {
    source: DType,
    kind: Gguf,
    order: FeedOrder,
}

/// Weights of a job, about.
const JOB: usize = 8192;

impl Packer for GgufPacker {
    packer::in_order!();

    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8], words: &mut [u32]) {
        self.order.accept(pass, first_row, tile, words);
        let (source, kind, cols) = (self.source, self.kind, self.order.shape[1]);
        if cols == 0 {
            return;
        }
        let rows = (JOB / cols).max(1);
        let rows = rows.next_multiple_of(self.order.tile_rows());
        let job_words = (rows * kind.row_bytes(cols)).div_ceil(CODES8);
        tile.par_chunks(rows * cols * source.size())
            .zip(words.par_chunks_mut(job_words))
            .for_each(|(bytes, words)| {
                let mut values = vec![0.0; bytes.len() / source.size()];
                source.widen(bytes, &mut values);
                let mut blocks = vec![0; kind.row_bytes(values.len())];
                choose(kind, &values, &mut blocks);
                words.copy_from_slice(&pack::from_bytes(&blocks));
            });
    }

    fn finish(self: Box<Self>) -> Vec<u32> {
        self.order.finish();
        Vec::new()
    }
}

for_processors! {
    /// Chooses the blocks of some rows.
    fn choose(kind: Gguf, values: &[f32], bytes: &mut [u8]) {
        match kind {
            Gguf::Q4_0 => blocks(values, bytes, legacy::q4_0),
            Gguf::Q4_1 => blocks(values, bytes, legacy::q4_1),
            Gguf::Q5_0 => blocks(values, bytes, legacy::q5_0),
            Gguf::Q5_1 => blocks(values, bytes, legacy::q5_1),
            Gguf::Q8_0 => blocks(values, bytes, legacy::q8_0),
            Gguf::Q2K => blocks(values, bytes, affine::q2),
            Gguf::Q3K => blocks(values, bytes, symmetric::q3),
            Gguf::Q4K => blocks(values, bytes, affine::q4),
            Gguf::Q5K => blocks(values, bytes, affine::q5),
            Gguf::Q6K => blocks(values, bytes, symmetric::q6),
            Gguf::Iq4Nl => blocks(values, bytes, levels::iq4_nl),
            other => unreachable!("{other} was refused"),
        }
    }
}

#[inline(always)]
fn blocks<const BLOCK: usize, const BYTES: usize>(
    values: &[f32],
    bytes: &mut [u8],
    choose: impl Fn(&[f32; BLOCK]) -> [u8; BYTES],
) {
    let blocks = values.as_chunks().0.iter();
    for (block, bytes) in blocks.zip(bytes.as_chunks_mut().0) {
        *bytes = choose(block);
    }
}
