//! What is known of a safetensors file without its bytes: its tensors, their order and checksums, its header.

use core::ops::Range;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::json;
use xxhash_rust::xxh3::Xxh3;

use crate::source::{StoredType, TensorInfo, header::LENGTH_BYTES};

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
    /// The format that its metadata names.
    pub(super) format: &'static str,
    /// Bytes of the file, about.
    pub(super) bytes: u64,
    /// Bytes that the header may have, a multiple of eight.
    pub(super) room: u64,
}

impl ShardPlace {
    /// Where the data begins.
    pub(super) fn base(&self) -> u64 {
        LENGTH_BYTES as u64 + self.room
    }

    /// The bytes before the data.
    pub(super) fn head(&self, written: &[Written]) -> Vec<u8> {
        let room = self.room as usize;
        let mut head = Vec::with_capacity(LENGTH_BYTES + room);
        head.extend(self.room.to_le_bytes());
        // Written entry by entry: as a map, the header of many tensors takes ten times its bytes.
        let mut header = serde_json::Serializer::new(&mut head);
        let whole = (|| -> Result<(), serde_json::Error> {
            let mut header = header.serialize_map(None)?;
            header.serialize_entry("__metadata__", &json!({ "format": self.format }))?;
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
