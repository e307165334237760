//! New blocks of a model that are trained while the others stay as they are.

use core::{fmt, num::NonZeroUsize, str::FromStr};

use serde::{Deserialize, Serialize};

/// New blocks of a model (LLaMA-Pro, arXiv 2401.02415): copies of some of its layers that change nothing until they are
/// trained.
///
/// * `blocks=8`: 8 copies, one after each eighth of the layers
/// * `dense`: the new blocks stay dense whatever the other options say, so that they can be trained
/// * `blocks=8,dense`: both
///
/// `dense` alone is for a checkpoint that has new blocks already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expand {
    /// How many copies are made; `None` where the checkpoint has them.
    pub blocks: Option<NonZeroUsize>,
    /// Whether the new blocks stay dense.
    pub dense: bool,
}

/// The field of `config.json` that lists the new blocks, and of the configuration of an adapter that was trained beside them.
pub(crate) const NEW_BLOCKS: &str = "firebox_new_blocks";

/// An expansion that could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expansion `{text}`: `{option}` is no option; write blocks=8, dense, or blocks=8,dense, with a number of blocks above 0"
)]
pub struct ExpandSpecError {
    /// The text.
    pub text: String,
    /// The part that is no option.
    pub option: String,
}

impl Expand {
    /// Adds `count` copies: one after every `layers / count` layers.
    ///
    /// # Panics
    ///
    /// If `count` is 0.
    pub const fn blocks(count: usize) -> Self {
        Self {
            blocks: Some(NonZeroUsize::new(count).expect("a number of blocks above 0")),
            dense: false,
        }
    }

    /// The new blocks that the checkpoint has already.
    pub const fn known() -> Self {
        Self {
            blocks: None,
            dense: false,
        }
    }

    /// The new blocks stay dense, or become dense where the checkpoint has them packed.
    pub const fn dense(self) -> Self {
        Self {
            dense: true,
            ..self
        }
    }
}

impl FromStr for Expand {
    type Err = ExpandSpecError;

    fn from_str(text: &str) -> Result<Self, ExpandSpecError> {
        let mut expand = Self::known();
        for option in text.split(',') {
            let unknown = || ExpandSpecError {
                text: text.to_owned(),
                option: option.to_owned(),
            };
            match option.split_once('=') {
                Some(("blocks", count)) if expand.blocks.is_none() => {
                    expand.blocks = Some(count.parse().map_err(|_| unknown())?);
                }
                None if option == "dense" && !expand.dense => expand.dense = true,
                _ => return Err(unknown()),
            }
        }
        Ok(expand)
    }
}

impl fmt::Display for Expand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blocks = self.blocks.map(|blocks| format!("blocks={blocks}"));
        let dense = self.dense.then(|| "dense".to_owned());
        let options: Vec<String> = blocks.into_iter().chain(dense).collect();
        f.write_str(&options.join(","))
    }
}
