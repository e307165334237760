//! Files of other projects, seen as a checkpoint of transformers.
//!
//! ```text
//! model.gguf   keys ──────► config.json, tokenizer.json or tokenizer.model, tokenizer_config.json
//!              tensors ───► model.safetensors: the names of transformers, the same bytes in the order of transformers
//! ```
//!
//! A container is a view, and the files that it shows are nowhere: planning, loading, saving and comparing see an ordinary
//! checkpoint. Blocks stay blocks, as tensors of the [dialect](crate::dialect) `gguf`.
//!
//! llama.cpp turns pairs of values that are next to each other, transformers values half a head apart; its converter brings
//! the rows of queries and keys into that order for some families. They are read in the order of transformers.
//!
//! Reading order: `keys` (values of one kind each) → `config`, `tokenizer` → `names` → `layout` (where the bytes of a file are) → `view`.

mod config;
mod error;
mod family;
mod keys;
mod layout;
mod names;
mod tokenizer;
mod view;

use std::sync::Arc;

use crate::source::{Source, SourceExt};

pub use error::ContainerError;
use view::GgufView;

/// The end of the name of a GGUF file.
const GGUF: &str = ".gguf";

/// The source itself, or the view of the GGUF file that was named.
///
/// # Errors
///
/// [`ContainerError`] for a file that is damaged, or of an architecture that is not read.
pub(crate) fn opened(source: Arc<dyn Source>) -> Result<Arc<dyn Source>, ContainerError> {
    match source.weights_file() {
        Some(file) if file.ends_with(GGUF) => {
            let file = file.to_owned();
            Ok(Arc::new(GgufView::open(source, &file)?))
        }
        _ => Ok(source),
    }
}
