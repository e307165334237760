//! A map of a file, copied from or kept.

use std::{fs::File, io, ops::Range, sync::Arc};

use bytes::Bytes;
use memmap2::Mmap;

use crate::source::Access;

/// What is made present and copied at once, in bytes: stays in the processor's cache on the way.
const PIECE: usize = 1 << 20;

/// The whole of a file, most of which is looked at once: the system reads ahead, and does not take pages that were
/// looked at for pages that are used. Where memory is short that halves the time of a load.
#[derive(Debug)]
pub(super) struct Mapped(Arc<Mmap>);

/// A part of the map that is shared.
struct MappedPart {
    map: Arc<Mmap>,
    range: Range<usize>,
}

/// Pages that are needed no more return to the page cache: a load that converts from the map would seem to hold
/// the whole file.
#[cfg(target_os = "linux")]
impl Drop for MappedPart {
    fn drop(&mut self) {
        let Range { start, end } = self.range;
        // SAFETY: the map is shared with its file, so pages that are given back return from the file with the same bytes. (Of a
        // private map, changes would be lost.)
        let _ = unsafe {
            self.map
                .unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
        };
    }
}

impl AsRef<[u8]> for MappedPart {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

impl Mapped {
    pub(super) fn open(file: &File) -> io::Result<Self> {
        // SAFETY: Rust gives no meaning to a `&[u8]` that changes, and nothing keeps other programs from writing to the file.
        // A file that changes is against the contract of `Source`, and the documentation of maps warns of it. If a file changes
        // all the same, every value is a byte, and no check is made on bytes that are read a second time: headers are read into
        // memory, and codes are copied into words before they are checked.
        let map = unsafe { Mmap::map(file) }?;
        let mapped = Self(Arc::new(map));
        mapped.expect(&(0..mapped.0.len()), Access::Once)?;
        Ok(mapped)
    }

    /// The bytes of `range`, or an error if the file has become shorter than it was.
    ///
    /// Touching a page that the file no longer has is a signal and no error. So pages are made present first, which
    /// fails as a read does, and the length is asked for again. Between that and the use there remains a moment.
    pub(super) fn share(
        &self,
        file: &File,
        range: Range<usize>,
        access: Access,
    ) -> io::Result<Bytes> {
        if access == Access::Often {
            self.expect(&range, access)?;
        }
        let starts = range.clone().step_by(PIECE);
        let present = starts.map(|start| self.make_present(start, PIECE.min(range.end - start)));
        let present: io::Result<()> = present.collect();
        self.is_inside(file, range.end)?;
        present?;
        let map = Arc::clone(&self.0);
        Ok(Bytes::from_owner(MappedPart { map, range }))
    }

    /// Fills `into`, or says that the file has become shorter than it was.
    pub(super) fn read_exact_at(
        &self,
        file: &File,
        offset: u64,
        into: &mut [u8],
    ) -> io::Result<()> {
        let mut start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        for piece in into.chunks_mut(PIECE) {
            let range = start..start + piece.len();
            start = range.end;
            piece.copy_from_slice(&self.share(file, range, Access::Once)?);
        }
        Ok(())
    }

    fn is_inside(&self, file: &File, end: usize) -> io::Result<()> {
        if file.metadata()?.len() < end as u64 || end > self.0.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    #[cfg(unix)]
    fn expect(&self, range: &Range<usize>, access: Access) -> io::Result<()> {
        let advice = match access {
            Access::Once => memmap2::Advice::Sequential,
            Access::Often => memmap2::Advice::Normal,
        };
        self.0.advise_range(advice, range.start, range.len())
    }

    #[cfg(not(unix))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as on Unix")]
    fn expect(&self, _: &Range<usize>, _: Access) -> io::Result<()> {
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
