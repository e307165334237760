//! HQQ: whole numbers whose zeros are moved until the error is sparse.
//!
//! ```text
//! code[k]   = clamp(rint(weight[k] * s + zero[g]), 0, largest)       s = largest / (max - min) of the group
//! weight[k] = (code[k] - zero[g]) * scale[g]                         scale = 1 / s, as stored
//! ```
//!
//! That is half-quadratic quantization (Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning
//! Models", 2023) as `Quantizer.quantize` of hqq 0.2.8 computes it on the CPU, to the bit, with PyTorch on one
//! thread. A step of the solver computes what is off with the present zero, shrinks that (`p = 0.7`,
//! `beta = 10`), and takes for the next zero the mean of what the codes then ask for. Scales stay. Of at most 20
//! steps the last one is the first after which the mean error *of the whole weight* is no longer smaller than ever;
//! its zero is kept all the same. On a GPU hqq solves in f16, with other zeros.
//!
//! Three things make it quick, none of which changes a bit. Errors up to 0.17 are shrunk to nothing, so that
//! ordinary weights never need a power. A group goes through all steps at once, while it is in the nearest
//! cache, and what the other groups decide is only where to stop: its zeros after each step are kept until then, 80
//! bytes a group, and the source is read twice. And a zero that does not move any more ends its group's work.
//!
//! Along the first axis the weights of a group lie all over the weight, which therefore is kept, widened, until its
//! zeros are solved for, with an error beside each: 8 bytes a weight. Along the last axis a worker has the errors of all steps
//! for a group at a time, or for 2048 weights of smaller ones: 80 bytes for each weight of the group, which asks for
//! groups that are not much longer than a row.
//!
//! Each step rounds to `f32`; the caller rounds the result of the last. hqq computes half types as
//! `round(round(code - zero) * scale)`.
//!
//! # Values after dequantizing
//!
//! | the group holds | it dequantizes to |
//! |---|---|
//! | a NaN or an infinity | NaN everywhere; and the solver ends after its first step, for all groups |
//! | a range up to 1e-4 | steps of 1 |
//! | a range below `largest / 20000` | steps of 1/20000 |
//! | anything else | weights between its ends, which themselves may be off by some steps |
//!
//! Letters: `o` rows, `i` columns, `n = o * i`.

mod columns;
mod plan;
pub mod power;
mod rows;
pub(crate) mod solve;

use crate::arith::float::DType;
use crate::arith::pack::STREAM;
use crate::arith::whole;
use crate::format::FormatError;
use crate::format::{Affine, Along, Format, Offset};
use crate::packer::{self, Packer};
use plan::HqqPlan;

/// How codes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Hqq {
    /// How many different codes there are.
    pub levels: Levels,
    /// How many weights share a scale and a zero.
    pub group: Group,
    /// Which ones do.
    pub axis: Axis,
    /// Whether zeros are solved for. They never are with [`Group::All`].
    pub optimize: bool,
    /// Whether zeros begin as whole numbers, as hqq's layers have it with 4 bits.
    pub round_zero: bool,
    /// How scales and zeros are stored: hqq's layers round them to the type they compute in.
    pub params: DType,
}

/// How many different codes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Levels {
    /// All of 1, 2, 3, 4, 5, 6 or 8 bits.
    Bits(usize),
    /// Three, in 2 bits. hqq calls this 1.58 bits.
    Three,
}

/// How many weights share a scale and a zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Group {
    /// This many.
    Of(usize),
    /// A row along the last axis, a column along the first. hqq calls this `None`.
    Line,
    /// All: `channel_wise=False` of hqq.
    All,
}

/// Which weights share a scale and a zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Axis {
    /// `axis=0`: those of a column of the weight written down as `[group, n / group]`.
    First,
    /// `axis=1`: consecutive ones.
    Last,
}

impl Hqq {
    /// Bits of a code.
    pub const fn bits(self) -> usize {
        match self.levels {
            Levels::Bits(bits) => bits,
            Levels::Three => 2,
        }
    }

    /// The largest code.
    fn largest(self) -> f32 {
        match self.levels {
            Levels::Bits(bits) => ((1u32 << bits) - 1) as f32,
            Levels::Three => 2.0,
        }
    }

    /// The format that a weight of `shape` `[o, i]` is packed into.
    ///
    /// # Errors
    ///
    /// [`FormatError::Bits`], [`FormatError::EmptyGroup`], and [`FormatError::Groups`] where the weight is not whole
    /// groups.
    pub fn format(self, shape: [usize; 2]) -> Result<Format, FormatError> {
        let format = Format::Affine(self.affine(shape)?);
        format.validate_shape(shape).map(|()| format)
    }

    fn affine(self, shape: [usize; 2]) -> Result<Affine, FormatError> {
        let (along, group) = self.grouping(shape);
        Affine::new(self.bits(), group, along, Offset::Zero, self.params)
    }

    /// Which weights share a scale, and how many.
    fn grouping(self, [o, i]: [usize; 2]) -> (Along, usize) {
        let along = match (self.axis, self.group) {
            (Axis::Last, _) | (_, Group::All) => Along::Flat,
            (Axis::First, _) => Along::Strided,
        };
        let group = match (self.group, self.axis) {
            (Group::Of(group), _) => group,
            (Group::Line, Axis::Last) => i.max(1),
            (Group::Line, Axis::First) => o.max(1),
            (Group::All, _) => o.saturating_mul(i).max(1),
        };
        (along, group)
    }

    /// Whether groups are columns of the weight written down as `[group, n / group]`. One group alone is consecutive
    /// weights along either axis.
    fn by_columns(self, shape: [usize; 2]) -> bool {
        let (along, group) = self.grouping(shape);
        along == Along::Strided && shape[0].saturating_mul(shape[1]) > group
    }

    /// Whether zeros are solved for.
    fn solves(self) -> bool {
        self.optimize && self.group != Group::All
    }

    /// The same method with scales and zeros stored as `params`.
    #[must_use]
    pub const fn stored_as(self, params: DType) -> Self {
        Self { params, ..self }
    }

    /// How often a weight of `shape` is read: once where zeros are not solved for and groups are consecutive weights,
    /// but not all of them.
    pub(crate) fn passes(self, shape: [usize; 2]) -> usize {
        if self.by_columns(shape) || self.solves() || self.group == Group::All {
            2
        } else {
            1
        }
    }

    /// Rows of a weight of `shape` that have to stay together: whole words, and whole groups where those are consecutive.
    pub(crate) fn tile_rows(self, shape: [usize; 2]) -> usize {
        let unit = match self.grouping(shape) {
            (_, group) if !self.by_columns(shape) && self.group != Group::All => {
                whole::multiple(group.max(1), STREAM)
            }
            _ => STREAM,
        };
        whole::tile_rows(shape, 1, unit)
    }

    /// Packs a weight of `shape` `[o, i]` that is stored as `source`. One pass where zeros are not solved for and groups are
    /// consecutive weights, but not all; else two.
    ///
    /// # Errors
    ///
    /// As [`format`](Self::format), and [`FormatError::Size`].
    pub fn packer(self, shape: [usize; 2], source: DType) -> Result<Box<dyn Packer>, FormatError> {
        packer::check_size(shape)?;
        self.format(shape)?;
        let plan = HqqPlan {
            tile_rows: self.tile_rows(shape),
            passes: self.passes(shape),
            shape,
            source,
            affine: self.affine(shape)?,
            largest: self.largest(),
            solve: self.solves(),
            round_zero: self.round_zero,
        };
        Ok(if self.by_columns(shape) {
            Box::new(columns::FirstAxisPacker::new(plan))
        } else {
            Box::new(rows::LastAxisPacker::new(plan, self.group == Group::All))
        })
    }
}
