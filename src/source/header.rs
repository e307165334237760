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
//! [`Dtype`]; [`Header`] and [`Entry`]; [`header_len`]; [`parse`] with its unchecked twin of a
//! header; [`HeaderError`], a variant for each lie.

use core::fmt;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::pairs::Pairs;

/// The most bytes a header may have: the limit of the reference implementation, so that every file
/// it reads is read here.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Bytes of the length that a file begins with.
pub const LENGTH_BYTES: usize = 8;

/// What one element of a tensor is, by the names that safetensors 0.8 has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Dtype {
    /// `BOOL`: a byte, 0 or 1.
    Bool,
    /// `F4`: MX E2M1, two a byte.
    F4,
    /// `F6_E2M3`: MX.
    F6E2M3,
    /// `F6_E3M2`: MX.
    F6E3M2,
    /// `U8`.
    U8,
    /// `I8`.
    I8,
    /// `F8_E5M2`.
    F8E5M2,
    /// `F8_E4M3`: without infinities ("fn").
    F8E4M3,
    /// `F8_E8M0`: an exponent alone, for MX scales.
    F8E8M0,
    /// `F8_E4M3FNUZ`.
    F8E4M3Fnuz,
    /// `F8_E5M2FNUZ`.
    F8E5M2Fnuz,
    /// `I16`.
    I16,
    /// `U16`.
    U16,
    /// `F16`.
    F16,
    /// `BF16`.
    BF16,
    /// `I32`.
    I32,
    /// `U32`.
    U32,
    /// `F32`.
    F32,
    /// `C64`: two `f32`.
    C64,
    /// `F64`.
    F64,
    /// `I64`.
    I64,
    /// `U64`.
    U64,
}

impl Dtype {
    /// Every dtype, narrow ones first.
    pub const ALL: [Self; 22] = [
        Self::F4,
        Self::F6E2M3,
        Self::F6E3M2,
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::F8E5M2,
        Self::F8E4M3,
        Self::F8E8M0,
        Self::F8E4M3Fnuz,
        Self::F8E5M2Fnuz,
        Self::I16,
        Self::U16,
        Self::F16,
        Self::BF16,
        Self::I32,
        Self::U32,
        Self::F32,
        Self::C64,
        Self::F64,
        Self::I64,
        Self::U64,
    ];

    /// The name in a header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::F4 => "F4",
            Self::F6E2M3 => "F6_E2M3",
            Self::F6E3M2 => "F6_E3M2",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::F8E5M2 => "F8_E5M2",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E8M0 => "F8_E8M0",
            Self::F8E4M3Fnuz => "F8_E4M3FNUZ",
            Self::F8E5M2Fnuz => "F8_E5M2FNUZ",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::F32 => "F32",
            Self::C64 => "C64",
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::U64 => "U64",
        }
    }

    /// The dtype of this name in a header.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Bits of one element. Below 8 for [`F4`](Self::F4) and the two `F6`, whose elements are
    /// packed without padding.
    #[must_use]
    pub const fn bits(self) -> u64 {
        match self {
            Self::F4 => 4,
            Self::F6E2M3 | Self::F6E3M2 => 6,
            Self::Bool
            | Self::U8
            | Self::I8
            | Self::F8E5M2
            | Self::F8E4M3
            | Self::F8E8M0
            | Self::F8E4M3Fnuz
            | Self::F8E5M2Fnuz => 8,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 16,
            Self::I32 | Self::U32 | Self::F32 => 32,
            Self::C64 | Self::F64 | Self::I64 | Self::U64 => 64,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

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
    pub dtype: Dtype,
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
    raw: Vec<Option<Pairs<String>>>,
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
    raw: RawEntry,
    data_start: u64,
    file_len: u64,
) -> Result<Entry, HeaderError> {
    let file = || file.to_owned();
    let Some(dtype) = Dtype::from_name(&raw.dtype) else {
        return Err(HeaderError::UnknownDtype {
            file: file(),
            tensor,
            dtype: raw.dtype,
        });
    };

    let bits = raw
        .shape
        .iter()
        .try_fold(1u64, |elements, &side| elements.checked_mul(side))
        .and_then(|elements| elements.checked_mul(dtype.bits()));
    // The product fits when one side is zero, whatever the others are; each must fit on its own.
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
struct RawHeader {
    /// One for each time the key occurs.
    metadata: Vec<Option<Pairs<String>>>,
    entries: Vec<(String, RawEntry)>,
}

#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawHeaderVisitor)
    }
}

struct RawHeaderVisitor;

impl<'de> Visitor<'de> for RawHeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut raw = RawHeader {
            metadata: Vec::new(),
            entries: Vec::new(),
        };
        while let Some(key) = map.next_key::<String>()? {
            let named = |error| A::Error::custom(format_args!("{key}: {error}"));
            if key == METADATA {
                raw.metadata.push(map.next_value().map_err(named)?);
            } else {
                let entry = map.next_value().map_err(named)?;
                raw.entries.push((key, entry));
            }
        }
        Ok(raw)
    }
}

/// A lie or a mistake in a header. Offsets in messages count from the start of the file, except in
/// [`Inverted`](Self::Inverted), where there is no telling what was meant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Too few bytes to hold even the header's length.
    #[error("{file}: {file_len} bytes, and a safetensors file has at least 8; fetch it again")]
    TooShort {
        /// The file.
        file: String,
        /// Its length in bytes.
        file_len: u64,
    },

    /// The length is beyond what any header has; most likely the file is something else.
    #[error(
        "{file}: its header claims {header_len} bytes, and {max} are allowed; is this a safetensors \
         file, or the text of a failed download or of a git-lfs pointer?"
    )]
    HeaderTooLarge {
        /// The file.
        file: String,
        /// The claim, in bytes.
        header_len: u64,
        /// [`HEADER_BYTES_MAX`].
        max: u64,
    },

    /// The header is longer than the file.
    #[error(
        "{file}: its header claims {header_len} bytes after the first 8, and the file has \
         {file_len}; it is cut short, fetch it again"
    )]
    HeaderPastEnd {
        /// The file.
        file: String,
        /// The claim, in bytes.
        header_len: u64,
        /// The file's length in bytes.
        file_len: u64,
    },

    /// The header is not text.
    #[error("{file}: byte {at_byte} breaks the UTF-8 of a header of {header_len} bytes")]
    NotUtf8 {
        /// The file.
        file: String,
        /// The first byte that is not UTF-8, counted from the start of the file.
        at_byte: u64,
        /// The header's length in bytes.
        header_len: u64,
    },

    /// The header is text, but not the JSON of a header.
    #[error("{file}: its header does not parse: {source}")]
    Json {
        /// The file.
        file: String,
        /// What and where; it begins with the tensor when the parser was inside one.
        source: serde_json::Error,
    },

    /// Two tensors of one name. Readers disagree about which counts.
    #[error("{file}: tensor {tensor} is there twice")]
    DuplicateTensor {
        /// The file.
        file: String,
        /// The name.
        tensor: String,
    },

    /// One metadata key twice.
    #[error("{file}: metadata key {key} is there twice")]
    DuplicateMetadata {
        /// The file.
        file: String,
        /// The key.
        key: String,
    },

    /// A dtype that safetensors 0.8 does not have.
    #[error("{file}: tensor {tensor} has the unknown dtype {dtype:?}")]
    UnknownDtype {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The dtype as written.
        dtype: String,
    },

    /// A shape with more elements than can be counted.
    #[error("{file}: tensor {tensor} of {dtype} {shape:?} has more bits than fit 64 bits")]
    ShapeOverflow {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape as written.
        shape: Vec<u64>,
    },

    /// Elements narrower than a byte that end inside one.
    #[error("{file}: tensor {tensor} of {dtype} {shape:?} has {bits} bits, not a multiple of 8")]
    PartialByte {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// Its length in bits.
        bits: u64,
    },

    /// A tensor that ends before it starts.
    #[error("{file}: tensor {tensor} has the data offsets {start} to {end}, which run backwards")]
    Inverted {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The first offset, as written.
        start: u64,
        /// The second offset, as written.
        end: u64,
    },

    /// Offsets, dtype and shape contradict each other.
    #[error(
        "{file}: tensor {tensor} of {dtype} {shape:?} takes {needed} bytes and is given {found}"
    )]
    LengthMismatch {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes that dtype and shape take.
        needed: u64,
        /// Bytes that the offsets span.
        found: u64,
    },

    /// A tensor beyond the end of the file.
    #[error(
        "{file}: tensor {tensor} ends at byte {end}, and the file has {file_len}; it is cut short, \
         fetch it again"
    )]
    OutOfRange {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// One past the tensor's last byte.
        end: u64,
        /// The file's length in bytes.
        file_len: u64,
    },

    /// Two tensors share bytes.
    #[error(
        "{file}: tensor {tensor} starts at byte {start}, inside {other}, which ends at {other_end}"
    )]
    Overlap {
        /// The file.
        file: String,
        /// The later tensor.
        tensor: String,
        /// Its first byte.
        start: u64,
        /// The earlier tensor.
        other: String,
        /// One past its last byte.
        other_end: u64,
    },

    /// Bytes before a tensor that belong to none. They could hide anything.
    #[error("{file}: tensor {tensor} starts at byte {start}, and what is before it ends at {end}")]
    Hole {
        /// The file.
        file: String,
        /// The tensor after the hole.
        tensor: String,
        /// Its first byte.
        start: u64,
        /// Where the hole begins.
        end: u64,
    },

    /// Bytes after the last tensor.
    #[error("{file}: its last tensor ends at byte {end}, and the file has {file_len}")]
    TrailingBytes {
        /// The file.
        file: String,
        /// One past the last tensor.
        end: u64,
        /// The file's length in bytes.
        file_len: u64,
    },
}
