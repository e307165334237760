//! One safetensors file, written tensor by tensor, each in pieces if need be.
//!
//! The header stands before the data, and part of it (the size of a quantization state) is known only after the data is
//! written. So room is left for the header, and spaces fill the rest of the room, as the format allows.
//! Readers map tensors into memory and want each at a multiple of its elements: tensors that are not whole
//! eights of bytes come last. Until then they wait in a file of their own.
//!
//! ```text
//! NAME.partial   length and header, empty still │ tensors …
//! NAME.late      tensors that are not whole eights of bytes
//! ```
//!
//! A file is complete or absent: it is written under another name and renamed. An incomplete file can be opened
//! again, and goes on after the last tensor whose bytes agree with their checksum.

use core::ops::Range;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::json;
use xxhash_rust::xxh3::Xxh3;

use crate::source::{StoredType, TensorInfo, header::LENGTH_BYTES};

/// A tensor that is in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) name: String,
    dtype: String,
    shape: Vec<usize>,
    /// Where its bytes are: in the data, or among those that wait.
    start: u64,
    end: u64,
    /// Whether it waits for the others.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    late: bool,
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
pub(super) struct ShardPlace {
    pub(super) path: PathBuf,
    /// The format that its metadata names.
    pub(super) format: &'static str,
    /// Bytes that the header may have, a multiple of eight.
    pub(super) room: u64,
}

/// A file under way.
pub(super) struct ShardFile {
    place: ShardPlace,
    data: GrowingBytes,
    late: Option<GrowingBytes>,
    written: Vec<Written>,
    open: Option<Open>,
}

/// A tensor under way.
struct Open {
    tensor: Written,
    hash: Box<Xxh3>,
}

/// Bytes that grow.
struct GrowingBytes {
    file: BufWriter<File>,
    len: u64,
}

impl ShardPlace {
    pub(super) fn partial(&self) -> PathBuf {
        with_end(&self.path, ".partial")
    }

    fn late(&self) -> PathBuf {
        with_end(&self.path, ".late")
    }

    /// Where the data begins.
    pub(super) fn base(&self) -> u64 {
        LENGTH_BYTES as u64 + self.room
    }

    /// Removes the file of late tensors, when the file is complete.
    pub(super) fn clear(&self) -> io::Result<()> {
        match fs::remove_file(self.late()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the file is there, complete, with these tensors and the header that goes with them.
    pub(super) fn is_finished(&self, written: &[Written]) -> io::Result<bool> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        let head = self.head(written);
        let bytes: u64 = written.iter().map(Written::bytes).sum();
        if file.metadata()?.len() != self.base() + bytes {
            return Ok(false);
        }
        let mut found = vec![0; head.len()];
        file.read_exact(&mut found)?;
        if found != head {
            return Ok(false);
        }
        for (tensor, at) in ranges(written) {
            if checksum(&file, self.base() + at.start..self.base() + at.end)? != tensor.xxh3 {
                return Ok(false);
            }
        }
        Ok(true)
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
fn in_order(written: &[Written]) -> impl Iterator<Item = &Written> {
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

impl ShardFile {
    /// Begins a file.
    pub(super) fn create(place: ShardPlace) -> io::Result<Self> {
        let data = GrowingBytes::open(&place.partial(), place.base(), 0)?;
        Ok(Self {
            place,
            data,
            late: None,
            written: Vec::new(),
            open: None,
        })
    }

    /// Goes on with a file after the last of `steps` whose tensors are intact, with those of all steps before it. Returns
    /// the number of these steps.
    pub(super) fn reopen(place: ShardPlace, steps: &[Vec<Written>]) -> io::Result<(Self, usize)> {
        let sound = {
            let data = open_to_read(&place.partial())?;
            let late = open_to_read(&place.late())?;
            let is_sound = |tensor: &Written| match (tensor.late, &data, &late) {
                (false, Some(file), _) => tensor.is_in(file, place.base()),
                (true, _, Some(file)) => tensor.is_in(file, 0),
                _ => Ok(false),
            };
            let mut sound = 0;
            'steps: for step in steps {
                for tensor in step {
                    if !is_sound(tensor)? {
                        break 'steps;
                    }
                }
                sound += 1;
            }
            sound
        };
        let written: Vec<Written> = steps[..sound].iter().flatten().cloned().collect();
        let end = |late| {
            let of_stream = written.iter().filter(|tensor| tensor.late == late);
            of_stream.map(|tensor| tensor.end).max()
        };
        let data = GrowingBytes::open(&place.partial(), place.base(), end(false).unwrap_or(0))?;
        let late = end(true).map(|end| GrowingBytes::open(&place.late(), 0, end));
        let shard = Self {
            late: late.transpose()?,
            place,
            data,
            written,
            open: None,
        };
        Ok((shard, sound))
    }

    /// Whether a tensor is under way.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Begins a tensor, which has to be [ended](Self::end) before the next.
    pub(super) fn begin(
        &mut self,
        name: String,
        dtype: StoredType,
        shape: &[usize],
    ) -> io::Result<()> {
        assert!(self.open.is_none(), "{name} begins within another tensor");
        let bytes = shape.iter().product::<usize>() as u64 * dtype.bits() / 8;
        let late = !bytes.is_multiple_of(8);
        let start = match (late, &mut self.late) {
            (false, _) => self.data.len,
            (true, Some(stream)) => stream.len,
            (true, none) => {
                none.insert(GrowingBytes::open(&self.place.late(), 0, 0)?)
                    .len
            }
        };
        let tensor = Written {
            name,
            dtype: dtype.name().to_owned(),
            shape: shape.to_vec(),
            start,
            end: start + bytes,
            late,
            xxh3: String::new(),
        };
        let hash = Box::new(Xxh3::new());
        self.open = Some(Open { tensor, hash });
        Ok(())
    }

    /// The next bytes of the tensor.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Open { tensor, hash } = self.open.as_mut().expect("a tensor was begun");
        let stream = match &mut self.late {
            Some(stream) if tensor.late => stream,
            _ => &mut self.data,
        };
        hash.update(bytes);
        stream.file.write_all(bytes)?;
        stream.len += bytes.len() as u64;
        assert!(stream.len <= tensor.end, "{} is longer", tensor.name);
        Ok(())
    }

    /// Ends the tensor, all of whose bytes are there.
    pub(super) fn end(&mut self) -> Written {
        let Open { mut tensor, hash } = self.open.take().expect("a tensor was begun");
        let stream = match &self.late {
            Some(stream) if tensor.late => stream,
            _ => &self.data,
        };
        assert_eq!(stream.len, tensor.end, "bytes of {}", tensor.name);
        tensor.xxh3 = format!("{:016x}", hash.digest());
        self.written.push(tensor.clone());
        tensor
    }

    /// Hands all bytes to the system, so that they survive the end of the process.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let late = self.late.as_mut();
        late.map_or(Ok(()), |stream| stream.file.flush())?;
        self.data.file.flush()
    }

    /// Writes the late tensors and the header, and gives the file its name when all of it is on the disk.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        if self.late.is_some() {
            let mut late = File::open(self.place.late())?;
            for tensor in in_order(&self.written).filter(|tensor| tensor.late) {
                late.seek(SeekFrom::Start(tensor.start))?;
                let bytes = tensor.bytes();
                let copied = io::copy(&mut (&mut late).take(bytes), &mut self.data.file)?;
                if copied != bytes {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
        }
        let file = &mut self.data.file;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&self.place.head(&self.written))?;
        file.flush()?;
        file.get_ref().sync_all()?;
        rename(&self.place.partial(), &self.place.path)?;
        self.place.clear()
    }
}

impl GrowingBytes {
    /// Opens or makes a file, and cuts it after `len` bytes.
    fn open(path: &Path, base: u64, len: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .write(true)
            .truncate(false)
            .open(path)?;
        file.set_len(base + len)?;
        file.seek(SeekFrom::End(0))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { file, len })
    }
}

impl Written {
    pub(super) fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether the bytes are in a file under way, as they were written.
    fn is_in(&self, file: &File, base: u64) -> io::Result<bool> {
        if file.metadata()?.len() < base.saturating_add(self.end) {
            return Ok(false);
        }
        Ok(checksum(file, base + self.start..base + self.end)? == self.xxh3)
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

/// Renames a file within its folder, for good: the folder is on the disk too.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(to)
}

/// Folders can be opened as files on Unix alone; on other systems renaming is as durable as the system makes it.
#[cfg(unix)]
fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| *folder != Path::new(""));
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

fn open_to_read(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}

pub(super) fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(end);
    path.into()
}
