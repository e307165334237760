//! Checkpoints of published shapes without weights: a configuration, headers, and files that are as long as they would be.

use std::{
    fs,
    path::{Path, PathBuf},
};

use firebox::model::{Architecture, CausalLm};
use serde_json::{Map, Value, json};

/// Names of the shapes.
pub(crate) const SHAPES: [&str; 4] = ["7B", "13B", "70B", "8x7B"];

/// The published numbers of Llama 2 7B, 13B and 70B, and of Mixtral 8x7B.
pub(crate) fn config(shape: &str) -> Value {
    let [features, inner, layers, heads, kv] = match shape {
        "7B" => [4096, 11008, 32, 32, 32],
        "13B" => [5120, 13824, 40, 40, 40],
        "70B" => [8192, 28672, 80, 64, 8],
        "8x7B" => [4096, 14336, 32, 32, 8],
        other => panic!("{other} is no shape"),
    };
    let mut config = json!({
        "hidden_size": features,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": 32_000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false,
    });
    let more = match shape {
        "8x7B" => json!({
            "model_type": "mixtral",
            "architectures": ["MixtralForCausalLM"],
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        }),
        _ => json!({ "model_type": "llama", "architectures": ["LlamaForCausalLM"] }),
    };
    let more = more.as_object().expect("an object").clone();
    config.as_object_mut().expect("an object").extend(more);
    config
}

/// Values of all tensors of a shape, by the published number of parameters.
pub(crate) fn parameters(shape: &str) -> u64 {
    match shape {
        "7B" => 6_738_415_616,
        "13B" => 13_015_864_320,
        "70B" => 68_976_648_192,
        "8x7B" => 46_702_792_704,
        other => panic!("{other} is no shape"),
    }
}

/// A folder with a checkpoint of this shape in bf16, whose weights take no room.
pub(crate) fn checkpoint(folder: &Path, shape: &str) -> PathBuf {
    let path = folder.join(shape);
    if path.exists() {
        return path;
    }
    fs::create_dir_all(&path).expect("writable");
    let config = config(shape);
    let slots = CausalLm::slots(&CausalLm::config(&config).expect("a configuration"));
    let mut header = Map::new();
    let mut at = 0;
    for slot in slots {
        let bytes = 2 * slot.shape.iter().product::<usize>();
        let entry =
            json!({ "dtype": "BF16", "shape": slot.shape, "data_offsets": [at, at + bytes] });
        header.insert(slot.name, entry);
        at += bytes;
    }
    let mut header = Value::from(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let file = path.join("model.safetensors");
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    fs::write(&file, &bytes).expect("writable");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(file)
        .expect("a file");
    file.set_len(bytes.len() as u64 + at as u64)
        .expect("a file with a hole");
    fs::write(path.join("config.json"), config.to_string()).expect("writable");
    path
}
