//! What several tests need: a small architecture that is not Llama, and checkpoints in memory for it.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::sync::Arc;

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use firebox::{
    model::{Architecture, BuildError, ConfigError, Linear, Slot, Weights},
    source::Memory,
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

/// Two matrices and a norm: the smallest thing that exercises every kind of step.
#[derive(Module, Debug)]
pub(crate) struct Tiny {
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) norm: Param<Tensor<1>>,
}

/// `[OUT, IN]` of `up`; odd on purpose, so that blocks straddle rows and tiles end early.
pub(crate) const OUT: usize = 96;
pub(crate) const IN: usize = 200;

impl Architecture for Tiny {
    type Config = ();

    fn config(json: &Value) -> Result<(), ConfigError> {
        match json["model_type"].as_str() {
            Some("tiny") => Ok(()),
            found => Err(ConfigError::Architecture {
                found: found.unwrap_or_default().to_owned(),
                nearest: None,
                known: "tiny".to_owned(),
            }),
        }
    }

    fn slots((): &()) -> Vec<Slot> {
        vec![
            Slot::linear("up.weight", OUT, IN),
            Slot::bias("up.bias", OUT),
            Slot::linear("down.weight", IN, OUT),
            Slot::norm("norm.weight", IN),
        ]
    }

    fn build((): &(), weights: &mut Weights) -> Result<Self, BuildError> {
        Ok(Self {
            up: weights.linear("up")?,
            down: weights.linear("down")?,
            norm: weights.param("norm.weight")?,
        })
    }

    fn leaves_out((): &(), tensor: &str) -> bool {
        tensor == "rotary.inv_freq"
    }
}

/// A float tensor of a checkpoint, by its values.
pub(crate) type Entry = (&'static str, Vec<usize>, Vec<f32>);

/// Values that differ everywhere and are exact in f16 and bf16: small multiples of 1/64.
pub(crate) fn values(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state % 255) as f32 / 64.0 - 2.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// What [`Tiny`] wants.
pub(crate) fn tiny_entries() -> Vec<Entry> {
    vec![
        ("up.weight", vec![OUT, IN], values(OUT * IN, 1)),
        ("up.bias", vec![OUT], values(OUT, 2)),
        ("down.weight", vec![IN, OUT], values(IN * OUT, 3)),
        ("norm.weight", vec![IN], values(IN, 4)),
    ]
}

/// A checkpoint of one file, every tensor stored as `f32`.
pub(crate) fn checkpoint(entries: &[Entry]) -> Memory {
    stored(entries, Dtype::F32, |value| value.to_le_bytes().to_vec())
}

/// A checkpoint of one file, every tensor stored as `dtype`.
pub(crate) fn stored(entries: &[Entry], dtype: Dtype, bytes: impl Fn(f32) -> Vec<u8>) -> Memory {
    let data: Vec<(&str, &Vec<usize>, Vec<u8>)> = entries
        .iter()
        .map(|(name, shape, values)| {
            (
                *name,
                shape,
                values.iter().flat_map(|&v| bytes(v)).collect(),
            )
        })
        .collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        (
            *name,
            TensorView::new(dtype, (*shape).clone(), bytes).expect("shape and bytes agree"),
        )
    });
    let file = safetensors::serialize(views, None).expect("views are sound");
    Memory::new()
        .with("config.json", br#"{"model_type":"tiny"}"#)
        .with("model.safetensors", file)
}

/// As a shared source.
pub(crate) fn tiny() -> Arc<Memory> {
    Arc::new(checkpoint(&tiny_entries()))
}
