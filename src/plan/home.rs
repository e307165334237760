//! Where finished weights live: a fact of every step, and the devices that a plan names.

use serde::{Deserialize, Serialize};

/// Where a finished weight lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Home {
    /// In host memory. It comes to a device when a product needs it.
    Host,
    /// In a file: of a saved checkpoint, or of weights that come to a device when a product needs them.
    Disk,
    /// On this device of [`Plan::devices`](super::Plan::devices).
    Device(usize),
    /// With the caller's own sink.
    Sink,
}

/// A device that a plan was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// Its target: [`Target::NAME`](crate::Target::NAME).
    pub target: String,
    /// Its index among the devices of the target.
    pub index: usize,
    /// The name that its driver has for it.
    pub name: String,
    /// Whether its tensors are in host memory.
    pub on_host: bool,
    /// Bytes of its own memory that may be used. `None` where the driver does not tell, and where its tensors are in host
    /// memory, whose budget counts them.
    pub memory: Option<u64>,
    /// Bytes of its largest allocation; `None` where only memory is the limit.
    pub largest_allocation: Option<u64>,
    /// Whether it packs the weights that live there, by the methods that it has. The host packs all others.
    pub packs: bool,
}

/// A unit of a model where it is placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedUnit {
    /// Its name: `model.layers.3`.
    pub name: String,
    /// The number of the layer that it is.
    pub layer: Option<usize>,
    /// The device of [`Plan::devices`](super::Plan::devices) that it runs on.
    pub device: usize,
    /// Bytes of its cache, for the context that was asked for.
    pub cache: u64,
    /// Bytes of activations while it runs.
    pub activations: u64,
}
