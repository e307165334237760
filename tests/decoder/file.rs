//! Small `config.json` files, for tests of what their fields mean.

use firebox::model::{
    Architecture, CausalLm, ConfigError,
    decoder::{AttentionSpec, Spec},
};
use serde_json::{Value, json};

/// Reads a file of a family that has sizes only, and `change`. The sizes: features between layers, layers, query heads.
pub(crate) fn read(
    family: &str,
    [features, layers, heads]: [usize; 3],
    change: &Value,
) -> Result<Spec, ConfigError> {
    let sizes = json!({
        "model_type": family,
        "vocab_size": 512,
        "hidden_size": features,
        "intermediate_size": 112,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 256,
    });
    CausalLm::config(&with(&sizes, change))
}

/// An object with some fields replaced.
pub(crate) fn with(object: &Value, change: &Value) -> Value {
    let mut object = object.clone();
    for (field, value) in change.as_object().expect("an object") {
        object[field] = value.clone();
    }
    object
}

pub(crate) fn attention(spec: &Spec, layer: usize) -> &AttentionSpec {
    spec.layers[layer].attention().expect("grouped attention")
}
