//! Steps that make what one of several ranks keeps.
//!
//! ```text
//!              read                  made                     kept
//! tensor       rows and columns  ─►  a smaller weight     ─►  all of it
//! tensor       the whole weight  ─►  the whole weight     ─►  rows and columns of it     where its scales need all values
//! shard        some rows         ─►  a lower weight       ─►  bytes of its buffers
//! ```

use core::ops::Range;

use firebox_kernels::format::{Format, MatrixAxis};

use super::{Action, Every, Piece, RankPart, Step, Stored};
use crate::quant::QuantSpec;

/// A weight that cannot be cut where a rank's part ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UncutStep {
    pub(crate) tensor: String,
    pub(crate) format: Format,
    pub(crate) axis: MatrixAxis,
    pub(crate) unit: Option<usize>,
    /// Rows or columns of the weight.
    pub(crate) size: usize,
}

impl Step {
    /// The step of a rank that keeps these rows and columns.
    pub(crate) fn sliced(
        &self,
        rows: Vec<Range<usize>>,
        cols: Range<usize>,
    ) -> Result<Self, UncutStep> {
        let shape @ [o, i] = self.matrix();
        if let Some(format) = self.action.format() {
            format
                .sliced(shape, &rows, &cols)
                .map_err(|uncut| UncutStep {
                    tensor: self.slot.name.clone(),
                    format,
                    axis: uncut.axis,
                    unit: uncut.unit,
                    size: match uncut.axis {
                        MatrixAxis::Out => o,
                        MatrixAxis::In => i,
                    },
                })?;
        }
        let part = RankPart {
            of: self.slot.shape.clone(),
            rows,
            cols,
            from_whole: false,
            bytes: None,
        };
        Ok(self.reading(part))
    }

    /// The step that makes the rows and columns of `part`, from no more of the checkpoint than they take where that is
    /// possible.
    pub(crate) fn reading(&self, part: RankPart) -> Self {
        let part = Some(part);
        let alone = part.as_ref().and_then(|part| self.alone(part));
        match alone {
            Some(step) => Self { part, ..step },
            None => Self {
                part: part.map(|part| RankPart {
                    from_whole: true,
                    ..part
                }),
                ..self.clone()
            },
        }
    }

    /// The step that makes the codes of the rows of `part` and all scales of the weight, where the checkpoint has it packed; `None`
    /// where it has to be read whole.
    pub(crate) fn reading_codes(&self, part: RankPart) -> Option<Self> {
        let Stored::Packed(adopt) = &self.stored else {
            return None;
        };
        let [rows] = &part.rows[..] else {
            return None;
        };
        let is_kept = matches!(self.action, Action::Adopt(_)) && self.every.is_none();
        let adopt = adopt
            .sliced_codes(self.matrix(), rows.clone())
            .filter(|_| is_kept)?;
        let mut step = self.clone();
        step.stored = Stored::Packed(Box::new(adopt));
        step.slot.shape = part_shape(&self.slot.shape, part.shape());
        step.part = Some(part);
        Some(step)
    }

    /// The step that makes these rows and columns alone, with the same values, codes and scales that they have in the whole
    /// weight; `None` where they cannot be made alone.
    fn alone(&self, part: &RankPart) -> Option<Self> {
        let RankPart { rows, cols, .. } = part;
        let shape @ [_, i] = self.matrix();
        if part.is_all(shape) {
            return Some(self.clone());
        }
        let all_cols = *cols == (0..i);
        if self.merge.is_some() || self.woven.is_some() || self.every.is_some() {
            return None;
        }
        let mut step = self.clone();
        match (&self.stored, &self.action) {
            (Stored::Plain(_), Action::Dense(_) | Action::Pack(..)) => {
                let pieces = rows
                    .iter()
                    .map(|rows| pieces_of(&self.pieces, i, rows, cols));
                step.pieces = pieces.collect::<Option<Vec<_>>>()?.concat();
            }
            (Stored::Packed(_), Action::Dense(_) | Action::Pack(..)) => {
                let [rows] = &rows[..] else {
                    return None;
                };
                let run = rows.len();
                step.every = (all_cols && run > 0).then_some(Every {
                    first: rows.start,
                    run,
                    step: run,
                    of: shape[0],
                });
                step.every?;
            }
            (Stored::Packed(adopt), Action::Adopt(_)) => {
                step.stored = Stored::Packed(Box::new(adopt.sliced(shape, rows, cols)?));
            }
            _ => return None,
        }
        step.slot.shape = part_shape(&self.slot.shape, part.shape());
        match &self.action {
            Action::Pack(QuantSpec::Pack(packing), format) => {
                let format = format.sliced(shape, rows, cols).ok()?;
                let is_same = packing.is_local(!all_cols)
                    && packing.format(part.shape(), self.float()) == Ok(format);
                step.action = Action::Pack(QuantSpec::Pack(*packing), format);
                is_same.then_some(step)
            }
            Action::Pack(..) => None,
            Action::Adopt(format) => {
                step.action = Action::Adopt(format.sliced(shape, rows, cols).ok()?);
                Some(step)
            }
            Action::Dense(_) | Action::Carry => Some(step),
        }
    }

    /// The step as a sink sees it: with the shape and the format of what is kept.
    pub(crate) fn kept(&self) -> Self {
        let Some(part) = &self.part else {
            return self.clone();
        };
        let mut kept = self.clone();
        kept.slot.shape = match part.bytes {
            Some(_) => part.of.clone(),
            None => part_shape(&part.of, part.shape()),
        };
        if let (Action::Pack(_, format) | Action::Adopt(format), None, true) =
            (&mut kept.action, &part.bytes, part.from_whole)
        {
            let sliced = format.sliced(self.matrix(), &part.rows, &part.cols);
            *format = sliced.unwrap_or(*format);
        }
        kept
    }

    /// Bytes that are kept of the finished weight: all of it, or those of one of several ranks.
    pub fn bytes_kept(&self) -> u64 {
        match &self.part {
            None => self.bytes_finished(),
            Some(RankPart {
                bytes: Some(bytes), ..
            }) => bytes.iter().map(Range::len).sum::<usize>() as u64,
            Some(_) => self.kept().bytes_finished(),
        }
    }
}

/// What the pieces of a weight with so many columns have of some of its rows and columns.
fn pieces_of(
    pieces: &[Piece],
    columns: usize,
    rows: &Range<usize>,
    cols: &Range<usize>,
) -> Option<Vec<Piece>> {
    let mut first = 0;
    let mut found = Vec::new();
    for piece in pieces {
        let [len, width] = piece.shape();
        let here = rows.start.clamp(first, first + len) - first
            ..rows.end.clamp(first, first + len) - first;
        // A vector that is a row of a matrix.
        if width != columns {
            return None;
        }
        if !here.is_empty() {
            found.push(piece.slice(here, cols.clone()));
        }
        first += len;
    }
    Some(found)
}

/// The shape of a part with so many rows and columns of a weight of this shape.
fn part_shape(of: &[usize], [rows, cols]: [usize; 2]) -> Vec<usize> {
    match of {
        [] => Vec::new(),
        [_] => vec![rows],
        [first, middle @ .., _] => {
            let each: usize = middle.iter().product();
            let first = if *first == 0 { 0 } else { rows / each.max(1) };
            [&[first], middle, &[cols]].concat()
        }
    }
}
