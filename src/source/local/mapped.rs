//! A map of a file, copied from.

use std::{fs::File, io};

use memmap2::Mmap;

/// What is made present and copied at once, in bytes: stays in the processor's cache on the way.
const PIECE: usize = 1 << 20;

/// The whole of a file.
#[derive(Debug)]
pub(super) struct Mapped(Mmap);

impl Mapped {
    pub(super) fn open(file: &File) -> io::Result<Self> {
        // SAFETY: Memory of a map must not change while there is a reference to it, and other programs may write to
        // the file. References are made in `read_exact_at` alone, for a copy of plain bytes that live no longer; a file
        // that changes is against the contract of `Source`, and gives other bytes, as it does in every other mode.
        unsafe { Mmap::map(file) }.map(Self)
    }

    /// Fills `into`, or says that the file has become shorter than it was.
    ///
    /// Touching a page that the file no longer has is a signal and no error. So pages are made present first, which
    /// fails as a read does, and the length is asked for again. Between that and the copy there remains a moment.
    pub(super) fn read_exact_at(
        &self,
        file: &File,
        offset: u64,
        into: &mut [u8],
    ) -> io::Result<()> {
        let mut start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        for piece in into.chunks_mut(PIECE) {
            let end = start + piece.len();
            let present = self.make_present(start, piece.len());
            if file.metadata()?.len() < end as u64 || end > self.0.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            present?;
            piece.copy_from_slice(&self.0[start..end]);
            start = end;
        }
        Ok(())
    }

    /// One call for what would be a fault a page, and an error for what would be a signal.
    #[cfg(target_os = "linux")]
    fn make_present(&self, start: usize, len: usize) -> io::Result<()> {
        match self
            .0
            .advise_range(memmap2::Advice::PopulateRead, start, len)
        {
            // Before Linux 5.14 there is no such call.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result,
        }
    }

    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as on Linux")]
    fn make_present(&self, _: usize, _: usize) -> io::Result<()> {
        Ok(())
    }
}
