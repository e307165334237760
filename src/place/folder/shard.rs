//! One file of weights, written tensor by tensor, each in pieces if need be.
//!
//! In a safetensors file, the header stands before the data, and part of it (the size of a quantization state) is known only after the data is
//! written. So room is left for the header, and spaces fill the rest of the room, as the format allows.
//! Readers map tensors into memory and want each at a multiple of its elements: tensors that are not whole
//! eights of bytes come last. Until then they wait apart.
//!
//! The header of a GGUF file is known whole before anything is written. Its tensors lie in the order of the plan, each padded.
//!
//! An incomplete file can be opened again where its bytes survive, and goes on after the last tensor whose bytes agree with their
//! checksum.

use core::ops::Range;
use std::io;

use xxhash_rust::xxh3::Xxh3;

use super::{
    output::{Output, ShardBytes},
    written::{ShardKind, ShardPlace, Written, ends, in_order},
};
use crate::source::StoredType;

/// A file under way.
pub(super) struct ShardFile {
    place: ShardPlace,
    bytes: Box<dyn ShardBytes>,
    /// Bytes of the data, and of the late tensors.
    lens: [u64; 2],
    written: Vec<Written>,
    open: Option<Open>,
}

/// A tensor that is to be written.
#[derive(Debug)]
pub(super) struct ShardTensor {
    pub(super) name: String,
    /// The name of its type.
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: u64,
}

impl ShardTensor {
    pub(super) fn new(name: &str, dtype: StoredType, shape: &[usize]) -> Self {
        Self {
            name: name.to_owned(),
            dtype: dtype.name().to_owned(),
            shape: shape.to_vec(),
            bytes: shape.iter().product::<usize>() as u64 * dtype.bits() / 8,
        }
    }
}

/// A tensor under way.
struct Open {
    tensor: Written,
    hash: Box<Xxh3>,
}

impl ShardFile {
    /// Begins a file.
    pub(super) fn create(output: &dyn Output, place: ShardPlace) -> io::Result<Self> {
        let bytes = output.begin(&place)?;
        Ok(Self::new(place, bytes, Vec::new()))
    }

    /// Goes on with a file after the last of `steps` whose tensors are intact, with those of all steps before it. Returns
    /// the number of these steps; no file where nothing of it is there.
    pub(super) fn reopen(
        output: &dyn Output,
        place: ShardPlace,
        steps: &[Vec<Written>],
    ) -> io::Result<(Option<Self>, usize)> {
        let (sound, bytes) = output.reopen(&place, steps)?;
        let written = steps[..sound].concat();
        let shard = bytes.map(|bytes| Self::new(place, bytes, written));
        Ok((shard, sound))
    }

    fn new(place: ShardPlace, bytes: Box<dyn ShardBytes>, written: Vec<Written>) -> Self {
        let [data, late] = ends(written.iter());
        Self {
            lens: [place.aligned(data), late],
            place,
            bytes,
            written,
            open: None,
        }
    }

    /// Whether a tensor is under way.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Begins a tensor, which has to be [ended](Self::end) before the next.
    pub(super) fn begin(&mut self, tensor: ShardTensor) {
        let ShardTensor {
            name,
            dtype,
            shape,
            bytes,
        } = tensor;
        assert!(self.open.is_none(), "{name} begins within another tensor");
        let waits = matches!(self.place.kind, ShardKind::Safetensors { .. });
        let late = waits && !bytes.is_multiple_of(8);
        let start = self.lens[usize::from(late)];
        let tensor = Written {
            name,
            dtype,
            shape,
            start,
            end: start + bytes,
            late,
            xxh3: String::new(),
        };
        let hash = Box::new(Xxh3::new());
        self.open = Some(Open { tensor, hash });
    }

    /// The next bytes of the tensor.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Open { tensor, hash } = self.open.as_mut().expect("a tensor was begun");
        hash.update(bytes);
        self.bytes.append(tensor.late, bytes)?;
        let len = &mut self.lens[usize::from(tensor.late)];
        *len += bytes.len() as u64;
        assert!(*len <= tensor.end, "{} is longer", tensor.name);
        Ok(())
    }

    /// Ends the tensor, all of whose bytes are there.
    pub(super) fn end(&mut self) -> io::Result<Written> {
        let Open { mut tensor, hash } = self.open.take().expect("a tensor was begun");
        let len = self.lens[usize::from(tensor.late)];
        assert_eq!(len, tensor.end, "bytes of {}", tensor.name);
        tensor.xxh3 = format!("{:016x}", hash.digest());
        self.written.push(tensor.clone());
        let [data, _] = &mut self.lens;
        let padded = self.place.aligned(*data);
        self.bytes
            .append(false, &vec![0; (padded - *data) as usize])?;
        *data = padded;
        Ok(tensor)
    }

    /// [`ShardBytes::flush`].
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.bytes.flush()
    }

    /// Writes the late tensors and the header: the file is complete.
    pub(super) fn finish(self) -> io::Result<()> {
        let late = in_order(&self.written).filter(|tensor| tensor.late);
        let late: Vec<Range<u64>> = late.map(Written::range).collect();
        self.bytes.finish(&self.place.head(&self.written), &late)
    }
}
