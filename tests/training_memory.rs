//! What a graph keeps of a model between forward and backward pass: every allocation of this program is counted.

#![cfg(feature = "cpu")]

#[path = "common/counting.rs"]
mod counting;

use std::sync::Arc;

use counting::COUNTING;
use firebox::{
    Cpu, LoadConfig, Loader,
    adapter::AdapterConfig,
    model::{Architecture, CausalLm, Documents, LossConfig},
    source::Memory,
    target::DType,
    train::FinetuneConfig,
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

const TOKENS: usize = 128;

/// A Llama of these sizes; its weights do not matter here.
fn checkpoint(layers: usize, features: usize, vocabulary: usize) -> Arc<Memory> {
    let config = json!({
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": features,
        "intermediate_size": 2 * features,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "vocab_size": vocabulary,
        "max_position_embeddings": TOKENS,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true,
    });
    of_config(&config)
}

/// Made-up weights of a model.
fn of_config(config: &Value) -> Arc<Memory> {
    let slots = CausalLm::slots(&CausalLm::config(config).expect("a configuration"));
    let tensors = slots.into_iter().map(|mut slot| {
        if slot.from.iter().all(|origin| origin.transposed) {
            slot.shape.reverse();
        }
        let count = slot.shape.iter().product::<usize>();
        let values = (0..count).map(|nth| ((nth * 31) % 97) as f32 / 970.0 - 0.05);
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        (slot.name, slot.shape, bytes)
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name.clone(), view.expect("four bytes a value"))
    });
    let file = safetensors::serialize(views, None).expect("a file");
    let memory = Memory::new().with("config.json", config.to_string().into_bytes());
    Arc::new(memory.with("model.safetensors", file))
}

/// The most that the loss and its gradients take beside the model, which is trained by small factors.
fn peak(checkpoint: &Arc<Memory>, recompute: bool, rows: usize) -> u64 {
    let adapter: AdapterConfig = "lora:rank=2,alpha=4".parse().expect("an adapter");
    let config = LoadConfig::default()
        .dtype(DType::F32)
        .adapter(adapter)
        .source(Arc::clone(checkpoint) as _);
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    let model: CausalLm = loader.load().expect("a model").model;
    let ids: Vec<u32> = (0..2 * TOKENS as u32).map(|nth| nth * 7 % 61).collect();
    let labels: Vec<Option<u32>> = ids.iter().map(|id| Some(*id)).collect();
    let config = LossConfig {
        recompute,
        rows: rows.try_into().expect("some rows"),
        ..LossConfig::new(Documents::whole([2, TOKENS]))
    };
    let (_, peak) = COUNTING.peak(|| {
        let loss = model.loss(&ids, &labels, &config);
        loss.expect("a loss").backward()
    });
    peak
}

/// Would catch a graph that keeps what is inside of layers that are computed twice, and logits of all rows. One test, since all
/// allocations of the program are counted.
#[test]
fn graphs_keep_what_goes_into_layers_and_some_rows_of_logits() {
    let deep = checkpoint(12, 64, 128);
    let [kept, again] = [false, true].map(|recompute| peak(&deep, recompute, 16));
    assert!(again * 5 < kept, "{again} bytes of {kept}");

    let vocabulary = 8192;
    let wide = checkpoint(1, 16, vocabulary);
    let logits = |rows: usize| (rows * vocabulary * size_of::<f32>()) as u64;
    let [all, some] = [2 * TOKENS, 16].map(|rows| peak(&wide, true, rows));
    assert!(all > 2 * logits(2 * TOKENS), "{all} bytes");
    assert!(some < logits(2 * TOKENS), "{some} bytes");

    graphs_keep_what_is_estimated();
}

/// Would catch a matrix that is counted and that the family has not, masks and products that are forgotten, and what the first layer
/// needs of an input that is a constant.
fn graphs_keep_what_is_estimated() {
    let llama = json!({
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 64,
        "max_position_embeddings": TOKENS,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true,
    });
    let mut qwen = llama.clone();
    qwen["model_type"] = "qwen3".into();
    qwen["architectures"] = json!(["Qwen3ForCausalLM"]);
    let gpt = json!({
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": 256,
        "n_head": 4,
        "n_layer": 2,
        "n_positions": TOKENS,
        "vocab_size": 64,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    });
    let adapters = [
        "lora:rank=4",
        "lora:rank=4,dropout=0.1",
        "lora:rank=4,dora",
        "lora:rank=4,dora,dropout=0.1",
    ];
    for (config, adapters) in [
        (llama, &adapters[..]),
        (qwen, &adapters),
        (gpt, &adapters[..1]),
    ] {
        for adapter in adapters {
            let of = format!("{}, {adapter}", config["model_type"]);
            let [estimated, kept] = estimated_and_kept(&config, adapter);
            let off = estimated as f64 / kept as f64 - 1.0;
            assert!(off.abs() < 0.05, "{of}: {estimated} of {kept}, {off:+.3}");
        }
    }
}

/// What is estimated of the activations of two rows, and what the graph of their loss keeps.
fn estimated_and_kept(config: &Value, adapter: &str) -> [u64; 2] {
    let adapter: AdapterConfig = adapter.parse().expect(adapter);
    let run = FinetuneConfig {
        adapter: Some(adapter),
        batch: 2,
        ..FinetuneConfig::default()
    };
    let load = run.load_config(LoadConfig::default().dtype(DType::F32));
    let loader = Loader::<Cpu>::new(load.source(of_config(config)));
    let loader = loader.expect("a checkpoint");
    let plan = loader.plan::<CausalLm>().expect("a plan");
    let spec = CausalLm::config(config).expect("a configuration");
    let estimated = run.memory(&plan, &spec, TOKENS).expect("an estimate");
    let model: CausalLm = loader.load().expect("a model").model;
    let ids: Vec<u32> = (0..2 * TOKENS as u32).map(|nth| nth * 7 % 61).collect();
    let labels: Vec<Option<u32>> = ids.iter().map(|id| Some(*id)).collect();
    let config = LossConfig::new(Documents::whole([2, TOKENS]));
    let before = COUNTING.live();
    let loss = model.loss(&ids, &labels, &config).expect("a loss");
    let kept = COUNTING.live() - before;
    // A graph that is never gone through is freed at some later time.
    drop(loss.backward());
    // The gradients of what goes into the head are made with the loss.
    let of_head = (2 * TOKENS * spec.features * size_of::<f32>()) as u64;
    [estimated.activations + of_head, kept]
}
