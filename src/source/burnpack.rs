//! The header of a burnpack file: bytes to checked tensors, no I/O.
//!
//! ```text
//! "NRUB", version u16, length u32 │ CBOR: tensors { type, shape, place }, texts, scalars │ to 256 │ the tensors, each at a multiple of 256
//! ```
//!
//! (`burn-pack`, whose reader wants a file or all bytes in memory; the types are its own.) The file is not trusted.

use core::ops::Range;

use burn::tensor::{BoolStore, DType};
use serde::Deserialize;

use super::{dtype::StoredType, pairs::KeyValues};

/// Bytes before the CBOR.
pub(crate) const BURNPACK_START_BYTES: u64 = 10;

/// The limits of `burn-pack`, so that every file which it reads is read here.
const CBOR_BYTES_MAX: u32 = 100 << 20;
const TENSORS_MAX: usize = 100_000;
const RECURSION_MAX: usize = 128;

const MAGIC: [u8; 4] = *b"NRUB";
const VERSION: u16 = 1;

/// What tensors begin at multiples of.
const ALIGNMENT: u64 = 256;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BurnpackTensor {
    pub(crate) name: String,
    pub(crate) dtype: StoredType,
    pub(crate) shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub(crate) range: Range<u64>,
}

#[derive(Deserialize)]
struct RawBurnpack {
    tensors: KeyValues<RawTensor>,
    #[serde(default)]
    scalars: Option<KeyValues<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: DType,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// What was found in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BurnpackHeader {
    /// By their places.
    pub(crate) tensors: Vec<BurnpackTensor>,
    /// Names of single numbers, which no checkpoint has.
    pub(crate) scalars: Vec<String>,
}

/// The length of the CBOR, from the first bytes of a file.
///
/// # Errors
///
/// [`BurnpackError`] for another kind of file, another version, and a length that the file cannot have.
pub(crate) fn length(file: &str, first: &[u8], file_len: u64) -> Result<u64, BurnpackError> {
    let Some(rest) = first.strip_prefix(&MAGIC) else {
        return Err(BurnpackError::NotBurnpack {
            file: file.to_owned(),
            found: String::from_utf8_lossy(first).into_owned(),
        });
    };
    let truncated = || BurnpackError::Truncated {
        file: file.to_owned(),
        end: BURNPACK_START_BYTES,
        file_len,
    };
    let (version, length) = rest.split_first_chunk().ok_or_else(truncated)?;
    let version = u16::from_le_bytes(*version);
    if version != VERSION {
        return Err(BurnpackError::Version {
            file: file.to_owned(),
            version,
        });
    }
    let length = u32::from_le_bytes(*length.first_chunk().ok_or_else(truncated)?);
    let end = BURNPACK_START_BYTES + u64::from(length);
    if end > file_len {
        return Err(BurnpackError::Truncated {
            file: file.to_owned(),
            end,
            file_len,
        });
    }
    if length > CBOR_BYTES_MAX {
        return Err(BurnpackError::TooLarge {
            file: file.to_owned(),
            bytes: length,
            max: CBOR_BYTES_MAX,
        });
    }
    Ok(length.into())
}

/// The tensors, from the CBOR of a file that has `file_len`. `file` is a name for messages.
///
/// # Errors
///
/// A [`BurnpackError`] for each way in which the header contradicts itself or the file's length.
pub(crate) fn parse(
    file: &str,
    cbor: &[u8],
    file_len: u64,
) -> Result<BurnpackHeader, BurnpackError> {
    let raw: Result<RawBurnpack, _> =
        ciborium::de::from_reader_with_recursion_limit(cbor, RECURSION_MAX);
    let raw = raw.map_err(|error| BurnpackError::Cbor {
        file: file.to_owned(),
        reason: error.to_string(),
    })?;
    if raw.tensors.0.len() > TENSORS_MAX {
        return Err(BurnpackError::TooMany {
            file: file.to_owned(),
            found: raw.tensors.0.len(),
            max: TENSORS_MAX,
        });
    }
    let start = (BURNPACK_START_BYTES + cbor.len() as u64).next_multiple_of(ALIGNMENT);
    let tensors = raw.tensors.0.into_iter();
    let tensors = tensors.map(|(name, raw)| tensor(file, name, &raw, start, file_len));
    let mut tensors = tensors.collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    for pair in tensors.windows(2) {
        let [first, second] = pair else { continue };
        if second.range.start < first.range.end {
            return Err(BurnpackError::Overlap {
                file: file.to_owned(),
                first: first.name.clone(),
                second: second.name.clone(),
            });
        }
    }
    let scalars = raw.scalars.into_iter().flat_map(|scalars| scalars.0);
    Ok(BurnpackHeader {
        tensors,
        scalars: scalars.map(|(name, _)| name).collect(),
    })
}

fn tensor(
    file: &str,
    name: String,
    raw: &RawTensor,
    start: u64,
    file_len: u64,
) -> Result<BurnpackTensor, BurnpackError> {
    let Some(dtype) = stored(raw.dtype) else {
        return Err(BurnpackError::Type {
            file: file.to_owned(),
            tensor: name,
            dtype: format!("{:?}", raw.dtype),
        });
    };
    let (from, to) = raw.data_offsets;
    let expected = raw
        .shape
        .iter()
        .try_fold(1, |values: u64, side| values.checked_mul(*side));
    let expected = expected.and_then(|values| values.checked_mul(dtype.bits() / 8));
    let found = to.checked_sub(from);
    if found.is_none() || found != expected {
        return Err(BurnpackError::Length {
            file: file.to_owned(),
            tensor: name,
            shape: raw.shape.clone(),
            dtype,
            from,
            to,
        });
    }
    let range = start.saturating_add(from)..start.saturating_add(to);
    if range.end > file_len {
        return Err(BurnpackError::Truncated {
            file: file.to_owned(),
            end: range.end,
            file_len,
        });
    }
    Ok(BurnpackTensor {
        name,
        dtype,
        // Sides whose product is a length of the file, or a zero.
        shape: raw.shape.iter().map(|side| *side as usize).collect(),
        range,
    })
}

/// The type of safetensors, if there is one: Burn's own quantized tensors have none.
fn stored(dtype: DType) -> Option<StoredType> {
    Some(match dtype {
        DType::F64 => StoredType::F64,
        DType::F32 | DType::Flex32 => StoredType::F32,
        DType::F16 => StoredType::F16,
        DType::BF16 => StoredType::BF16,
        DType::I64 => StoredType::I64,
        DType::I32 => StoredType::I32,
        DType::I16 => StoredType::I16,
        DType::I8 => StoredType::I8,
        DType::U64 => StoredType::U64,
        DType::U32 => StoredType::U32,
        DType::U16 => StoredType::U16,
        DType::U8 => StoredType::U8,
        DType::Bool(BoolStore::Native | BoolStore::U8) => StoredType::Bool,
        DType::Bool(BoolStore::U32) | DType::QFloat(_) => return None,
    })
}

/// A burnpack file that is not read. Each variant names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BurnpackError {
    /// Another kind of file.
    #[error(
        "{file}: begins with {found:?}, and a burnpack file with \"NRUB\"; is it the file that its name says?"
    )]
    NotBurnpack {
        /// The file.
        file: String,
        /// Its first bytes.
        found: String,
    },

    /// A version that is not read.
    #[error("{file}: is burnpack of version {version}, and {VERSION} is read")]
    Version {
        /// The file.
        file: String,
        /// The version.
        version: u16,
    },

    /// The file ends too early.
    #[error(
        "{file}: goes on to byte {end}, and the file has {file_len}; it is cut short, fetch it again"
    )]
    Truncated {
        /// The file.
        file: String,
        /// One past the byte that is needed.
        end: u64,
        /// The file's length in bytes.
        file_len: u64,
    },

    /// A header that is too long.
    #[error("{file}: its header has {bytes} bytes, and may have {max}; the file is damaged")]
    TooLarge {
        /// The file.
        file: String,
        /// Bytes of the header.
        bytes: u32,
        /// The limit.
        max: u32,
    },

    /// A header that does not parse.
    #[error("{file}: its header does not parse: {reason}; the file is damaged, fetch it again")]
    Cbor {
        /// The file.
        file: String,
        /// What and where.
        reason: String,
    },

    /// More tensors than Burn reads.
    #[error("{file}: has {found} tensors, and may have {max}; is it a file of tensors?")]
    TooMany {
        /// The file.
        file: String,
        /// How many it has.
        found: usize,
        /// The limit.
        max: usize,
    },

    /// A type that safetensors does not have.
    #[error(
        "{file}: tensor {tensor} is {dtype}, which is not read; dequantize it in Burn and save it again"
    )]
    Type {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
    },

    /// A place of another length than shape and type say.
    #[error(
        "{file}: tensor {tensor} of {shape:?} in {dtype} has the bytes from {from} to {to}; the file is damaged, fetch it again"
    )]
    Length {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape, outermost first.
        shape: Vec<u64>,
        /// Its type.
        dtype: StoredType,
        /// The first byte.
        from: u64,
        /// One past the last byte.
        to: u64,
    },

    /// Two tensors in one place.
    #[error(
        "{file}: the tensors {first} and {second} lie over each other; the file is damaged, fetch it again"
    )]
    Overlap {
        /// The file.
        file: String,
        /// The one that begins first.
        first: String,
        /// The other.
        second: String,
    },
}
