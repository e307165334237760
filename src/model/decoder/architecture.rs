//! What a loader asks of a decoder.

use serde_json::Value;

use super::{
    build,
    forward::CausalLm,
    links,
    slots::{self, slots},
    spec::Spec,
};
use crate::model::{
    Architecture, arch,
    error::ConfigError,
    link::Link,
    slot::Slot,
    weights::{BuildError, Weights},
};

impl Architecture for CausalLm {
    type Config = Spec;

    fn config(json: &Value) -> Result<Spec, ConfigError> {
        arch::spec(json)
    }

    fn named(config: Spec, has: &dyn Fn(&str) -> bool) -> Spec {
        config.named(has)
    }

    /// Empty for a [`Spec`] that [`slots`](super::slots()) refuses, which [`config`](Self::config) does not return.
    fn slots(config: &Spec) -> Vec<Slot> {
        slots(config).unwrap_or_default()
    }

    fn build(config: &Spec, weights: &mut Weights) -> Result<Self, BuildError> {
        build::build(config, weights)
    }

    /// Empty where [`slots`](Self::slots) is.
    fn links(config: &Spec) -> Vec<Link> {
        links::links(config).unwrap_or_default()
    }

    fn leaves_out(config: &Spec, tensor: &str) -> bool {
        slots::leaves_out(config, tensor)
    }
}
