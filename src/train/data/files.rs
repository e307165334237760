//! The files of some paths.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::error::DataError;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataKind {
    /// The file is one document.
    Text,
    /// Each line is a record.
    Lines,
    /// The file is a list of records; while its inside is not known, it may have lines of records too.
    List,
}

impl DataKind {
    fn of(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()? {
            "txt" | "md" => Some(Self::Text),
            "jsonl" => Some(Self::Lines),
            "json" => Some(Self::List),
            _ => None,
        }
    }
}

/// A file of data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DataFile {
    pub(super) path: PathBuf,
    pub(super) kind: DataKind,
}

/// The files that are given and those of the folders, in the order of their names; and what else the folders hold.
pub(super) fn files_of(paths: &[PathBuf]) -> Result<(Vec<DataFile>, Vec<PathBuf>), DataError> {
    let (mut files, mut ignored) = (Vec::new(), Vec::new());
    for path in paths {
        let failed = |source| DataError::File {
            file: path.clone(),
            source,
        };
        let found = fs::metadata(path).map_err(failed)?;
        if !found.is_dir() {
            if !found.is_file() {
                let reason = "is no file that can be read more than once";
                return Err(failed(io::Error::other(reason)));
            }
            let kind = DataKind::of(path).ok_or_else(|| DataError::Kind { file: path.clone() })?;
            let path = path.clone();
            files.push(DataFile { path, kind });
            continue;
        }
        let entries = fs::read_dir(path).map_err(failed)?;
        let entries: Result<Vec<PathBuf>, _> = entries.map(|entry| Ok(entry?.path())).collect();
        let mut entries = entries.map_err(failed)?;
        entries.sort_unstable();
        let before = files.len();
        for path in entries {
            match DataKind::of(&path).filter(|_| path.is_file()) {
                Some(kind) => files.push(DataFile { path, kind }),
                None => ignored.push(path),
            }
        }
        if files.len() == before {
            return Err(DataError::Folder {
                folder: path.clone(),
            });
        }
    }
    Ok((files, ignored))
}
