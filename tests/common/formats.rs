//! Models whose every matrix but the router is of one format, and the bits that they answer with.

use burn::tensor::Tensor;
use firebox::{Cpu, LoadConfig, Loaded, Loader, model::CausalLm};

use crate::common::{Golden, values};

/// Every matrix as `quant`, heads and embeddings too.
pub(crate) fn config(golden: Golden, quant: &str) -> LoadConfig {
    let quant_of = |role: &str| format!("role:{role}={quant}").parse().expect("a rule");
    LoadConfig::new(golden.path("").to_string_lossy())
        .quant(quant.parse().expect("a spec"))
        .rule(quant_of("embedding"))
        .rule(quant_of("head"))
}

pub(crate) fn load(config: LoadConfig) -> Loaded<CausalLm> {
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    loader.load().unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn bits<const D: usize>(tensor: Tensor<D>) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}
