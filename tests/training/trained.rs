//! A model of which records and optimizers see the trained parameters alone.

use burn::module::Module;
use burn_optim::{AdamWConfig, GradientsParams};
use firebox::{
    adapter::{AdapterConfig, Trained, trainable_params},
    model::CausalLm,
};

use crate::steps::{load, logits, loss};

fn model(spec: &str) -> Trained<CausalLm> {
    let spec: AdapterConfig = spec.parse().expect(spec);
    Trained::new(load("nf4", firebox::Strategy::Full, Some(spec)))
}

fn step(model: Trained<CausalLm>) -> Trained<CausalLm> {
    let gradients = loss(&model).backward();
    let gradients = GradientsParams::from_grads(gradients, &model);
    AdamWConfig::new().init().step(1e-2, model, gradients)
}

/// Would catch a record with parts of the base, and one that does not bring the trained values back, or only once.
#[test]
fn records_hold_trained_values_alone() {
    const SPEC: &str = "lora:rank=4,alpha=8,dora,whole=lm_head";
    let trained = step(model(SPEC));
    // Two factors and a magnitude of each matrix, and the head.
    let count = trained.blocks.len() * 7 * 3 + 1;
    let record = trained.clone().into_record();
    assert_eq!(record.len(), count, "{record:?}");
    assert!(count < (*trained).clone().into_record().len());
    assert_eq!(trained.num_params() as u64, trainable_params(&*trained));

    let again = model(SPEC);
    assert_ne!(logits(&again), logits(&trained));
    let again = again.load_record(record);
    assert_eq!(logits(&again), logits(&trained));
    // The record brought identifiers of its own.
    assert_eq!(again.clone().into_record().len(), count);
    assert_eq!(logits(&step(again)), logits(&step(trained)));
}

/// Would catch a record that is accepted although it holds too little or too much.
#[test]
fn records_of_other_adapters_are_refused() {
    let (few, many) = (
        "lora:rank=4,alpha=8,targets=*.q_proj",
        "lora:rank=4,alpha=8",
    );
    for (from, into) in [(few, many), (many, few)] {
        let record = model(from).into_record();
        let error = model(into).try_load_record(record).expect_err("another");
        assert!(
            error.to_string().contains("q_proj") || error.to_string().contains("adapters"),
            "{error}"
        );
    }
}
