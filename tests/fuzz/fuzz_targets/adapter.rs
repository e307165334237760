//! Adapters: one that is read is written back the same; on a model it changes nothing while its weight is 0.
//!
//! Input: `adapter_config.json` in one line, then its tensors as lines (see `checkpoint.rs`).

#![cfg_attr(fuzzing, no_main)]

use std::fs;

use burn::tensor::{Int, Tensor, TensorData};
use firebox::{
    Cpu, Target,
    adapter::{self, AdapterFile},
    model::CausalLm,
};

#[path = "checkpoint.rs"]
mod checkpoint;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

/// The smallest model with every kind of module, as an input of `load`.
const MODEL: &[u8] = br#"a0
{"model_type":"llama","hidden_size":8,"intermediate_size":12,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"vocab_size":16,"rms_norm_eps":1e-5,"max_position_embeddings":16,"tie_word_embeddings":false,"attention_bias":true}
model.embed_tokens.weight|F32|16,8
model.norm.weight|F32|8
lm_head.weight|F32|16,8
model.layers.0.input_layernorm.weight|F32|8
model.layers.0.post_attention_layernorm.weight|F32|8
model.layers.0.self_attn.q_proj.weight|F32|8,8
model.layers.0.self_attn.q_proj.bias|F32|8
model.layers.0.self_attn.k_proj.weight|F32|4,8
model.layers.0.self_attn.k_proj.bias|F32|4
model.layers.0.self_attn.v_proj.weight|F32|4,8
model.layers.0.self_attn.v_proj.bias|F32|4
model.layers.0.self_attn.o_proj.weight|F32|8,8
model.layers.0.self_attn.o_proj.bias|F32|8
model.layers.0.mlp.gate_proj.weight|F32|12,8
model.layers.0.mlp.up_proj.weight|F32|12,8
model.layers.0.mlp.down_proj.weight|F32|8,12
"#;

thread_local! {
    static BASE: (CausalLm, TensorData) = {
        let loader = checkpoint::loader(MODEL).expect("a checkpoint");
        let model = loader.load::<CausalLm>().expect("a model").model;
        let logits = logits(&model);
        (model, logits)
    };
}

pub(crate) fn run(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Some(config) = lines.next() else {
        return;
    };
    let Some(tensors) = checkpoint::tensors::safetensors(lines) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("written");
    place("adapter_config.json", config);
    place("adapter_model.safetensors", &tensors);
    let file = match AdapterFile::open(folder.path()) {
        Ok(file) => file,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    file.save(folder.path()).expect("written");
    let again = AdapterFile::open(folder.path()).expect("what was written is read");
    assert_eq!(again, file);

    let (mut model, expected) = BASE.with(Clone::clone);
    let device = Cpu::device(0).expect("a processor");
    match adapter::attach(&mut model, &file, 1.0, &device) {
        Ok(switch) => {
            let _ = logits(&model);
            switch.set_weight(0.0);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert_eq!(logits(&model), expected);
}

fn logits(model: &CausalLm) -> TensorData {
    let ids = Tensor::<1, Int>::from_ints([1, 5, 2], &Cpu::device(0).expect("a processor"));
    model.forward(ids.unsqueeze()).into_data()
}
