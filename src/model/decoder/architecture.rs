//! What a loader asks of a decoder.

use burn::{module::Param, tensor::Tensor};
use serde_json::Value;

use super::{
    build, cut,
    forward::CausalLm,
    links,
    names::Part,
    parts, pass,
    slots::{self, slots},
    spec::Spec,
    units,
};
use crate::{
    collective::Together,
    model::{
        Adaptable, Architecture, arch,
        cut::{CutError, WeightCut},
        divided::Divided,
        error::ConfigError,
        layers::{Linear, Place},
        link::Link,
        pass::{PassBytes, PassMeans, PassSize},
        slot::{Role, Slot, TIED_HEAD},
        stacks::Stacks,
        unit::Unit,
        weights::{BuildError, Weights},
    },
};

impl Architecture for CausalLm {
    type Config = Spec;

    fn config(json: &Value) -> Result<Spec, ConfigError> {
        arch::spec(json)
    }

    fn named(config: Spec, has: &dyn Fn(&str) -> bool) -> Spec {
        config.named(has)
    }

    fn tied(config: &Spec) -> Option<[String; 2]> {
        let tensor = |part| format!("{}.weight", config.path(None, part));
        let pair = || [Part::Embedding, Part::Head].map(tensor);
        config.head.tied.then(pair)
    }

    fn untied(mut config: Spec) -> Spec {
        config.head.tied = false;
        config
    }

    fn of_rank(
        config: &Spec,
        rank: usize,
        ranks: usize,
    ) -> Result<(Spec, Vec<WeightCut>), CutError> {
        cut::of_rank(config, rank, ranks)
    }

    fn join(&mut self, together: &Together, divided: Divided) -> Result<(), CutError> {
        self.joined(together, divided);
        Ok(())
    }

    /// Empty for a [`Spec`] that [`slots`](super::slots()) refuses, which [`config`](Self::config) does not return.
    fn slots(config: &Spec) -> Vec<Slot> {
        slots(config).unwrap_or_default()
    }

    fn build(config: &Spec, weights: &mut Weights) -> Result<Self, BuildError> {
        build::build(config, weights)
    }

    fn stacks(config: &Spec) -> Option<Stacks> {
        config.stacks()
    }

    /// Empty where [`slots`](Self::slots) is.
    fn links(config: &Spec) -> Vec<Link> {
        links::links(config).unwrap_or_default()
    }

    fn pass_bytes(config: &Spec, size: &PassSize, means: &PassMeans) -> Option<PassBytes> {
        Some(pass::pass_bytes(config, size, means))
    }

    /// Empty where [`slots`](Self::slots) is.
    fn units(config: &Spec) -> Vec<Unit> {
        units::units(config)
    }

    fn adaptable(&mut self) -> Vec<Adaptable<'_>> {
        parts::modules(self)
    }

    fn others(&mut self) -> Vec<(String, &mut Param<Tensor<1>>)> {
        parts::others(self)
    }

    fn untie(&mut self) {
        let tied = || {
            let table = self.embedding.table.clone();
            Linear::new(table, None).named(Place::new(TIED_HEAD, Role::Head))
        };
        if self.head.is_none() {
            self.head = Some(tied());
        }
    }

    fn module_of(config: &Spec, path: &str) -> String {
        config.module(path)
    }

    fn leaves_out(config: &Spec, tensor: &str) -> bool {
        slots::leaves_out(config, tensor)
    }
}
