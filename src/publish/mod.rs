//! Publishing: a finished folder becomes a model that others can load, with a card that says how it was made.
//!
//! ```text
//! folder ─► Folder: files, lengths, SHA-256 ─┬─► an object store: parts, read back and compared
//!           Card: README.md                  └─► the hub: LFS batch, uploads, one commit, compared
//! ```
//!
//! Weights go first and `config.json` last, so that whoever reads early finds no model. What is there already is left alone: the same
//! bytes are not sent again, and other bytes are refused unless they are to be replaced.

mod card;
mod error;
mod errors;
mod folder;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "remote")]
mod store;

pub use card::Card;
pub use error::PublishError;
pub use errors::MeasuredErrors;
use folder::{Folder, FolderFile};

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    config::PushConfig,
    source::address::{AddressKind, address_kind},
};

/// A folder that was published. Serialises to what `firebox push --json` prints.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Pushed {
    /// The folder.
    pub folder: PathBuf,
    /// Where it is now, without secrets.
    pub to: String,
    /// The commit, on the hub.
    pub commit: Option<String>,
    /// Whether the folder's own README.md was published, and no card was written.
    pub own_card: bool,
    /// Every file, in the order in which they were sent.
    pub files: Vec<PushedFile>,
}

/// A file that was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PushedFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes in hexadecimal, here and there.
    pub sha256: String,
    /// Whether it was there already.
    pub was_there: bool,
}

/// Publishes a folder. `tell` hears of each file before it is sent.
///
/// # Errors
///
/// [`PublishError`] for a folder that is no finished model, a place that has other files, and what goes wrong on the way.
pub fn push(
    config: &PushConfig,
    errors: Option<&MeasuredErrors>,
    tell: &mut dyn FnMut(&str, u64),
) -> Result<Pushed, PublishError> {
    let mut folder = Folder::read(&config.folder)?;
    let own_card = folder.has(CARD);
    if !own_card {
        let card = Card::of(&folder, config, errors)?.to_string();
        folder.add(CARD, card.into_bytes());
    }
    let (to, commit, files): Published = match address_kind(&config.to) {
        #[cfg(feature = "remote")]
        Some(AddressKind::Remote) => store::push(&folder, config, tell)?,
        #[cfg(feature = "hub")]
        Some(AddressKind::Hub) => hub::push(&folder, config, tell)?,
        _ => {
            return Err(PublishError::Place {
                to: config.to.clone(),
            });
        }
    };
    Ok(Pushed {
        folder: config.folder.clone(),
        to,
        commit,
        own_card,
        files,
    })
}

/// Where a folder is, the commit on the hub, and every file.
type Published = (String, Option<String>, Vec<PushedFile>);

/// The card of a model.
const CARD: &str = "README.md";
