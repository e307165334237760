//! The parts of a model that are computed on one device.

use serde::{Deserialize, Serialize};

/// A part of a model that is computed on one device: a layer, or what comes before or after all layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The path of the module that it is, or of its first one: `model.layers.3`.
    pub name: String,
    /// The number of the layer that it is.
    pub layer: Option<usize>,
    /// The names of its slots.
    pub slots: Vec<String>,
}
