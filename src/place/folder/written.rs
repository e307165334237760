//! What is known of a file of weights without its bytes: its tensors, their order and checksums, its header.

use core::ops::Range;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::json;
use xxhash_rust::xxh3::Xxh3;

use crate::source::{StoredType, TensorInfo, gguf, header::LENGTH_BYTES};

/// A tensor that is in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    /// Where its bytes are: in the data, or among those that wait.
    pub(super) start: u64,
    pub(super) end: u64,
    /// Whether it waits for the others.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(super) late: bool,
    /// XXH3 of its bytes, 64 bits in hexadecimal.
    pub(super) xxh3: String,
}

impl Written {
    /// Whether it has the name, the type and the shape of `tensor`.
    pub(super) fn is_like(&self, tensor: &TensorInfo) -> bool {
        (&*self.name, &*self.dtype, &self.shape)
            == (&*tensor.name, tensor.dtype.name(), &tensor.shape)
    }
}

/// The facts of a file that are known before it is written.
#[derive(Debug, Clone)]
pub(crate) struct ShardPlace {
    pub(super) name: String,
    /// Bytes of the file, about.
    #[cfg_attr(
        not(feature = "remote"),
        expect(dead_code, reason = "object stores are told beforehand")
    )]
    pub(super) bytes: u64,
    pub(super) kind: ShardKind,
}

/// The kind of a file.
#[derive(Debug, Clone)]
pub(crate) enum ShardKind {
    /// Safetensors.
    Safetensors {
        /// The format that its metadata names.
        format: &'static str,
        /// Bytes that the header may have, a multiple of eight.
        room: u64,
    },
    /// GGUF.
    Gguf {
        /// All bytes before the data.
        head: Arc<[u8]>,
    },
}

impl ShardPlace {
    /// Where the data begins.
    pub(super) fn base(&self) -> u64 {
        match &self.kind {
            ShardKind::Safetensors { room, .. } => LENGTH_BYTES as u64 + room,
            ShardKind::Gguf { head } => head.len() as u64,
        }
    }

    /// Where a tensor may begin in the data, from `len` bytes on.
    pub(super) const fn aligned(&self, len: u64) -> u64 {
        match self.kind {
            ShardKind::Safetensors { .. } => len,
            ShardKind::Gguf { .. } => gguf::aligned(len),
        }
    }

    /// Bytes of the finished file's data.
    pub(super) fn data_len(&self, written: &[Written]) -> u64 {
        let ends = self.ranges(written).into_iter().map(|(_, at)| at.end);
        self.aligned(ends.max().unwrap_or(0))
    }

    /// Tensors with the bytes of the finished file's data that they take.
    pub(super) fn ranges<'w>(&self, written: &'w [Written]) -> Vec<(&'w Written, Range<u64>)> {
        match self.kind {
            ShardKind::Safetensors { .. } => ranges(written).collect(),
            ShardKind::Gguf { .. } => {
                let tensors = written.iter();
                tensors.map(|tensor| (tensor, tensor.range())).collect()
            }
        }
    }

    /// The bytes before the data.
    pub(super) fn head(&self, written: &[Written]) -> Vec<u8> {
        let (format, room) = match &self.kind {
            ShardKind::Safetensors { format, room } => (format, *room as usize),
            ShardKind::Gguf { head } => return head.to_vec(),
        };
        let mut head = Vec::with_capacity(LENGTH_BYTES + room);
        head.extend((room as u64).to_le_bytes());
        // Written entry by entry: as a map, the header of many tensors takes ten times its bytes.
        let mut header = serde_json::Serializer::new(&mut head);
        let whole = (|| -> Result<(), serde_json::Error> {
            let mut header = header.serialize_map(None)?;
            header.serialize_entry("__metadata__", &json!({ "format": format }))?;
            for (tensor, at) in ranges(written) {
                let entry = json!({
                    "dtype": tensor.dtype,
                    "shape": tensor.shape,
                    "data_offsets": [at.start, at.end],
                });
                header.serialize_entry(&tensor.name, &entry)?;
            }
            header.end()
        })();
        whole.expect("a header has no other keys than texts, and memory takes all bytes");
        let len = head.len() - LENGTH_BYTES;
        assert!(len <= room, "room for {len} bytes of header");
        head.resize(LENGTH_BYTES + room, b' ');
        head
    }
}

/// Tensors as they lie in the finished file.
pub(super) fn in_order(written: &[Written]) -> impl Iterator<Item = &Written> {
    let mut late: Vec<&Written> = written.iter().filter(|tensor| tensor.late).collect();
    late.sort_by_key(|tensor| {
        core::cmp::Reverse(StoredType::from_name(&tensor.dtype).map(StoredType::bits))
    });
    written.iter().filter(|tensor| !tensor.late).chain(late)
}

/// Tensors with the bytes of the finished file's data that they take.
pub(super) fn ranges(written: &[Written]) -> impl Iterator<Item = (&Written, Range<u64>)> {
    in_order(written).scan(0, |end, tensor| {
        let start = *end;
        *end += tensor.bytes();
        Some((tensor, start..*end))
    })
}

/// The last bytes of the data and of the late tensors, each among its own.
pub(super) fn ends<'a>(written: impl Iterator<Item = &'a Written>) -> [u64; 2] {
    written.fold([0, 0], |mut ends, tensor| {
        let end = &mut ends[usize::from(tensor.late)];
        *end = tensor.end.max(*end);
        ends
    })
}

impl Written {
    pub(super) fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Where its bytes are: in the data, or among the late tensors.
    pub(super) fn range(&self) -> Range<u64> {
        self.start..self.end
    }
}

/// XXH3 of some bytes of a file, 64 bits in hexadecimal.
pub(super) fn checksum(mut file: &File, range: Range<u64>) -> io::Result<String> {
    let bytes = range.end - range.start;
    file.seek(SeekFrom::Start(range.start))?;
    let (mut file, mut hash) = (file.take(bytes), Xxh3::new());
    let mut buffer = vec![0; bytes.min(1 << 18) as usize];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:016x}", hash.digest())),
            read => hash.update(&buffer[..read]),
        }
    }
}
