//! Architectures of llama.cpp that golden models are not of as they are: they are cut, or get layers like others of theirs.

use std::{collections::BTreeMap, fs};

use firebox::source::gguf::{GgufList, GgufValue};
use safetensors::{SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use super::{
    common::{Golden, max_abs_difference},
    file::{RawFile, RawTensor},
    written::{header, load, logits, written},
};

/// A tensor of a model, and what becomes of it.
#[derive(Default)]
struct Cut {
    /// The rows that stay, in their order; `None` for all.
    rows: Option<Vec<usize>>,
    /// The columns.
    cols: Option<Vec<usize>>,
    /// Its names, of which there may be none; `None` for its own.
    names: Option<Vec<String>>,
}

/// A golden model with other fields, whose tensors are `cut`.
fn model(name: &str, fields: &[(&str, Value)], cut: impl Fn(&str) -> Cut) -> TempDir {
    let folder = tempdir().expect("a folder");
    let golden = Golden(name.to_owned().leak());
    let mut config = golden.json("config.json");
    for (field, value) in fields {
        config[*field] = value.clone();
    }
    fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    let mut all: BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for shard in golden.shards() {
        let bytes = fs::read(golden.path(&shard)).expect("a shard");
        for (name, view) in SafeTensors::deserialize(&bytes).expect("a shard").tensors() {
            let Cut { rows, cols, names } = cut(&name);
            let mut shape = view.shape().to_vec();
            let size = view.dtype().bitsize() / 8;
            let mut bytes = view.data().to_vec();
            if let Some(rows) = rows {
                let row = bytes.len() / shape[0];
                let kept = rows.iter().flat_map(|row_| &bytes[row_ * row..][..row]);
                bytes = kept.copied().collect();
                shape[0] = rows.len();
            }
            if let Some(cols) = cols {
                let old = *shape.last().expect("columns") * size;
                let kept = bytes
                    .chunks(old)
                    .flat_map(|row| cols.iter().flat_map(move |col| &row[col * size..][..size]));
                bytes = kept.copied().collect();
                *shape.last_mut().expect("columns") = cols.len();
            }
            for name in names.unwrap_or_else(|| vec![name.clone()]) {
                all.insert(name, (view.dtype(), shape.clone(), bytes.clone()));
            }
        }
    }
    let views = all.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor");
        (name.clone(), view)
    });
    let path = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).expect("written");
    folder
}

/// The first `kept` of each `each` of `count` rows or columns, which begin at `from`.
fn firsts(from: usize, count: usize, each: usize, kept: usize) -> Vec<usize> {
    let places = (0..count * each).filter(|at| at % each < kept);
    places.map(|at| from + at).collect()
}

/// Key heads, value heads, features of both in the golden models, of which llama.cpp needs equally many.
const KEYS: usize = 2;
const VALUES: usize = 4;
const KEY: usize = 12;
const VALUE: usize = 16;

/// A golden model with the delta rule whose values have as many features as its keys.
fn hybrid(name: &str) -> TempDir {
    let fields = [("linear_value_head_dim", json!(KEY))];
    model(name, &fields, |tensor| {
        let both = 2 * KEYS * KEY;
        let values = |from: usize| firsts(from, VALUES, VALUE, KEY);
        let rows = |rows: Vec<usize>| Cut {
            rows: Some(rows),
            ..Cut::default()
        };
        let is = |end: &str| tensor.ends_with(end);
        match () {
            () if is("in_proj_qkv.weight") || is("linear_attn.conv1d.weight") => {
                rows((0..both).chain(values(both)).collect())
            }
            () if is("in_proj_z.weight") => rows(values(0)),
            () if is("linear_attn.norm.weight") => rows((0..KEY).collect()),
            () if is("linear_attn.out_proj.weight") => Cut {
                cols: Some(values(0)),
                ..Cut::default()
            },
            () if is("in_proj_qkvz.weight") => {
                let of_head = VALUES / KEYS;
                let each = 2 * KEY + 2 * of_head * VALUE;
                let kept = (0..KEYS).flat_map(|head| {
                    let first = head * each;
                    let keys = first..first + 2 * KEY;
                    keys.chain(firsts(first + 2 * KEY, 2 * of_head, VALUE, KEY))
                });
                rows(kept.collect())
            }
            () => Cut::default(),
        }
    })
}

/// Models with the delta rule. Would catch heads in the order of transformers, fades that are logarithms, norms without their one.
#[test]
fn hybrids_read_back_as_themselves() {
    for (name, architecture) in [
        ("qwen3_5_bf16", "qwen35"),
        ("qwen3_5_moe_bf16", "qwen35moe"),
        ("qwen3_next_bf16", "qwen3next"),
    ] {
        let model = hybrid(name);
        let folder = written(model.path(), "none");
        let said = header(folder.path());
        let architecture = GgufValue::Text(architecture.to_owned());
        assert_eq!(said.keys["general.architecture"], architecture);
        let found = logits(load(folder.path().join("model.gguf"), "none"));
        let off = max_abs_difference(&found, &logits(load(model.path(), "none")));
        assert!(off <= 1e-4, "{name}: {off}");
    }
}

/// The tensors of a safetensors file in f32, by the ends of their names in the first layer.
fn numbers(folder: &TempDir, end: &str) -> Vec<f32> {
    let bytes = fs::read(folder.path().join("model.safetensors")).expect("a file");
    let tensors = SafeTensors::deserialize(&bytes).expect("a file");
    let view = tensors
        .tensor(&format!("model.layers.0.{end}"))
        .expect("a tensor");
    floats(view.data(), view.dtype() == safetensors::Dtype::BF16)
}

fn floats(bytes: &[u8], is_half: bool) -> Vec<f32> {
    match is_half {
        true => (bytes.chunks_exact(2))
            .map(|two| f32::from_bits(u32::from(u16::from_le_bytes([two[0], two[1]])) << 16))
            .collect(),
        false => (bytes.chunks_exact(4))
            .map(|four| f32::from_le_bytes(four.try_into().expect("four bytes")))
            .collect(),
    }
}

/// As llama.cpp's converter has them (`_LinearAttentionVReorderBase` and `Qwen3NextModel`): the value heads of two key heads in turn,
/// what fades are made of as negative numbers in f32, the factors of the convolution as a matrix.
#[test]
fn hybrids_are_written_as_llama_cpp_converts_them() {
    let model = hybrid("qwen3_5_bf16");
    let folder = written(model.path(), "none");
    let file = RawFile::read(&fs::read(folder.path().join("model.gguf")).expect("a file"));
    let tensor = |name: &str| {
        let name = format!("blk.0.{name}");
        let found = file.tensors.iter().find(|tensor| tensor.0 == name);
        found.unwrap_or_else(|| panic!("no {name}"))
    };
    // The heads of transformers in the order of files.
    let turns = [0, 2, 1, 3];
    let (_, sides, kind, bytes) = tensor("ssm_a");
    assert_eq!((&sides[..], *kind), (&[4][..], 0));
    let logarithms = numbers(&model, "linear_attn.A_log");
    let expected = turns.map(|head| -logarithms[head].exp());
    assert!(max_abs_difference(&floats(bytes, false), &expected) <= 1e-6);
    let (_, _, kind, bytes) = tensor("ssm_dt.bias");
    assert_eq!(*kind, 0);
    let biases = numbers(&model, "linear_attn.dt_bias");
    assert_eq!(floats(bytes, false), turns.map(|head| biases[head]));
    let (_, sides, kind, bytes) = tensor("ssm_conv1d.weight");
    assert_eq!((&sides[..], *kind), (&[4, 96][..], 0));
    let factors = numbers(&model, "linear_attn.conv1d.weight");
    let both = 2 * KEYS * KEY;
    let rows = (0..both).chain(turns.iter().flat_map(|head| {
        let first = both + head * KEY;
        first..first + KEY
    }));
    let expected: Vec<f32> = rows
        .flat_map(|row| factors[4 * row..][..4].to_vec())
        .collect();
    assert_eq!(floats(bytes, false), expected);
    // Columns.
    let (_, sides, _, bytes) = tensor("ssm_out.weight");
    assert_eq!(sides[..], [48, 48]);
    let original = numbers(&model, "linear_attn.out_proj.weight");
    let expected: Vec<f32> = original
        .chunks(48)
        .flat_map(|row| {
            turns
                .iter()
                .flat_map(|head| row[head * KEY..][..KEY].to_vec())
        })
        .collect();
    assert_eq!(floats(bytes, true), expected);
    let (_, _, _, bytes) = tensor("post_attention_norm.weight");
    let norm = numbers(&model, "post_attention_layernorm.weight");
    let expected: Vec<f32> = norm.iter().map(|value| value + 1.0).collect();
    assert_eq!(floats(bytes, false), expected);
    let said = header(folder.path());
    // Of the golden model's `mrope_section`.
    let sections = GgufValue::List(GgufList::Signed(vec![1, 1, 1, 0]));
    assert_eq!(said.keys["qwen35.rope.dimension_sections"], sections);
    for (key, value) in [
        ("ssm.conv_kernel", 4),
        ("ssm.state_size", 12),
        ("ssm.group_count", 2),
        ("ssm.time_step_rank", 4),
        ("ssm.inner_size", 48),
        ("full_attention_interval", 4),
        ("rope.dimension_count", 4),
    ] {
        let found = &said.keys[&format!("qwen35.{key}")];
        assert_eq!(*found, GgufValue::Unsigned(value), "{key}");
    }
}

/// Files of today have queries, keys and values of Qwen 3 Next in one matrix, and gates in another (`Qwen3NextModel.modify_tensors`).
#[test]
fn projections_of_qwen_3_next_are_read_apart() {
    let model = hybrid("qwen3_next_bf16");
    let folder = written(model.path(), "none");
    let path = folder.path().join("model.gguf");
    let mut file = RawFile::read(&fs::read(&path).expect("a file"));
    let of_head = VALUES / KEYS;
    let each = 2 * KEY + 2 * of_head * KEY;
    let mut tensors: Vec<RawTensor> = Vec::new();
    for tensor in file.tensors {
        let Some(layer) = tensor.0.strip_suffix("ssm_in.weight") else {
            tensors.push(tensor);
            continue;
        };
        let row = tensor.3.len() / (KEYS * each);
        let rows = |from: usize, count: usize| {
            let heads = (0..KEYS).flat_map(move |head| {
                let first = head * each + from;
                first..first + count
            });
            heads.flat_map(|nth| tensor.3[nth * row..][..row].to_vec())
        };
        let values = of_head * KEY;
        let qkv: Vec<u8> = rows(0, KEY)
            .chain(rows(KEY, KEY))
            .chain(rows(2 * KEY, values))
            .collect();
        let gates: Vec<u8> = rows(2 * KEY + values, values).collect();
        let sides = |bytes: &[u8]| vec![tensor.1[0], (bytes.len() / row) as u64];
        tensors.push((
            format!("{layer}attn_qkv.weight"),
            sides(&qkv),
            tensor.2,
            qkv,
        ));
        tensors.push((
            format!("{layer}attn_gate.weight"),
            sides(&gates),
            tensor.2,
            gates,
        ));
    }
    file.tensors = tensors;
    fs::write(&path, file.bytes()).expect("written");
    let found = logits(load(&path, "none"));
    let off = max_abs_difference(&found, &logits(load(model.path(), "none")));
    assert!(off <= 1e-4, "{off}");
}

/// Gemma 4 with small embeddings, wider MLPs and layers that use the keys of others, which are where llama.cpp has them: the full
/// layer and the one before it with a window have changed places.
#[test]
fn small_embeddings_and_shared_keys_read_back_as_themselves() {
    let full = json!({ "head_dim": 24 });
    let types =
        ["sliding", "sliding", "full", "sliding", "full"].map(|kind| format!("{kind}_attention"));
    let fields = [
        ("layer_types", json!(types)),
        ("per_layer_config", json!({ "2": full, "4": full })),
    ];
    let model = model("gemma4_ple_bf16", &fields, |tensor| {
        let moved = [("layers.1.", "layers.2."), ("layers.2.", "layers.1.")];
        let found = moved.iter().find(|(from, _)| tensor.contains(from));
        Cut {
            names: found.map(|(from, to)| vec![tensor.replace(from, to)]),
            ..Cut::default()
        }
    });
    let folder = written(model.path(), "none");
    let said = header(folder.path());
    for (key, value) in [
        ("attention.shared_kv_layers", GgufValue::Unsigned(2)),
        ("attention.key_length", GgufValue::Unsigned(24)),
        ("attention.key_length_swa", GgufValue::Unsigned(12)),
        ("embedding_length_per_layer_input", GgufValue::Unsigned(12)),
        ("rope.dimension_count", GgufValue::Unsigned(24)),
    ] {
        assert_eq!(said.keys[&format!("gemma4.{key}")], value, "{key}");
    }
    // A quarter of 12 pairs turns; llama.cpp's converter divides the frequencies of the others by 1e30.
    let file = RawFile::read(&fs::read(folder.path().join("model.gguf")).expect("a file"));
    let divisors = file
        .tensors
        .iter()
        .find(|tensor| tensor.0 == "rope_freqs.weight");
    let expected: Vec<f32> = (0..12)
        .map(|pair| if pair < 3 { 1.0 } else { 1e30 })
        .collect();
    assert_eq!(floats(&divisors.expect("divisors").3, false), expected);
    let found = logits(load(folder.path().join("model.gguf"), "none"));
    let off = max_abs_difference(&found, &logits(load(model.path(), "none")));
    assert!(off <= 1e-4, "{off}");
}

/// Gates and ups of all experts in one tensor, as the converter has them for Gemma 4.
#[test]
fn gates_and_ups_of_experts_are_read_from_one_tensor() {
    let golden = Golden("gemma4_moe_bf16").path("");
    let folder = written(&golden, "none");
    let path = folder.path().join("model.gguf");
    let mut file = RawFile::read(&fs::read(&path).expect("a file"));
    let ups: Vec<RawTensor> = (file.tensors.iter())
        .filter(|tensor| tensor.0.ends_with("ffn_up_exps.weight"))
        .cloned()
        .collect();
    assert_eq!(ups.len(), 3);
    file.tensors
        .retain(|tensor| !tensor.0.ends_with("ffn_up_exps.weight"));
    for (name, sides, _, bytes) in &mut file.tensors {
        let Some(layer) = name.strip_suffix("ffn_gate_exps.weight") else {
            continue;
        };
        let up = ups
            .iter()
            .find(|up| up.0.starts_with(&*layer))
            .expect("ups");
        let each = bytes.len() / sides[2] as usize;
        let pairs = bytes.chunks(each).zip(up.3.chunks(each));
        let both = pairs.flat_map(|(gate, up)| [gate, up].concat()).collect();
        *name = format!("{layer}ffn_gate_up_exps.weight");
        sides[1] *= 2;
        *bytes = both;
    }
    fs::write(&path, file.bytes()).expect("written");
    let found = logits(load(&path, "none"));
    let off = max_abs_difference(&found, &logits(load(&golden, "none")));
    assert!(off <= 1e-4, "{off}");
}

/// llama.cpp has experts in every layer of these; the layers without become like one with them.
#[test]
fn experts_in_every_layer_read_back_as_themselves() {
    for (name, fields, with, without) in [
        (
            "qwen2_moe_bf16",
            [("decoder_sparse_step", json!(1))],
            1,
            vec![0, 2],
        ),
        (
            "qwen3_moe_bf16",
            [("mlp_only_layers", json!([]))],
            0,
            vec![1],
        ),
    ] {
        let model = model(name, &fields, |tensor| {
            let of = |layer: usize| format!("model.layers.{layer}.mlp.");
            let is_dense = without.iter().any(|layer| tensor.starts_with(&of(*layer)));
            let names = match tensor.strip_prefix(&of(with)) {
                Some(rest) => {
                    let layers = without.iter().chain([&with]);
                    Some(
                        layers
                            .map(|layer| format!("{}{rest}", of(*layer)))
                            .collect(),
                    )
                }
                None => is_dense.then(Vec::new),
            };
            Cut {
                names,
                ..Cut::default()
            }
        });
        let folder = written(model.path(), "none");
        let found = logits(load(folder.path().join("model.gguf"), "none"));
        let off = max_abs_difference(&found, &logits(load(model.path(), "none")));
        assert!(off <= 1e-4, "{name}: {off}");
    }
}

/// GLM-4 of the first generation, whose heads are the features of the model in llama.cpp.
#[test]
fn a_glm_reads_back_as_itself() {
    let fields = [("head_dim", json!(8))];
    let model = model("glm_bf16", &fields, |tensor| {
        let heads = |count| Some(firsts(0, count, 12, 8));
        let is = |word: &str| tensor.contains(word);
        let rows = match () {
            () if is("q_proj") => heads(4),
            () if is("k_proj") || is("v_proj") => heads(2),
            () => None,
        };
        Cut {
            rows,
            cols: is("o_proj").then(|| firsts(0, 4, 12, 8)),
            names: None,
        }
    });
    let folder = written(model.path(), "none");
    let architecture = header(folder.path()).keys["general.architecture"].clone();
    assert_eq!(architecture, GgufValue::Text("chatglm".to_owned()));
    let found = logits(load(folder.path().join("model.gguf"), "none"));
    let off = max_abs_difference(&found, &logits(load(model.path(), "none")));
    assert!(off <= 1e-4, "{off}");
}

/// Blocks of GPT-2 are `[out, in]` in memory as in a file, and numbers are turned: `[in, out]` in transformers.
#[test]
fn blocks_of_gpt2_read_back_as_themselves() {
    const SIDE: usize = 32;
    let config = json!({
        "model_type": "gpt2", "vocab_size": 80, "n_embd": SIDE, "n_head": 4, "n_layer": 2, "n_positions": 64,
        "layer_norm_epsilon": 1e-5,
    });
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("wte.weight".to_owned(), vec![80, SIDE]),
        ("wpe.weight".to_owned(), vec![64, SIDE]),
        ("ln_f.weight".to_owned(), vec![SIDE]),
        ("ln_f.bias".to_owned(), vec![SIDE]),
    ];
    for layer in 0..2 {
        for (module, rows, cols) in [
            ("ln_1", 0, SIDE),
            ("ln_2", 0, SIDE),
            ("attn.c_attn", SIDE, 3 * SIDE),
            ("attn.c_proj", SIDE, SIDE),
            ("mlp.c_fc", SIDE, 4 * SIDE),
            ("mlp.c_proj", 4 * SIDE, SIDE),
        ] {
            let shape = if rows == 0 {
                vec![cols]
            } else {
                vec![rows, cols]
            };
            shapes.push((format!("h.{layer}.{module}.weight"), shape));
            shapes.push((format!("h.{layer}.{module}.bias"), vec![cols]));
        }
    }
    let mut state = 1u32;
    let mut all: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, shape) in shapes {
        let values = (0..shape.iter().product()).flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f32::from((state >> 16) as u16) / 65_536.0 - 0.5).to_le_bytes()
        });
        let bytes: Vec<u8> = values.collect();
        all.push((format!("transformer.{name}"), shape, bytes));
    }
    let folder = tempdir().expect("a folder");
    fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    let views = all.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.clone(), view.expect("a tensor"))
    });
    let path = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).expect("written");
    for quant in ["none", "q8_0"] {
        let made = written(folder.path(), quant);
        let found = logits(load(made.path(), "none"));
        let off = max_abs_difference(&found, &logits(load(folder.path(), quant)));
        assert!(off <= 1e-5, "{quant}: {off}");
    }
    // Of 32 columns, as llama.cpp multiplies.
    let made = written(folder.path(), "q8_0");
    let said = header(made.path());
    let up = said
        .tensors
        .iter()
        .find(|tensor| tensor.name == "blk.0.ffn_up.weight");
    assert_eq!(up.expect("a matrix").shape, [4 * SIDE, SIDE]);
}
