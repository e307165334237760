//! A file that is open, and the ways to read it.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use super::{direct::Direct, mapped::Mapped};

/// A file as it was when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) len: u64,
    /// When it was last written to, where the system tells.
    modified: Option<SystemTime>,
    /// Where a map was asked for or chosen; `None` in it where there can be none.
    map: OnceLock<Option<Mapped>>,
    /// Where direct reads were; `None` in it where they do not go.
    direct: OnceLock<Option<Direct>>,
}

impl Opened {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let found = file.metadata()?;
        Ok(Self {
            file,
            len: found.len(),
            modified: found.modified().ok(),
            map: OnceLock::new(),
            direct: OnceLock::new(),
        })
    }

    /// Bytes that it has now, if it was written to since it was opened.
    pub(super) fn changed(&self) -> io::Result<Option<u64>> {
        let now = self.file.metadata()?;
        let same = (now.len(), now.modified().ok()) == (self.len, self.modified);
        Ok((!same).then_some(now.len()))
    }

    pub(super) fn with_map(self) -> io::Result<Self> {
        // An empty file cannot be mapped everywhere, and is never read from.
        let map = (self.len > 0).then(|| Mapped::open(&self.file));
        Ok(Self {
            map: OnceLock::from(map.transpose()?),
            ..self
        })
    }

    pub(super) fn with_direct(self) -> io::Result<Self> {
        let direct = Direct::open(&self.file)?;
        Ok(Self {
            direct: OnceLock::from(Some(direct)),
            ..self
        })
    }

    pub(super) fn map(&self) -> Option<&Mapped> {
        self.map
            .get_or_init(|| Mapped::open(&self.file).ok())
            .as_ref()
    }

    pub(super) fn direct(&self) -> Option<&Direct> {
        self.direct
            .get_or_init(|| Direct::open(&self.file).ok())
            .as_ref()
    }

    /// Through the page cache.
    pub(super) fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        read_exact_at(&self.file, offset, into)
    }
}

/// A file of a folder.
pub(super) type OpenFile = Arc<Opened>;

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
    use std::os::windows::fs::FileExt;

    while !into.is_empty() {
        match file.seek_read(into, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                into = &mut into[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether `file` is on a disk of this machine, as far as one can tell: one that a cable or a server cannot take away
/// from a map.
#[cfg(target_os = "linux")]
pub(super) fn is_local(file: &File) -> bool {
    /// Which `libc` does not name.
    const ZFS_SUPER_MAGIC: libc::c_long = 0x2fc1_2fc1;
    const LOCAL: [libc::c_long; 7] = [
        libc::BTRFS_SUPER_MAGIC,
        libc::EXT4_SUPER_MAGIC,
        libc::F2FS_SUPER_MAGIC,
        libc::OVERLAYFS_SUPER_MAGIC,
        libc::TMPFS_MAGIC,
        libc::XFS_SUPER_MAGIC,
        ZFS_SUPER_MAGIC,
    ];
    rustix::fs::fstatfs(file).is_ok_and(|found| LOCAL.contains(&(found.f_type as libc::c_long)))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_local(_: &File) -> bool {
    false
}

/// The file system that `file` is on, by its name: `ext4`, `nfs4`.
pub(super) fn file_system(file: &Path) -> String {
    mounted(file).unwrap_or_else(|| "its file system".to_owned())
}

#[cfg(target_os = "linux")]
fn mounted(file: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    let device = file.metadata().ok()?.dev();
    let device = format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    // `36 35 98:0 /root /mount options … - type device options`
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some(&device))?;
    let (_, kind) = line.split_once(" - ")?;
    Some(kind.split(' ').next()?.to_owned())
}

#[cfg(not(target_os = "linux"))]
fn mounted(_: &Path) -> Option<String> {
    None
}
