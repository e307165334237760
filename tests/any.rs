//! Checkpoints of architectures that nobody has taught this library: every tensor of the source is in what is saved, packed
//! or to the byte, and what is saved can be verified, converted and dequantized.

#![cfg(feature = "cpu")]

#[path = "common/mod.rs"]
mod common;

use std::{collections::BTreeMap, fs, path::Path};

use common::Golden;
use firebox::{
    Cpu, DType, Error, LoadConfig, Loader,
    config::{Limits, SaveConfig, To, VerifyConfig},
    dialect::DialectError,
    model::CausalLm,
    place::SaveError,
    plan::{Action, Plan, Stored},
    quant::{QuantSpec, kernels::packer::pack_whole},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Values that differ everywhere and are exact in bf16, from -2 to 2.
fn floats(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state % 255) as f32 / 64.0 - 2.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn add(to: &mut Tensors, name: &str, dtype: Dtype, shape: &[usize]) {
    let len = shape.iter().product();
    let values = floats(len, to.len() as u32 + 1);
    let bytes = match dtype {
        Dtype::F32 => values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        Dtype::BF16 => {
            let halves = values.iter().map(|value| (value.to_bits() >> 16) as u16);
            halves.flat_map(u16::to_le_bytes).collect()
        }
        dtype => {
            let bytes = len * dtype.bitsize() / 8;
            (0..bytes).map(|k| (k * 7 + 1) as u8).collect()
        }
    };
    to.insert(name.to_owned(), (dtype, shape.to_vec(), bytes));
}

fn write(folder: &Path, config: &Value, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        (name.as_str(), view.expect("a tensor"))
    });
    let file = folder.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &file).expect("written");
    fs::write(folder.join("config.json"), config.to_string()).expect("written");
}

fn read(folder: &Path) -> Tensors {
    let files = fs::read_dir(folder).expect("a folder");
    let files = files.map(|file| file.expect("a file").path());
    let weights = files.filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
    let tensors = weights.flat_map(|path| {
        let bytes = fs::read(path).expect("a file");
        let file = SafeTensors::deserialize(&bytes).expect("the reference reader reads it");
        let tensors = file.iter().map(|(name, view)| {
            let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (name.to_owned(), tensor)
        });
        tensors.collect::<Vec<_>>()
    });
    tensors.collect()
}

/// Names the first tensor that differs, without its bytes.
fn same(found: &Tensors, expected: &Tensors, what: &str) {
    let names = |tensors: &Tensors| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (name, tensor) in expected {
        assert!(found[name] == *tensor, "{what}: {name} is another");
    }
}

fn config(folder: &Path) -> Value {
    let bytes = fs::read(folder.join("config.json")).expect("a file");
    serde_json::from_slice(&bytes).expect("JSON")
}

fn at(folder: &Path) -> LoadConfig {
    LoadConfig::new(folder.to_string_lossy())
}

fn open(config: LoadConfig) -> Loader<Cpu> {
    Loader::new(config).expect("a checkpoint")
}

fn spec(text: &str) -> QuantSpec {
    text.parse().expect("a spec")
}

/// Saves tensors of no particular architecture into a new folder.
fn save(config: LoadConfig, to: Option<To>) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let out = SaveConfig::new(folder.path());
    let out = match to {
        Some(to) => out.dialect(to),
        None => out,
    };
    open(config).save_tensors(&[], &out).expect("saved");
    folder
}

/// A small encoder as transformers stores one, with tensors of many types beside its layers.
fn bert() -> (Value, Tensors) {
    let mut tensors = Tensors::new();
    let mut float = |name: &str, shape: &[usize]| add(&mut tensors, name, Dtype::F32, shape);
    for (table, rows) in [("word", 40), ("position", 24), ("token_type", 2)] {
        float(
            &format!("bert.embeddings.{table}_embeddings.weight"),
            &[rows, 128],
        );
    }
    float("bert.embeddings.LayerNorm.weight", &[128]);
    float("bert.embeddings.LayerNorm.bias", &[128]);
    for layer in 0..2 {
        let path = format!("bert.encoder.layer.{layer}");
        for (name, [out, inputs]) in [
            ("attention.self.query", [128, 128]),
            ("attention.self.key", [128, 128]),
            ("attention.self.value", [128, 128]),
            ("attention.output.dense", [128, 128]),
            ("intermediate.dense", [256, 128]),
            ("output.dense", [128, 256]),
        ] {
            float(&format!("{path}.{name}.weight"), &[out, inputs]);
            float(&format!("{path}.{name}.bias"), &[out]);
        }
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            float(&format!("{path}.{name}.weight"), &[128]);
            float(&format!("{path}.{name}.bias"), &[128]);
        }
    }
    float("bert.pooler.dense.weight", &[128, 128]);
    float("cls.predictions.decoder.weight", &[40, 128]);
    float("cls.predictions.bias", &[40]);
    float("bert.conv.weight", &[4, 3, 2, 2]);
    float("bert.nothing.weight", &[0, 128]);
    for (name, dtype, shape) in [
        ("bert.embeddings.position_ids", Dtype::I64, &[1, 24][..]),
        ("bert.mask", Dtype::BOOL, &[5]),
        ("bert.step", Dtype::I64, &[]),
        ("bert.scale", Dtype::F64, &[3]),
        ("bert.table", Dtype::F8_E4M3, &[4, 4]),
        ("bert.counts", Dtype::U16, &[7]),
        ("bert.empty", Dtype::I32, &[0, 3]),
        ("bert.codes", Dtype::F4, &[2, 8]),
    ] {
        add(&mut tensors, name, dtype, shape);
    }
    (json!({ "model_type": "bert", "hidden_size": 128 }), tensors)
}

fn is_linear(name: &str) -> bool {
    let layer = name.contains(".encoder.layer.") && !name.contains("LayerNorm");
    name.ends_with(".weight") && (layer || name.contains("pooler"))
}

/// What each of these is written as, when nothing is said of the dialect.
const QUANTS: [(&str, &str); 8] = [
    ("nf4", "bitsandbytes"),
    ("fp4:nested", "bitsandbytes"),
    ("int8", "bitsandbytes"),
    ("fp8:e4m3,scale=block", "fp8"),
    ("fp8:e4m3,scale=channel", "compressed-tensors"),
    ("wna16:bits=4,group=32", "compressed-tensors"),
    ("hqq:bits=4,group=64", "hqq"),
    ("mlx:bits=4,group=64", "mlx"),
];

/// Would catch a tensor that is lost, changed or quantized on the way, of any type, and a packed weight that is not found
/// again without an architecture.
#[test]
fn an_encoder_goes_through_every_dialect() {
    let (described, tensors) = bert();
    let source = TempDir::new().expect("a folder");
    write(source.path(), &described, &tensors);
    for (quant, dialect) in QUANTS {
        let packed = save(at(source.path()).quant(spec(quant)), None);
        let made = read(packed.path());
        let mut linear = 0;
        for (name, tensor) in &tensors {
            if is_linear(name) {
                linear += 1;
                assert!(
                    made.get(name) != Some(tensor),
                    "{quant}: {name} is not packed"
                );
            } else {
                assert!(made.get(name) == Some(tensor), "{quant}: {name}");
            }
        }
        assert_eq!(linear, 13);
        assert_eq!(config(packed.path())["hidden_size"], 128, "{quant}");

        let loader = open(at(packed.path()));
        assert_eq!(
            loader.dialect().map(|it| it.name()),
            Some(dialect),
            "{quant}"
        );
        let plan = loader.plan_tensors(&[]).expect("a plan");
        let quantization = spec(quant);
        let method = quantization.method().expect("a method");
        let adopted = plan.steps.iter().filter_map(|step| match step.action {
            Action::Adopt(format) => Some((&step.slot, format)),
            _ => None,
        });
        let mut count = 0;
        for (slot, format) in adopted {
            let [out, inputs] = slot.shape[..] else {
                panic!("{}", slot.name)
            };
            let expected = method.format([out, inputs], DType::F32).expect("a format");
            assert_eq!(tensors[&slot.name].1, slot.shape, "{quant}: {}", slot.name);
            assert_eq!(format, expected, "{quant}: {}", slot.name);
            count += 1;
        }
        assert_eq!(count, 13, "{quant}");
        assert_eq!(plan.unexpected, [""; 0]);

        let dense = at(source.path()).open().expect("a checkpoint");
        let limits = Limits::default().min_sqnr(15.0);
        let report = loader.verify_tensors_against(&dense, &limits);
        let report = report.expect("they are compared");
        assert_eq!(report.failed().count(), 0, "{quant}: {report}");

        // The same dialect once more.
        let again = save(at(packed.path()), None);
        same(&read(again.path()), &made, quant);

        let back = save(at(packed.path()).dequantize(true).dtype(DType::F32), None);
        let back = read(back.path());
        assert_eq!(
            back.keys().collect::<Vec<_>>(),
            tensors.keys().collect::<Vec<_>>()
        );
        for (name, (dtype, shape, bytes)) in &tensors {
            let found = &back[name];
            assert_eq!((&found.0, &found.1), (dtype, shape), "{quant}: {name}");
            if !is_linear(name) {
                assert!(found.2 == *bytes, "{quant}: {name}");
                continue;
            }
            // What the kernels make of the weight, and nothing else.
            let matrix = [shape[0], shape[1]];
            let packer = method.packer(matrix, DType::F32).expect("a packer");
            let packed = pack_whole(packer, bytes);
            let mut values = vec![0.0_f32; matrix[0] * matrix[1]];
            packed.format.dequantize_rows(
                matrix,
                &packed.words,
                &packed.scales,
                0..matrix[0],
                &mut values,
            );
            let expected: Vec<u8> = values.iter().flat_map(|it| it.to_le_bytes()).collect();
            assert!(found.2 == expected, "{quant}: {name} has other values");
        }
    }
}

/// Would catch patterns that are not heeded where there is no architecture.
#[test]
fn include_and_skip_steer() {
    let (described, tensors) = bert();
    let source = TempDir::new().expect("a folder");
    write(source.path(), &described, &tensors);
    let packed = |plan: &Plan| {
        let steps = plan.steps.iter();
        let packed = steps.filter(|step| step.action.format().is_some());
        packed
            .map(|step| step.slot.name.clone())
            .collect::<Vec<_>>()
    };
    let nf4 = || at(source.path()).quant(spec("nf4"));
    let skip = nf4().skip("bert.encoder.layer.0".parse().expect("a pattern"));
    let names = packed(&open(skip).plan_tensors(&[]).expect("a plan"));
    assert_eq!(names.len(), 7, "{names:?}");
    assert!(
        names.iter().all(|name| !name.contains("layer.0")),
        "{names:?}"
    );

    let include = ["*.word_embeddings.weight".parse().expect("a pattern")];
    let names = packed(&open(nf4()).plan_tensors(&include).expect("a plan"));
    assert_eq!(names, ["bert.embeddings.word_embeddings.weight"]);

    let rule = nf4().rule("role:head=int8".parse().expect("a rule"));
    let plan = open(rule).plan_tensors(&[]).expect("a plan");
    let head = plan
        .steps
        .iter()
        .find(|step| step.slot.name.contains("decoder"));
    assert_eq!(head.expect("it is planned").quant().to_string(), "int8");

    let verified = open(nf4()).verify_tensors(&[], &VerifyConfig::new(Limits::default()));
    assert_eq!(verified.expect("they are compared").tensors.len(), 13);
}

/// A matrix that looks like a linear layer and cannot be packed does not stop the others; one that is named does.
#[test]
fn a_matrix_of_an_odd_width_stays_dense() {
    let mut tensors = Tensors::new();
    add(&mut tensors, "a.weight", Dtype::F32, &[8, 64]);
    add(&mut tensors, "b.weight", Dtype::F32, &[8, 40]);
    let source = TempDir::new().expect("a folder");
    write(source.path(), &json!({}), &tensors);
    let quant = || at(source.path()).quant(spec("mlx:bits=4,group=64"));
    let made = read(save(quant(), None).path());
    assert_eq!(made["b.weight"], tensors["b.weight"]);
    assert_eq!(made["a.weight"].0, Dtype::U32);
    let named = open(quant()).plan_tensors(&["b.weight".parse().expect("a pattern")]);
    assert!(
        named
            .expect_err("it cannot be packed")
            .to_string()
            .contains("b.weight")
    );
}

/// Experts as transformers 5 stores them: one tensor for all experts of a layer.
fn experts() -> (Value, Tensors) {
    let mut tensors = Tensors::new();
    let path = "model.layers.0.mlp";
    for (name, shape) in [
        ("experts.gate_up_proj", &[3, 256, 128][..]),
        ("experts.down_proj", &[3, 128, 128]),
        ("gate.weight", &[3, 128]),
        // As Gemma 4 has it.
        ("router.proj.weight", &[3, 128]),
        ("shared.up_proj.weight", &[128, 128]),
    ] {
        add(&mut tensors, &format!("{path}.{name}"), Dtype::BF16, shape);
    }
    (
        json!({ "model_type": "of-experts", "dtype": "bfloat16" }),
        tensors,
    )
}

/// Would catch stacks that are cut, written in another shape, or not found again.
#[test]
fn stacked_experts_are_packed_as_stacks() {
    let (described, tensors) = experts();
    let source = TempDir::new().expect("a folder");
    write(source.path(), &described, &tensors);
    let up = "model.layers.0.mlp.experts.gate_up_proj";
    for (quant, beside, shape) in [
        ("nf4", format!("{up}.absmax"), vec![3 * 256 * 128 / 64]),
        (
            "mlx:bits=4,group=64",
            format!("{up}.scales"),
            vec![3, 256, 2],
        ),
        (
            "fp8:e4m3,scale=block",
            format!("{up}_scale_inv"),
            vec![3, 2, 1],
        ),
    ] {
        let packed = save(at(source.path()).quant(spec(quant)), None);
        let made = read(packed.path());
        assert_eq!(made[&beside].1, shape, "{quant}");
        for router in ["gate", "router.proj"] {
            let router = &*format!("model.layers.0.mlp.{router}.weight");
            assert_eq!(made[router], tensors[router], "{quant}");
        }

        let loader = open(at(packed.path()));
        let plan = loader.plan_tensors(&[]).expect("a plan");
        let step = plan.steps.iter().find(|step| step.slot.name == up);
        let step = step.unwrap_or_else(|| panic!("{quant}: {up} is not planned"));
        assert!(matches!(step.stored, Stored::Packed(_)), "{quant}");
        assert_eq!(step.slot.shape, [3, 256, 128], "{quant}");

        let dense = at(source.path()).open().expect("a checkpoint");
        let report = loader.verify_tensors_against(&dense, &Limits::default().min_sqnr(15.0));
        assert_eq!(report.expect("compared").failed().count(), 0, "{quant}");

        let again = save(at(packed.path()), None);
        same(&read(again.path()), &made, quant);

        let back = save(at(packed.path()).dequantize(true).dtype(DType::Bf16), None);
        let back = read(back.path());
        assert_eq!(
            back.keys().collect::<Vec<_>>(),
            tensors.keys().collect::<Vec<_>>()
        );
        let quantization = spec(quant);
        let method = quantization.method().expect("a method");
        // Every expert is what the kernels make of it alone: no block crosses two of them.
        for expert in 0..3 {
            let len = 256 * 128 * 2;
            let bytes = &tensors[up].2[expert * len..][..len];
            let packer = method.packer([256, 128], DType::Bf16).expect("a packer");
            let packed = pack_whole(packer, bytes);
            let mut values = vec![half::bf16::ZERO; 256 * 128];
            let (words, scales) = (&packed.words, &packed.scales);
            let format = packed.format;
            format.dequantize_rows([256, 128], words, scales, 0..256, &mut values);
            let expected: Vec<u8> = values.iter().flat_map(|it| it.to_le_bytes()).collect();
            assert!(
                back[up].2[expert * len..][..len] == expected,
                "{quant}: expert {expert}"
            );
        }
    }
    let hqq = open(at(source.path()).quant(spec("hqq:bits=4,group=64")));
    let folder = TempDir::new().expect("a folder");
    match hqq.save_tensors(&[], &SaveConfig::new(folder.path())) {
        Err(Error::Save(SaveError::Dialect(DialectError::Unwritable { tensor, .. }))) => {
            assert!(tensor.contains("experts"), "{tensor}");
        }
        other => panic!("{other:?}"),
    }
}

/// A language model that the library knows, in a wrapper with a tower that it does not: the tower is carried over, and the
/// dialect's list says that it is not packed.
#[test]
fn tensors_beside_a_known_model_are_carried_over() {
    let golden = Golden("llama_bf16_untied").path("");
    let mut tensors = read_model(&golden);
    let model: Vec<String> = tensors.keys().cloned().collect();
    for (name, dtype, shape) in [
        (
            "vision_tower.layers.0.fc1.weight",
            Dtype::F32,
            &[64, 64][..],
        ),
        ("vision_tower.layers.0.fc1.bias", Dtype::F32, &[64]),
        ("vision_tower.position_ids", Dtype::I64, &[1, 9]),
        ("model.rotary_emb.inv_freq", Dtype::F32, &[8]),
    ] {
        add(&mut tensors, name, dtype, shape);
    }
    let source = TempDir::new().expect("a folder");
    write(source.path(), &config(&golden), &tensors);
    for quant in ["nf4", "fp8:e4m3,scale=channel", "mlx:bits=4,group=32"] {
        let folder = TempDir::new().expect("a folder");
        let loader = open(at(source.path()).quant(spec(quant)));
        let out = SaveConfig::new(folder.path());
        loader.save::<CausalLm>(&out).expect("saved");
        let made = read(folder.path());
        for (name, tensor) in &tensors {
            if !model.contains(name) {
                assert!(made.get(name) == Some(tensor), "{quant}: {name}");
            }
        }
        let listed = config(folder.path())["quantization_config"].to_string();
        assert!(
            listed.contains("vision_tower.layers.0.fc1"),
            "{quant}: {listed}"
        );

        let again = open(at(folder.path()));
        again.load::<CausalLm>().expect("it loads");
        let back = TempDir::new().expect("a folder");
        let plain = open(at(folder.path()).dequantize(true));
        let out = SaveConfig::new(back.path());
        plain.save::<CausalLm>(&out).expect("saved");
        let back = read(back.path());
        assert_eq!(
            back.keys().collect::<Vec<_>>(),
            tensors.keys().collect::<Vec<_>>()
        );
    }
}

/// The tensors of a model's files of weights.
fn read_model(folder: &Path) -> Tensors {
    let mut tensors = read(folder);
    // The answers that lie beside a golden model.
    let beside = fs::read(folder.join("logits.safetensors"));
    if let Ok(bytes) = beside {
        let file = SafeTensors::deserialize(&bytes).expect("tensors");
        tensors.retain(|name, _| file.tensor(name).is_err());
    }
    tensors
}
