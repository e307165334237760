//! A packed weight of a checkpoint, as data: its tensors, the format that they become, and how they become it.

use core::ops::Range;

use firebox_kernels::{
    arith::float::DType,
    format::Format,
    formats::{fp8, hqq::Hqq},
    packing::Packing,
};
use serde::{Deserialize, Serialize};

use super::{DialectError, stack::part_of, types::plain, whole::Whole};
use crate::{
    quant::QuantSpec,
    source::{StoredType, TensorInfo},
};

/// A packed weight of a checkpoint: its tensors, and the packed weight that they become.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adopt {
    /// The format of the packed weight.
    pub format: Format,
    /// The tensors, codes first.
    pub parts: Vec<TensorInfo>,
    /// How words and scales are made of them.
    pub(super) recipe: Assembly,
    /// What the file says about the weight beyond its format.
    pub(super) provenance: Provenance,
    /// How many matrices that have tensors of their own follow one another along the rows. Only values are taken of more
    /// than one.
    #[serde(default = "one")]
    pub(super) matrices: usize,
    /// Whether values are taken as a dense file has them: matrices `[experts, in, out]` of packed ones `[experts, out, in]`.
    #[serde(default)]
    pub(crate) turns: bool,
    /// Which part of the weight is read, where that is not all of it. The format is that of all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slice: Option<AdoptSlice>,
}

/// Which part of a packed weight is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AdoptSlice {
    /// Rows and columns of all of it.
    pub(super) of: [usize; 2],
    pub(super) rows: Vec<Range<usize>>,
    pub(super) cols: Range<usize>,
    /// Whether these are the codes alone, and scales those of all of it.
    #[serde(default)]
    pub(super) all_scales: bool,
}

const fn one() -> usize {
    1
}

/// How the words and scales of a packed weight are made of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Assembly {
    /// Codes and scales, both in the words of the format.
    Stored,
    /// Blocks with their scales, in the words of the format.
    Blocks,
    /// Codes in the words of the format, and scales of any float type.
    Floats,
    /// Codes in the words of the format, and a scale and an offset for each group.
    Pairs,
    /// Codes in the words of the format, scales of a byte each, and a global scale.
    Nvfp4 {
        /// Whether the global scale is divided by.
        divides: bool,
    },
    /// bitsandbytes' 4 bits, of a matrix of a stack where that has more than one.
    BitsAndBytes4 { experts: usize },
    /// bitsandbytes' 8 bits.
    BitsAndBytes8,
    /// compressed-tensors' whole numbers; where zero points and the order of groups are among the parts.
    Whole {
        whole: Whole,
        zeros: Option<usize>,
        order: Option<usize>,
    },
    /// GPTQ; whether groups may be in any order, and what is added to stored zero points.
    Gptq { ordered: bool, added: u32 },
    /// AWQ.
    Awq,
    /// HQQ.
    Hqq(Hqq),
}

/// Where a packed weight comes from, beyond its format: a dialect needs it to write the weight as its own project would.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The type that the weight, and so its scales, had before it was packed.
    pub(super) dtype: Option<DType>,
    /// Whether scales are powers of two, and stored as exponents.
    pub(super) powers: bool,
    /// Whole numbers, in the words of compressed-tensors.
    pub(super) whole: Option<Whole>,
    /// The parameters of HQQ.
    pub(super) hqq: Option<Hqq>,
    /// Whether a dense file has the weight as matrices `[experts, in, out]`.
    #[serde(default)]
    pub(crate) turned: bool,
}

impl Provenance {
    /// The provenance of a weight that `quant` packs.
    pub fn packed_by(quant: &QuantSpec) -> Self {
        let mut provenance = Self::default();
        match quant {
            QuantSpec::Pack(Packing::Fp8 { recipe, .. }) => {
                provenance.powers = *recipe == fp8::Recipe::FineGrained { ue8m0: true };
            }
            QuantSpec::Pack(Packing::Wna16(method)) => provenance.whole = Some(Whole::of(method)),
            QuantSpec::Pack(Packing::Hqq(hqq)) => provenance.hqq = Some(*hqq),
            _ => {}
        }
        provenance
    }
}

impl From<Whole> for Provenance {
    fn from(whole: Whole) -> Self {
        Self {
            whole: Some(whole),
            ..Self::default()
        }
    }
}

/// Words of codes and words of scales.
pub(super) type CodesAndScales = (Vec<u32>, Vec<u32>);

impl Adopt {
    pub(super) fn new(format: Format, parts: Vec<TensorInfo>, recipe: Assembly) -> Self {
        Self {
            format,
            parts,
            recipe,
            provenance: Provenance::default(),
            matrices: one(),
            turns: false,
            slice: None,
        }
    }

    /// All of these weights, one after another; `None` where they are packed in different ways.
    pub(crate) fn stack<'s>(adopts: impl IntoIterator<Item = &'s Self>) -> Option<Self> {
        let mut adopts = adopts.into_iter();
        let mut all = adopts.next()?.clone();
        for adopt in adopts {
            let of = |adopt: &Self| (adopt.format, adopt.recipe, adopt.provenance, adopt.turns);
            if of(adopt) != of(&all) || adopt.parts.len() * all.matrices != all.parts.len() {
                return None;
            }
            all.parts.extend(adopt.parts.iter().cloned());
            all.matrices += 1;
        }
        Some(all)
    }

    /// The matrices whose values follow one another. Those of a stack that turns have no tensors of their own.
    pub(crate) fn matrices(&self) -> Vec<Self> {
        if self.turns {
            return self.experts();
        }
        let parts = self
            .parts
            .chunks((self.parts.len() / self.matrices.max(1)).max(1));
        let matrices = parts.map(|parts| Self {
            parts: parts.to_vec(),
            matrices: one(),
            ..self.clone()
        });
        matrices.collect()
    }

    /// The matrix of each expert, where all parts are stacks of them.
    fn experts(&self) -> Vec<Self> {
        let experts = self.parts.first().and_then(|part| part.shape.first());
        let count = experts.map_or(1, |count| *count);
        (0..count).map(|nth| self.part(nth, count)).collect()
    }

    /// The matrix `nth` of a stack of `experts`, where every part is a stack of as many.
    pub(crate) fn expert(&self, nth: usize, experts: usize) -> Option<Self> {
        let by_expert = matches!(
            self.recipe,
            Assembly::Stored | Assembly::Floats | Assembly::Pairs
        );
        let mut parts = self.parts.iter();
        let is_stack = parts.all(|part| part.shape.len() > 2 && part.shape[0] == experts);
        (by_expert && self.matrices == one() && is_stack).then(|| self.part(nth, experts))
    }

    /// The part `nth` of `count` equal ones.
    fn part(&self, nth: usize, count: usize) -> Self {
        let parts = self.parts.iter().map(|part| {
            let shape = part.shape.get(1..).unwrap_or_default().to_vec();
            part_of(part, shape, count, nth)
        });
        Self {
            parts: parts.collect(),
            ..self.clone()
        }
    }

    pub(super) fn from(self, provenance: Provenance) -> Self {
        Self { provenance, ..self }
    }

    /// As one of several matrices of a stack.
    pub(super) fn of_stack(mut self, matrices: usize) -> Self {
        if let Assembly::BitsAndBytes4 { experts } = &mut self.recipe {
            *experts = matrices;
        }
        self
    }

    /// The same for a dialect that has its matrices `[out, in]`, dense or packed.
    pub(crate) fn unturned(mut self) -> Self {
        self.provenance.turned = false;
        self
    }

    /// Where the weight comes from.
    pub fn provenance(&self) -> Provenance {
        self.provenance
    }

    /// The type that the weight had before it was packed, where the file says it.
    pub(crate) fn float(&self) -> Option<DType> {
        self.provenance.dtype
    }
}

/// What the parts of a packed weight hold of some of its rows, by their place in [`Adopt::parts`].
pub(super) struct Parts<'a> {
    pub(super) tensors: &'a [TensorInfo],
    /// The bytes in words, filled up with zeros.
    pub(super) words: Vec<Vec<u32>>,
    /// Number of these bytes.
    pub(super) lens: Vec<usize>,
    /// Rows and columns of the weight.
    pub(super) whole: [usize; 2],
    /// The rows that are held: all of them, or an excerpt.
    pub(super) rows: Range<usize>,
    /// The columns, in the same way.
    pub(super) cols: Range<usize>,
}

impl Parts<'_> {
    pub(super) fn tensor(&self, part: usize) -> &TensorInfo {
        &self.tensors[part]
    }

    /// Rows and columns that are held.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.cols.len()]
    }

    /// The bytes in words, without a copy.
    pub(super) fn take(&mut self, part: usize) -> Vec<u32> {
        core::mem::take(&mut self.words[part])
    }

    pub(super) fn bytes(&self, part: usize) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words[part]);
        &bytes[..self.lens[part]]
    }

    /// Floats of any type that [`Lookup`](super::lookup::Lookup) lets through as scales, as bits of `f32`.
    pub(super) fn floats(&self, part: usize) -> Vec<u32> {
        let (tensor, bytes) = (self.tensor(part), self.bytes(part));
        match plain(tensor.dtype) {
            Some(float) => {
                let mut values = vec![0.0; bytes.len() / float.size()];
                float.widen(bytes, &mut values);
                values.into_iter().map(f32::to_bits).collect()
            }
            // An exponent alone, 2^(byte - 127); 0 is below the normal numbers, 255 is NaN.
            None => bytes
                .iter()
                .map(|byte| match byte {
                    0 => 1 << 22,
                    255 => f32::NAN.to_bits(),
                    exponent => u32::from(*exponent) << 23,
                })
                .collect(),
        }
    }

    /// Plain numbers as they are stored, 16-bit ones in the low half of a word.
    pub(super) fn stored(&self, part: usize) -> Vec<u32> {
        let bytes = self.bytes(part);
        if self.tensor(part).dtype == StoredType::F32 {
            return bytemuck::pod_collect_to_vec(bytes);
        }
        let (halves, _) = bytes.as_chunks();
        let halves = halves.iter().map(|half| u16::from_le_bytes(*half));
        halves.map(u32::from).collect()
    }

    pub(super) fn wrong(
        &self,
        part: usize,
        found: impl ToString,
        expected: impl ToString,
    ) -> DialectError {
        DialectError::Value {
            tensor: self.tensor(part).name.to_string(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }
}
