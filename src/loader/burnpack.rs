//! The tensors of a checkpoint as a file of Burn.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use burn_store::burn_pack::{Tensor as PackTensor, Writer};
use serde::Serialize;

use super::store::{Store, StoreError};
use crate::{
    dialect::DECLARED,
    place::folder,
    source::{
        Checkpoint, CheckpointError,
        checkpoint::{BURNPACK_SINGLE, CONFIG},
        json,
    },
};

/// A folder that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SavedBurnpack {
    /// The folder.
    pub folder: PathBuf,
    /// `burnpack`.
    pub dialect: &'static str,
    /// The file of weights.
    pub files: [&'static str; 1],
    /// Bytes of all tensors in it.
    pub bytes_written: u64,
    /// How many tensors there are.
    pub made: usize,
}

impl Store {
    /// Writes all tensors, under their names in the store, to `model.bpk` in `folder`, which is made and has to be empty, and the small
    /// files of the model beside it. Memory holds one tensor at a time, and the file has its name when all of it is written.
    ///
    /// Linear weights stay `[out, in]`: Burn alone reads the file into its modules with
    /// `BurnpackStore::from_file(…).with_from_adapter(PyTorchToBurnAdapter)`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Folder`], [`StoreError::Write`], [`StoreError::Type`], and errors of reading.
    pub fn save_burnpack(&mut self, folder: impl AsRef<Path>) -> Result<SavedBurnpack, StoreError> {
        let folder = folder.as_ref();
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| StoreError::Write {
                path,
                reason: error.to_string(),
            }
        };
        if let Some((tensor, dtype)) = self.unread().into_iter().next() {
            return Err(StoreError::Type { tensor, dtype });
        }
        match fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => {
                return Err(StoreError::Folder {
                    folder: folder.to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder).map_err(at(folder))?;
            }
            Err(error) => return Err(at(folder)(error)),
        }
        let tensors: Vec<PackTensor> = self.all()?.values().cloned().collect();
        let made = tensors.len();
        let bytes_written = tensors.iter().map(|tensor| tensor.byte_len() as u64).sum();
        let path = folder.join(BURNPACK_SINGLE);
        let written = Writer::new(tensors)
            .with_metadata("format", "burnpack")
            .with_metadata("producer", concat!("firebox ", env!("CARGO_PKG_VERSION")))
            .with_metadata("layout", "pytorch")
            .write_to_file(&path);
        self.failed()?;
        written.map_err(|error| StoreError::Write {
            path,
            reason: error.to_string(),
        })?;
        self.write_small(folder, &at)?;
        Ok(SavedBurnpack {
            folder: folder.to_owned(),
            dialect: "burnpack",
            files: [BURNPACK_SINGLE],
            bytes_written,
            made,
        })
    }

    /// Writes the small files, the configuration last: a folder without it is no model.
    fn write_small<E: FnOnce(io::Error) -> StoreError>(
        &self,
        folder: &Path,
        at: &impl Fn(&Path) -> E,
    ) -> Result<(), StoreError> {
        let checkpoint = self.checkpoint();
        let read = |error: CheckpointError| StoreError::Checkpoint(Box::new(error.into()));
        let mut small = Vec::new();
        for file in folder::copied(checkpoint).map_err(read)? {
            small.extend(
                checkpoint
                    .read_optional(&file)
                    .map_err(read)?
                    .map(|bytes| (file, bytes)),
            );
        }
        small.extend(configuration(checkpoint).map(|bytes| (CONFIG.to_owned(), bytes)));
        for (file, bytes) in small {
            let path = folder.join(file);
            let write = || {
                fs::create_dir_all(path.parent().unwrap_or(folder))?;
                let mut file = File::create(&path)?;
                file.write_all(&bytes)?;
                file.sync_all()
            };
            write().map_err(at(&path))?;
        }
        Ok(())
    }
}

/// `config.json` of dense weights; a file of tensors has none.
fn configuration(checkpoint: &Checkpoint) -> Option<Vec<u8>> {
    let known = checkpoint
        .config()
        .as_object()
        .filter(|known| !known.is_empty())?;
    let mut config = known.clone();
    for declared in DECLARED {
        config.remove(declared);
    }
    let mut text = json::pretty(&config.into());
    text.push('\n');
    Some(text.into_bytes())
}
