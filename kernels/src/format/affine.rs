//! Layouts of whole numbers with a scale and an offset: which weights share them, and how they are stored.

use core::fmt;

use crate::arith::float::DType;
use crate::format::error::FormatError;

/// Whole numbers with a scale and an offset for each group of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Affine {
    /// Bits of a code: 1, 2, 3, 4, 5, 6 or 8.
    pub bits: usize,
    /// Weights under one scale, at least 1.
    pub group: usize,
    /// Which weights those are.
    pub along: Along,
    /// The meaning of the offset.
    pub form: Offset,
    /// How scales and offsets are stored.
    pub params: DType,
}

/// Which weights share a scale, in a weight of `[o, i]` with `n = o * i`. The weight in row `r`, column `c`
/// is weight `k = r * i + c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Along {
    /// Consecutive ones, whatever the rows: `k / group`. A group of `i` weights is a row, one of `n` the whole
    /// weight. `n` is whole groups.
    Flat,
    /// Those `n / group` apart: `k % (n / group)`. Written down as `[group, n / group]`, the weight has a group in
    /// each column. `n` is whole groups.
    Strided,
    /// Those of a row whose columns have the same number in a list: `r * ceil(i / group) + list[c]`. Numbers
    /// are below `ceil(i / group)`, in any order; how many columns have which is not looked at.
    Ordered,
}

/// The meaning of the offset of an affine format. Either way each of the two steps rounds to `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Offset {
    /// The weight of code 0: `code * scale + bias`.
    Bias,
    /// The code, not always whole, of weight 0: `(code - zero) * scale`.
    Zero,
}

impl Affine {
    /// Codes of `bits` bits in groups of `group`.
    ///
    /// # Errors
    ///
    /// [`FormatError::Bits`] unless `bits` is 1 to 6 or 8, [`FormatError::EmptyGroup`] for a `group` of 0.
    pub const fn new(
        bits: usize,
        group: usize,
        along: Along,
        form: Offset,
        params: DType,
    ) -> Result<Self, FormatError> {
        if !matches!(bits, 1..=6 | 8) {
            return Err(FormatError::Bits {
                found: bits,
                least: 1,
            });
        }
        if group == 0 {
            return Err(FormatError::EmptyGroup);
        }
        Ok(Self {
            bits,
            group,
            along,
            form,
            params,
        })
    }

    /// Words that the scale and the offset of a group take.
    pub const fn param_words(self) -> usize {
        match self.params {
            DType::F32 => 2,
            DType::F16 | DType::Bf16 => 1,
        }
    }

    /// Groups of a weight of `[o, i]`.
    pub const fn groups(self, [o, i]: [usize; 2]) -> usize {
        match self.along {
            Along::Flat | Along::Strided => o.saturating_mul(i).div_ceil(self.group),
            Along::Ordered => o.saturating_mul(i.div_ceil(self.group)),
        }
    }

    /// Words of the pairs of all groups; a list of columns begins after them.
    pub(crate) const fn pairs_len(self, shape: [usize; 2]) -> usize {
        self.groups(shape).saturating_mul(self.param_words())
    }

    /// Words of scales, offsets and, in [`Along::Ordered`], the list of columns.
    pub(crate) const fn scales_len(self, shape: [usize; 2]) -> usize {
        let list = match self.along {
            Along::Flat | Along::Strided => 0,
            Along::Ordered => shape[1],
        };
        self.pairs_len(shape).saturating_add(list)
    }

    /// The scales words of a weight whose groups have these scales and offsets, stored as they come in a
    /// checkpoint: bits of [`params`](Self::params), 16-bit ones in the low half.
    ///
    /// # Panics
    ///
    /// When there are not as many scales as offsets.
    ///
    /// In [`Along::Ordered`] the list of columns has to be appended.
    pub fn join(self, scales: &[u32], offsets: &[u32]) -> Vec<u32> {
        assert_eq!(scales.len(), offsets.len(), "scales and offsets");
        let pairs = scales.iter().zip(offsets);
        match self.params {
            DType::F32 => pairs
                .flat_map(|(scale, offset)| [*scale, *offset])
                .collect(),
            DType::F16 | DType::Bf16 => pairs
                .map(|(scale, offset)| offset << 16 | scale & 0xffff)
                .collect(),
        }
    }

    /// The group of the weight in row `r`, column `c` of a weight of `shape` `[o, i]`.
    ///
    /// # Panics
    ///
    /// When `scales` has no such column.
    pub fn group_of(self, shape: [usize; 2], scales: &[u32], [r, c]: [usize; 2]) -> usize {
        let k = r * shape[1] + c;
        match self.along {
            Along::Flat => k / self.group,
            Along::Strided => k % self.groups(shape),
            Along::Ordered => {
                let list = &scales[self.pairs_len(shape)..];
                r * shape[1].div_ceil(self.group) + list[c] as usize
            }
        }
    }

    /// Refuses weights that are not whole groups.
    pub(crate) const fn check_shape(self, [o, i]: [usize; 2]) -> Result<(), FormatError> {
        let weights = o.saturating_mul(i);
        match self.along {
            Along::Flat | Along::Strided if !weights.is_multiple_of(self.group) => {
                let group = self.group;
                Err(FormatError::Groups { weights, group })
            }
            _ => Ok(()),
        }
    }

    /// Refuses a list of columns that names a group that no row has.
    pub(crate) fn check_list(self, shape: [usize; 2], scales: &[u32]) -> Result<(), FormatError> {
        if self.along != Along::Ordered {
            return Ok(());
        }
        let groups = shape[1].div_ceil(self.group);
        let list = &scales[self.pairs_len(shape)..];
        match list.iter().position(|group| *group as usize >= groups) {
            Some(column) => Err(FormatError::Order {
                column,
                found: list[column],
                groups,
            }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Affine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let along = match self.along {
            Along::Flat => "",
            Along::Strided => ",strided",
            Along::Ordered => ",ordered",
        };
        let form = match self.form {
            Offset::Bias => "bias",
            Offset::Zero => "zero",
        };
        let Self {
            bits,
            group,
            params,
            ..
        } = self;
        write!(f, "bits={bits},group={group}{along},{form}={params}")
    }
}
