//! Mixtures of types, as llama-quantize chooses them (`llama_tensor_get_type` of llama.cpp).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::Path,
};

use firebox::{Cpu, DType, LoadConfig, Loader, config::Rule, model::CausalLm};
use serde_json::{Map, Value, json};
use tempfile::{TempDir, tempdir};

use super::{
    common::Golden,
    written::{header, load, save, to},
};

/// A model whose weights are nowhere, with rows of 256 values: a file of the right length without bytes on the disk.
fn hollow(config: &Value, shapes: &[(&str, [usize; 2])]) -> TempDir {
    let folder = tempdir().expect("a folder");
    let layers = config["num_hidden_layers"].as_u64().expect("a number");
    let mut header = Map::new();
    let mut end = 0;
    let mut put = |name: String, shape: &[usize]| {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] });
        header.insert(name, entry);
    };
    put("model.embed_tokens.weight".to_owned(), &[300, 256]);
    put("model.norm.weight".to_owned(), &[256]);
    if config["tie_word_embeddings"] == false {
        put("lm_head.weight".to_owned(), &[300, 256]);
    }
    for layer in 0..layers {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            put(format!("model.layers.{layer}.{norm}.weight"), &[256]);
        }
        for (name, shape) in shapes {
            put(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    let text = Value::Object(header).to_string();
    let mut file = File::create(folder.path().join("model.safetensors")).expect("a file");
    file.write_all(&(text.len() as u64).to_le_bytes())
        .expect("written");
    file.write_all(text.as_bytes()).expect("written");
    let whole = 8 + text.len() + end;
    file.set_len(whole as u64).expect("room");
    let path = folder.path().join("config.json");
    fs::write(path, config.to_string()).expect("written");
    folder
}

/// A Llama with eight query heads, and `keys` for keys.
fn llama(layers: usize, keys: usize, tied: bool) -> TempDir {
    let config = json!({
        "model_type": "llama", "vocab_size": 300, "hidden_size": 256, "intermediate_size": 256,
        "num_hidden_layers": layers, "num_attention_heads": 8, "num_key_value_heads": keys, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128, "tie_word_embeddings": tied,
    });
    let rows = 32 * keys;
    let shapes = [
        ("self_attn.q_proj", [256, 256]),
        ("self_attn.k_proj", [rows, 256]),
        ("self_attn.v_proj", [rows, 256]),
        ("self_attn.o_proj", [256, 256]),
        ("mlp.gate_proj", [256, 256]),
        ("mlp.up_proj", [256, 256]),
        ("mlp.down_proj", [256, 256]),
    ];
    hollow(&config, &shapes)
}

/// The type of each matrix.
fn types(path: &Path, quant: &str) -> BTreeMap<String, String> {
    let config = load(path, quant);
    types_of(config)
}

fn types_of(config: LoadConfig) -> BTreeMap<String, String> {
    let loader = Loader::<Cpu>::new(config.dtype(DType::F32)).expect("a model");
    let plan = loader.plan::<CausalLm>().expect("a plan");
    let matrices = plan.steps.iter().filter(|step| step.slot.shape.len() > 1);
    let types = matrices.map(|step| {
        let kind = step
            .action
            .format()
            .map_or("dense".to_owned(), |kind| kind.to_string());
        (step.slot.name.clone(), kind)
    });
    types.collect()
}

/// How many matrices each type has in the files of Llama 2 7B that were published with each mixture, as llama.cpp counts them when
/// it loads one. Would catch layers that are counted from the other end, a head or an embedding that is left out.
#[test]
fn mixtures_have_as_many_of_each_type_as_llama_cpp() {
    let model = llama(32, 8, false);
    for (quant, expected) in [
        ("q3_k_s", &[("q3_k", 225), ("q6_k", 1)][..]),
        (
            "q3_k_m",
            &[("q3_k", 129), ("q4_k", 92), ("q5_k", 4), ("q6_k", 1)],
        ),
        ("q3_k_l", &[("q3_k", 129), ("q5_k", 96), ("q6_k", 1)]),
        ("q4_k_s", &[("q4_k", 217), ("q5_k", 8), ("q6_k", 1)]),
        ("q4_k_m", &[("q4_k", 193), ("q6_k", 33)]),
        ("q5_k_s", &[("q5_k", 225), ("q6_k", 1)]),
        ("q5_k_m", &[("q5_k", 193), ("q6_k", 33)]),
        ("q4_0:mixture", &[("q4_0", 225), ("q6_k", 1)]),
        ("q6_k:mixture", &[("q6_k", 226)]),
        ("q8_0:mixture", &[("q8_0", 226)]),
    ] {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for kind in types(model.path(), quant).into_values() {
            *found.entry(kind).or_default() += 1;
        }
        let expected = expected
            .iter()
            .map(|(kind, count)| ((*kind).to_owned(), *count));
        assert_eq!(found, expected.collect(), "{quant}");
    }
}

/// `use_more_bits` of 32 layers, by hand: the first four, the last four, and of the others 6, 9, …, 27.
#[test]
fn more_bits_go_to_the_layers_of_llama_cpp() {
    let more = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
    let (many, few) = (llama(32, 8, false), llama(32, 2, false));
    type Choice = fn(usize, &[usize]) -> &'static str;
    let table: [(&str, &Path, &str, Choice); 12] = [
        ("q4_k_m", many.path(), "self_attn.v_proj", |nth, more| {
            if more.contains(&nth) { "q6_k" } else { "q4_k" }
        }),
        ("q4_k_m", many.path(), "mlp.down_proj", |nth, more| {
            if more.contains(&nth) { "q6_k" } else { "q4_k" }
        }),
        ("q4_k_m", many.path(), "mlp.up_proj", |_, _| "q4_k"),
        ("q5_k_m", many.path(), "mlp.down_proj", |nth, more| {
            if more.contains(&nth) { "q6_k" } else { "q5_k" }
        }),
        ("q4_k_s", many.path(), "self_attn.v_proj", |nth, _| {
            if nth < 4 { "q5_k" } else { "q4_k" }
        }),
        ("q3_k_m", many.path(), "self_attn.v_proj", |nth, _| {
            if nth < 2 { "q5_k" } else { "q4_k" }
        }),
        ("q3_k_m", many.path(), "mlp.down_proj", |nth, _| {
            if nth < 2 { "q5_k" } else { "q4_k" }
        }),
        ("q3_k_m", many.path(), "self_attn.o_proj", |_, _| "q4_k"),
        // Where four queries share a key.
        (
            "q2_k:mixture",
            few.path(),
            "self_attn.v_proj",
            |_, _| "q4_k",
        ),
        (
            "q2_k:mixture",
            many.path(),
            "self_attn.v_proj",
            |_, _| "q3_k",
        ),
        (
            "iq4_nl:mixture",
            few.path(),
            "self_attn.v_proj",
            |_, _| "q5_k",
        ),
        ("iq4_nl:mixture", many.path(), "mlp.down_proj", |nth, _| {
            if nth < 4 { "q5_k" } else { "iq4_nl" }
        }),
    ];
    for (quant, path, matrix, expected) in table {
        let found = types(path, quant);
        for nth in 0..32 {
            let name = format!("model.layers.{nth}.{matrix}.weight");
            assert_eq!(found[&name], expected(nth, &more), "{quant}: {name}");
        }
    }
}

/// What llama.cpp takes for a model of 70B has more bits for values; a tied embedding is the head; a rule of the caller comes first.
#[test]
fn sizes_ties_and_rules_change_a_mixture() {
    let large = llama(80, 1, true);
    let found = types(large.path(), "q4_k_s");
    assert_eq!(found["model.layers.40.self_attn.v_proj.weight"], "q5_k");
    assert_eq!(found["model.layers.40.mlp.down_proj.weight"], "q4_k");
    assert_eq!(found["model.embed_tokens.weight"], "q6_k");
    let rule = "role:embedding=q8_0".parse::<Rule>().expect("a rule");
    let found = types_of(load(large.path(), "q4_k_s").rule(rule));
    assert_eq!(found["model.embed_tokens.weight"], "q8_0");
    assert_eq!(found["model.layers.3.self_attn.v_proj.weight"], "q5_k");
}

/// Eight experts are those of Mixtral: more bits for attention, and the layers of 8 by hand (0, 3, 6, 7) for what comes out of them.
#[test]
fn eight_experts_have_more_bits_for_attention() {
    let config = json!({
        "model_type": "mixtral", "vocab_size": 300, "hidden_size": 256, "intermediate_size": 256,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 128,
        "tie_word_embeddings": false, "sliding_window": null,
    });
    let experts: Vec<String> = (0..8)
        .flat_map(|nth| ["w1", "w2", "w3"].map(|w| format!("block_sparse_moe.experts.{nth}.{w}")))
        .collect();
    let experts = experts.iter().map(|name| (&**name, [256, 256]));
    let attention = [
        ("self_attn.q_proj", [256, 256]),
        ("self_attn.k_proj", [64, 256]),
        ("self_attn.v_proj", [64, 256]),
        ("self_attn.o_proj", [256, 256]),
        ("block_sparse_moe.gate", [8, 256]),
    ];
    let shapes: Vec<_> = attention.into_iter().chain(experts).collect();
    let model = hollow(&config, &shapes);
    let found = types(model.path(), "q4_k_m");
    for nth in 0..8 {
        let kind = |name: &str| found[&format!("model.layers.{nth}.{name}.weight")].clone();
        assert_eq!(kind("self_attn.q_proj"), "q4_k");
        assert_eq!(kind("self_attn.k_proj"), "q8_0");
        assert_eq!(kind("self_attn.v_proj"), "q8_0");
        assert_eq!(kind("self_attn.o_proj"), "q5_k");
        assert_eq!(kind("block_sparse_moe.gate"), "dense");
        let down = if [0, 3, 6, 7].contains(&nth) {
            "q6_k"
        } else {
            "q4_k"
        };
        assert_eq!(kind("block_sparse_moe.experts.5.w2"), down, "{nth}");
        assert_eq!(kind("block_sparse_moe.experts.5.w1"), "q4_k");
    }
}

/// The file says it, and rows that no block of 256 fits have other types (`tensor_type_fallback`).
#[test]
fn a_mixture_is_written() {
    let folder = tempdir().expect("a folder");
    let config = load(Golden("llama_bf16_untied").path(""), "q4_k_m");
    save(config, &to(folder.path())).expect("saved");
    let header = header(folder.path());
    let kind = |name: &str| {
        let tensor = header.tensors.iter().find(|tensor| tensor.name == name);
        format!("{:?}", tensor.expect("a tensor").kind)
    };
    // Of four layers, the third and the last have more bits.
    for (name, expected) in [
        ("output.weight", "Blocks(Q6K)"),
        ("token_embd.weight", "Blocks(Q4K)"),
        ("blk.0.attn_v.weight", "Blocks(Q4K)"),
        ("blk.1.attn_v.weight", "Blocks(Q4K)"),
        ("blk.2.attn_v.weight", "Blocks(Q6K)"),
        ("blk.3.attn_v.weight", "Blocks(Q6K)"),
        ("blk.0.ffn_down.weight", "Blocks(Q5_0)"),
        ("blk.3.ffn_down.weight", "Blocks(Q8_0)"),
    ] {
        assert_eq!(kind(name), expected, "{name}");
    }
}

/// A mixture needs a model, all of it.
#[test]
fn a_mixture_without_layers_is_refused() {
    let model = llama(1, 8, false);
    let path = model.path().join("config.json");
    fs::write(&path, r#"{"model_type": "unheard_of"}"#).expect("written");
    let error = Loader::<Cpu>::new(load(model.path(), "q4_k_m")).expect_err("refused");
    let error = error.to_string();
    assert!(
        error.contains("q4_k_m") && error.contains("unheard_of"),
        "{error}"
    );
    let error = "*.mlp.*=q4_k_m"
        .parse::<Rule>()
        .expect_err("refused")
        .to_string();
    assert!(error.contains("a mixture is for all"), "{error}");
}
