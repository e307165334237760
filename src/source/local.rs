//! A folder on disk, or one safetensors file in it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::{Source, SourceError, stays_inside};

/// The files of a folder.
///
/// Each file is opened once and stays open: reads are positional and share the handle, and a file
/// that is replaced on disk meanwhile (renamed over) is still read in its old state.
#[derive(Debug)]
pub struct Local {
    folder: PathBuf,
    weights_file: Option<String>,
    open: RwLock<HashMap<String, Arc<Opened>>>,
}

#[derive(Debug)]
struct Opened {
    file: File,
    len: u64,
}

impl Local {
    /// A model's folder, or one `.safetensors` file. Of a file, the folder is its parent, where the
    /// configuration is looked for, and the file is all the weights ([`Source::weights_file`]).
    ///
    /// # Errors
    ///
    /// [`SourceError::NotAModelPath`] when there is nothing, or something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        let path = path.as_ref();
        let refuse = |found| SourceError::NotAModelPath {
            path: path.display().to_string(),
            found,
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
        if path.extension().is_none_or(|end| end != "safetensors") {
            return Err(refuse("this file is not a .safetensors file"));
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
            open: RwLock::default(),
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

    fn opened(&self, file: &str) -> Result<Arc<Opened>, SourceError> {
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
        // Looked at before it is opened: opening a pipe waits for somebody to write to it.
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
        let found = open_file(&path).map_err(failed)?;
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster; then its handle is everybody's.
        let opened = open
            .entry(file.to_owned())
            .or_insert_with(|| Arc::new(found));
        Ok(Arc::clone(opened))
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
        let opened = self.opened(file)?;
        let end = offset.saturating_add(into.len() as u64);
        if end > opened.len {
            return Err(SourceError::truncated(self, file, end, opened.len));
        }
        match read_exact_at(&opened.file, offset, into) {
            Ok(()) => Ok(()),
            // Cut after it was opened.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let now = opened.file.metadata().map_or(offset, |meta| meta.len());
                Err(SourceError::truncated(self, file, end, now))
            }
            Err(error) => Err(self.failed(file, error)),
        }
    }

    fn weights_file(&self) -> Option<&str> {
        self.weights_file.as_deref()
    }
}

fn open_file(path: &Path) -> io::Result<Opened> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    Ok(Opened { file, len })
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
