//! The header of a safetensors file: bytes to checked entries, no I/O.
//!
//! ```text
//! byte 0         8                    8 + n                            file_len
//! │ n, u64 LE    │ n bytes of JSON    │ the tensors, back to back       │
//!   header_len ─►  parse ─► Header      Entry::range counts from byte 0
//! ```
//!
//! (<https://huggingface.co/docs/safetensors>.) The file is not trusted. What [`parse`] returns is
//! known to tile the data without a gap: every range lies in the file, no two overlap, each is as
//! long as dtype and shape say. A reader that allocates what an entry asks for allocates at most
//! the file.
//!
//! # In this file
//!
//! [`Header`] and [`Entry`]; [`header_len`]; [`parse`] with its unchecked twin of a
//! header. Beside it: [`HeaderError`], a variant for each lie.

mod error;

pub use error::HeaderError;

use core::fmt;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::dtype::StoredType;
use super::pairs::KeyValues;

/// The most bytes a header may have: the limit of the reference implementation, so that every file
/// it reads is read here.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;

/// More tensors than any file has: the largest models of today have 200,000 in all of theirs.
const TENSORS_MAX: usize = 1 << 20;

/// More dimensions than any tensor has; the limit of PyTorch.
const DIMENSIONS_MAX: usize = 64;

/// More keys of `__metadata__` than any writer writes. Millions of short ones would take twenty times their bytes.
const METADATA_MAX: usize = 10_000;

/// Bytes of the length that a file begins with.
pub(crate) const LENGTH_BYTES: usize = 8;

/// What a file's header says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The tensors, in the order of their bytes.
    pub entries: Vec<Entry>,
    /// The free text of `__metadata__`, empty when there is none.
    pub metadata: BTreeMap<String, String>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the checkpoint.
    pub name: String,
    /// What an element is. Elements are little-endian and row-major.
    pub dtype: StoredType,
    /// Outermost dimension first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
}

/// The length of the header, from the first bytes of a file.
///
/// `first` may be shorter than eight bytes only if the file is. `file` is a name for messages.
///
/// # Errors
///
/// [`TooShort`](HeaderError::TooShort), [`HeaderTooLarge`](HeaderError::HeaderTooLarge) and
/// [`HeaderPastEnd`](HeaderError::HeaderPastEnd): after this, allocating the header is safe.
pub fn header_len(file: &str, first: &[u8], file_len: u64) -> Result<u64, HeaderError> {
    let Some(first) = first.first_chunk::<LENGTH_BYTES>() else {
        return Err(HeaderError::TooShort {
            file: file.to_owned(),
            file_len: file_len.min(first.len() as u64),
        });
    };
    let header_len = u64::from_le_bytes(*first);
    // The absurd length first: a page of HTML or another format read as a number is always absurd,
    // and "not a safetensors file" helps more then than "cut short".
    if header_len > HEADER_BYTES_MAX {
        return Err(HeaderError::HeaderTooLarge {
            file: file.to_owned(),
            header_len,
            max: HEADER_BYTES_MAX,
        });
    }
    data_start(file, header_len, file_len)?;
    Ok(header_len)
}

/// Where the tensors begin.
fn data_start(file: &str, header_len: u64, file_len: u64) -> Result<u64, HeaderError> {
    match header_len.checked_add(LENGTH_BYTES as u64) {
        Some(start) if start <= file_len => Ok(start),
        _ => Err(HeaderError::HeaderPastEnd {
            file: file.to_owned(),
            header_len,
            file_len,
        }),
    }
}

/// A header from its bytes: those after the first eight, [`header_len`] of them.
///
/// `file` is a name for messages.
///
/// # Errors
///
/// A [`HeaderError`] for each way in which the header contradicts itself or the file's length.
pub fn parse(file: &str, header: &[u8], file_len: u64) -> Result<Header, HeaderError> {
    let data_start = data_start(file, header.len() as u64, file_len)?;
    let text = core::str::from_utf8(header).map_err(|error| HeaderError::NotUtf8 {
        file: file.to_owned(),
        at_byte: (LENGTH_BYTES + error.valid_up_to()) as u64,
        header_len: header.len() as u64,
    })?;
    let raw: RawHeader = serde_json::from_str(text).map_err(|source| HeaderError::Json {
        file: file.to_owned(),
        source,
    })?;

    let metadata = checked_metadata(file, raw.metadata)?;
    let mut names = HashSet::with_capacity(raw.entries.len());
    for (name, _) in &raw.entries {
        if !names.insert(name.as_str()) {
            return Err(HeaderError::DuplicateTensor {
                file: file.to_owned(),
                tensor: name.clone(),
            });
        }
    }
    let mut entries = raw
        .entries
        .into_iter()
        .map(|(name, entry)| checked_entry(file, name, entry, data_start, file_len))
        .collect::<Result<Vec<_>, _>>()?;
    // Writers need not list tensors in the order of their bytes. An empty tensor comes before its
    // neighbour at the same offset, so the end is part of the key.
    entries.sort_by_key(|entry| (entry.range.start, entry.range.end));
    check_tiling(file, &entries, data_start, file_len)?;
    Ok(Header { entries, metadata })
}

fn checked_metadata(
    file: &str,
    raw: Vec<Option<KeyValues<String>>>,
) -> Result<BTreeMap<String, String>, HeaderError> {
    let duplicate = |key: &str| HeaderError::DuplicateMetadata {
        file: file.to_owned(),
        key: key.to_owned(),
    };
    if raw.len() > 1 {
        return Err(duplicate(METADATA));
    }
    let mut metadata = BTreeMap::new();
    for (key, value) in raw.into_iter().flatten().flat_map(|pairs| pairs.0) {
        if metadata.contains_key(&key) {
            return Err(duplicate(&key));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

/// One entry, all but its place among the others.
fn checked_entry(
    file: &str,
    tensor: String,
    raw: RawEntry<'_>,
    data_start: u64,
    file_len: u64,
) -> Result<Entry, HeaderError> {
    let file = || file.to_owned();
    let Some(dtype) = StoredType::from_name(&raw.dtype) else {
        return Err(HeaderError::UnknownDtype {
            file: file(),
            tensor,
            dtype: raw.dtype.into_owned(),
        });
    };

    let bits = raw
        .shape
        .iter()
        .try_fold(1u64, |elements, &side| elements.checked_mul(side))
        .and_then(|elements| elements.checked_mul(dtype.bits()));
    // The product fits when one side is zero, however large the others are; each must fit by itself.
    let shape: Result<Vec<usize>, _> = raw.shape.iter().map(|&side| side.try_into()).collect();
    let (Some(bits), Ok(shape)) = (bits, shape) else {
        return Err(HeaderError::ShapeOverflow {
            file: file(),
            tensor,
            dtype,
            shape: raw.shape,
        });
    };
    if bits % 8 != 0 {
        return Err(HeaderError::PartialByte {
            file: file(),
            tensor,
            dtype,
            shape,
            bits,
        });
    }

    let [start, end] = raw.data_offsets;
    if end < start {
        return Err(HeaderError::Inverted {
            file: file(),
            tensor,
            start,
            end,
        });
    }
    if end - start != bits / 8 {
        return Err(HeaderError::LengthMismatch {
            file: file(),
            tensor,
            dtype,
            shape,
            needed: bits / 8,
            found: end - start,
        });
    }
    match end.checked_add(data_start) {
        Some(end) if end <= file_len => Ok(Entry {
            name: tensor,
            dtype,
            shape,
            range: start + data_start..end,
        }),
        _ => Err(HeaderError::OutOfRange {
            file: file(),
            tensor,
            end: end.saturating_add(data_start),
            file_len,
        }),
    }
}

/// Sorted entries follow each other without a gap, from the first byte of data to the last.
fn check_tiling(
    file: &str,
    entries: &[Entry],
    data_start: u64,
    file_len: u64,
) -> Result<(), HeaderError> {
    let mut end = data_start;
    let mut before = None;
    for entry in entries {
        let start = entry.range.start;
        if start < end {
            return Err(HeaderError::Overlap {
                file: file.to_owned(),
                tensor: entry.name.clone(),
                start,
                // Nothing starts before the data, so there is one before this.
                other: before.map_or_else(String::new, str::to_owned),
                other_end: end,
            });
        }
        if start > end {
            return Err(HeaderError::Hole {
                file: file.to_owned(),
                tensor: entry.name.clone(),
                start,
                end,
            });
        }
        end = entry.range.end;
        before = Some(entry.name.as_str());
    }
    if end < file_len {
        return Err(HeaderError::TrailingBytes {
            file: file.to_owned(),
            end,
            file_len,
        });
    }
    Ok(())
}

/// The one key that is not a tensor.
const METADATA: &str = "__metadata__";

/// A header as written: nothing in it is believed yet.
struct RawHeader<'a> {
    /// One for each time the key occurs.
    metadata: Vec<Option<KeyValues<String>>>,
    entries: Vec<(String, RawEntry<'a>)>,
}

#[derive(serde::Deserialize)]
struct RawEntry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    #[serde(deserialize_with = "shape")]
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for RawHeader<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawHeaderVisitor)
    }
}

/// The free text of a header, bounded while it is read.
struct Metadata(Option<KeyValues<String>>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(MetadataVisitor)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_none<E>(self) -> Result<Metadata, E> {
        Ok(Metadata(None))
    }

    fn visit_unit<E>(self) -> Result<Metadata, E> {
        Ok(Metadata(None))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Metadata, D::Error> {
        let pairs = KeyValues::at_most(METADATA_MAX, deserializer)?;
        Ok(Metadata(Some(pairs)))
    }
}

/// The sides of a tensor.
fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    deserializer.deserialize_seq(ShapeVisitor)
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {DIMENSIONS_MAX} whole numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u64>, A::Error> {
        // Most tensors have two.
        let mut shape = Vec::with_capacity(2);
        while let Some(side) = list.next_element()? {
            if shape.len() == DIMENSIONS_MAX {
                return Err(A::Error::invalid_length(DIMENSIONS_MAX + 1, &self));
            }
            shape.push(side);
        }
        Ok(shape)
    }
}

struct RawHeaderVisitor;

impl<'de> Visitor<'de> for RawHeaderVisitor {
    type Value = RawHeader<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader<'de>, A::Error> {
        let mut raw = RawHeader {
            metadata: Vec::new(),
            entries: Vec::new(),
        };
        while let Some(key) = map.next_key::<String>()? {
            let named = |error| A::Error::custom(format_args!("{key}: {error}"));
            if key == METADATA {
                let Metadata(metadata) = map.next_value().map_err(named)?;
                raw.metadata.push(metadata);
            } else if raw.entries.len() == TENSORS_MAX {
                let many = format_args!(
                    "{key}: there are {TENSORS_MAX} tensors before it, as many as are read"
                );
                return Err(A::Error::custom(many));
            } else {
                let entry = map.next_value().map_err(named)?;
                raw.entries.push((key, entry));
            }
        }
        Ok(raw)
    }
}
