//! What a model of experts keeps in memory while it streams them: every allocation of this program is counted, so it has one
//! test.

#![cfg(feature = "cpu")]

#[path = "common/counting.rs"]
mod counting;

use std::{ops::ControlFlow, sync::Arc};

use counting::COUNTING;
use firebox::{
    Cpu, LoadConfig, Loader, Strategy, StreamFrom,
    config::Budget,
    model::{Architecture, CausalLm, GenerateOptions, Role, Slot, generate},
    source::Memory,
};
use safetensors::{Dtype, tensor::TensorView};

const EXPERTS: usize = 64;
const FEATURES: usize = 256;
const INNER: usize = 128;

/// A model of two layers of experts: nearly all of its bytes are theirs.
fn experts() -> Memory {
    let config = serde_json::json!({
        "model_type": "qwen3_moe",
        "vocab_size": 64,
        "hidden_size": FEATURES,
        "intermediate_size": INNER,
        "moe_intermediate_size": INNER,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 4,
        "norm_topk_prob": true,
        "max_position_embeddings": 256,
    });
    let slots = CausalLm::slots(&CausalLm::config(&config).expect("a family"));
    let values = |nth: usize, slot: &Slot| -> Vec<u8> {
        let centre = if slot.role == Role::Norm { 1.0 } else { 0.0 };
        let values = (0..slot.shape.iter().product()).map(|k: usize| {
            let noise = ((k * 7919 + nth * 104_729) % 1009) as f32 / 1009.0 - 0.5;
            half::bf16::from_f32(centre + noise * 0.2)
        });
        values.flat_map(half::bf16::to_le_bytes).collect()
    };
    let tensors: Vec<_> = slots
        .iter()
        .enumerate()
        .map(|(nth, slot)| values(nth, slot))
        .collect();
    let views = slots.iter().zip(&tensors).map(|(slot, bytes)| {
        let view = TensorView::new(Dtype::BF16, slot.shape.clone(), bytes);
        (slot.name.clone(), view.expect("two bytes a value"))
    });
    let file = safetensors::serialize(views, None).expect("views are sound");
    Memory::new()
        .with("config.json", config.to_string().as_bytes())
        .with("model.safetensors", file)
}

/// A quarter of the packed weights fits, and the model generates what it generates with all of them. Would catch experts
/// that pile up, and a budget of the host that streaming does not know.
#[test]
fn a_model_of_experts_generates_in_a_quarter_of_its_bytes() {
    let source = Arc::new(experts());
    let folder = tempfile::tempdir().expect("a folder");
    let config = LoadConfig::default().quant("nf4".parse().expect("a spec"));
    let options = GenerateOptions {
        max_new_tokens: 12,
        ..GenerateOptions::default()
    };
    let tokens = |model: &CausalLm| {
        let generated = generate(model, &[5, 9, 33], &options, |_| ControlFlow::Continue(()));
        generated.expect("a valid prompt").ids
    };
    let full = Loader::<Cpu>::new(config.clone().source(source.clone())).expect("a checkpoint");
    let packed = full
        .plan::<CausalLm>()
        .expect("a plan")
        .totals()
        .bytes_finished;
    let expected = {
        let full = full.load::<CausalLm>().expect("a model").model;
        tokens(&full)
    };

    let budget = packed / 4;
    let config = config
        .strategy(Strategy::Streaming)
        .stream_from(StreamFrom::Disk(folder.path().to_owned()))
        .host_budget(Budget::Bytes(budget))
        .source(source);
    let before = COUNTING.live();
    let (model, most) = COUNTING.most(|| {
        let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
        loader.load::<CausalLm>().expect("a model").model
    });
    let load = most.saturating_sub(before);
    // The journal of a load, names and slots are not weights.
    let beside = 512 << 10;
    assert!(load <= budget + beside, "{load} bytes, {budget} allowed");
    let (found, most) = COUNTING.most(|| tokens(&model));
    let pass = most.saturating_sub(before);
    assert!(pass <= budget + beside, "{pass} bytes, {budget} allowed");

    assert_eq!(found, expected);
    let stats = model.stream_stats().expect("it streams");
    let rate = stats.hit_rate().expect("experts");
    assert!(rate > 0.0 && rate < 1.0, "{stats}");
    assert!(stats.experts_bytes_peak > budget / 3, "{stats}");
}
