//! Experts that dense files have in stacks, in the files of every dialect: written, read, and the same model as the one
//! that is packed while it is loaded; and back to dense files.

use std::{fs, path::Path};

use firebox::{
    Cpu, DType, LoadConfig, Loader,
    config::{SaveConfig, To},
    model::{Architecture, CausalLm},
};
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Tensors,
    common::{Golden, ids, max_abs_difference, values},
    load, save, tensors, write,
};

const GPT_OSS: &str = "gpt_oss_bf16";
const LLAMA_4: &str = "llama4_bf16";
const GEMMA_4: &str = "gemma4_moe_bf16";

/// A method, the dialect that is written, and what the first gate is called in it.
struct Case {
    model: &'static str,
    quant: &'static str,
    to: To,
    gate: &'static str,
}

const fn case(model: &'static str, quant: &'static str, to: To, gate: &'static str) -> Case {
    Case {
        model,
        quant,
        to,
        gate,
    }
}

/// Where gates and ups are written apart, blocks and groups end where a gate does, so that its half of both is packed as it is alone.
#[rustfmt::skip]
const CASES: [Case; 22] = [
    case(GPT_OSS, "nf4", To::BitsAndBytes, "model.layers.0.mlp.experts.0.gate_up_proj.weight"),
    case(GPT_OSS, "nf4:nested", To::BitsAndBytes, "model.layers.1.mlp.experts.3.gate_up_proj.weight.nested_absmax"),
    case(GPT_OSS, "int8", To::BitsAndBytes, "model.layers.0.mlp.experts.0.gate_up_proj.SCB"),
    case(GPT_OSS, "fp8:e4m3,scale=32x32", To::Fp8, "model.layers.0.mlp.experts.0.gate_up_proj.weight_scale_inv"),
    case(GPT_OSS, "fp8:e4m3,scale=channel", To::CompressedTensors, "model.layers.0.mlp.experts.0.gate_up_proj.weight_scale"),
    case(GPT_OSS, "wna16:bits=4,group=32", To::CompressedTensors, "model.layers.0.mlp.experts.0.gate_up_proj.weight_packed"),
    case(GPT_OSS, "hqq:bits=4,group=32", To::Hqq, "model.layers.0.mlp.experts.0.gate_up_proj.W_q"),
    case(GPT_OSS, "mlx:bits=4,group=32", To::Mlx, "model.layers.0.mlp.experts.gate_proj.scales"),
    case(GPT_OSS, "mxfp4", To::Mxfp4, "model.layers.0.mlp.experts.gate_up_proj_blocks"),
    case(LLAMA_4, "nf4", To::BitsAndBytes, "model.layers.1.feed_forward.experts.0.gate_proj.weight"),
    case(LLAMA_4, "int8", To::BitsAndBytes, "model.layers.1.feed_forward.experts.3.up_proj.SCB"),
    case(LLAMA_4, "fp8:e4m3,scale=8x8", To::Fp8, "model.layers.1.feed_forward.experts.0.gate_up_proj.weight_scale_inv"),
    case(LLAMA_4, "fp8:e4m3,scale=channel", To::CompressedTensors, "model.layers.1.feed_forward.experts.0.gate_proj.weight_scale"),
    case(LLAMA_4, "wna16:bits=4,group=8", To::CompressedTensors, "model.layers.1.feed_forward.experts.0.gate_proj.weight_packed"),
    case(LLAMA_4, "hqq:bits=4,group=8", To::Hqq, "model.layers.1.feed_forward.experts.0.gate_up_proj.W_q"),
    case(LLAMA_4, "hqq:bits=4,group=8,axis=0", To::Hqq, "model.layers.1.feed_forward.experts.0.gate_up_proj.W_q"),
    // Blocks of 64 would hold values of two experts.
    case(GEMMA_4, "nf4", To::BitsAndBytes, "model.layers.0.experts.0.gate_up_proj.weight.absmax"),
    case(GEMMA_4, "nf4:block=32", To::BitsAndBytes, "model.layers.0.experts.gate_up_proj.absmax"),
    case(GEMMA_4, "fp8:e4m3,scale=8x8", To::Fp8, "model.layers.0.experts.gate_up_proj_scale_inv"),
    case(GEMMA_4, "fp8:e4m3,scale=16x16", To::Fp8, "model.layers.0.experts.0.down_proj.weight_scale_inv"),
    case(GEMMA_4, "wna16:bits=4,group=4", To::CompressedTensors, "model.layers.0.experts.0.gate_proj.weight_packed"),
    case(GEMMA_4, "hqq:bits=4,group=4", To::Hqq, "model.layers.0.experts.0.gate_up_proj.W_q"),
];

fn logits(config: LoadConfig, ids_of: Golden) -> Vec<f32> {
    let loader = Loader::<Cpu>::new(config.dtype(DType::F32)).expect("a checkpoint");
    let loaded = loader.load::<CausalLm>().expect("a model").model;
    values(loaded.forward(ids(&ids_of.ids("input_ids"))))
}

fn asked(from: &Path, quant: &str) -> LoadConfig {
    let config = load(from).quant(quant.parse().expect("a spec"));
    match quant {
        // gpt-oss packs its experts alone.
        "mxfp4" => config.rule("role:linear=none".parse().expect("a rule")),
        _ => config,
    }
}

/// Would catch rows of a gate in up, another expert, a stack that is read the other way round, and biases of the other
/// half.
#[test]
fn written_experts_are_those_that_are_loaded() {
    for Case {
        model,
        quant,
        to,
        gate,
    } in CASES
    {
        let what = format!("{model} as {quant}");
        let (from, folder) = (Golden(model).path(""), TempDir::new().expect("a folder"));
        let saved = save(
            asked(&from, quant),
            &SaveConfig::new(folder.path()).dialect(to),
        );
        assert_eq!(saved.dialect, Some(to.name()), "{what}");
        let names: Vec<String> = tensors(folder.path()).into_keys().collect();
        assert!(names.iter().any(|name| name == gate), "{what}: {names:?}");
        let found = logits(load(folder.path()), Golden(model));
        let expected = logits(asked(&from, quant), Golden(model));
        assert!(found == expected, "{what} has other logits");
        assert_dense_again(&what, &from, folder.path());
        assert_mixed(&what, &from, quant, to);
    }
}

/// The tensors of a golden model.
fn weights(model: &Path) -> Tensors {
    let mut all = tensors(model);
    all.retain(|name, _| name.contains('.') && !name.starts_with("hidden."));
    all
}

/// Dequantized, the folder has the tensors of dense files, and the values that it had.
fn assert_dense_again(what: &str, from: &Path, packed: &Path) {
    let dense = TempDir::new().expect("a folder");
    let config = load(packed).dequantize(true).dtype(DType::F32);
    save(config, &SaveConfig::new(dense.path()));
    let (found, expected) = (tensors(dense.path()), weights(from));
    let shapes = |tensors: &Tensors| {
        let shapes = tensors
            .iter()
            .map(|(name, (_, shape, _))| (name.clone(), shape.clone()));
        shapes.collect::<Vec<_>>()
    };
    assert_eq!(shapes(&found), shapes(&expected), "{what}, dense again");
    // The values are near those that were packed, each in its own place.
    for name in expected.keys() {
        let of = |tensors: &Tensors| {
            let (dtype, _, bytes) = &tensors[name];
            floats(*dtype, bytes)
        };
        let (found, expected) = (of(&found), of(&expected));
        let power: f32 = expected.iter().map(|value| value * value).sum();
        let error = found.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b));
        assert!(
            error.sum::<f32>() <= 0.1 * power,
            "{what}, dense again: {name}"
        );
    }
}

fn floats(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytemuck::pod_collect_to_vec(bytes),
        Dtype::BF16 => {
            let halves: Vec<u16> = bytemuck::pod_collect_to_vec(bytes);
            let widened = halves
                .into_iter()
                .map(|half| f32::from_bits(u32::from(half) << 16));
            widened.collect()
        }
        other => panic!("{other:?} is no type of these models"),
    }
}

/// Some stacks stay dense beside packed ones. Would catch a dense stack under a name that is not found again.
fn assert_mixed(what: &str, from: &Path, quant: &str, to: To) {
    let folder = TempDir::new().expect("a folder");
    let config = || asked(from, quant).rule("*down_proj*=none".parse().expect("a rule"));
    save(config(), &SaveConfig::new(folder.path()).dialect(to));
    let model = from
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    let model = Golden(
        CASES
            .iter()
            .find(|case| case.model == model)
            .expect("a case")
            .model,
    );
    let found = logits(load(folder.path()), model);
    assert!(
        found == logits(config(), model),
        "{what}, some dense, has other logits"
    );
}

/// MXFP4 becomes NF4 and what other dialects hold in one pass, as in two. Would catch a stack that is unpacked as the other
/// halves, and experts that are written from another's rows.
#[test]
fn mxfp4_is_requantized_to_every_dialect() {
    let from = Golden("../packed/gpt_oss_mxfp4").path("");
    let dense = TempDir::new().expect("a folder");
    let config = load(&from).dequantize(true).dtype(DType::F32);
    save(config, &SaveConfig::new(dense.path()));
    let quants = CASES
        .into_iter()
        .filter(|case| case.model == GPT_OSS && case.quant != "mxfp4");
    for Case { quant, to, .. } in quants {
        let [one, two, few] = [(); 3].map(|()| TempDir::new().expect("a folder"));
        let at = |folder: &TempDir| SaveConfig::new(folder.path()).dialect(to);
        let again = asked(&from, quant).requantize(true);
        save(again.clone(), &at(&one));
        save(again.in_flight_bytes_max(4 << 10), &at(&few));
        save(asked(dense.path(), quant), &at(&two));
        for folder in [&one, &few] {
            assert!(tensors(folder.path()) == tensors(two.path()), "to {quant}");
        }
        let again = logits(asked(&from, quant).requantize(true), Golden(GPT_OSS));
        assert!(
            logits(load(one.path()), Golden(GPT_OSS)) == again,
            "{quant} has other logits"
        );
    }
}

/// Experts as `save_pretrained` of transformers 5.23.0 writes those of Qwen 3.5 MoE: a tensor for each matrix, where the files
/// of the hub have stacks.
#[test]
fn experts_of_their_own_are_those_of_a_stack() {
    let model = Golden("qwen3_5_moe_bf16");
    let (from, folder) = (model.path(""), TempDir::new().expect("a folder"));
    let mut each = Tensors::new();
    for (name, (dtype, shape, bytes)) in weights(&from) {
        let Some((path, matrix)) = name.split_once(".experts.") else {
            each.insert(name, (dtype, shape, bytes));
            continue;
        };
        let parts = match matrix {
            "gate_up_proj" => vec!["gate_proj", "up_proj"],
            matrix => vec![matrix],
        };
        let matrices = bytes.chunks(bytes.len() / shape[0] / parts.len());
        for (nth, matrix) in matrices.enumerate() {
            let (expert, part) = (nth / parts.len(), parts[nth % parts.len()]);
            let name = format!("{path}.experts.{expert}.{part}.weight");
            let shape = vec![shape[1] / parts.len(), shape[2]];
            each.insert(name, (dtype, shape, matrix.to_vec()));
        }
    }
    write(&folder.path().join("model.safetensors"), &each);
    fs::copy(model.path("config.json"), folder.path().join("config.json")).expect("a copy");
    let (expected, _) = model.floats("logits_f32");
    let error = max_abs_difference(&logits(load(folder.path()), model), &expected);
    assert!(error <= model.tolerance(), "{error}");
    // Dense ones are written as they are.
    let again = TempDir::new().expect("a folder");
    save(load(folder.path()), &SaveConfig::new(again.path()));
    assert!(tensors(again.path()) == each);
    // One of them cannot be packed otherwise than the others in a stack.
    let other = "model.layers.1.mlp.experts.2.up_proj.weight";
    let rules = ["*.shared_expert.*=none", &format!("{other}=none")];
    let asked_otherwise = rules.into_iter().fold(
        asked(folder.path(), "mlx:bits=4,group=32"),
        |config, rule| config.rule(rule.parse().expect("a rule")),
    );
    let loader = Loader::<Cpu>::new(asked_otherwise).expect("a checkpoint");
    let refused = TempDir::new().expect("a folder");
    let error = loader.save::<CausalLm>(&SaveConfig::new(refused.path()));
    let error = error.expect_err("refused").to_string();
    let first = "model.layers.1.mlp.experts.0.up_proj.weight";
    for word in [first, other, "switch_mlp.up_proj", "--rule", "--to"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    // mlx-lm has them in stacks.
    for from in [folder.path(), &from] {
        let mlx = TempDir::new().expect("a folder");
        let rule = "*.shared_expert.*=none".parse().expect("a rule");
        let config = asked(from, "mlx:bits=4,group=32").rule(rule);
        save(config.clone(), &SaveConfig::new(mlx.path()));
        let (_, shape, _) = &tensors(mlx.path())["model.layers.0.mlp.switch_mlp.up_proj.scales"];
        assert_eq!(*shape, [6, 32, 2]);
        let found = logits(load(mlx.path()), model);
        assert!(found == logits(config, model));
    }
}

/// A checkpoint of a golden model's family with other sizes, and weights of no meaning.
fn resized(model: &'static str, sizes: Value) -> TempDir {
    let mut config = Golden(model).json("config.json");
    for (field, size) in sizes.as_object().expect("an object") {
        config[field] = size.clone();
    }
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    let mut tensors = Tensors::new();
    let mut state = 1_u32;
    for slot in CausalLm::slots(&CausalLm::config(&config).expect("a valid file")) {
        let mut shape = slot.shape;
        let origin = &slot.from[0];
        if origin.transposed {
            shape.reverse();
        }
        let spread = (*shape.last().expect("a shape") as f32).sqrt().recip();
        let values = (0..shape.iter().product()).flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * spread;
            value.to_le_bytes()
        });
        // Experts follow one another.
        let stack = origin.rows.is_some();
        let tensor = tensors.entry(origin.tensor.clone()).or_insert_with(|| {
            let shape = if stack {
                [&[0], &shape[..]].concat()
            } else {
                shape
            };
            (Dtype::F32, shape, Vec::new())
        });
        tensor.2.extend(values);
        if stack {
            tensor.1[0] += 1;
        }
    }
    write(&folder.path().join("model.safetensors"), &tensors);
    folder
}

/// The names are those of mlx-lm 0.32.2: `sanitize` of its `llama4`, `gemma4_text`, `gpt_oss`. Would catch halves in each
/// other's place, and stacks that are not found again or not taken back.
#[test]
fn experts_of_mlx_are_stacks_with_gates_apart() {
    let llama_4 = json!({ "hidden_size": 64, "head_dim": 16 });
    let gemma_4 = json!({ "hidden_size": 64, "moe_intermediate_size": 32 });
    for (model, sizes, path) in [
        (LLAMA_4, llama_4, "model.layers.1.feed_forward.experts"),
        (GEMMA_4, gemma_4, "model.layers.0.experts.switch_glu"),
    ] {
        let (from, mlx) = (resized(model, sizes), TempDir::new().expect("a folder"));
        let rule = "role:expert=mlx:bits=4,group=32".parse().expect("a rule");
        let config = load(from.path()).rule(rule);
        let saved = save(config.clone(), &SaveConfig::new(mlx.path()));
        assert_eq!(saved.dialect, Some("mlx"));
        let stacks = tensors(mlx.path());
        let experts = tensors(from.path()).into_iter();
        let experts = experts.filter(|(name, _)| name.ends_with("experts.down_proj"));
        let experts = experts
            .map(|(_, (_, shape, _))| shape[0])
            .max()
            .expect("experts");
        for (part, shape) in [
            ("gate_proj.weight", [experts, 32, 8]),
            ("up_proj.scales", [experts, 32, 2]),
            ("down_proj.biases", [experts, 64, 1]),
        ] {
            assert_eq!(
                stacks[&format!("{path}.{part}")].1,
                shape,
                "{model}, {part}"
            );
        }
        assert!(stacks.keys().all(|name| !name.contains("gate_up_proj")));
        let found = logits(load(mlx.path()), Golden(model));
        assert!(found == logits(config, Golden(model)), "{model}");
        assert_dense_again(model, from.path(), mlx.path());
    }
}
