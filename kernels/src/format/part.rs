//! Cutting a packed weight into parts of whole rows that each stand alone: for devices whose largest
//! allocation is smaller than the weight.

#![expect(
    clippy::single_range_in_vec_init,
    reason = "a list of ranges may have one"
)]

use core::ops::Range;

use super::blocks::NESTED;
use super::{Along, Format, Packed, Tile};
use crate::arith::pack::{CODES4, CODES8, HALVES, STREAM};
use crate::arith::whole;

/// Values of a part at most: kernels count them in `u32`.
pub const PART_VALUES_MAX: usize = u32::MAX as usize;

impl Format {
    /// A number of rows: every part of a weight of `shape` but the last has a multiple of it.
    pub fn part_rows(self, shape: [usize; 2]) -> usize {
        let unit = match self {
            Self::Nf4(blocks) | Self::Fp4(blocks) if blocks.nested => blocks.block * NESTED,
            Self::Nf4(blocks) | Self::Fp4(blocks) => blocks.block,
            Self::Fp8(_, tile) => return tile.rows_together(shape),
            Self::Affine(affine) => match affine.along {
                Along::Flat => whole::multiple(affine.group, STREAM),
                // Every group has weights all over.
                Along::Strided => return shape[0].max(1),
                Along::Ordered => STREAM,
            },
            Self::Int8 => CODES8,
            Self::Half(_) => HALVES,
            // Whole words of blocks.
            Self::Gguf(kind) => {
                return whole::tile_rows([shape[0], kind.row_bytes(shape[1])], 1, CODES8);
            }
            // Whole words of scales.
            Self::Micro(micro) => {
                return whole::tile_rows([shape[0], shape[1] / micro.group()], 1, CODES8);
            }
        };
        whole::tile_rows(shape, 1, unit)
    }

    /// Cuts a weight of `shape` into the fewest parts of at most `largest` bytes and [`PART_VALUES_MAX`] values each. `None`
    /// when rows that have to stay together are more than that.
    pub fn cut(self, shape: [usize; 2], largest: u64) -> Option<Vec<Range<usize>>> {
        let [o, i] = shape;
        let fits = |rows: usize| {
            let values = rows.saturating_mul(i);
            values <= PART_VALUES_MAX && self.packed_bytes([rows, i]) as u64 <= largest
        };
        if fits(o) {
            return Some(vec![0..o]);
        }
        let unit = self.part_rows(shape);
        let share = largest as f64 / self.packed_bytes(shape) as f64;
        let share = share.min(PART_VALUES_MAX as f64 / (o * i) as f64);
        // The share ignores words that do not grow with the rows, so the search may go a step or two down.
        let most = (o as f64 * share) as usize / unit + 1;
        let rows = (1..=most)
            .rev()
            .map(|units| units * unit)
            .find(|rows| fits(*rows))?;
        Some(
            (0..o)
                .step_by(rows)
                .map(|first| first..o.min(first + rows))
                .collect(),
        )
    }

    /// The words of some rows.
    fn part_words(self, [_, i]: [usize; 2], rows: &Range<usize>) -> Range<usize> {
        let (first, last) = (rows.start * i, rows.end * i);
        match self {
            Self::Nf4(_) | Self::Fp4(_) => first / CODES4..last.div_ceil(CODES4),
            Self::Fp8(..) | Self::Int8 => first / CODES8..last.div_ceil(CODES8),
            Self::Affine(affine) => {
                first / STREAM * affine.bits..last.div_ceil(STREAM) * affine.bits
            }
            Self::Micro(micro) => first / micro.codes()..last / micro.codes(),
            Self::Half(_) => first / HALVES..last.div_ceil(HALVES),
            Self::Gguf(kind) => {
                let row = kind.row_bytes(i);
                rows.start * row / CODES8..(rows.end * row).div_ceil(CODES8)
            }
        }
    }

    /// The scales of some rows, as ranges of words to be put one after another.
    pub fn part_scales(self, shape: [usize; 2], rows: &Range<usize>) -> Vec<Range<usize>> {
        let [o, i] = shape;
        match self {
            Self::Nf4(blocks) | Self::Fp4(blocks) => {
                let (first, last) = (rows.start * i / blocks.block, blocks.count(rows.end * i));
                if !blocks.nested {
                    return vec![first..last];
                }
                let g = blocks.count(o * i);
                let upper = g.div_ceil(CODES8);
                let offset = upper + g.div_ceil(NESTED);
                vec![
                    first / CODES8..last.div_ceil(CODES8),
                    upper + first / NESTED..upper + last.div_ceil(NESTED),
                    offset..offset + 1,
                ]
            }
            Self::Fp8(_, Tile::Tensor) => vec![0..1],
            Self::Fp8(_, tile) => {
                let ([side, _], [_, cols]) = (tile.sides(shape), tile.grid(shape));
                vec![rows.start / side * cols..rows.end.div_ceil(side) * cols]
            }
            Self::Affine(affine) => {
                let (all, words) = (affine.pairs_len(shape), affine.param_words());
                let pairs = match affine.along {
                    Along::Flat => {
                        let groups = |rows: usize| rows * i / affine.group * words;
                        groups(rows.start)..groups(rows.end)
                    }
                    Along::Strided => 0..all,
                    Along::Ordered => {
                        let row = affine.pairs_len([1, i]);
                        rows.start * row..rows.end * row
                    }
                };
                if affine.along == Along::Ordered {
                    vec![pairs, all..self.scales_len(shape)]
                } else {
                    vec![pairs]
                }
            }
            Self::Micro(micro) => {
                let (row, all) = (i / micro.group(), micro.scales_len(shape));
                let mut ranges = vec![rows.start * row / CODES8..(rows.end * row).div_ceil(CODES8)];
                ranges.extend(micro.is_global().then(|| all - 1..all));
                ranges
            }
            Self::Int8 => vec![rows.clone()],
            Self::Half(_) | Self::Gguf(_) => Vec::new(),
        }
    }
}

impl Packed {
    /// The weight whose rows are those of `parts`, one part after another: what [`part`](Self::part) cut. `None` where the
    /// parts differ in format or columns, or do not begin where a part may.
    pub fn join(parts: &[Self]) -> Option<Self> {
        let first = parts.first()?;
        let (format, [_, cols]) = (first.format, first.shape);
        let shape = [parts.iter().map(|part| part.shape[0]).sum(), cols];
        let (unit, mut start) = (format.part_rows(shape), 0);
        let mut words = Vec::with_capacity(format.words_len(shape));
        let mut scales = vec![0; format.scales_len(shape)];
        for part in parts {
            if (part.format, part.shape[1]) != (format, cols) || !usize::is_multiple_of(start, unit)
            {
                return None;
            }
            let rows = start..start + part.shape[0];
            let mut of_part = &part.scales[..];
            for range in format.part_scales(shape, &rows) {
                let (here, rest) = of_part.split_at_checked(range.len())?;
                scales.get_mut(range)?.copy_from_slice(here);
                of_part = rest;
            }
            words.extend_from_slice(&part.words);
            start = rows.end;
        }
        Self::new(format, shape, words, scales).ok()
    }

    /// Some rows as a weight of their own.
    ///
    /// # Panics
    ///
    /// When `rows` is not one of the ranges that [`Format::cut`] gives.
    pub fn part(&self, rows: Range<usize>) -> Self {
        let unit = self.format.part_rows(self.shape);
        assert!(
            rows.start.is_multiple_of(unit)
                && (rows.end.is_multiple_of(unit) || rows.end == self.shape[0]),
            "rows {rows:?} by {unit}"
        );
        let scales = self.format.part_scales(self.shape, &rows).into_iter();
        Self {
            format: self.format,
            shape: [rows.len(), self.shape[1]],
            words: self.words[self.format.part_words(self.shape, &rows)].to_vec(),
            scales: scales
                .flat_map(|range| &self.scales[range])
                .copied()
                .collect(),
        }
    }
}
