//! Some rows of a packed weight, alone: which bytes of its parts they take, and the packed weight that these become.
//!
//! What is read of a part is what the same project would write for these rows, so that one function puts the parts of a
//! weight and of some of its rows together. Rows that share a byte or a scale with others are read with them.
//!
//! | part | bytes of some rows |
//! |---|---|
//! | rows of codes, scales by rows or blocks | one range |
//! | codes of GPTQ and AWQ, `[in, out]` | a range in every stored row |
//! | codes of HQQ, halves of the weight in one byte | a range for each half |
//! | scales of tiles that are higher than a row | those of the tiles, repeated for every row |
//! | nested scales | codes and upper scales, given back as plain ones |
//! | scales of HQQ's axis 0 | one for each value |
//! | tables, shapes, the order of columns | all of them |

use core::ops::Range;

use firebox_kernels::{
    arith::pack::{CODES8, code8},
    format::{Affine, Along, Format, Packed, Tile},
    formats::nested::{self, MAP},
};

use super::{
    Adopt, Assembly, DialectError, Parts, hqq,
    part_layout::{ByteRuns, PartLayout, gcd},
    whole::ScaleSpan,
};

/// Some rows of a packed weight.
#[derive(Debug)]
pub(crate) struct Excerpt {
    /// Rows of the packed weight: the requested rows, and the rows beside them that must be read too; all rows where columns
    /// were requested.
    pub(crate) rows: Range<usize>,
    /// Columns of the packed weight, in the same way.
    pub(crate) cols: Range<usize>,
    /// The format of these rows and columns alone.
    pub(crate) format: Format,
    /// Which bytes of each part are read, one after another.
    pub(crate) parts: Vec<Vec<ByteRuns>>,
}

impl Excerpt {
    /// Bytes of each part.
    pub(crate) fn lens(&self) -> impl Iterator<Item = usize> {
        let parts = self.parts.iter();
        parts.map(|runs| runs.iter().map(|runs| runs.len * runs.count).sum())
    }

    /// Bytes that it takes in memory, as it is read and packed.
    pub(crate) fn bytes(&self) -> usize {
        let shape = [self.rows.len(), self.cols.len()];
        self.lens().sum::<usize>() + self.format.packed_bytes(shape)
    }
}

impl Adopt {
    /// The least excerpt that has these rows of the values, which have `shape`.
    pub(crate) fn excerpt(&self, shape @ [o, i]: [usize; 2], rows: Range<usize>) -> Excerpt {
        let together = self.rows_together(shape);
        let start = rows.start / together * together;
        let rows = start..rows.end.next_multiple_of(together).min(o);
        if self.turns {
            return self.columns([i, o], rows);
        }
        let parts = self.runs(shape, &rows, &(0..i));
        Excerpt {
            format: alone(self.format, shape, &rows),
            parts: parts.unwrap_or_default(),
            cols: 0..i,
            rows,
        }
    }

    /// The bytes of each part that some rows and columns take; `None` where a part does not have these columns apart.
    pub(super) fn runs(
        &self,
        shape: [usize; 2],
        rows: &Range<usize>,
        cols: &Range<usize>,
    ) -> Option<Vec<Vec<ByteRuns>>> {
        let layouts = self.layouts(shape).into_iter();
        let layouts = layouts.chain(core::iter::repeat(PartLayout::All));
        let parts = self.parts.iter().zip(layouts);
        let parts = parts.map(|(part, layout)| layout.runs(part, rows, cols, shape[1]));
        parts.collect()
    }

    /// Some columns of a packed matrix, which are whole groups or all columns.
    fn columns(&self, [o, i]: [usize; 2], cols: Range<usize>) -> Excerpt {
        let parts = self.parts.iter().map(|part| {
            let row = part.bytes() as usize / o.max(1);
            let within = row * cols.start / i..row * cols.end / i;
            vec![ByteRuns::of_rows(0..o, row, within)]
        });
        Excerpt {
            format: self.format,
            parts: parts.collect(),
            rows: 0..o,
            cols,
        }
    }

    /// Rows of the values that share bytes or scales: an excerpt has whole multiples of them, or ends with the weight.
    pub(crate) fn rows_together(&self, [o, i]: [usize; 2]) -> usize {
        let whole = |values: usize| values / gcd(values, i.max(1));
        match (self.recipe, self.format) {
            (_, Format::Micro(micro)) if self.turns => micro.group(),
            _ if self.turns => o.max(1),
            (Assembly::BitsAndBytes4 { .. }, Format::Nf4(blocks) | Format::Fp4(blocks)) => {
                whole(blocks.block)
            }
            // Zero points lie in words along the rows.
            (Assembly::Whole { zeros: None, .. }, _) => 1,
            (Assembly::Whole { whole, .. }, _) if !whole.words => 1,
            (Assembly::Whole { .. } | Assembly::Gptq { .. } | Assembly::Awq, format) => {
                words_apart(format.code_bits())
            }
            (Assembly::Hqq(_), Format::Affine(affine))
                if affine.along == Along::Flat && affine.group < o * i =>
            {
                whole(affine.group)
            }
            _ => 1,
        }
    }

    /// Tiles of rows that had better be read at once: as many as take the bytes of one of values, where each row lies all
    /// over the codes, so that a read gets more than a few bytes of each stored row.
    pub(crate) fn tiles_at_once(&self) -> usize {
        match self.recipe {
            Assembly::Gptq { .. } | Assembly::Awq => 32 / self.format.code_bits(),
            _ => 1,
        }
    }

    /// The layout of the first parts; those after them are needed whole.
    fn layouts(&self, shape @ [o, i]: [usize; 2]) -> Vec<PartLayout> {
        use PartLayout::{Across, All, Around, Over, Tiles};
        let bytes = |part: usize| self.parts[part].bytes() as usize;
        let size = |part: usize| self.parts[part].dtype.bits() as usize / 8;
        let by_rows = |part: usize| {
            let (values, bytes) = (i.max(1), bytes(part) / o.max(1));
            match bytes == size(part) {
                // One for all columns.
                true => Over { values, bytes },
                false => PartLayout::Along { values, bytes },
            }
        };
        match (self.recipe, self.format) {
            (Assembly::Floats, Format::Fp8(_, tile)) => {
                let scales = match tile {
                    Tile::Tensor => All,
                    Tile::Row => by_rows(1),
                    Tile::Block { rows, cols } => Tiles {
                        rows,
                        lines: 1,
                        cols,
                        bytes: bytes(1) / (o.div_ceil(rows) * i.div_ceil(cols)).max(1),
                    },
                };
                vec![by_rows(0), scales]
            }
            (Assembly::BitsAndBytes4 { .. }, Format::Nf4(blocks) | Format::Fp4(blocks)) => {
                let of_block = |values, bytes| PartLayout::Along { values, bytes };
                let scales = of_block(blocks.block, size(1));
                let upper = Over {
                    values: blocks.block * nested::BLOCK,
                    bytes: size_of::<f32>(),
                };
                vec![of_block(2, 1), scales, All, All, upper]
            }
            (Assembly::Blocks, _) => vec![by_rows(0)],
            (Assembly::Pairs, _) => vec![by_rows(0), by_rows(1), by_rows(2)],
            (Assembly::Whole { whole, zeros, .. }, format) => {
                let by_scale = |part: usize| match whole.scale {
                    ScaleSpan::Tensor => All,
                    _ => by_rows(part),
                };
                let mut layouts = vec![by_rows(0), by_scale(1)];
                let Some(zeros) = zeros else {
                    return layouts;
                };
                layouts.resize(zeros, All);
                let apart = words_apart(format.code_bits());
                let words = apart * format.code_bits() / 32;
                layouts.push(match self.parts[zeros].shape[..] {
                    [_, groups] if whole.words && whole.scale != ScaleSpan::Tensor => Tiles {
                        rows: apart,
                        lines: words,
                        cols: i.div_ceil(groups.max(1)).max(1),
                        bytes: size(zeros),
                    },
                    _ => by_scale(zeros),
                });
                layouts
            }
            (Assembly::Gptq { .. }, format) => {
                let apart = words_apart(format.code_bits());
                let across = |rows, bytes| Across { rows, bytes };
                let zeros = across(apart, apart * format.code_bits() / 8);
                vec![across(1, size(0)), zeros, across(1, size(2))]
            }
            (Assembly::Awq, _) => {
                let across = |rows, part| Across {
                    rows,
                    bytes: size(part),
                };
                vec![across(8, 0), across(8, 1), across(1, 2)]
            }
            (Assembly::Hqq(hqq), Format::Affine(affine)) => {
                let (elements, bytes) = hqq::elements(hqq, affine, shape);
                let scales = |part: usize| match affine.along {
                    _ if affine.group == o * i => All,
                    Along::Strided => Around {
                        elements: affine.groups(shape).max(1),
                        bytes: size(part),
                    },
                    _ => PartLayout::Along {
                        values: affine.group,
                        bytes: size(part),
                    },
                };
                vec![Around { elements, bytes }, scales(1), scales(2)]
            }
            _ => vec![by_rows(0), by_rows(1)],
        }
    }

    /// What an excerpt holds of the parts, in words that are filled up with zeros; `shape` is that of the values.
    pub(super) fn held(
        &self,
        [o, i]: [usize; 2],
        excerpt: &Excerpt,
        words: Vec<Vec<u32>>,
    ) -> Parts<'_> {
        let whole = if self.turns { [i, o] } else { [o, i] };
        Parts {
            tensors: &self.parts,
            words,
            lens: excerpt.lens().collect(),
            whole,
            rows: excerpt.rows.clone(),
            // All of those that turn are held as they are.
            cols: match self.turns {
                true => 0..whole[1],
                false => excerpt.cols.clone(),
            },
        }
    }

    /// The packed weight that the bytes of an excerpt become, in words that are filled up with zeros; `shape` is that of
    /// the values.
    pub(crate) fn assemble_excerpt(
        &self,
        [o, i]: [usize; 2],
        excerpt: &Excerpt,
        words: Vec<Vec<u32>>,
    ) -> Result<Packed, DialectError> {
        let rows = excerpt.rows.clone();
        let mut parts = self.held([o, i], excerpt, words);
        let (mut words, scales) = self.recipe.codes_and_scales(self.format, &mut parts)?;
        let scales = match self.turns || same_scales(self.format, excerpt.format) {
            true => scales,
            false => scales_alone(self.format, i, &rows, &excerpt.cols, scales),
        };
        let shape = [rows.len(), excerpt.cols.len()];
        // A stream of few codes ends before its last word.
        let len = excerpt.format.words_len(shape).max(words.len());
        words.resize(len, 0);
        self.packed(excerpt.format, shape, words, scales)
    }
}

/// The format of some rows of a weight of `shape` in `format`, where they stand alone.
fn alone(format: Format, [o, i]: [usize; 2], rows: &Range<usize>) -> Format {
    match format {
        // The rows may begin within a tile.
        Format::Fp8(kind, Tile::Block { cols, .. }) => {
            Format::Fp8(kind, Tile::Block { rows: 1, cols })
        }
        // And within a block of nested scales.
        Format::Nf4(_) | Format::Fp4(_) => format.renested(false),
        Format::Affine(affine) if affine.along != Along::Ordered && affine.group == o * i => {
            Format::Affine(flat(affine, (rows.len() * i).max(1)))
        }
        // A scale for each value.
        Format::Affine(affine) if affine.along == Along::Strided => Format::Affine(flat(affine, 1)),
        _ => format,
    }
}

/// Whether the scales of the rows and columns that were read are those of the new format as they are.
fn same_scales(format: Format, alone: Format) -> bool {
    match (format, alone) {
        (Format::Fp8(_, tile), Format::Fp8(_, alone)) => tile == alone,
        _ => format.is_nested() == alone.is_nested(),
    }
}

/// The scales that were read, as the scales of the new format.
fn scales_alone(
    format: Format,
    i: usize,
    rows: &Range<usize>,
    cols: &Range<usize>,
    scales: Vec<u32>,
) -> Vec<u32> {
    match format {
        Format::Fp8(_, Tile::Block { rows: side, cols }) => {
            let across = i.div_ceil(cols);
            let of_row = |row: usize| {
                let first = (row / side - rows.start / side) * across;
                &scales[first..first + across]
            };
            rows.clone().flat_map(of_row).copied().collect()
        }
        Format::Nf4(blocks) | Format::Fp4(blocks) if blocks.nested => {
            let count = blocks.count(rows.len() * cols.len());
            let (codes, upper) = scales.split_at(count.div_ceil(CODES8));
            let (upper, offset) = upper.split_at(upper.len() - 1);
            let (first, each) = (rows.start * i / blocks.block, cols.len() / blocks.block);
            // The place of a scale in the whole weight.
            let place = |k: usize| match cols.len() == i {
                true => first + k,
                false => ((rows.start + k / each) * i + cols.start) / blocks.block + k % each,
            };
            let plain = (0..count).map(|k| {
                let upper = upper[place(k) / nested::BLOCK - first / nested::BLOCK];
                let value = MAP[code8(codes, k) as usize] * f32::from_bits(upper);
                (value + f32::from_bits(offset[0])).to_bits()
            });
            plain.collect()
        }
        _ => scales,
    }
}

fn flat(affine: Affine, group: usize) -> Affine {
    Affine {
        along: Along::Flat,
        group,
        ..affine
    }
}

/// Rows whose codes of `bits` bits are whole words.
const fn words_apart(bits: usize) -> usize {
    32 / gcd(32, bits)
}
