//! One family of models.

use crate::model::{decoder::Spec, error::ConfigError, fields::Fields};

/// One family of models.
#[derive(Debug)]
pub(super) struct Family {
    /// The word for it in `model_type`.
    pub(super) model_type: &'static str,
    /// Reads the rest of the file. The first argument is the word.
    pub(super) read: fn(&'static str, Fields<'_>) -> Result<Spec, ConfigError>,
}
