//! Some rows and columns of a packed weight, as a weight of their own with the same codes and scales: the part of one of
//! several ranks.

use core::{fmt, ops::Range};

use super::{Affine, Along, Blocks, Format, Packed, Tile, blocks::NESTED};
use crate::arith::{
    pack::CODES8,
    whole::{gcd, multiple},
};

/// The axis of a weight `[out, in]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatrixAxis {
    /// Rows.
    Out,
    /// Columns.
    In,
}

impl fmt::Display for MatrixAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Out => "out",
            Self::In => "in",
        })
    }
}

/// A weight that cannot be cut so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uncut {
    /// The axis.
    pub axis: MatrixAxis,
    /// What a cut has to be a multiple of; `None` where this format is not cut along the axis at all.
    pub unit: Option<usize>,
}

impl Format {
    /// Rows and columns that a slice of a weight of `shape` begins at multiples of, and has whole multiples of; `None`
    /// for an axis along which this format is not cut. The last rows of a weight may be fewer.
    pub fn slice_units(self, [o, i]: [usize; 2]) -> [Option<usize>; 2] {
        // Codes that are whole words.
        let word = 32 / gcd(32, self.code_bits());
        let rows_of = |unit: usize| unit / gcd(unit, i.max(1));
        let (rows, cols) = match self {
            Self::Nf4(blocks) | Self::Fp4(blocks) => {
                let block = multiple(blocks.block, word);
                let cols = i.is_multiple_of(block).then_some(block);
                (Some(rows_of(block)), cols)
            }
            Self::Fp8(_, Tile::Tensor | Tile::Row) | Self::Int8 | Self::Half(_) => {
                (Some(rows_of(word)), Some(word))
            }
            Self::Fp8(_, Tile::Block { rows, cols }) => {
                let rows = multiple(rows, rows_of(word));
                (Some(rows), Some(multiple(cols, word)))
            }
            Self::Affine(affine) => match affine.along {
                Along::Flat if affine.group == o * i => (Some(rows_of(word)), Some(word)),
                Along::Flat => {
                    let rows = rows_of(multiple(affine.group, word));
                    let whole_rows = affine.group.is_multiple_of(i.max(1));
                    let cols = match i.is_multiple_of(affine.group) {
                        _ if whole_rows => Some(word),
                        true => Some(multiple(affine.group, word)),
                        false => None,
                    };
                    (Some(rows), cols)
                }
                // Every group has weights all over.
                Along::Strided => (None, None),
                // The list says for each column which group it is of.
                Along::Ordered => (Some(rows_of(word)), None),
            },
            Self::Micro(micro) => (Some(rows_of(word)), Some(multiple(micro.group(), word))),
            // Blocks are whole bytes, whatever the bits of a code.
            Self::Gguf(kind) => return [Some(1), Some(kind.block())],
        };
        let whole_words = (i * self.code_bits()).is_multiple_of(32);
        [rows, cols.filter(|_| whole_words)]
    }

    /// The format of a slice: `rows` one after another, and of them `cols`. The same format, but for scales of a whole row or
    /// weight, which are then those of a shorter one, and for nested scales whose blocks do not end with the slice, which
    /// become plain ones of the same values.
    ///
    /// # Errors
    ///
    /// [`Uncut`] where codes, groups or tiles do not end with the slice.
    pub fn sliced(
        self,
        shape @ [o, i]: [usize; 2],
        rows: &[Range<usize>],
        cols: &Range<usize>,
    ) -> Result<Self, Uncut> {
        let [row_unit, col_unit] = self.slice_units(shape);
        let all_rows = matches!(rows, [all] if *all == (0..o));
        let all_cols = *cols == (0..i);
        let at =
            |unit: Option<usize>, place: usize| unit.is_some_and(|unit| place.is_multiple_of(unit));
        let last = rows.len().saturating_sub(1);
        let rows_fit = rows.iter().enumerate().all(|(nth, range)| {
            let ends = at(row_unit, range.end) || (range.end == o && nth == last);
            at(row_unit, range.start) && ends
        });
        if !all_rows && !rows_fit {
            let (axis, unit) = (MatrixAxis::Out, row_unit);
            return Err(Uncut { axis, unit });
        }
        if !all_cols && !(at(col_unit, cols.start) && (at(col_unit, cols.end) || cols.end == i)) {
            let (axis, unit) = (MatrixAxis::In, col_unit);
            return Err(Uncut { axis, unit });
        }
        let len: usize = rows.iter().map(Range::len).sum();
        Ok(match self {
            Self::Nf4(blocks) | Self::Fp4(blocks) if blocks.nested => {
                self.renested(all_rows && all_cols || nested_ends(blocks, shape, rows, all_cols))
            }
            Self::Affine(affine) if affine.along == Along::Flat && i > 0 => {
                let group = match affine.group {
                    all if all == o * i => len * cols.len(),
                    group if group.is_multiple_of(i) => group / i * cols.len(),
                    group => group,
                };
                let group = group.max(1);
                Self::Affine(Affine { group, ..affine })
            }
            other => other,
        })
    }
}

/// Whether the slice has whole blocks of nested scales.
fn nested_ends(blocks: Blocks, [o, i]: [usize; 2], rows: &[Range<usize>], all_cols: bool) -> bool {
    let whole = |row: usize| (row * i).is_multiple_of(blocks.block * NESTED);
    let last = rows.len().saturating_sub(1);
    let mut ranges = rows.iter().enumerate();
    all_cols
        && ranges.all(|(nth, range)| {
            whole(range.start) && (whole(range.end) || (range.end == o && nth == last))
        })
}

impl Packed {
    /// Some rows, one after another, and of them some columns, as a weight of their own with the same codes and scales.
    ///
    /// # Errors
    ///
    /// [`Uncut`], as [`Format::sliced`].
    ///
    /// # Panics
    ///
    /// When the weight has no such rows or columns.
    pub fn slice(&self, rows: &[Range<usize>], cols: Range<usize>) -> Result<Self, Uncut> {
        let shape @ [o, i] = self.shape;
        if matches!(rows, [all] if *all == (0..o)) && cols == (0..i) {
            return Ok(self.clone());
        }
        let format = self.format.sliced(shape, rows, &cols)?;
        if self.format.is_nested() && !format.is_nested() {
            return self.clone().renested(false).slice(rows, cols);
        }
        let mut words = self.slice_words(rows, &cols);
        let scales = self.slice_scales(rows, &cols);
        let shape = [rows.iter().map(Range::len).sum(), cols.len()];
        // A stream of few codes ends before its last word.
        words.resize(format.words_len(shape), 0);
        let sliced = Self::new(format, shape, words, scales);
        Ok(sliced.expect("its format fits, and its buffers have the lengths of the format"))
    }

    fn slice_words(&self, rows: &[Range<usize>], cols: &Range<usize>) -> Vec<u32> {
        let (bits, [_, i]) = (self.format.code_bits(), self.shape);
        if let Format::Gguf(kind) = self.format {
            let all = bytes_of(&self.words);
            let at = |value: usize| value / kind.block() * kind.bytes();
            let kept = gather(rows, cols, i, |values| {
                &all[at(values.start)..at(values.end)]
            });
            return words_of(kept).collect();
        }
        gather(rows, cols, i, |values| {
            let range = values.start * bits / 32..(values.end * bits).div_ceil(32);
            &self.words[range]
        })
    }

    fn slice_scales(&self, rows: &[Range<usize>], cols: &Range<usize>) -> Vec<u32> {
        let shape @ [o, i] = self.shape;
        let scales = &self.scales;
        match self.format {
            Format::Nf4(blocks) | Format::Fp4(blocks) if !blocks.nested => {
                let block = blocks.block;
                gather(rows, cols, i, |values| {
                    &scales[values.start / block..values.end.div_ceil(block)]
                })
            }
            // Whole rows of whole blocks of nested scales.
            Format::Nf4(_) | Format::Fp4(_) => {
                let parts = rows.iter().map(|rows| self.part(rows.clone()));
                let joined = Self::join(&parts.collect::<Vec<_>>());
                joined.map(|joined| joined.scales).unwrap_or_default()
            }
            Format::Fp8(_, Tile::Tensor) => scales.clone(),
            Format::Fp8(_, Tile::Row) | Format::Int8 => {
                let of_rows = rows.iter().flat_map(|rows| &scales[rows.clone()]);
                of_rows.copied().collect()
            }
            Format::Fp8(
                _,
                Tile::Block {
                    rows: side,
                    cols: width,
                },
            ) => {
                let tiles = rows
                    .iter()
                    .map(|rows| rows.start / side..rows.end.div_ceil(side));
                let tiles: Vec<_> = tiles.collect();
                let across = cols.start / width..cols.end.div_ceil(width);
                gather(&tiles, &across, i.div_ceil(width), |range| &scales[range])
            }
            Format::Affine(affine) => {
                let words = affine.param_words();
                match affine.along {
                    Along::Flat if affine.group == o * i => scales.clone(),
                    Along::Flat if affine.group.is_multiple_of(i.max(1)) => {
                        let together = affine.group / i.max(1);
                        let pairs = rows.iter().flat_map(|rows| {
                            &scales
                                [rows.start / together * words..rows.end.div_ceil(together) * words]
                        });
                        pairs.copied().collect()
                    }
                    Along::Flat => gather(rows, cols, i, |values| {
                        let groups = values.start / affine.group..values.end.div_ceil(affine.group);
                        &scales[groups.start * words..groups.end * words]
                    }),
                    _ => {
                        let row = affine.pairs_len([1, i]);
                        let pairs = rows
                            .iter()
                            .flat_map(|rows| &scales[rows.start * row..rows.end * row]);
                        let list = &scales[affine.pairs_len(shape)..];
                        pairs.chain(list).copied().collect()
                    }
                }
            }
            Format::Micro(micro) => {
                let (bytes, group) = (bytes_of(scales), micro.group());
                let kept = gather(rows, cols, i, |values| {
                    &bytes[values.start / group..values.end / group]
                });
                let global = micro.is_global().then(|| scales[scales.len() - 1]);
                words_of(kept).chain(global).collect()
            }
            Format::Half(_) | Format::Gguf(_) => Vec::new(),
        }
    }
}

/// The bytes of words, in their order.
fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Words of bytes, the last filled up with zeros.
fn words_of(bytes: Vec<u8>) -> impl Iterator<Item = u32> {
    let word = |bytes: &[u8]| {
        let mut word = [0; CODES8];
        word[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(word)
    };
    let words: Vec<u32> = bytes.chunks(CODES8).map(word).collect();
    words.into_iter()
}

/// What `of` has for the values of each row and its columns, in a weight of `i` columns; whole rows at once.
fn gather<'a, V: Copy + 'a>(
    rows: &[Range<usize>],
    cols: &Range<usize>,
    i: usize,
    of: impl Fn(Range<usize>) -> &'a [V],
) -> Vec<V> {
    let mut all = Vec::new();
    for rows in rows {
        if *cols == (0..i) {
            all.extend_from_slice(of(rows.start * i..rows.end * i));
            continue;
        }
        for row in rows.clone() {
            all.extend_from_slice(of(row * i + cols.start..row * i + cols.end));
        }
    }
    all
}
