//! Reads past the page cache.
//!
//! Such reads have to begin and end at multiples of the disk's blocks, in the file and in memory. Tensors begin
//! anywhere. So the bytes come into an aligned buffer and are copied from there, except where file and memory are off by
//! the same: then all but the first and last block come straight to where they belong.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    sync::{Mutex, PoisonError},
};

use rustix::fs::OFlags;

/// What reads are aligned to, in bytes. No common disk asks for more; one that does is refused by the read in
/// [`Direct::open`].
pub(super) const ALIGN: usize = 4096;

/// Bytes of a buffer.
const BOUNCE: usize = 1 << 20;

/// A second handle of a file.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// Buffers that no thread is using: as many as threads have read at once.
    idle: Mutex<Vec<Bounce>>,
}

impl Direct {
    /// Opens the file of `file` again, even if another file has its name by now.
    ///
    /// # Errors
    ///
    /// When the file system has no direct reads; some say so only when they are read from.
    pub(super) fn open(file: &File) -> io::Result<Self> {
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
        let direct = Self {
            file: OpenOptions::new()
                .read(true)
                .custom_flags(flags)
                .open(format!("/proc/self/fd/{}", file.as_raw_fd()))?,
            idle: Mutex::default(),
        };
        let mut bounce = Bounce::new();
        read_at(&direct.file, &mut bounce.bytes()[..ALIGN], 0)?;
        direct.give_back(bounce);
        Ok(direct)
    }

    pub(super) fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut bounce = None;
        let result = self.fill(offset, into, &mut bounce);
        if let Some(bounce) = bounce {
            self.give_back(bounce);
        }
        result
    }

    fn fill(
        &self,
        mut offset: u64,
        mut into: &mut [u8],
        bounce: &mut Option<Bounce>,
    ) -> io::Result<()> {
        while !into.is_empty() {
            let skip = (offset % ALIGN as u64) as usize;
            let to_aligned = into.as_ptr().align_offset(ALIGN);
            let straight = into.len() - into.len() % ALIGN;
            let done = if skip == 0 && to_aligned == 0 && straight > 0 {
                read_at(&self.file, &mut into[..straight], offset)?
            } else {
                // Where the blocks of file and memory fall together, only up to the next one.
                let together = to_aligned == (ALIGN - skip) % ALIGN && to_aligned < into.len();
                let wanted = if together && to_aligned > 0 {
                    to_aligned
                } else {
                    into.len()
                };
                let span = (skip + wanted).next_multiple_of(ALIGN).min(BOUNCE);
                let bytes = bounce.get_or_insert_with(|| self.borrow()).bytes();
                let read = read_at(&self.file, &mut bytes[..span], offset - skip as u64)?;
                let got = read.saturating_sub(skip).min(wanted);
                into[..got].copy_from_slice(&bytes[skip..skip + got]);
                got
            };
            if done == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += done as u64;
            into = &mut into[done..];
        }
        Ok(())
    }

    fn borrow(&self) -> Bounce {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop().unwrap_or_else(Bounce::new)
    }

    fn give_back(&self, bounce: Bounce) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(bounce);
    }
}

fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(into, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// An aligned buffer: the aligned part of a larger one.
#[derive(Debug)]
struct Bounce {
    memory: Vec<u8>,
    start: usize,
}

impl Bounce {
    fn new() -> Self {
        let memory = vec![0; BOUNCE + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Self { memory, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..BOUNCE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Auto` opens a file a second time long after the first.
    #[test]
    fn it_is_the_same_file_whatever_has_its_name() {
        let folder = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("w");
        std::fs::write(&path, [1; 9000]).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::write(folder.path().join("new"), [2; 9000]).unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        let Ok(direct) = Direct::open(&file) else {
            return; // Not on this file system.
        };
        let mut into = [0; 5000];
        direct.read_exact_at(3000, &mut into).unwrap();
        assert_eq!(into, [1; 5000]);
    }
}
