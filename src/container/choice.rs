//! Which of the GGUF files of a place is the model.

use super::ContainerError;
use crate::source::{GGUF, SAFETENSORS, Source, SourceExt, checkpoint::CONFIG};

/// Files with this in their names are beside a model: they read pictures.
const BESIDE: &str = "mmproj";

/// The file of a folder that changes a model which is elsewhere.
const ADAPTER: &str = "adapter_config.json";

/// The file that is meant; `None` where none was named and the place has a configuration, other weights or no such file.
pub(super) fn chosen(
    source: &dyn Source,
    named: Option<&str>,
) -> Result<Option<String>, ContainerError> {
    if named.is_none() && source.size(CONFIG).is_ok() {
        return Ok(None);
    }
    // A place that cannot be listed says more where its files are asked for.
    let files = source.list().ok().flatten().unwrap_or_default();
    // Other weights, or a base elsewhere, come first.
    let is_other = |file: &String| file.ends_with(SAFETENSORS) || file == ADAPTER;
    if named.is_none() && files.iter().any(is_other) {
        return Ok(None);
    }
    let models: Vec<String> = files.into_iter().filter(|file| is_model(file)).collect();
    let is_meant = |file: &&String| match named {
        None => true,
        Some(named) => words(file).contains(&format!("-{}-", plain(named))),
    };
    if let Some(named) = named.filter(|named| named.ends_with(GGUF)) {
        return Ok(Some(named.to_owned()));
    }
    let mut meant = models.iter().filter(is_meant);
    match (meant.next(), meant.next(), named) {
        (Some(file), None, _) => Ok(Some(file.clone())),
        (None, None, None) => Ok(None),
        (one, _, _) => Err(ContainerError::Choice {
            at: source.describe(),
            found: match (one, named) {
                (None, Some(named)) => format!("no GGUF file with {named:?} in its name"),
                _ => "several GGUF files".to_owned(),
            },
            files: models.join(", "),
        }),
    }
}

/// Whether a file is a model, and of one in parts the first part.
fn is_model(file: &str) -> bool {
    let Some(name) = file.strip_suffix(GGUF) else {
        return false;
    };
    let later = name
        .rsplit_once("-of-")
        .is_some_and(|(before, _)| !before.ends_with("-00001"));
    !later && !name.contains(BESIDE)
}

/// The words of a name, each between two dashes.
fn words(file: &str) -> String {
    format!("-{}-", plain(file.trim_end_matches(GGUF)))
}

/// A name in lower case, with dashes between its words.
fn plain(name: &str) -> String {
    let letters = name.chars().map(|letter| match letter {
        '.' | '/' | ' ' => '-',
        letter => letter.to_ascii_lowercase(),
    });
    letters.collect()
}
