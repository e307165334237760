//! The bytes of streamed weights, in host memory or in a file.

use core::ops::Range;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use burn::tensor::Bytes;

use crate::{collective::Together, config::StreamFrom};

/// Stores bytes.
#[derive(Debug)]
pub(crate) enum Shelf {
    Host,
    Disk(Arc<Spill>),
}

/// Stored bytes.
#[derive(Debug)]
pub(crate) enum Shelved {
    /// Some of `len` bytes; the others are on other ranks. They come together whenever they are needed.
    Apart {
        mine: Vec<u8>,
        len: usize,
        together: Together,
    },
    /// Shared: a copy of the handle is no copy of the bytes.
    Host(Bytes),
    Disk {
        spill: Arc<Spill>,
        at: u64,
        len: usize,
    },
}

impl Shelf {
    pub(crate) fn new(keep: &StreamFrom) -> io::Result<Self> {
        Ok(match keep {
            StreamFrom::Host => Self::Host,
            StreamFrom::Disk(folder) => Self::Disk(Arc::new(Spill::new(folder)?)),
        })
    }

    pub(crate) fn put(&self, bytes: Bytes) -> io::Result<Shelved> {
        Ok(match self {
            Self::Host => Shelved::Host(bytes.shared()),
            Self::Disk(spill) => Shelved::Disk {
                at: spill.append(&bytes)?,
                len: bytes.len(),
                spill: Arc::clone(spill),
            },
        })
    }
}

impl Shelved {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Host(bytes) => bytes.len(),
            Self::Disk { len, .. } | Self::Apart { len, .. } => *len,
        }
    }

    /// All bytes, for a device. Bytes in host memory are not copied.
    pub(super) fn all(&self) -> io::Result<Bytes> {
        match self {
            Self::Host(bytes) => Ok(bytes.clone()),
            Self::Disk { len, .. } => {
                let mut bytes = room(*len);
                self.read(0, &mut bytes)?;
                Ok(bytes)
            }
            Self::Apart {
                mine,
                len,
                together,
            } => {
                let mut bytes = room(*len);
                bytes.copy_from_slice(&together.joined(mine, *len));
                Ok(bytes)
            }
        }
    }

    /// Whether other ranks have some of them.
    pub(super) fn is_apart(&self) -> bool {
        matches!(self, Self::Apart { .. })
    }

    /// Whether all bytes are no more work than some of them.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self, Self::Host(_) | Self::Apart { .. })
    }

    /// Fills `into` with the bytes that begin with the one at `first`.
    pub(super) fn read(&self, first: usize, into: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Host(bytes) => {
                into.copy_from_slice(&bytes[first..][..into.len()]);
                Ok(())
            }
            Self::Disk { spill, at, .. } => spill.read(at + first as u64, into),
            Self::Apart { .. } => {
                into.copy_from_slice(&self.all()?[first..][..into.len()]);
                Ok(())
            }
        }
    }

    /// Some of the `u32`s.
    pub(super) fn words(&self, range: Range<usize>) -> io::Result<Vec<u32>> {
        let mut words = vec![0; range.len()];
        self.read(
            range.start * size_of::<u32>(),
            bytemuck::cast_slice_mut(&mut words),
        )?;
        Ok(words)
    }
}

/// Memory for `len` bytes, aligned for `u32`s, or for an odd number of halves.
pub(super) fn room(len: usize) -> Bytes {
    if len.is_multiple_of(size_of::<u32>()) {
        Bytes::from_elems(vec![0_u32; len / size_of::<u32>()])
    } else {
        Bytes::from_elems(vec![0_u16; len / size_of::<u16>()])
    }
}

/// A temporary file, removed with its last user.
#[derive(Debug)]
pub(crate) struct Spill {
    file: File,
    /// For messages.
    folder: PathBuf,
    /// Its path, while it has one. On Unix the path is removed at once, so that nothing is left however the process ends.
    path: Option<PathBuf>,
    end: Mutex<u64>,
}

impl Spill {
    fn new(folder: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(folder)?;
        // Another process that had this number may have left its file.
        let (file, path) = loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("firebox-{}-{count}.weights", process::id()));
            match OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
            {
                Ok(file) => break (file, path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        let named = !(cfg!(unix) && fs::remove_file(&path).is_ok());
        Ok(Self {
            file,
            folder: folder.to_owned(),
            path: named.then_some(path),
            end: Mutex::new(0),
        })
    }

    fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let at = *end;
        let mut file = &self.file;
        let written = file
            .seek(SeekFrom::Start(at))
            .and_then(|_| file.write_all(bytes));
        // A disk that is full says so without a name.
        written.map_err(|error| {
            let (folder, len) = (self.folder.display(), bytes.len());
            let reason =
                format!("{folder}: {len} bytes of weights to stream from, after {at}: {error}");
            io::Error::new(error.kind(), reason)
        })?;
        *end = at + bytes.len() as u64;
        Ok(at)
    }

    #[cfg(unix)]
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, into, at)
    }

    #[cfg(not(unix))]
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let _alone = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(at))?;
        io::Read::read_exact(&mut file, into)
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // There is nobody to report a failure to.
            let _ = fs::remove_file(path);
        }
    }
}
