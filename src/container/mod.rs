//! Files of other projects, seen as a checkpoint of transformers.
//!
//! ```text
//! model.gguf   keys ──────► config.json, tokenizer.json, tokenizer_config.json
//!              tensors ───► model.safetensors: the names of transformers, the same bytes in the order of transformers
//! ```
//!
//! A container is a view, and the files that it shows are nowhere: planning, loading, saving and comparing see an ordinary
//! checkpoint. Blocks stay blocks, as tensors of the [dialect](crate::dialect) `gguf`.
//!
//! llama.cpp turns pairs of values that are next to each other, transformers values half a head apart; its converter brings
//! the rows of queries and keys into that order for some families. They are read in the order of transformers.
//!
//! Reading order: `choice` (which file) → `parts` (its headers) → `keys` (values of one kind each) → `family` → `config` with `rotary`
//! and `special`, `tokenizer` with `cutting` and `pieces` → `names` →
//! `order` and `columns` → `layout` with `halves` (where the bytes of a file are) → `near`, `rows` → `view`. `written` goes the other way.
//!
//! Files of PyTorch and of Burn have the names of transformers already, and the small files lie beside them: they keep their names, and
//! are shown as safetensors. Reading order: `strided` (values that do not lie one after another) → `found` → `torch`, `burnpack` →
//! `files` (the view) → `folder` (which files of a folder are meant).

mod burnpack;
mod choice;
mod columns;
mod config;
mod cutting;
mod cuttings;
mod error;
mod family;
mod file_tensors;
mod files;
mod folder;
mod found;
mod gemma4;
mod halves;
mod hybrid;
mod keys;
mod layout;
mod mixture;
mod names;
mod near;
mod order;
mod parts;
mod pieces;
mod read_bytes;
mod rotary;
mod rows;
mod shown;
mod special;
mod strided;
mod tokenizer;
mod tokens;
mod torch;
mod unfold;
mod view;
mod written;

use std::sync::Arc;

use crate::source::{BURNPACK, GGUF, Source, SourceExt, TORCH};

pub use error::ContainerError;
use files::FilesView;
use folder::FolderFiles;
use found::FoundFile;
pub(crate) use mixture::mix;
pub use torch::TorchError;
use view::GgufView;
pub(crate) use written::{
    GgufFile, GgufOut, GgufSource, GgufVocabulary, GgufWeight, MODEL, WeightKind, beside,
    file_name, moved_columns,
};

/// A source that shows safetensors, and what a user should know of the files that it shows them for.
#[derive(Debug)]
pub(crate) struct OpenedContainer {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) notes: Vec<String>,
}

/// The source itself, or the view of the file of another project in it: the one that was named, or the only GGUF file where there
/// is no configuration. `word` is the name of a GGUF file, or a word in it, such as `Q4_K_M`.
///
/// # Errors
///
/// [`ContainerError`] for a file that is damaged, or that holds no model, and where there is not one file of that word.
pub(crate) fn named(
    source: Arc<dyn Source>,
    word: Option<&str>,
) -> Result<OpenedContainer, ContainerError> {
    let file = match source.weights_file() {
        Some(file) => file.to_owned(),
        None => choice::chosen(&*source, word)?.unwrap_or_default(),
    };
    let notes = Vec::new();
    if file.ends_with(GGUF) {
        let source = Arc::new(GgufView::open(source, &file)?);
        return Ok(OpenedContainer { source, notes });
    }
    match is_shown(&file) {
        true => shown(source, vec![file], None),
        false => Ok(OpenedContainer { source, notes }),
    }
}

/// A model of the hub, and what its GGUF file is named, or has in its name: `org/model:file.gguf`, `org/model:Q4_K_M`.
pub(crate) fn file_of_hub(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((model, file)) if !file.is_empty() && !file.starts_with('/') => (model, Some(file)),
        _ => (name, None),
    }
}

/// The view of the files of another project in a source that has no weights in safetensors, if there are any.
///
/// # Errors
///
/// [`ContainerError`] for a file that is damaged or that holds no model, and where it is not known which files are meant.
pub(crate) fn in_folder(
    source: &Arc<dyn Source>,
) -> Result<Option<OpenedContainer>, ContainerError> {
    match folder::find(&**source)? {
        Some(FolderFiles { files, listed }) => shown(Arc::clone(source), files, listed).map(Some),
        None => Ok(None),
    }
}

fn is_shown(file: &str) -> bool {
    let mut ends = TORCH.iter().chain([&BURNPACK]);
    ends.any(|end| file.ends_with(end))
}

fn shown(
    source: Arc<dyn Source>,
    names: Vec<String>,
    listed: Option<&'static str>,
) -> Result<OpenedContainer, ContainerError> {
    let mut files = Vec::with_capacity(names.len());
    let mut notes = Vec::new();
    for name in names {
        let read = match name.ends_with(BURNPACK) {
            true => burnpack::read(&*source, &name),
            false => torch::read(&*source, &name),
        };
        match read {
            Ok(FoundFile {
                tensors,
                notes: of_file,
            }) => {
                notes.extend(of_file);
                files.push((name, tensors));
            }
            // Opening the checkpoint names the missing file.
            Err(ContainerError::Source(error)) if error.is_absent() && listed.is_some() => {}
            Err(error) => return Err(error),
        }
    }
    let source = Arc::new(FilesView::new(source, files, listed));
    Ok(OpenedContainer { source, notes })
}
