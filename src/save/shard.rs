//! One safetensors file, written tensor by tensor.
//!
//! The header stands before the data, and what it says of a quantization state is known only when that is
//! written. So room is left for it, and what it does not need is filled with spaces, as the format allows.
//! Readers map tensors into memory and want each at a multiple of its elements: tensors that are not whole
//! eights of bytes, all of them small, come last.
//!
//! `fs`-wise a file is complete or not there: it is written under another name and renamed.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{dialect::Tensor, source::header::LENGTH_BYTES};

/// A file under way.
pub(super) struct Shard {
    file: BufWriter<File>,
    partial: PathBuf,
    path: PathBuf,
    header: Map<String, Value>,
    /// Bytes that the header may have.
    room: u64,
    /// Bytes of data so far.
    len: u64,
    late: Vec<Tensor>,
}

impl Shard {
    /// Begins `path`, whose header will have `room` bytes at most. `format` is what it says of itself.
    pub(super) fn create(path: &Path, format: &str, room: u64) -> io::Result<Self> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let room = room.next_multiple_of(8);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
        file.seek(SeekFrom::Start(LENGTH_BYTES as u64 + room))?;
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": format }));
        Ok(Self {
            file,
            partial,
            path: path.to_owned(),
            header,
            room,
            len: 0,
            late: Vec::new(),
        })
    }

    pub(super) fn push(&mut self, tensor: Tensor) -> io::Result<()> {
        if tensor.bytes.len().is_multiple_of(8) {
            self.write(&tensor)
        } else {
            self.late.push(tensor);
            Ok(())
        }
    }

    fn write(&mut self, tensor: &Tensor) -> io::Result<()> {
        self.file.write_all(&tensor.bytes)?;
        let end = self.len + tensor.bytes.len() as u64;
        let entry = json!({
            "dtype": tensor.dtype.name(),
            "shape": tensor.shape,
            "data_offsets": [self.len, end],
        });
        self.header.insert(tensor.name.clone(), entry);
        self.len = end;
        Ok(())
    }

    /// Writes what is left and gives the file its name. Bytes of data.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        let mut late = core::mem::take(&mut self.late);
        late.sort_by_key(|tensor| core::cmp::Reverse(tensor.dtype.bits()));
        for tensor in &late {
            self.write(tensor)?;
        }
        let mut header = serde_json::to_vec(&self.header)?;
        let room = self.room as usize;
        assert!(
            header.len() <= room,
            "room for {} bytes of header",
            header.len()
        );
        header.resize(room, b' ');
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&self.room.to_le_bytes())?;
        self.file.write_all(&header)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.partial, &self.path)?;
        Ok(self.len)
    }
}
