//! Which files of a folder are the weights, where none is in safetensors.
//!
//! | the folder has | the weights |
//! |---|---|
//! | `pytorch_model.bin.index.json` | the files in it |
//! | `pytorch_model.bin`, `consolidated.00.pth`, `model.bpk` | that file |
//! | `pytorch_model-00001-of-00002.bin` … | all shards of the set, of which none may be missing |
//! | one other file with such an ending | that file |
//!
//! Files of trainers and adapters are not looked at.

use super::{ContainerError, TorchError};
use crate::source::{
    BURNPACK, Index, Source, SourceExt, TORCH, UnindexedFiles,
    checkpoint::{ELSEWHERE, INDEX_BYTES_MAX, TORCH_INDEX},
    find_unindexed,
};

/// The first of the files as Meta published them.
const META: &str = "consolidated.00.pth";

/// How the names of files begin that are no weights of a model.
const OTHERS: [&str; 7] = [
    "adapter",
    "events",
    "optimizer",
    "rng_state",
    "scaler",
    "scheduler",
    "training_args",
];

/// The files of weights, and the name of their list.
pub(super) struct FolderFiles {
    pub(super) files: Vec<String>,
    pub(super) listed: Option<&'static str>,
}

/// Finds the files of weights, if there are any.
pub(super) fn find(source: &dyn Source) -> Result<Option<FolderFiles>, ContainerError> {
    let of = |files: Vec<String>, listed| Ok(Some(FolderFiles { files, listed }));
    if let Some(bytes) = source.read_optional_within(TORCH_INDEX, INDEX_BYTES_MAX)? {
        let label = format!("{}/{TORCH_INDEX}", source.describe());
        let index = Index::parse(&label, &bytes)?;
        let files = index.files().into_iter().map(str::to_owned);
        return of(files.collect(), Some(TORCH_INDEX));
    }
    let names = source.list()?;
    let is_there = |name: &str| match &names {
        Some(names) => Ok(names.iter().any(|known| known == name)),
        None => match source.size(name) {
            Ok(_) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        },
    };
    let single = ELSEWHERE.into_iter().filter(|name| *name != TORCH_INDEX);
    for name in single.chain([META]) {
        if !is_there(name)? {
            continue;
        }
        if name == META && is_there("consolidated.01.pth")? {
            let names = names.iter().flatten();
            return Err(TorchError::Parts {
                at: source.describe(),
                file: name.to_owned(),
                count: names
                    .filter(|name| name.starts_with("consolidated."))
                    .count(),
            }
            .into());
        }
        return of(vec![name.to_owned()], None);
    }
    let names = names.unwrap_or_default();
    let is_model = |name: &&String| !OTHERS.iter().any(|other| name.starts_with(other));
    let names: Vec<String> = names.iter().filter(is_model).cloned().collect();
    for end in TORCH.iter().chain([&BURNPACK]) {
        match find_unindexed(&names, end) {
            UnindexedFiles::Nothing => {}
            UnindexedFiles::Files(files) => return of(files, None),
            UnindexedFiles::Incomplete {
                last,
                missing,
                count,
            } => {
                return Err(ContainerError::MissingShards {
                    at: source.describe(),
                    shard: last,
                    missing: missing
                        .iter()
                        .map(usize::to_string)
                        .collect::<Vec<_>>()
                        .join(", "),
                    count,
                });
            }
            UnindexedFiles::Several(files) => {
                return Err(ContainerError::Ambiguous {
                    at: source.describe(),
                    files,
                });
            }
        }
    }
    Ok(None)
}
