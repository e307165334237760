//! The files of an adapter that is on a model.

use std::collections::BTreeMap;

use burn::{module::Param, tensor::Tensor};
use serde_json::json;

use super::{
    error::AdapterError,
    file::{AdapterFile, AdapterPart, ModuleTensors, StoredTensor, name},
    peft::PeftConfig,
};
use crate::{
    config::{LoraConfig, TrainedBiases},
    model::{Architecture, layers::AdapterSwitch},
};

/// The files of the adapter `switch` of a model, trained from `config`. `base` is the model that the adapter was trained on: a
/// folder or an id of the hub.
///
/// # Errors
///
/// [`AdapterError::NoSuchAdapter`].
pub fn detach<A: Architecture>(
    model: &mut A,
    switch: &AdapterSwitch,
    config: &LoraConfig,
    base: &str,
) -> Result<AdapterFile, AdapterError> {
    let mut modules = BTreeMap::new();
    let mut whole = Vec::new();
    let (mut ranks, mut alphas) = (BTreeMap::new(), BTreeMap::new());
    let mut turned = false;
    for mut place in model.adaptable() {
        let (path, is_table, shape) = (place.module().to_owned(), place.is_table(), place.shape());
        let is_turned = place.is_turned();
        let found = place.adapters().iter();
        let Some(adapter) = found.rev().find(|adapter| adapter.switch.is(switch)) else {
            continue;
        };
        let mut tensors = ModuleTensors::default();
        let has_factors = adapter.low_rank.is_some();
        let mut put = |part, tensor: Option<StoredTensor>| *tensors.part(part) = tensor;
        let named = |part| name(&path, part, is_table, has_factors);
        turned |= is_turned && has_factors;
        if let Some(factors) = &adapter.low_rank {
            put(
                AdapterPart::A,
                Some(stored(named(AdapterPart::A), &factors.a)),
            );
            put(
                AdapterPart::B,
                Some(stored(named(AdapterPart::B), &factors.b)),
            );
            let magnitude = factors.magnitude.as_ref();
            put(
                AdapterPart::Magnitude,
                magnitude.map(|magnitude| stored(named(AdapterPart::Magnitude), magnitude)),
            );
            let [rank, _] = factors.a.val().dims();
            let alpha = factors.scale
                * match config.rank_stabilized {
                    true => (rank as f64).sqrt(),
                    false => rank as f64,
                };
            if rank != config.rank {
                ranks.insert(path.clone(), rank);
            }
            if (alpha - config.alpha).abs() > 1e-9 * alpha.abs() {
                alphas.insert(path.clone(), alpha);
            }
        }
        let bias = adapter.bias.as_ref();
        put(
            AdapterPart::Bias,
            bias.map(|bias| stored(named(AdapterPart::Bias), bias)),
        );
        let weight = adapter.whole.as_ref();
        let weight = weight.map(|weight| {
            let name = named(AdapterPart::Whole);
            match is_turned {
                true => StoredTensor::of(name, plain(weight).transpose().into_data()),
                false => StoredTensor {
                    // The scale of a norm lies in rows of a matrix.
                    shape: shape.clone(),
                    ..stored(name, weight)
                },
            }
        });
        let is_whole = weight.is_some();
        put(AdapterPart::Whole, weight);
        if is_whole {
            whole.push(path.clone());
        }
        modules.insert(path, tensors);
    }
    if modules.is_empty() {
        let found = super::adapters(model);
        let names: Vec<&str> = found.iter().map(AdapterSwitch::name).collect();
        return Err(AdapterError::NoSuchAdapter {
            name: switch.name().to_owned(),
            found: names.join(", "),
        });
    }
    let adapted = |tensors: &&ModuleTensors| tensors.a.is_some();
    let targets = modules.iter().filter(|(_, tensors)| adapted(tensors));
    let targets: Vec<&String> = targets.map(|(module, _)| module).collect();
    // In the order in which peft writes its keys.
    let json = json!({
        "alpha_pattern": alphas,
        "base_model_name_or_path": base,
        "bias": match config.biases {
            TrainedBiases::None => "none",
            TrainedBiases::Adapted => "lora_only",
            TrainedBiases::All => "all",
        },
        "fan_in_fan_out": turned,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": match whole.is_empty() { true => None, false => Some(whole) },
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": ranks,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": config.dora,
        "use_rslora": config.rank_stabilized,
    });
    Ok(AdapterFile {
        name: switch.name().to_owned(),
        config: PeftConfig::write(json),
        modules,
        spare: Vec::new(),
    })
}

fn stored<const D: usize>(name: String, param: &Param<Tensor<D>>) -> StoredTensor {
    StoredTensor::of(name, plain(param).into_data())
}

fn plain<const D: usize>(param: &Param<Tensor<D>>) -> Tensor<D> {
    param.val().without_autodiff()
}
