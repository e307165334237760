//! Publishing: a finished folder becomes a model that others can load, with a card that says how it was made.
//!
//! ```text
//! folder ─► Folder: files, lengths, SHA-256 ─┬─► an object store: parts, read back and compared
//!           Card: README.md                  └─► the hub: LFS batch, uploads, one commit, compared
//! ```
//!
//! Weights go first and `config.json` last, so that a program that reads early finds no model. A file that is there
//! already stays: the same bytes are not sent again, and other bytes are an error unless `replace` is asked for.

mod card;
mod command;
mod error;
mod errors;
mod folder;
#[cfg(feature = "hub")]
mod hub;
mod pushed;
#[cfg(feature = "remote")]
mod store;

pub use card::Card;
pub use error::PublishError;
pub use errors::MeasuredErrors;
use folder::Folder;
use pushed::Published;
pub use pushed::{Pushed, PushedFile};

use crate::{
    config::PushConfig,
    source::address::{AddressKind, address_kind, without_secrets},
};

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
                to: without_secrets(&config.to),
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

/// The card of a model.
const CARD: &str = "README.md";
