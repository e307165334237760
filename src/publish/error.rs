//! Errors of publishing.

use std::{io, path::PathBuf};

use crate::source::SourceError;

/// A folder could not be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The folder has no `config.json`, or no weights.
    #[error(
        "{}: {reason}; publish the folder that `firebox quantize --out` has finished",
        folder.display()
    )]
    NoModel {
        /// The folder.
        folder: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A file of the folder could not be read.
    #[error("{}: could not be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the folder is not as it was when the publishing began.
    #[error("{}: changed while it was published; publish it again when nobody writes to it", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// No place that models are published to.
    #[error(
        "{to}: models are published to s3://bucket/folder, gs://…, az://… or hf://org/name, as far as this program was built with the \
         features `remote` and `hub`"
    )]
    Place {
        /// As it was given, without what is secret in an address.
        to: String,
    },
    /// The place has another file of the same name.
    #[error(
        "{at}/{file}: is there already with other bytes; name another place, or replace it (`--replace`, `PushConfig::replace`)"
    )]
    Exists {
        /// The place.
        at: String,
        /// The file.
        file: String,
    },
    /// A file has other bytes there than here.
    #[error(
        "{at}/{file}: has the SHA-256 {found} there and {expected} here; it was damaged on the way, so publish it again"
    )]
    Damaged {
        /// The place.
        at: String,
        /// The file.
        file: String,
        /// SHA-256 here.
        expected: String,
        /// SHA-256 there.
        found: String,
    },
    /// A report that has no measured errors.
    #[error(
        "{path}: {reason}; name what `firebox verify --json` or `firebox quantize --json` with a limit has printed"
    )]
    Report {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The card would show a secret.
    #[error(
        "the model card would show the value of {variable}; name the base model and the source without it"
    )]
    SecretInCard {
        /// The variable.
        variable: String,
    },
    /// The hub did not take it.
    #[error("{at}: {step}: {reason}")]
    Hub {
        /// The model on the hub.
        at: String,
        /// What was asked of it.
        step: &'static str,
        /// Its answer, without secrets.
        reason: String,
    },
    /// The store or the hub could not be reached, or refused.
    #[error(transparent)]
    Source(#[from] SourceError),
}
