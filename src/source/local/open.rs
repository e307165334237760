//! A file that is open, and the ways to read it.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, OnceLock},
};

use super::{Direct, mapped::Mapped};

/// A file as it was when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) len: u64,
    /// Where the file is to be mapped.
    pub(super) map: Option<Mapped>,
    /// Where direct reads were asked for or chosen; `None` in it where they do not go.
    direct: OnceLock<Option<Direct>>,
}

impl Opened {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self {
            file,
            len,
            map: None,
            direct: OnceLock::new(),
        })
    }

    pub(super) fn with_map(mut self) -> io::Result<Self> {
        // An empty file cannot be mapped everywhere, and is never read from.
        if self.len > 0 {
            self.map = Some(Mapped::open(&self.file)?);
        }
        Ok(self)
    }

    pub(super) fn with_direct(self) -> io::Result<Self> {
        let direct = Direct::open(&self.file)?;
        Ok(Self {
            direct: OnceLock::from(Some(direct)),
            ..self
        })
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
pub(super) type Shared = Arc<Opened>;

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
