//! What a run is said to take of memory, beside numbers worked out by hand.

use std::fs;

use firebox::{
    Cpu, LoadConfig, Loader,
    model::{Architecture, CausalLm},
    train::{FinetuneConfig, MemoryEstimate},
};

use crate::common::repository;

fn estimated(run: &FinetuneConfig) -> MemoryEstimate {
    let model = repository().join("assets/tinyrust");
    let base = LoadConfig::new(model.to_string_lossy());
    let loader = Loader::<Cpu>::new(run.load_config(base)).expect("a model");
    let plan = loader.plan::<CausalLm>().expect("a plan");
    let config = fs::read(model.join("config.json")).expect("a configuration");
    let config = serde_json::from_slice(&config).expect("JSON");
    let spec = CausalLm::config(&config).expect("a Llama");
    run.memory(&plan, &spec, 64).expect("an estimate")
}

/// Would catch factors that are counted twice, and moments in 8 bits that are counted as those in `f32`.
#[test]
fn trained_values_and_moments_are_counted_by_their_bytes() {
    let run = FinetuneConfig {
        adapter: Some("lora:rank=2,targets=*.q_proj".parse().expect("an adapter")),
        batch: 1,
        ..FinetuneConfig::default()
    };
    // In each of 4 layers two factors for a matrix of 256 x 256.
    let values = 4 * 2 * (256 + 256);
    let full = estimated(&run);
    assert_eq!(full.trained, 4 * values);
    assert_eq!(full.optimizer, 2 * 4 * values);

    // A byte for each of two moments, and an absolute maximum in `f32` for 256 of them: bitsandbytes' blocks.
    let blocks = estimated(&FinetuneConfig {
        optimizer: "adamw8bit".parse().expect("an optimizer"),
        ..run.clone()
    });
    assert_eq!(blocks.optimizer, 2 * (values + 4 * values / 256));

    // Sums of gradients stay between batches.
    let summed = estimated(&FinetuneConfig {
        accumulation: 2,
        ..run
    });
    assert_eq!(summed.gradients, full.gradients + 4 * values);
}
