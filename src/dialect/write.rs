//! The half of a dialect that writes: packed weights as its tensors, and what `config.json` says of them.

use core::fmt;
use std::borrow::Cow;

use firebox_kernels::{
    arith::{float::DType, pack},
    format::{Affine, Format, Gguf, Packed},
};
use serde_json::Value;

use super::{
    DialectError, Provenance,
    types::dtype,
    types::{matrix, module},
};
use crate::{
    config::To,
    model::{Role, Slot},
    source::StoredType,
};

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// What its elements are.
    pub dtype: StoredType,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Its elements, little-endian and row-major.
    pub bytes: Elements,
}

/// Bytes of a tensor, which may lie in words: what is packed as a dialect has it is written without a copy.
#[derive(Debug, Clone)]
pub struct Elements(ElementBytes);

#[derive(Debug, Clone)]
enum ElementBytes {
    Bytes(Vec<u8>),
    /// Words, and the number of their bytes that belong to the tensor.
    Words(Vec<u32>, usize),
}

impl From<Vec<u8>> for Elements {
    fn from(bytes: Vec<u8>) -> Self {
        Self(ElementBytes::Bytes(bytes))
    }
}

impl core::ops::Deref for Elements {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            ElementBytes::Bytes(bytes) => bytes,
            ElementBytes::Words(words, len) => &bytemuck::cast_slice(words)[..*len],
        }
    }
}

impl PartialEq for Elements {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Elements {}

impl Tensor {
    pub(super) fn new(name: String, dtype: StoredType, shape: &[usize], bytes: Vec<u8>) -> Self {
        let shape = shape.to_vec();
        Self {
            name,
            dtype,
            shape,
            bytes: bytes.into(),
        }
    }

    /// Words, without what fills up the last one.
    pub(super) fn words(name: String, dtype: StoredType, shape: &[usize], words: Vec<u32>) -> Self {
        let len = shape.iter().product::<usize>() * dtype.bits() as usize / 8;
        let bytes = Elements(ElementBytes::Words(words, len));
        let shape = shape.to_vec();
        Self {
            name,
            dtype,
            shape,
            bytes,
        }
    }

    /// Bits of `f32` in the type `float`, which held them before they were widened.
    pub(super) fn floats(name: String, float: DType, shape: &[usize], bits: &[u32]) -> Self {
        let mut bytes = Vec::with_capacity(bits.len() * float.size());
        for bits in bits {
            let stored = float.to_bits(f32::from_bits(*bits)).to_le_bytes();
            bytes.extend_from_slice(&stored[..float.size()]);
        }
        Self::new(name, dtype(float), shape, bytes)
    }
}

/// The codes of a weight as a tensor whose elements lie as they do in memory, row after row: rows can be written one
/// after another, as they are packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codes {
    /// The tensor's name.
    pub name: String,
    /// What its elements are.
    pub dtype: StoredType,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// `[out, in]` of the weight.
    weight: [usize; 2],
    /// Bytes of a row, or bits of a code where rows may begin within a byte.
    row: CodeRow,
    /// The code that fills up the last byte, where the earlier of two codes is the higher half of a byte.
    high_first: Option<u8>,
}

/// What the codes of a row take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CodeRow {
    /// Bits of a code.
    Bits(usize),
    /// Bytes of the blocks of a row.
    Bytes(usize),
}

impl Codes {
    /// The blocks of a GGUF file, under the name of a tensor of their own.
    pub(super) fn blocks(slot: &Slot, name: String, shape: &[usize], kind: Gguf) -> Self {
        let [_, cols] = matrix(slot);
        Self {
            name,
            row: CodeRow::Bytes(kind.row_bytes(cols)),
            ..Self::new(slot, StoredType::U8, shape, Format::Gguf(kind))
        }
    }

    pub(super) fn new(slot: &Slot, dtype: StoredType, shape: &[usize], format: Format) -> Self {
        Self {
            name: slot.name.clone(),
            dtype,
            shape: shape.to_vec(),
            weight: matrix(slot),
            row: CodeRow::Bits(format.code_bits()),
            high_first: None,
        }
    }

    /// Under another name than the weight's.
    pub(super) fn named(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// With the earlier of two codes as the higher half of a byte, and `zero` in what is left of the last one.
    pub(super) fn high_first(self, zero: u8) -> Self {
        let high_first = Some(zero);
        Self { high_first, ..self }
    }

    /// The bytes of `rows` rows, from their words.
    pub fn bytes<'a>(&self, rows: usize, words: &'a [u32]) -> Cow<'a, [u8]> {
        let n = rows * self.weight[1];
        let len = match self.row {
            CodeRow::Bits(bits) => (n * bits).div_ceil(8),
            CodeRow::Bytes(bytes) => rows * bytes,
        };
        match self.high_first {
            Some(zero) => pack::to_bitsandbytes(words, n, zero).into(),
            None => bytemuck::cast_slice(words)[..len].into(),
        }
    }

    /// The tensor, unless it is written already and there are no words.
    pub(super) fn unless_written(self, words: Vec<u32>) -> Vec<Tensor> {
        let [rows, cols] = self.weight;
        if words.is_empty() && rows * cols > 0 {
            return Vec::new();
        }
        if self.high_first.is_none() {
            return vec![Tensor::words(self.name, self.dtype, &self.shape, words)];
        }
        let bytes = self.bytes(rows, &words).into_owned();
        vec![Tensor::new(self.name, self.dtype, &self.shape, bytes)]
    }
}

/// Writes the packed weights of one checkpoint in a dialect.
pub trait Writer: fmt::Debug + Send + Sync {
    /// What files of weights say of themselves under `format`.
    fn metadata(&self) -> &'static str {
        "pt"
    }

    /// The most tensors that a packed weight is made of.
    fn tensors_max(&self) -> usize {
        6
    }

    /// Fields of `config.json`.
    fn config(&self) -> Vec<(&'static str, Value)>;

    /// How the codes of such a weight are written as they come; `None` where they lie in another order.
    fn codes(&self, _slot: &Slot, _format: Format) -> Option<Codes> {
        None
    }

    /// The tensors of the weight of `slot`, which was stored as `source` before it was packed. Where
    /// [`codes`](Self::codes) are written already, there are no words, and these are the others.
    fn tensors(&self, slot: &Slot, packed: Packed, source: DType) -> Vec<Tensor>;
}

/// A packed weight that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedSlot {
    /// Its slot.
    pub slot: Slot,
    /// Its format.
    pub format: Format,
    /// The type of its values before it was packed.
    pub stored: DType,
    /// Where it comes from, beyond its format.
    pub provenance: Provenance,
}

/// The matrices of a checkpoint that is written.
#[derive(Debug, Clone, Default)]
pub struct Matrices {
    /// Packed ones.
    pub packed: Vec<PackedSlot>,
    /// Linear layers, heads and embeddings that stay dense.
    pub plain: Vec<Slot>,
    /// The module of a head that shares the embedding's weight: it has no tensor, and is a module in Python all the same.
    pub tied_head: Option<&'static str>,
}

impl Matrices {
    /// Modules of dense linear layers and heads.
    pub(super) fn excepted(&self) -> Vec<&str> {
        let linear = self.plain.iter();
        let linear = linear.filter(|slot| slot.role != Role::Embedding);
        let mut names: Vec<&str> = linear.map(module).chain(self.tied_head).collect();
        names.sort_unstable();
        names
    }

    /// Refuses packed embeddings, unless `embeddings` allows them, and weights for which `of` returns nothing. Returns
    /// its results for the others, each once.
    pub(super) fn kinds<K: PartialEq>(
        &self,
        dialect: &'static str,
        of: impl Fn(&PackedSlot) -> Option<K>,
        embeddings: bool,
    ) -> Result<Vec<K>, DialectError> {
        let mut kinds = Vec::new();
        for weight in &self.packed {
            let slot = &weight.slot;
            let kind = of(weight).filter(|_| {
                let turns = [To::Mxfp4.name(), To::Gguf.name()].contains(&dialect);
                let is_turned = weight.provenance.turned && !turns;
                !is_turned && (embeddings || slot.role != Role::Embedding)
            });
            let kind = kind.ok_or_else(|| DialectError::Unwritable {
                tensor: slot.name.clone(),
                role: slot.role,
                format: weight.format,
                dialect,
                can: Vec::new(),
            })?;
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        if kinds.is_empty() {
            return Err(DialectError::NothingPacked { dialect });
        }
        Ok(kinds)
    }

    /// The same for a dialect that has one kind in a checkpoint.
    pub(super) fn kind<K: PartialEq>(
        &self,
        dialect: &'static str,
        of: impl Fn(&PackedSlot) -> Option<K>,
    ) -> Result<K, DialectError> {
        let mut kinds = self.kinds(dialect, of, false)?;
        if kinds.len() == 1 {
            return Ok(kinds.remove(0));
        }
        let first = &self.packed[0];
        let other = self.packed.iter();
        let other = other.filter(|other| other.format != first.format);
        let second = other.chain([first]).next().unwrap_or(first);
        Err(DialectError::Mixed {
            dialect,
            first: first.slot.name.clone(),
            second: second.slot.name.clone(),
            formats: Box::new([first.format, second.format]),
            can: Vec::new(),
        })
    }
}

/// Scales and offsets of every group, as bits of `f32`.
pub(super) fn pairs(affine: Affine, packed: &Packed) -> [Vec<u32>; 2] {
    let pairs = (0..affine.groups(packed.shape)).map(|k| affine.params(&packed.scales, k));
    let (scales, offsets) = pairs
        .map(|(scale, offset)| (scale.to_bits(), offset.to_bits()))
        .unzip();
    [scales, offsets]
}

/// The name that PyTorch has for a type.
pub(crate) const fn torch(float: DType) -> &'static str {
    match float {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
    }
}
