//! The header of a GGUF file: bytes to checked keys and tensors, no I/O.
//!
//! ```text
//! "GGUF", version u32, tensors i64, keys i64
//! each key:     name (length u64, bytes), type u32, value; a list is the type of its elements u32, their count u64, them
//! each tensor:  name, dimensions u32, sides i64 (the fastest first), type u32, offset u64
//! padding to `general.alignment`, then the tensors, each padded
//! ```
//!
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.) Numbers are little-endian. The file is not trusted: a count
//! is compared with the bytes that are left before anything is allocated for it, and what [`parse`] returns is known to tile
//! the data.
//!
//! Nothing says how long the header is. [`parse`] takes the first bytes of a file and asks for more where they end too early.

mod cursor;
mod encode;
mod error;
mod value;

use core::ops::Range;
use std::collections::{BTreeMap, HashSet};

use firebox_kernels::format::Gguf;

use super::dtype::StoredType;
use cursor::{Cursor, HeaderCut};
pub(crate) use encode::{GgufKeys, aligned, head};
pub use error::GgufError;
pub use value::{GgufList, GgufValue};

/// The most bytes that a header may have: vocabularies of today take ten million.
pub const GGUF_HEADER_BYTES_MAX: u64 = 128 << 20;

/// The bytes that a file begins with.
const MAGIC: [u8; 4] = *b"GGUF";

/// More keys than any file has.
const KEYS_MAX: u64 = 1 << 16;

/// More tensors than any file has.
const TENSORS_MAX: u64 = 1 << 20;

/// Bytes that a key takes at least: an empty name, a type, a byte.
const KEY_BYTES: u64 = 8 + 4 + 1;

/// Bytes that a tensor takes at least: an empty name, no side, a type, an offset.
const TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

/// The most sides of a tensor: those of ggml.
const SIDES_MAX: u32 = 4;

/// Bytes of the name of a tensor with the zero that ends it in ggml.
pub(crate) const NAME_BYTES: usize = 64;

/// The key of the alignment, what it is without one, and what it may be.
const ALIGNMENT: &str = "general.alignment";
const ALIGNMENT_USUAL: u64 = 32;
const ALIGNMENT_MAX: u64 = 1 << 16;

/// What a file's header says, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufHeader {
    /// The keys and their values.
    pub keys: BTreeMap<String, GgufValue>,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<GgufTensor>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Its name in the file.
    pub name: String,
    /// What it consists of.
    pub kind: GgufType,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
}

/// The type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// Single elements.
    Plain(StoredType),
    /// Blocks of some consecutive values of a row.
    Blocks(Gguf),
}

/// The numbers of the types of single elements.
const PLAIN: [(u32, StoredType); 8] = [
    (0, StoredType::F32),
    (1, StoredType::F16),
    (24, StoredType::I8),
    (25, StoredType::I16),
    (26, StoredType::I32),
    (27, StoredType::I64),
    (28, StoredType::F64),
    (30, StoredType::BF16),
];

impl GgufType {
    /// Its values that stand together, and their bytes.
    const fn block(self) -> (u64, u64) {
        match self {
            Self::Plain(dtype) => (1, dtype.bits() / 8),
            Self::Blocks(kind) => (kind.block() as u64, kind.bytes() as u64),
        }
    }

    /// The type of this number, of `enum ggml_type`.
    fn from_number(number: u32) -> Option<Self> {
        let plain = PLAIN.iter().find(|(known, _)| *known == number);
        match plain {
            Some((_, dtype)) => Some(Self::Plain(*dtype)),
            None => Gguf::from_number(number).map(Self::Blocks),
        }
    }

    /// The type of single elements, where ggml has it.
    pub(crate) fn plain(dtype: StoredType) -> Option<Self> {
        let known = PLAIN.iter().any(|(_, known)| *known == dtype);
        known.then_some(Self::Plain(dtype))
    }

    /// Its number, of `enum ggml_type`.
    fn number(self) -> u32 {
        match self {
            Self::Plain(dtype) => {
                let known = PLAIN.iter().find(|(_, known)| *known == dtype);
                known.map_or(u32::MAX, |(number, _)| *number)
            }
            Self::Blocks(kind) => kind.number(),
        }
    }

    /// Bytes of a tensor of this shape, whose rows are whole blocks.
    pub(crate) fn bytes(self, shape: &[usize]) -> u64 {
        let (block, bytes) = self.block();
        shape.iter().product::<usize>() as u64 / block * bytes
    }

    /// Its name in llama.cpp, in lower case.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Plain(dtype) => dtype.name().to_lowercase(),
            Self::Blocks(kind) => kind.name().to_owned(),
        }
    }
}

/// What the first bytes of a file are.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufParsed {
    /// All of a header.
    Header(GgufHeader),
    /// Fewer bytes than the header has: at least as many are needed.
    More(u64),
}

/// A header from the first bytes of a file, `first`, that has `file_len`.
///
/// `file` is a name for messages.
///
/// # Errors
///
/// A [`GgufError`] for each way in which the header contradicts itself or the file's length.
pub fn parse(file: &str, first: &[u8], file_len: u64) -> Result<GgufParsed, GgufError> {
    let mut cursor = Cursor::new(file, first, file_len);
    match header(&mut cursor) {
        Ok(header) => Ok(GgufParsed::Header(header)),
        Err(HeaderCut::Wrong(error)) => Err(*error),
        Err(HeaderCut::Short { end }) if end <= file_len => match end {
            _ if end > GGUF_HEADER_BYTES_MAX => Err(GgufError::HeaderTooLarge {
                file: file.to_owned(),
                end,
                max: GGUF_HEADER_BYTES_MAX,
            }),
            _ => Ok(GgufParsed::More(end)),
        },
        Err(HeaderCut::Short { end }) => Err(GgufError::Truncated {
            file: file.to_owned(),
            end,
            file_len,
        }),
    }
}

/// A tensor before its place is known.
struct UnplacedTensor {
    tensor: GgufTensor,
    offset: u64,
}

fn header(cursor: &mut Cursor<'_>) -> Result<GgufHeader, HeaderCut> {
    version(cursor)?;
    let tensors = cursor.u64()?;
    let keys = cursor.u64()?;
    cursor.count("keys", keys, KEY_BYTES, KEYS_MAX)?;
    cursor.count("tensors", tensors, TENSOR_BYTES, TENSORS_MAX)?;

    let mut values = BTreeMap::new();
    for _ in 0..keys {
        let key = cursor.text("the name of a key")?;
        let value = value::read(cursor, &key)?;
        if values.contains_key(&key) {
            let file = cursor.file();
            return Err(GgufError::DuplicateKey { file, key }.into());
        }
        values.insert(key, value);
    }
    let alignment = alignment(cursor, &values)?;

    let mut names = HashSet::new();
    let mut placed = Vec::new();
    for _ in 0..tensors {
        let tensor = tensor(cursor)?;
        if !names.insert(tensor.tensor.name.clone()) {
            return Err(GgufError::DuplicateTensor {
                file: cursor.file(),
                tensor: tensor.tensor.name,
            }
            .into());
        }
        placed.push(tensor);
    }
    let start = cursor.at().next_multiple_of(alignment);
    Ok(GgufHeader {
        keys: values,
        tensors: tiled(cursor, placed, start, alignment)?,
    })
}

/// Reads what a file begins with, up to its version.
fn version(cursor: &mut Cursor<'_>) -> Result<(), HeaderCut> {
    let found = cursor.array()?;
    if found != MAGIC {
        let file = cursor.file();
        return Err(GgufError::NotGguf { file, found }.into());
    }
    let version = cursor.u32()?;
    match version {
        2 | 3 => Ok(()),
        _ => Err(GgufError::Version {
            file: cursor.file(),
            version,
        }
        .into()),
    }
}

fn alignment(cursor: &Cursor<'_>, keys: &BTreeMap<String, GgufValue>) -> Result<u64, HeaderCut> {
    let Some(value) = keys.get(ALIGNMENT) else {
        return Ok(ALIGNMENT_USUAL);
    };
    match value {
        GgufValue::Unsigned(found) if found.is_power_of_two() && *found <= ALIGNMENT_MAX => {
            Ok(*found)
        }
        found => Err(GgufError::Alignment {
            file: cursor.file(),
            found: found.to_string(),
            max: ALIGNMENT_MAX,
        }
        .into()),
    }
}

fn tensor(cursor: &mut Cursor<'_>) -> Result<UnplacedTensor, HeaderCut> {
    let name = cursor.text("the name of a tensor")?;
    let file = cursor.file();
    if name.len() >= NAME_BYTES {
        let max = NAME_BYTES - 1;
        return Err(GgufError::LongName { file, name, max }.into());
    }
    let count = cursor.u32()?;
    if !(1..=SIDES_MAX).contains(&count) {
        return Err(GgufError::Sides {
            file,
            tensor: name,
            count,
            max: SIDES_MAX,
        }
        .into());
    }
    let mut sides = Vec::with_capacity(count as usize);
    for _ in 0..count {
        sides.push(cursor.u64()?);
    }
    let number = cursor.u32()?;
    let offset = cursor.u64()?;
    let Some(kind) = GgufType::from_number(number) else {
        return Err(GgufError::UnknownType {
            file,
            tensor: name,
            number,
        }
        .into());
    };
    sides.reverse();
    let (block, bytes) = kind.block();
    let elements = sides
        .iter()
        .try_fold(1u64, |elements, side| elements.checked_mul(*side));
    let length = elements.and_then(|elements| (elements / block).checked_mul(bytes));
    let shape: Result<Vec<usize>, _> = sides.iter().map(|side| usize::try_from(*side)).collect();
    let (Some(1..), Some(length), Ok(shape)) = (elements, length, shape) else {
        return Err(GgufError::Shape {
            file,
            tensor: name,
            shape: sides,
        }
        .into());
    };
    let row = sides.last().copied().unwrap_or_default();
    if !row.is_multiple_of(block) {
        return Err(GgufError::Row {
            file,
            tensor: name,
            row,
            block,
        }
        .into());
    }
    let tensor = GgufTensor {
        name,
        kind,
        shape,
        range: 0..length,
    };
    Ok(UnplacedTensor { tensor, offset })
}

/// The tensors with their ranges: each begins where the one before ends, padded.
fn tiled(
    cursor: &Cursor<'_>,
    placed: Vec<UnplacedTensor>,
    start: u64,
    alignment: u64,
) -> Result<Vec<GgufTensor>, HeaderCut> {
    let mut next = 0u64;
    let mut tensors = Vec::with_capacity(placed.len());
    for UnplacedTensor { mut tensor, offset } in placed {
        let file = || cursor.file();
        if offset != next {
            return Err(GgufError::Offset {
                file: file(),
                tensor: tensor.name,
                offset,
                expected: next,
            }
            .into());
        }
        let length = tensor.range.end;
        let range = start.checked_add(offset).and_then(|first| {
            let end = first.checked_add(length)?;
            (end <= cursor.file_len()).then_some(first..end)
        });
        let Some(range) = range else {
            return Err(GgufError::OutOfRange {
                file: file(),
                tensor: tensor.name,
                end: u128::from(start) + u128::from(offset) + u128::from(length),
                file_len: cursor.file_len(),
            }
            .into());
        };
        // Lengths are below that of the file.
        next = (offset + length).next_multiple_of(alignment);
        tensor.range = range;
        tensors.push(tensor);
    }
    Ok(tensors)
}
