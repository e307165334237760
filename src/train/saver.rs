//! The end of a run that trains tensors of the model itself: the model as a checkpoint.

use core::fmt;
use std::path::Path;

use crate::{
    config::SaveConfig, error::Error, loader::Loader, model::CausalLm, place::folder::JOURNAL,
    target::Target,
};

/// How a model is saved, and where.
type Save = dyn Fn(&CausalLm, &SaveConfig) -> Result<(), Error> + Send;

/// Saves a model as its loader would: a loader without its target.
pub(super) struct ModuleSaver(Box<Save>);

impl ModuleSaver {
    pub(super) fn new<T: Target + 'static>(loader: Loader<T>) -> Self {
        Self(Box::new(move |model, to| {
            loader.save_module(model, to).map(|_| ())
        }))
    }

    /// Saves the model, or goes on with a save of it that was interrupted.
    pub(super) fn save(&self, model: &CausalLm, folder: &Path) -> Result<(), Error> {
        (self.0)(model, &SaveConfig::new(folder).resume(true))
    }
}

/// Whether a folder has a whole model.
pub(super) fn is_saved(folder: &Path) -> bool {
    folder.join("config.json").is_file() && !folder.join(JOURNAL).exists()
}

impl fmt::Debug for ModuleSaver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModuleSaver")
    }
}
