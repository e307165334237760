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
        let each = self.rows() * self.rank * size_of::<f32>();
        let (mut at, mut rest) = (within, into);
        while !rest.is_empty() {
            let (head, start) = (at / each, at % each);
            let here = rest.len().min(each - start);
            let (some, after) = rest.split_at_mut(here);
            some.copy_from_slice(&self.head(head, read)?[start..start + here]);
            at += here;
            rest = after;
        }
        Ok(())
    }

    /// The rows of a head: those that make keys, then those that make values.
    fn head(&self, nth: usize, read: ReadContainer<'_>) -> Result<Vec<u8>, SourceError> {
        let keys = self.keys.head(nth, read)?;
        let [rank, plain] = self.keys.each;
        let turned = (0..plain).flat_map(|key| (0..rank).map(move |row| row * plain + key));
        let turned = turned.map(|at| keys[at]);
        let values = self.values.head(nth, read)?;
        let all = turned.chain(values);
        Ok(all.flat_map(f32::to_le_bytes).collect())
    }
}

impl StackPlace {
    /// The values of a head.
    fn head(&self, nth: usize, read: ReadContainer<'_>) -> Result<Vec<f32>, SourceError> {
        let [rows, cols] = self.each;
        let len = self.kind.bytes(&self.each);
        let mut bytes = vec![0; len as usize];
        read(self.part, self.from + nth as u64 * len, &mut bytes)?;
        let mut values = vec![0.0; rows * cols];
        match self.kind {
            GgufType::Plain(dtype) => {
                let float = plain(dtype).unwrap_or(DType::F32);
                match bytes.len() == values.len() * float.size() {
                    true => float.widen(&bytes, &mut values),
                    // F64, whose values are rounded.
                    false => {
                        for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                            *value = f64::from_le_bytes(*bytes) as f32;
                        }
                    }
                }
            }
            GgufType::Blocks(kind) => {
                let words = pack::from_bytes(&bytes);
                let format = Format::Gguf(kind);
                format.dequantize_rows(self.each, &words, &[], 0..rows, &mut values);
            }
        }
        Ok(values)
    }
}
