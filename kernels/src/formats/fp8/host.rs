//! The host half of choosing codes.

use rayon::prelude::*;

use super::{Recipe, TileScaling, e4m3, e5m2};
use crate::arith::float::{DType, absmax, absmax_here};
use crate::arith::lanes::for_processors;
use crate::format::FormatError;
use crate::format::{Format, Fp8Kind, Tile};
use crate::packer::{self, FeedOrder, Packer};

/// Packs a weight of `shape` `[o, i]`.
///
/// [`Tile::Tensor`] reads the source twice unless the scale is [`Fixed`](Recipe::Fixed).
///
/// # Errors
///
/// [`FormatError::Tile`] for a tile without weights, [`FormatError::Scale`] for a fixed scale that is not
/// positive and finite, [`FormatError::Size`].
pub fn packer(
    shape: [usize; 2],
    source: DType,
    kind: Fp8Kind,
    tile: Tile,
    recipe: Recipe,
) -> Result<Box<dyn Packer>, FormatError> {
    let format = Format::Fp8(kind, tile);
    format.validate()?;
    recipe.validate()?;
    packer::check_size(shape)?;

    let tile_rows = tile.rows_together(shape);
    let empty = recipe.scaling(source, kind, 0.0);
    Ok(Box::new(Fp8Packer {
        source,
        kind,
        tile,
        recipe,
        order: FeedOrder::new(format, shape, source, tile_rows, recipe.passes(tile)),
        whole: 0.0,
        scales: vec![empty.scale.to_bits(); format.scales_len(shape)],
    }))
}

struct Fp8Packer {
    source: DType,
    kind: Fp8Kind,
    tile: Tile,
    recipe: Recipe,
    order: FeedOrder,
    /// Largest magnitude of the weight so far, where one scale serves all of it.
    whole: f32,
    /// `[rows of tiles, columns of tiles]`, bits of `f32`.
    scales: Vec<u32>,
}

impl Packer for Fp8Packer {
    packer::in_order!();

    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8], words: &mut [u32]) {
        let fed = self.order.accept(pass, first_row, tile, words);
        if tile.is_empty() {
            return;
        }
        if pass + 1 < self.order.passes() {
            self.whole = absmax(&[self.whole, packer::largest(self.source, tile)]);
            return;
        }
        let scalings = self.scalings(first_row, fed, tile);
        self.choose(first_row, tile, &scalings, words);
    }

    fn finish(self: Box<Self>) -> Vec<u32> {
        self.order.finish();
        self.scales
    }
}

impl Fp8Packer {
    /// Stores the scales of the scale tiles in these rows and gives them, `[rows of tiles, columns]`.
    fn scalings(&mut self, first_row: usize, fed: usize, bytes: &[u8]) -> Vec<TileScaling> {
        let (shape, source, kind, recipe) = (self.order.shape, self.source, self.kind, self.recipe);
        let ([rows, cols], [_, grid_cols]) = (self.tile.sides(shape), self.tile.grid(shape));
        let row_bytes = shape[1] * source.size();

        let first = first_row / rows * grid_cols;
        let count = (first_row + fed).div_ceil(rows) * grid_cols - first;
        // Not read by a fixed scale; found by the pass before.
        let mut amax = vec![self.whole; count];
        if !matches!(recipe, Recipe::Fixed(_)) && self.tile != Tile::Tensor {
            /// Scale tiles that a job reads beside each other.
            const WIDE: usize = 16;
            let segment = cols.min(shape[1]) * source.size();
            amax.par_chunks_mut(grid_cols)
                .zip(bytes.par_chunks(rows.saturating_mul(row_bytes)))
                .for_each(|(amax, bytes)| {
                    let jobs = amax.par_chunks_mut(WIDE).enumerate();
                    jobs.for_each(|(k, amax)| {
                        let from = k * WIDE * segment;
                        largest(source, bytes, row_bytes, from, segment, amax);
                    });
                });
        }
        let stored = &mut self.scales[first..][..count];
        let scalings = stored.iter_mut().zip(amax).map(|(stored, amax)| {
            let scaling = recipe.scaling(source, kind, amax);
            *stored = scaling.scale.to_bits();
            scaling
        });
        scalings.collect()
    }

    /// Chooses the codes of these rows, straight into their words.
    fn choose(&self, first_row: usize, bytes: &[u8], scalings: &[TileScaling], words: &mut [u32]) {
        let (shape, source, kind, recipe) = (self.order.shape, self.source, self.kind, self.recipe);
        let ([rows, cols], [_, grid_cols]) = (self.tile.sides(shape), self.tile.grid(shape));
        let i = shape[1];
        // A scale tile may have begun in rows fed before, where it is the whole weight.
        let first_tile_row = first_row / rows;

        packer::choose8(source, bytes, words, |k, bytes, codes| {
            // Up to the end of the row.
            let (r, c) = (first_row + k / i, k % i);
            let len = (i - c).min(codes.len());
            let scalings = &scalings[(r / rows - first_tile_row) * grid_cols..];
            let (from, to) = (&bytes[..len * source.size()], &mut codes[..len]);
            encode((recipe, source, kind), scalings, cols, c, from, to);
            len
        });
    }
}

for_processors! {
    /// The largest magnitudes of scale tiles beside each other: of `segment` bytes in each row, the first from `from` on.
    fn largest(
        source: DType,
        bytes: &[u8],
        row_bytes: usize,
        from: usize,
        segment: usize,
        amax: &mut [f32],
    ) {
        amax.fill(0.0);
        for row in bytes.chunks(row_bytes) {
            for (amax, bytes) in amax.iter_mut().zip(row[from..].chunks(segment)) {
                *amax = absmax(&[*amax, absmax_here(source, bytes)]);
            }
        }
    }
}

for_processors! {
    /// Codes of weights of a row from column `first` on, under the scales of its scale tiles, `cols` wide.
    fn encode(
        how: (Recipe, DType, Fp8Kind),
        scalings: &[TileScaling],
        cols: usize,
        first: usize,
        bytes: &[u8],
        codes: &mut [u8],
    ) {
        let (recipe, source, kind) = how;
        let (mut c, mut bytes, mut codes) = (first, bytes, codes);
        while !codes.is_empty() {
            let len = (cols - c % cols).min(codes.len());
            let (from, to);
            (from, bytes) = bytes.split_at(len * source.size());
            (to, codes) = codes.split_at_mut(len);
            let by = scalings[c / cols].by;
            match kind {
                Fp8Kind::E4m3 => encode_with(recipe, source, by, from, to, |value| {
                    e4m3(value.clamp(-448.0, 448.0))
                }),
                Fp8Kind::E5m2 => encode_with(recipe, source, by, from, to, |value| {
                    e5m2(value.clamp(-57344.0, 57344.0))
                }),
            }
            c += len;
        }
    }
}

/// The recipe is chosen outside the loop.
#[inline(always)]
fn encode_with(
    recipe: Recipe,
    source: DType,
    by: f32,
    bytes: &[u8],
    codes: &mut [u8],
    cast: impl Fn(f32) -> u8,
) {
    use DType::{Bf16, F16, F32};
    match (recipe, source) {
        (Recipe::CompressedTensors, F16) => {
            packer::code8(F16, bytes, codes, |weight| cast(F16.round(weight / by)));
        }
        (Recipe::CompressedTensors, Bf16) => {
            packer::code8(Bf16, bytes, codes, |weight| cast(Bf16.round(weight / by)));
        }
        (Recipe::CompressedTensors, F32) | (Recipe::Fixed(_), _) => {
            packer::code8(source, bytes, codes, |weight| cast(weight / by));
        }
        (Recipe::FineGrained { .. }, _) => {
            packer::code8(source, bytes, codes, |weight| cast(weight * by));
        }
    }
}
