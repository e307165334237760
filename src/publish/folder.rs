//! The folder that is published: its files with lengths and checksums.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{error::PublishError, pushed::PushedFile};
use crate::{
    place::folder::JOURNAL,
    source::{
        GGUF,
        checkpoint::{CONFIG, INDEX},
    },
};

/// Endings of files of weights.
const WEIGHTS: [&str; 3] = [".safetensors", GGUF, ".bpk"];
/// The record of a finished save.
const RECORD: &str = ".firebox-saved.json";

/// A finished model in a folder of this machine.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// In the order in which they are sent: weights, small files, the index, the configuration.
    pub(super) files: Vec<FolderFile>,
    pub(super) config: Value,
    /// The record of the save that made it; null where there is none.
    pub(super) record: Value,
}

/// A file of the folder.
#[derive(Debug)]
pub(super) struct FolderFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    from: FileBytes,
}

#[derive(Debug)]
enum FileBytes {
    Disk(PathBuf),
    /// A file that is made up for the publication.
    Memory(Vec<u8>),
}

impl Folder {
    /// Reads names, lengths and checksums. Names that begin with a dot are not published.
    pub(super) fn read(path: &Path) -> Result<Self, PublishError> {
        let no_model = |reason: &str| PublishError::NoModel {
            folder: path.to_owned(),
            reason: reason.to_owned(),
        };
        if path.join(JOURNAL).exists() {
            return Err(no_model("its save was interrupted"));
        }
        let json = |name: &str| {
            let text = fs::read(path.join(name)).ok();
            text.and_then(|text| serde_json::from_slice(&text).ok())
        };
        let config: Option<Value> = json(CONFIG);
        let mut names = Vec::new();
        collect(path, "", &mut names)?;
        // GGUF files have their configuration inside.
        let gguf = names.iter().any(|name| name.ends_with(GGUF));
        let Some(config) = config.or(gguf.then_some(Value::Null)) else {
            return Err(no_model("it has no config.json"));
        };
        let is_weights = |name: &String| WEIGHTS.iter().any(|end| name.ends_with(end));
        if !names.iter().any(is_weights) {
            return Err(no_model("it has no file of weights"));
        }
        let mut files = names
            .into_iter()
            .map(|name| FolderFile::read(path, name))
            .collect::<Result<Vec<_>, _>>()?;
        files.sort_by_key(|file| (rank(&file.name), file.name.clone()));
        Ok(Self {
            path: path.to_owned(),
            files,
            config,
            record: json(RECORD).unwrap_or(Value::Null),
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.name == name)
    }

    /// Adds a file that is not on the disk.
    pub(super) fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.push(FolderFile {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            sha256: hex(&Sha256::digest(&bytes)),
            from: FileBytes::Memory(bytes),
        });
        self.files
            .sort_by_key(|file| (rank(&file.name), file.name.clone()));
    }

    /// Bytes of all files of weights.
    pub(super) fn bytes_of_weights(&self) -> u64 {
        let weights = self.files.iter().filter(|file| rank(&file.name) == 0);
        weights.map(|file| file.bytes).sum()
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Weights first, the configuration last.
fn rank(name: &str) -> u8 {
    match name {
        INDEX => 2,
        CONFIG => 3,
        name if WEIGHTS.iter().any(|end| name.ends_with(end)) => 0,
        _ => 1,
    }
}

impl FolderFile {
    fn read(folder: &Path, name: String) -> Result<Self, PublishError> {
        let path = folder.join(&name);
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let read = (|| {
            let mut file = File::open(&path)?;
            let mut piece = vec![0; 1 << 20];
            loop {
                match file.read(&mut piece)? {
                    0 => return Ok(()),
                    read => {
                        hash.update(&piece[..read]);
                        bytes += read as u64;
                    }
                }
            }
        })();
        read.map_err(failed(&path))?;
        Ok(Self {
            name,
            bytes,
            sha256: hex(&hash.finalize()),
            from: FileBytes::Disk(path),
        })
    }

    /// Opens the file. It is refused at its end if it has changed.
    pub(super) fn open(&self) -> Result<FileReader<'_>, PublishError> {
        let bytes: Box<dyn Read + Send> = match &self.from {
            FileBytes::Disk(path) => Box::new(File::open(path).map_err(failed(path))?),
            FileBytes::Memory(bytes) => Box::new(io::Cursor::new(bytes.clone())),
        };
        Ok(FileReader {
            file: self,
            bytes,
            hash: Sha256::new(),
        })
    }

    /// Some bytes of the file. Who takes them compares their checksum.
    #[cfg(feature = "hub")]
    pub(super) fn part(&self, offset: u64, len: u64) -> Result<Box<dyn Read + Send>, PublishError> {
        match &self.from {
            FileBytes::Disk(path) => {
                let opened = File::open(path).and_then(|mut file| {
                    file.seek(SeekFrom::Start(offset))?;
                    Ok(file)
                });
                Ok(Box::new(opened.map_err(failed(path))?.take(len)))
            }
            FileBytes::Memory(bytes) => {
                let part = &bytes[offset as usize..(offset + len) as usize];
                Ok(Box::new(io::Cursor::new(part.to_vec())))
            }
        }
    }

    /// What is said of it when it is published.
    pub(super) fn pushed(&self, was_there: bool) -> PushedFile {
        PushedFile {
            name: self.name.clone(),
            bytes: self.bytes,
            sha256: self.sha256.clone(),
            was_there,
        }
    }

    /// All bytes of a small file.
    pub(super) fn whole(&self) -> Result<Vec<u8>, PublishError> {
        let mut reader = self.open()?;
        let mut bytes = vec![0; self.bytes as usize];
        reader.fill(&mut bytes)?;
        reader.end()?;
        Ok(bytes)
    }

    fn path(&self) -> PathBuf {
        match &self.from {
            FileBytes::Disk(path) => path.clone(),
            FileBytes::Memory(_) => PathBuf::from(&self.name),
        }
    }
}

/// The bytes of a file, in order.
pub(super) struct FileReader<'a> {
    file: &'a FolderFile,
    bytes: Box<dyn Read + Send>,
    hash: Sha256,
}

impl FileReader<'_> {
    /// The next bytes, all of `into`.
    pub(super) fn fill(&mut self, into: &mut [u8]) -> Result<(), PublishError> {
        match self.bytes.read_exact(into) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.changed()),
            read => read.map_err(failed(&self.file.path())),
        }?;
        self.hash.update(&*into);
        Ok(())
    }

    /// Refuses a file whose bytes are not those of its checksum.
    pub(super) fn end(self) -> Result<(), PublishError> {
        let changed = self.changed();
        match hex(&self.hash.finalize()) == self.file.sha256 {
            true => Ok(()),
            false => Err(changed),
        }
    }

    fn changed(&self) -> PublishError {
        PublishError::Changed {
            path: self.file.path(),
        }
    }
}

/// Names of all files below a folder, relative to it.
fn collect(root: &Path, below: &str, into: &mut Vec<String>) -> Result<(), PublishError> {
    let folder = root.join(below);
    for entry in fs::read_dir(&folder).map_err(failed(&folder))? {
        let entry = entry.map_err(failed(&folder))?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|_| {
            failed(&path)(io::Error::new(
                io::ErrorKind::InvalidInput,
                "its name is not UTF-8",
            ))
        })?;
        if name.starts_with('.') {
            continue;
        }
        let name = match below {
            "" => name,
            below => format!("{below}/{name}"),
        };
        // Links are followed: the cache of the hub consists of them.
        match path.metadata().map_err(failed(&path))?.is_dir() {
            true => collect(root, &name, into)?,
            false => into.push(name),
        }
    }
    Ok(())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PublishError + use<> {
    let path = path.to_owned();
    move |source| PublishError::Read { path, source }
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
