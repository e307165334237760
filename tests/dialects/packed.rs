//! Packed checkpoints that are in the repository as their libraries wrote them: experts in every layout, an embedding that
//! is the head too, tiles that do not divide a matrix.

use std::{collections::BTreeMap, fs, path::Path};

use firebox::{
    Cpu, DType, Loader,
    config::{SaveConfig, To},
    model::{CausalLm, families},
    pipeline::Finished,
};
use half::bf16;
use safetensors::Dtype;
use tempfile::TempDir;

use super::{
    Tensors,
    common::{Golden, ids, max_abs_difference, values},
    json, load, read, save, tensors, tensors_of,
};

pub(super) const PACKED: [(Golden, To); 6] = [
    (Golden("../packed/deepseek_v3_fp8_block"), To::Fp8),
    (Golden("../packed/gemma3_mlx_4bit"), To::Mlx),
    (Golden("../packed/gpt_oss_mxfp4"), To::Mxfp4),
    (Golden("../packed/mixtral_bnb_nf4"), To::BitsAndBytes),
    (Golden("../packed/qwen3_moe_fp8_block"), To::Fp8),
    (Golden("../packed/qwen3_moe_mlx_4bit"), To::Mlx),
];

/// Those of a family that is read.
pub(super) fn known() -> Vec<(Golden, To)> {
    let is_known = |model: &Golden| {
        let family = model.json("config.json")["model_type"].clone();
        let family = family.as_str().expect("a model_type").to_owned();
        families().any(|known| {
            let known = known.model_type;
            known == family || format!("{known}_text") == family
        })
    };
    let known = PACKED.into_iter().filter(|(model, _)| is_known(model));
    let known: Vec<(Golden, To)> = known.collect();
    assert!(known.len() >= 2, "Qwen 3 MoE is read");
    known
}

/// The tensors of the checkpoint itself.
fn stored(model: Golden) -> Tensors {
    tensors_of(&model.path("model.safetensors"))
}

/// Names the first tensor that differs.
fn same(found: &Tensors, expected: &Tensors, what: &str) {
    let names = |tensors: &Tensors| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (name, tensor) in expected {
        assert!(found[name] == *tensor, "{what}: {name} is another");
    }
}

/// A checkpoint that is read and written again has the same bytes in every tensor and the same words in `config.json`, whether the family is
/// known or not. Would catch experts that leave their stack, an entry for a module that is lost, scales in another type, a
/// grid of scales without its edge.
#[test]
fn packed_models_are_written_again_to_the_byte() {
    for (model, to) in PACKED {
        let again = TempDir::new().expect("a folder");
        let loader = Loader::<Cpu>::new(load(&model.path(""))).expect(model.0);
        let out = SaveConfig::new(again.path());
        let saved = loader.save_tensors(&[], &out).expect(model.0);
        assert_eq!(saved.dialect, Some(to.name()));
        same(&tensors(again.path()), &stored(model), model.0);
        let config = json(&again.path().join("config.json"));
        assert_eq!(config, model.json("config.json"), "{}", model.0);
    }
    for (model, to) in known() {
        let again = TempDir::new().expect("a folder");
        let saved = save(load(&model.path("")), &SaveConfig::new(again.path()));
        assert_eq!(saved.dialect, Some(to.name()));
        same(&tensors(again.path()), &stored(model), model.0);
        let config = json(&again.path().join("config.json"));
        assert_eq!(config, model.json("config.json"), "{}", model.0);
    }
}

/// Would catch the matrices of another expert, gate for up, a stack that is read the other way round, groups of the router
/// in an expert, a scale of a tile beyond the edge.
#[test]
fn packed_models_give_their_reference_logits() {
    for (model, to) in known() {
        let plain = TempDir::new().expect("a folder");
        // The reference of this library rounds its weights to the type that they were stored in.
        let at = if to == To::BitsAndBytes {
            let config = load(&model.path("")).dequantize(true).dtype(DType::Bf16);
            save(config, &SaveConfig::new(plain.path()));
            plain.path().to_owned()
        } else {
            model.path("")
        };
        let loader = Loader::<Cpu>::new(load(&at).dtype(DType::F32)).expect(model.0);
        let loaded = loader.load::<CausalLm>().expect(model.0).model;
        let logits = values(loaded.forward(ids(&model.ids("input_ids"))));
        let (expected, _) = model.floats("logits_f32");
        let error = max_abs_difference(&logits, &expected);
        assert!(error <= 1e-4, "{}: {error}", model.0);
        if to == To::BitsAndBytes {
            let loader = Loader::<Cpu>::new(load(&model.path("")).dtype(DType::F32));
            let packed = loader.expect(model.0).load::<CausalLm>().expect(model.0);
            let logits = values(packed.model.forward(ids(&model.ids("input_ids"))));
            let error = max_abs_difference(&logits, &expected);
            assert!(error <= 0.1, "{}: {error}", model.0);
        }
    }
}

/// Values of a code of E2M1 without its sign, as the OCP's Microscaling specification lists them.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The experts of gpt-oss in MXFP4 become those of its bf16 files: `[experts, in, out]`. Worked out here by the layout that
/// `src/dialect/mxfp4.rs` describes. Would catch matrices that are not turned, and codes in the wrong half of a byte.
#[test]
fn mxfp4_becomes_what_a_dense_file_has() {
    let model = Golden("../packed/gpt_oss_mxfp4");
    let (packed, plain) = (stored(model), TempDir::new().expect("a folder"));
    let loader = Loader::<Cpu>::new(load(&model.path("")).dequantize(true)).expect("a checkpoint");
    let saved = loader.save_tensors(&[], &SaveConfig::new(plain.path()));
    assert_eq!(saved.expect("saved").dialect, None);
    let plain = tensors(plain.path());
    let mut expected = Tensors::new();
    for (name, tensor) in &packed {
        let Some(stack) = name.strip_suffix("_blocks") else {
            if !name.ends_with("_scales") {
                expected.insert(name.clone(), tensor.clone());
            }
            continue;
        };
        let (_, shape, blocks) = tensor;
        let (_, _, scales) = &packed[&format!("{stack}_scales")];
        let [experts, out, groups] = [shape[0], shape[1], shape[2]];
        let cols = 32 * groups;
        let mut bytes = Vec::new();
        for (expert, col, row) in
            (0..experts).flat_map(|e| (0..cols).flat_map(move |c| (0..out).map(move |r| (e, c, r))))
        {
            let group = (expert * out + row) * groups + col / 32;
            let pair = blocks[group * 16 + col % 32 / 2];
            let code = if col % 2 == 0 { pair & 15 } else { pair >> 4 };
            let scale = f32::from(scales[group]) - 127.0;
            let value = E2M1[usize::from(code & 7)] * scale.exp2();
            let value = if code >= 8 { -value } else { value };
            bytes.extend(bf16::from_f32(value).to_le_bytes());
        }
        let turned = vec![experts, cols, out];
        expected.insert(stack.to_owned(), (Dtype::BF16, turned, bytes));
    }
    same(&plain, &expected, model.0);
}

/// Experts with a tensor each become the stacks of mlx-lm, and stacks become experts with a tensor each. Every expert is
/// packed as it is alone. Would catch a stack in another order, a router that is packed, dense experts that stay apart.
#[test]
fn experts_are_stacked_and_taken_apart() {
    let model = Golden("../packed/qwen3_moe_mlx_4bit");
    let (each, stacked) = (TempDir::new(), TempDir::new());
    let [each, stacked] = [each, stacked].map(|folder| folder.expect("a folder"));
    save(
        load(&model.path("")).dequantize(true),
        &SaveConfig::new(each.path()),
    );
    let plain = tensors(each.path());
    let path = "model.layers.1.mlp";
    for (matrix, shape) in [("up_proj", [32, 64]), ("down_proj", [64, 32])] {
        for expert in 0..6 {
            let name = format!("{path}.experts.{expert}.{matrix}.weight");
            assert_eq!(plain[&name].1, shape, "{name}");
        }
    }
    assert!(plain.keys().all(|name| !name.contains("switch_mlp")));

    let spec = "mlx:bits=4,group=32";
    let config = || load(each.path()).quant(spec.parse().expect("a spec"));
    save(config(), &SaveConfig::new(stacked.path()));
    let stacks = tensors(stacked.path());
    let names = |tensors: &Tensors| -> Vec<String> {
        let names = tensors.keys().filter(|name| name.contains(".switch_mlp."));
        names.cloned().collect()
    };
    assert_eq!(names(&stacks), names(&stored(model)));
    assert!(stacks.keys().all(|name| !name.contains(".experts.")));
    // The same weights, each from its own tensor.
    let loader = Loader::<Cpu>::new(config()).expect("a checkpoint");
    let alone = super::finished(&loader, &loader.plan::<CausalLm>().expect("a plan"));
    let alone: BTreeMap<String, Finished> = alone.into_iter().collect();
    let again: BTreeMap<String, Finished> = read(stacked.path()).into_iter().collect();
    assert_eq!(alone.len(), again.len());
    let mut packed = 0;
    for (name, weight) in &alone {
        match (weight, &again[name]) {
            (Finished::Packed(alone), Finished::Packed(again)) => {
                assert!(alone == again, "{name} is another");
                packed += 1;
            }
            (Finished::Dense(alone), Finished::Dense(again)) => {
                assert!(alone.bytes() == again.bytes(), "{name} is another");
            }
            _ => panic!("{name} is packed in one of both"),
        }
    }
    assert_eq!(packed, 2 * (4 + 6 * 3));
    let said = json(&stacked.path().join("config.json"))["quantization"].clone();
    assert_eq!(said["model.layers.0.mlp.gate"], false);

    // Dense experts are stacked too, and found again.
    let mixed = TempDir::new().expect("a folder");
    let config = config().rule("*.down_proj=none".parse().expect("a rule"));
    save(config, &SaveConfig::new(mixed.path()));
    let down = "model.layers.0.mlp.switch_mlp.down_proj.weight";
    assert_eq!(tensors(mixed.path())[down].0, Dtype::BF16);
    let back = TempDir::new().expect("a folder");
    save(
        load(mixed.path()).dequantize(true),
        &SaveConfig::new(back.path()),
    );
    for (name, tensor) in tensors(back.path()) {
        if name.contains("down_proj") {
            assert!(tensor == plain[&name], "{name} is another");
        }
    }
    let mut names: Vec<_> = fs::read_dir(stacked.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    let files = [".firebox-saved.json", "config.json", "model.safetensors"];
    assert_eq!(names, files);
}

/// Experts with a tensor each, packed, become a stack in one pass: the same as dequantized first. Would catch a matrix of
/// the stack that is unpacked from another expert, and a router that is packed with them.
#[test]
fn packed_experts_are_requantized_to_a_stack() {
    let model = Golden("../packed/qwen3_moe_mlx_4bit");
    let [each, plain, once, twice] = [(); 4].map(|()| TempDir::new().expect("a folder"));
    let at = |folder: &TempDir| SaveConfig::new(folder.path());
    let quant =
        |config: firebox::LoadConfig, spec: &str| config.quant(spec.parse().expect("a spec"));
    // From stacks of MLX to experts in FP8, and from these to other stacks.
    let from = |folder: &Path| load(folder).requantize(true);
    save(
        quant(from(&model.path("")), "fp8:e4m3,scale=16x32"),
        &at(&each),
    );
    assert!(
        tensors(each.path()).contains_key("model.layers.1.mlp.experts.5.up_proj.weight_scale_inv")
    );
    save(quant(from(each.path()), "mlx:bits=3,group=32"), &at(&once));
    let config = load(each.path()).dequantize(true).dtype(DType::F32);
    save(config, &at(&plain));
    save(
        quant(load(plain.path()), "mlx:bits=3,group=32"),
        &at(&twice),
    );
    same(&tensors(once.path()), &tensors(twice.path()), "in one pass");
    let stack = "model.layers.1.mlp.switch_mlp.up_proj.scales";
    assert_eq!(tensors(once.path())[stack].1, [6, 32, 2]);
}

/// gpt-oss goes to MLX, is read again and goes back: gates and ups in two stacks, codes as they were or new ones. Would catch
/// rows of the gate in up, biases of the other half, a stack that is read the other way round, and a dense stack that stays so.
#[test]
fn gates_and_ups_of_gpt_oss_are_two_stacks_in_mlx() {
    let model = Golden("../packed/gpt_oss_mxfp4");
    let logits = |config: firebox::LoadConfig| {
        let loader = Loader::<Cpu>::new(config.dtype(DType::F32)).expect("a checkpoint");
        let loaded = loader.load::<CausalLm>().expect("a model").model;
        values(loaded.forward(ids(&model.ids("input_ids"))))
    };
    let (expected, _) = model.floats("logits_f32");
    let [mlx, plain, dense, again] = [(); 4].map(|()| TempDir::new().expect("a folder"));
    let at = |folder: &TempDir| SaveConfig::new(folder.path());
    // As they are: the same codes, every second row.
    save(load(&model.path("")), &at(&mlx).dialect(To::Mlx));
    let (stacks, packed) = (tensors(mlx.path()), stored(model));
    let path = "model.layers.1.mlp.experts";
    let rows = |name: &str, each: usize, first: usize| -> Vec<u8> {
        let (_, _, bytes) = &packed[&format!("{path}.{name}")];
        let rows = bytes.chunks(each).skip(first).step_by(2);
        rows.flatten().copied().collect()
    };
    for (first, half) in ["gate_proj", "up_proj"].into_iter().enumerate() {
        let [weight, scales, bias] =
            ["weight", "scales", "bias"].map(|part| &stacks[&format!("{path}.{half}.{part}")]);
        assert_eq!(weight.1, [4, 32, 8], "{half}");
        assert!(weight.2 == rows("gate_up_proj_blocks", 32, first), "{half}");
        assert!(scales.2 == rows("gate_up_proj_scales", 2, first), "{half}");
        assert!(bias.2 == rows("gate_up_proj_bias", 2, first), "{half}");
    }
    let error = max_abs_difference(&logits(load(mlx.path())), &expected);
    assert!(error <= 1e-4, "as they are: {error}");
    // Written again.
    save(load(mlx.path()), &at(&again));
    same(&tensors(again.path()), &stacks, "again");
    // Dense, some of them.
    let config = load(&model.path("")).dequantize(true).dtype(DType::F32);
    save(config, &at(&plain));
    let spec = |text: &str| text.parse().expect("a spec");
    let config = || {
        let config = load(plain.path()).quant(spec("mlx:bits=8,group=32"));
        config.rule("role:expert=none".parse().expect("a rule"))
    };
    save(config(), &at(&dense));
    let error = max_abs_difference(&logits(load(dense.path())), &logits(config()));
    assert!(error <= 1e-4, "dense experts: {error}");
    // In one pass and in two.
    let [once, twice] = [(); 2].map(|()| TempDir::new().expect("a folder"));
    let quant = "mlx:bits=4,group=32";
    save(
        load(&model.path("")).requantize(true).quant(spec(quant)),
        &at(&once),
    );
    save(load(plain.path()).quant(spec(quant)), &at(&twice));
    same(&tensors(once.path()), &tensors(twice.path()), "in one pass");
    // Dense files have one stack, which is made of both.
    let back = TempDir::new().expect("a folder");
    let config = load(mlx.path()).dequantize(true).dtype(DType::F32);
    save(config, &at(&back));
    same(&tensors(back.path()), &tensors(plain.path()), "back");
}
