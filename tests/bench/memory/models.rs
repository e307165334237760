//! Models that are large enough for 3 % to be more than noise.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use firebox::model::{Architecture, CausalLm, Slot};
use serde_json::{Value, json};

/// The folder of a model, which is written if it is not there.
pub(crate) fn written(folder: &Path, name: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let path = folder.join(name);
    if path.join("config.json").exists() {
        return Ok(path);
    }
    fs::create_dir_all(&path)?;
    let (config, dtype, size) = match name {
        // Layers like those of Llama 3.2 1B.
        "llama" => (llama(2048, 8192, 2), "BF16", 2),
        "experts" => (experts(), "BF16", 2),
        "singles" => (llama(1024, 2816, 5), "F32", 4),
        // With an embedding that is the head, as small as training of all values allows.
        "small" => {
            let mut config = llama(768, 2048, 6);
            config["vocab_size"] = 8000.into();
            config["tie_word_embeddings"] = true.into();
            (config, "BF16", 2)
        }
        other => return Err(format!("{other} is no model of this benchmark").into()),
    };
    let slots = CausalLm::slots(&CausalLm::config(&config)?);
    write(&path.join("model.safetensors"), &slots, dtype, size)?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tinyrust");
        fs::copy(from.join(file), path.join(file))?;
    }
    // Last: a folder without it is no model.
    fs::write(path.join("config.json"), config.to_string())?;
    Ok(path)
}

fn llama(features: usize, inner: usize, layers: usize) -> Value {
    json!({
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": features,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": features / 64,
        "num_key_value_heads": features / 256,
        "vocab_size": 16_000,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": features > 1024,
    })
}

fn experts() -> Value {
    json!({
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "hidden_size": 1024,
        "intermediate_size": 2048,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 16_000,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false,
    })
}

/// A file of made-up values.
fn write(file: &Path, slots: &[Slot], dtype: &str, size: usize) -> io::Result<()> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for slot in slots {
        let bytes = slot.shape.iter().product::<usize>() * size;
        let entry =
            json!({ "dtype": dtype, "shape": slot.shape, "data_offsets": [at, at + bytes] });
        header.insert(slot.name.clone(), entry);
        at += bytes;
    }
    let mut header = Value::from(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut to = io::BufWriter::new(fs::File::create(file)?);
    to.write_all(&(header.len() as u64).to_le_bytes())?;
    to.write_all(header.as_bytes())?;
    let mut state = 1_u32;
    for _ in 0..at / size {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Between 1/4 and 2 in magnitude over 32, with either sign.
        let half = 0x3c00 + ((state >> 16) & 0x1ff) as u16 + ((state >> 31) as u16) * 0x8000;
        match size {
            2 => to.write_all(&half.to_le_bytes())?,
            _ => to.write_all(&(u32::from(half) << 16).to_le_bytes())?,
        }
    }
    to.flush()
}
