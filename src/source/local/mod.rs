//! A folder on disk, or one safetensors file in it.

#[cfg(target_os = "linux")]
mod direct;
#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod direct;

mod list;
mod mapped;
mod open;
mod probe;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;

use super::{
    Access, FetchTotals, Probe, Source, SourceError, SourceHints, instead, is_weights, stays_inside,
};
use crate::config::Reading;
use open::{OpenFile, Opened};

/// A read of as many bytes is one of many, and the first of them looks at the disk.
const LARGE: usize = 1 << 20;

/// A direct read takes whole blocks for its bytes; a shorter one is one of many that are near each other.
const SHORT: usize = 16 << 10;

/// The files of a folder.
///
/// Each file is opened once and stays open: reads are positional and share the handle, and a file
/// that is replaced on disk meanwhile (renamed over) is still read in its old state.
#[derive(Debug)]
pub struct Local {
    folder: PathBuf,
    weights_file: Option<String>,
    reading: Reading,
    probe: OnceLock<Probe>,
    open: RwLock<HashMap<String, OpenFile>>,
}

impl Local {
    /// A model's folder, or one file of weights: of safetensors, llama.cpp, PyTorch or Burn. Of a file, the folder is its parent, where the
    /// configuration is looked for, and the file is all the weights ([`SourceHints::weights_file`](crate::source::SourceHints::weights_file)).
    ///
    /// # Errors
    ///
    /// [`SourceError::NotAModelPath`] when there is nothing, or something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        let path = path.as_ref();
        let refuse = |found: &str| SourceError::NotAModelPath {
            path: path.display().to_string(),
            found: found.to_owned(),
        };
        let kind = path.metadata().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refuse("there is nothing here"),
            _ => SourceError::Io {
                at: parent_of(path).display().to_string(),
                file: last_part(path),
                source: error,
            },
        })?;
        if kind.is_dir() {
            return Ok(Self::folder(path.to_owned()));
        }
        if !kind.is_file() {
            return Err(refuse("this is neither a folder nor a regular file"));
        }
        let part = last_part(path);
        if !is_weights(&part) {
            let else_is = instead::file(&part);
            return Err(refuse(&format!(
                "this file is none of weights (.safetensors, .gguf, .bin, .pt, .pth, .ckpt, .bpk){else_is}"
            )));
        }
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| stays_inside(name))
            .ok_or_else(|| refuse("this file's name cannot be used"))?;
        Ok(Self {
            weights_file: Some(name.to_owned()),
            ..Self::folder(parent_of(path))
        })
    }

    /// A folder that need not exist yet.
    pub(super) fn folder(folder: PathBuf) -> Self {
        Self {
            folder,
            weights_file: None,
            reading: Reading::default(),
            probe: OnceLock::new(),
            open: RwLock::default(),
        }
    }

    /// How weights are read, [`Reading::Auto`] if not given.
    #[must_use]
    pub fn reading(self, reading: Reading) -> Self {
        Self {
            reading,
            probe: OnceLock::new(),
            open: RwLock::default(),
            ..self
        }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Closes a file; the next read opens what is there then.
    #[cfg(feature = "hub")]
    pub(super) fn forget(&self, file: &str) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.remove(file);
    }

    fn opened(&self, file: &str) -> Result<OpenFile, SourceError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = open.get(file) {
            return Ok(Arc::clone(opened));
        }
        drop(open);

        if !stays_inside(file) {
            return Err(SourceError::Name {
                at: self.describe(),
                file: file.to_owned(),
            });
        }
        // Links are followed: the files of a hub snapshot are links to a folder beside it.
        let path = self.folder.join(file);
        let failed = |error| self.failed(file, error);
        // Looked at before it is opened: opening a pipe waits for a writer.
        let kind = path.metadata().map_err(failed)?;
        if !kind.is_file() {
            return Err(SourceError::NotAFile {
                at: self.describe(),
                file: file.to_owned(),
                found: if kind.is_dir() {
                    "a folder"
                } else {
                    "a pipe, socket or device"
                },
            });
        }
        let mut found = Opened::open(&path).map_err(failed)?;
        if is_weights(file) {
            found = match self.reading {
                Reading::Auto | Reading::Buffered => found,
                Reading::Mapped => found.with_map().map_err(failed)?,
                Reading::Direct => {
                    found
                        .with_direct()
                        .map_err(|error| SourceError::NoDirectReads {
                            at: self.describe(),
                            file: file.to_owned(),
                            file_system: open::file_system(&path),
                            source: error,
                        })?
                }
            };
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster; then all threads use its handle.
        let opened = open
            .entry(file.to_owned())
            .or_insert_with(|| Arc::new(found));
        Ok(Arc::clone(opened))
    }

    /// Reads `len` bytes that start at `offset` by `read`, which is not asked for none.
    fn read<R: Default>(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        read: impl FnOnce(&Opened) -> io::Result<R>,
    ) -> Result<R, SourceError> {
        let opened = self.opened(file)?;
        let end = offset.saturating_add(len as u64);
        if end > opened.len {
            return Err(SourceError::truncated(
                self.describe(),
                file,
                end,
                opened.len,
            ));
        }
        if len == 0 {
            return Ok(R::default());
        }
        match read(&opened) {
            Ok(read) => Ok(read),
            // Cut after it was opened.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let now = opened.file.metadata().map_or(offset, |meta| meta.len());
                Err(SourceError::truncated(self.describe(), file, end, now))
            }
            Err(error) => Err(self.failed(file, error)),
        }
    }

    /// How `len` bytes of `file` are read.
    fn way(&self, file: &str, len: usize) -> Reading {
        match self.reading {
            _ if !is_weights(file) => Reading::Buffered,
            Reading::Auto if len >= LARGE => self.probe.get_or_init(|| self.look()).chosen,
            Reading::Auto => match self.probe.get().map(|probe| probe.chosen) {
                // The page cache has the rest of the block for the next one.
                Some(Reading::Direct) if len < SHORT => Reading::Buffered,
                Some(chosen) => chosen,
                None => Reading::Buffered,
            },
            given => given,
        }
    }

    fn look(&self) -> Probe {
        let mut names: Vec<String> = match &self.weights_file {
            Some(file) => vec![file.clone()],
            None => std::fs::read_dir(&self.folder)
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| is_weights(name))
                .collect(),
        };
        names.sort_unstable();
        // A file that cannot be opened says so when it is read.
        let files: Vec<OpenFile> = names
            .iter()
            .filter_map(|name| self.opened(name).ok())
            .collect();
        probe::look(&files)
    }

    fn failed(&self, file: &str, error: io::Error) -> SourceError {
        let (at, file) = (self.describe(), file.to_owned());
        match error.kind() {
            // A name like `config.json/x` asks for a file inside a file: there is none.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                SourceError::NotFound { at, file }
            }
            _ => SourceError::Io {
                at,
                file,
                source: error,
            },
        }
    }
}

impl Source for Local {
    fn describe(&self) -> String {
        self.folder.display().to_string()
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        Ok(self.opened(file)?.len)
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.read(file, offset, into.len(), |opened| {
            let way = self.way(file, into.len());
            if let (Reading::Mapped, Some(map)) = (way, opened.map()) {
                map.read_exact_at(&opened.file, offset, into)
            } else if let (Reading::Direct, Some(direct)) = (way, opened.direct()) {
                direct.read_exact_at(offset, into)
            } else {
                opened.read_exact_at(offset, into)
            }
        })
    }

    fn hints(&self) -> Option<&dyn SourceHints> {
        Some(self)
    }
}

/// Reads that are under way at once: more win nothing, on a disk or from the page cache.
pub(super) const CONCURRENCY: usize = 2;

impl SourceHints for Local {
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.read(file, offset, into.len(), |opened| {
            opened.read_exact_at(offset, into)
        })
    }

    fn share(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<Bytes>, SourceError> {
        self.read(file, offset, len, |opened| {
            let (Reading::Mapped, Some(map)) = (self.way(file, len), opened.map()) else {
                return Ok(None);
            };
            // The range is inside the file, and the file in memory.
            let start = offset as usize;
            map.share(&opened.file, start..start + len, access)
                .map(Some)
        })
    }

    fn probe(&self) -> Option<Probe> {
        self.probe.get().copied()
    }

    fn weights_file(&self) -> Option<&str> {
        self.weights_file.as_deref()
    }

    fn version(&self) -> Result<Option<String>, SourceError> {
        Ok(None)
    }

    fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
        let failed = |error| self.failed("", error);
        list::files(&self.folder).map(Some).map_err(failed)
    }

    fn unchanged(&self) -> Result<(), SourceError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        for (file, opened) in &*open {
            let changed = opened.changed().map_err(|error| self.failed(file, error))?;
            if let Some(now) = changed {
                return Err(SourceError::Changed {
                    at: self.describe(),
                    file: file.clone(),
                    was: opened.len,
                    now,
                });
            }
        }
        Ok(())
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }

    fn request_bytes(&self) -> Option<u64> {
        None
    }

    fn fetched(&self) -> Option<FetchTotals> {
        None
    }
}

fn parent_of(path: &Path) -> PathBuf {
    // The parent of a bare `model.safetensors` is the empty path, which prints as nothing.
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn last_part(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
