//! Equal shares of bytes: of each buffer of `len` bytes, rank `r` of `N` has bytes `[r·c, (r+1)·c)`, where `c` is `len / N`
//! rounded up to whole words. The last shares may be shorter, or empty.

#![expect(
    clippy::single_range_in_vec_init,
    reason = "a list of ranges may have one"
)]

use core::ops::Range;

use firebox_kernels::format::{Along, Format, Tile};

use crate::plan::{Action, RankPart, Step, Stored};

/// Bytes of a word.
const WORD: usize = size_of::<u32>();

/// The share of rank `rank` of `ranks` in a buffer of so many bytes.
pub fn share_of(bytes: usize, rank: usize, ranks: usize) -> Range<usize> {
    let each = bytes.div_ceil(ranks.max(1)).next_multiple_of(WORD);
    let at = |rank: usize| rank.saturating_mul(each).min(bytes);
    at(rank)..at(rank + 1)
}

/// The step of a rank that keeps its share of each buffer.
pub(crate) fn sharded(step: &Step, rank: usize, ranks: usize) -> Step {
    let shape @ [o, i] = step.matrix();
    let all = RankPart {
        of: step.slot.shape.clone(),
        rows: vec![0..o],
        cols: 0..i,
        from_whole: false,
        bytes: None,
    };
    let part = |rows: Range<usize>, bytes| RankPart {
        rows: vec![rows],
        bytes: Some(bytes),
        ..all.clone()
    };
    match step.action {
        Action::Dense(dtype) => {
            let bytes = share_of(o * i * dtype.size(), rank, ranks);
            let values = bytes.start / dtype.size()..bytes.end / dtype.size();
            let bytes = [bytes, 0..0];
            if let Some(flat) = flat(step) {
                return Step {
                    part: Some(part(0..o, bytes)),
                    ..flat.values(values)
                };
            }
            let rows = values.start / i.max(1)..values.end.div_ceil(i.max(1));
            step.reading(part(rows, bytes))
        }
        Action::Pack(_, format) | Action::Adopt(format) => {
            let lens = [format.words_len(shape), format.scales_len(shape)];
            let bytes = lens.map(|words| share_of(words * WORD, rank, ranks));
            match rows_of(format, shape, &bytes) {
                Some(rows) => step.reading(part(rows, bytes)),
                None => {
                    let codes = rows_of_codes(format, shape, &bytes[0]);
                    let codes = codes.map(|rows| part(rows, bytes.clone()));
                    let alone = codes.and_then(|part| step.reading_codes(part));
                    alone.unwrap_or_else(|| Step {
                        part: Some(RankPart {
                            from_whole: true,
                            ..part(0..o, bytes)
                        }),
                        ..step.clone()
                    })
                }
            }
        }
        Action::Carry => step.clone(),
    }
}

/// Dense values that lie in the file as they are wanted, as a vector.
struct Flat<'s>(&'s Step);

fn flat(step: &Step) -> Option<Flat<'_>> {
    let is_plain = matches!(step.stored, Stored::Plain(_))
        && step.merge.is_none()
        && step.woven.is_none()
        && step.every.is_none();
    (is_plain && step.whole().is_some()).then_some(Flat(step))
}

impl Flat<'_> {
    /// The step that makes some of them.
    fn values(&self, values: Range<usize>) -> Step {
        let mut step = self.0.clone();
        step.slot.shape = vec![values.len()];
        for piece in &mut step.pieces {
            piece.tensor.shape = vec![piece.tensor.elements() as usize];
            piece.rows = values.clone();
        }
        step
    }
}

/// Rows that stand alone and have these bytes of codes and scales; `None` where scales lie elsewhere than codes.
fn rows_of(format: Format, [o, i]: [usize; 2], bytes: &[Range<usize>; 2]) -> Option<Range<usize>> {
    let shape = [o, i];
    // Scales of the first rows are the first scales, or all parts have all of them.
    let (unit, is_prefix) = match format {
        Format::Nf4(blocks) | Format::Fp4(blocks) if blocks.nested => return None,
        Format::Fp8(_, Tile::Tensor) => (format.slice_units(shape)[0]?, false),
        Format::Affine(affine) if affine.along != Along::Flat => return None,
        Format::Affine(affine) if affine.group == o * i => (format.slice_units(shape)[0]?, false),
        Format::Micro(micro) if micro.is_global() => return None,
        _ => (format.part_rows(shape), true),
    };
    let wants_nothing = bytes.iter().all(Range::is_empty);
    if o == 0 || wants_nothing {
        return Some(0..0);
    }
    // Words before the first row of unit `nth`.
    let before = |nth: usize, buffer: usize| {
        let rows = [(nth * unit).min(o), i];
        match buffer {
            0 => format.words_len(rows),
            _ => format.scales_len(rows),
        }
    };
    let units = o.div_ceil(unit);
    let mut cover: Option<Range<usize>> = None;
    for (buffer, bytes) in bytes.iter().enumerate() {
        if bytes.is_empty() {
            continue;
        }
        let words = bytes.start / WORD..bytes.end.div_ceil(WORD);
        let here = match buffer == 1 && !is_prefix {
            true => 0..1,
            false => {
                let units: Vec<usize> = (0..=units).collect();
                let first = units.partition_point(|nth| before(*nth, buffer) <= words.start);
                let end = units.partition_point(|nth| before(*nth, buffer) < words.end);
                first.saturating_sub(1)..end
            }
        };
        cover = Some(match cover {
            Some(cover) => cover.start.min(here.start)..cover.end.max(here.end),
            None => here,
        });
    }
    let cover = cover?;
    Some((cover.start * unit).min(o)..(cover.end * unit).min(o))
}

/// Rows that begin and end with whole words of codes and have these bytes of codes.
fn rows_of_codes(format: Format, [o, i]: [usize; 2], bytes: &Range<usize>) -> Option<Range<usize>> {
    let unit = format.slice_units([o, i])[0]?;
    if bytes.is_empty() {
        return Some(0..0);
    }
    let values = |byte: usize| byte * 8 / format.code_bits();
    let first = values(bytes.start) / i.max(1) / unit * unit;
    let end = values(bytes.end).div_ceil(i.max(1)).next_multiple_of(unit);
    Some(first..end.min(o))
}

/// Bytes of codes and of scales that lie before those of a part, whose first row is `first` and which has so many words of
/// scales, in a weight with so many.
pub(super) fn before(
    format: Format,
    [_, i]: [usize; 2],
    first: usize,
    scales: [usize; 2],
) -> [usize; 2] {
    let rows = [first, i];
    // All parts have the same scales, or they are those of their rows.
    let [part, whole] = scales;
    let skipped = if part == whole {
        0
    } else {
        format.scales_len(rows)
    };
    [format.words_len(rows) * WORD, skipped * WORD]
}
