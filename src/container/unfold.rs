//! Keys and values that are unfolded from a small row: files of DeepSeek have the two matrices apart, and that of keys turned, so
//! that llama.cpp can multiply queries by it.
//!
//! ```text
//! attn_k_b   [heads, rank, plain]     ─┐
//! attn_v_b   [heads, values, rank]    ─┴─►  kv_b_proj  [heads · (plain + values), rank], in f32
//! ```
//!
//! Blocks run along other rows than those of the matrix that comes out, so that they cannot stay.

use firebox_kernels::{
    arith::{float::DType, pack},
    format::Format,
};

use super::{
    ContainerError,
    near::BESIDE_MAX,
    parts::{GgufParts, ReadContainer},
};
use crate::{
    dialect::plain,
    source::{
        SourceError,
        gguf::{GgufTensor, GgufType},
    },
};

/// The two tensors of a layer.
pub(super) const KEYS: &str = "attn_k_b.weight";
pub(super) const VALUES: &str = "attn_v_b.weight";

/// Where the two matrices of a layer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfolded {
    keys: StackPlace,
    values: StackPlace,
    heads: usize,
    rank: usize,
}

/// A matrix for each head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StackPlace {
    /// The file, by its number, and the first byte in it.
    part: usize,
    from: u64,
    kind: GgufType,
    /// Rows and columns of a head.
    each: [usize; 2],
}

impl Unfolded {
    /// The matrix that the keys of a layer, and the values beside them, unfold to.
    pub(super) fn new(
        file: &str,
        parts: &GgufParts,
        keys: &GgufTensor,
    ) -> Result<Self, ContainerError> {
        let beside = keys.name.replace(KEYS, VALUES);
        let mut tensors = parts.header.tensors.iter();
        let values = tensors.find(|tensor| tensor.name == beside);
        let place = |tensor: &GgufTensor| match (tensor.kind, &tensor.shape[..]) {
            (GgufType::Plain(dtype), _) if plain(dtype).is_none() => None,
            (kind, &[heads, rows, cols]) => Some((
                heads,
                StackPlace {
                    part: parts.part_of(&tensor.name),
                    from: tensor.range.start,
                    kind,
                    each: [rows, cols],
                },
            )),
            _ => None,
        };
        match (place(keys), values.and_then(place)) {
            (Some((heads, keys)), Some((others, values)))
                if heads == others && keys.each[0] == values.each[1] =>
            {
                Ok(Self {
                    keys,
                    values,
                    heads,
                    rank: values.each[1],
                })
            }
            _ => Err(ContainerError::Unfolded {
                file: file.to_owned(),
                keys: format!("{} is {:?}", keys.name, keys.shape),
                values: match values {
                    Some(values) => format!("{beside} is {:?}", values.shape),
                    None => format!("{beside} is missing"),
                },
            }),
        }
    }

    /// Rows of a head in the matrix.
    const fn rows(&self) -> usize {
        self.keys.each[1] + self.values.each[0]
    }

    /// The shape of the matrix.
    pub(super) const fn shape(&self) -> [usize; 2] {
        [self.heads * self.rows(), self.rank]
    }

    /// Fills `into` with the bytes of the matrix from `within` on.
    pub(super) fn fill(
        &self,
        within: usize,
        into: &mut [u8],
        read: ReadContainer<'_>,
    ) -> Result<(), SourceError> {
        if into.is_empty() {
            return Ok(());
        }
        let each = self.rows() * self.rank * size_of::<f32>();
        let end = within + into.len();
        let heads = within / each..end.div_ceil(each);
        // Some heads by one read, which may be a request.
        let some = (BESIDE_MAX / each).max(1);
        for first in heads.clone().step_by(some) {
            let count = some.min(heads.end - first);
            let keys = self.keys.heads(first, count, read)?;
            let values = self.values.heads(first, count, read)?;
            for nth in 0..count {
                let head = self.head(&keys, &values, nth);
                let begins = (first + nth) * each;
                let [start, end] = [begins.max(within), (begins + each).min(end)];
                into[start - within..end - within]
                    .copy_from_slice(&head[start - begins..end - begins]);
            }
        }
        Ok(())
    }

    /// The rows of one of some heads: those that make keys, then those that make values.
    fn head(&self, keys: &[u8], values: &[u8], nth: usize) -> Vec<u8> {
        let keys = self.keys.values(keys, nth);
        let [rank, plain] = self.keys.each;
        let turned = (0..plain).flat_map(|key| (0..rank).map(move |row| row * plain + key));
        let turned = turned.map(|at| keys[at]);
        let all = turned.chain(self.values.values(values, nth));
        all.flat_map(f32::to_le_bytes).collect()
    }
}

impl StackPlace {
    /// The stored bytes of `count` heads from the `first` on.
    fn heads(
        &self,
        first: usize,
        count: usize,
        read: ReadContainer<'_>,
    ) -> Result<Vec<u8>, SourceError> {
        let len = self.kind.bytes(&self.each);
        let mut bytes = vec![0; count * len as usize];
        read(self.part, self.from + first as u64 * len, &mut bytes)?;
        Ok(bytes)
    }

    /// The values of the head `nth` of those whose bytes these are.
    fn values(&self, heads: &[u8], nth: usize) -> Vec<f32> {
        let [rows, cols] = self.each;
        let len = self.kind.bytes(&self.each) as usize;
        let bytes = &heads[nth * len..(nth + 1) * len];
        let mut values = vec![0.0; rows * cols];
        match self.kind {
            GgufType::Plain(dtype) => {
                let float = plain(dtype).unwrap_or(DType::F32);
                match bytes.len() == values.len() * float.size() {
                    true => float.widen(bytes, &mut values),
                    // F64, whose values are rounded.
                    false => {
                        for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                            *value = f64::from_le_bytes(*bytes) as f32;
                        }
                    }
                }
            }
            GgufType::Blocks(kind) => {
                let words = pack::from_bytes(bytes);
                let format = Format::Gguf(kind);
                format.dequantize_rows(self.each, &words, &[], 0..rows, &mut values);
            }
        }
        values
    }
}
