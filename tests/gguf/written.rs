//! Models that are written to GGUF files. That llama.cpp reads them, and what it makes of them, is compared by
//! `tests/peers/gguf_read.py`.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use firebox::{
    Cpu, DType, Error, LoadConfig, LoadRequest, Loader,
    config::{Rule, SaveConfig, To},
    model::CausalLm,
    pipeline::{Event, Flow},
    quant::QuantSpec,
    report::Saved,
    source::gguf::{GgufHeader, GgufParsed, GgufType, GgufValue, parse},
    text::{SpecialTokens, Tokenizer},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use super::{
    common::{Golden, ids, max_abs_difference, repository, values},
    file::{RawFile, RawTensor},
    models::texts,
};

/// Every architecture that is written, with every part that it may have in llama.cpp: biases, norms of heads, windows, experts,
/// partial rotation, stretched frequencies, rows in another order. Fields that llama.cpp has no key for get the value that it
/// computes with.
const MODELS: [(&str, &[(&str, Field)]); 25] = [
    (
        "arcee_bf16",
        &[("attention_bias", Field::No), ("mlp_bias", Field::No)],
    ),
    (
        "cohere_bf16",
        &[("use_qk_norm", Field::No), ("attention_bias", Field::No)],
    ),
    ("deepseek_v3_bf16", &[]),
    (
        "gemma2_bf16",
        &[("query_pre_attn_scalar", Field::Number(16))],
    ),
    (
        "gemma3_bf16",
        &[("query_pre_attn_scalar", Field::Number(16))],
    ),
    ("gemma4_moe_bf16", &[]),
    ("glm4_bf16", &[]),
    ("glm4_moe_bf16", &[]),
    ("gpt2_f32", &[]),
    ("gpt_oss_bf16", &[]),
    ("granite_bf16", &[]),
    (
        "llama4_bf16",
        &[
            ("attention_chunk_size", Field::Number(8192)),
            ("floor_scale", Field::Number(8192)),
        ],
    ),
    ("llama_bf16_untied", &[]),
    ("llama_f16_tied_bias", &[]),
    ("llama_f32_tied", &[]),
    ("llama_rope_linear", &[]),
    ("llama_rope_yarn", &[]),
    ("ministral3_bf16", &[("sliding_window", Field::Nothing)]),
    ("mistral_bf16", &[("sliding_window", Field::Nothing)]),
    ("mixtral_bf16", &[]),
    ("olmo3_bf16", &[]),
    ("phi3_longrope", &[]),
    ("qwen2_bf16_tied", &[]),
    ("qwen3_bf16", &[]),
    ("starcoder2_bf16", &[("sliding_window", Field::Nothing)]),
];

/// Another value of a field of `config.json`.
#[derive(Clone, Copy)]
enum Field {
    No,
    Nothing,
    Number(u64),
}

/// A golden model with other fields, and without the tensors that it then has not.
fn variant(model: &str, fields: &[(&str, Field)]) -> TempDir {
    let folder = tempdir().expect("a folder");
    let golden = Golden(model.to_owned().leak());
    let mut config = golden.json("config.json");
    let mut gone: Vec<&str> = Vec::new();
    for (field, value) in fields {
        config[*field] = match value {
            Field::No => false.into(),
            Field::Nothing => Value::Null,
            Field::Number(number) => (*number).into(),
        };
        match *field {
            "attention_bias" | "mlp_bias" => gone.push(".bias"),
            "use_qk_norm" => gone.extend([".q_norm.weight", ".k_norm.weight"]),
            _ => {}
        }
    }
    fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    for (nth, shard) in golden.shards().iter().enumerate() {
        let bytes = fs::read(golden.path(shard)).expect("a shard");
        let tensors = SafeTensors::deserialize(&bytes).expect("a shard");
        let kept = tensors.tensors().into_iter();
        let kept = kept.filter(|(name, _)| !gone.iter().any(|end| name.ends_with(end)));
        let name = match golden.shards().len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", nth + 1),
        };
        safetensors::serialize_to_file(kept, None, &folder.path().join(name)).expect("written");
    }
    folder
}

pub(crate) fn load(path: impl AsRef<Path>, quant: &str) -> LoadConfig {
    let quant: QuantSpec = quant.parse().expect("a spec");
    let config = LoadConfig::new(path.as_ref().display().to_string());
    config.quant(quant).dtype(DType::F32)
}

pub(crate) fn to(folder: &Path) -> SaveConfig {
    SaveConfig::new(folder).dialect(To::Gguf)
}

pub(crate) fn save(config: impl Into<LoadRequest>, to: &SaveConfig) -> Result<Saved, Error> {
    Loader::<Cpu>::new(config)?.save::<CausalLm>(to)
}

/// Writes a golden model, or one that is like it.
pub(crate) fn written(model: impl AsRef<Path>, quant: &str) -> TempDir {
    let folder = tempdir().expect("a folder");
    let saved = save(load(model, quant), &to(folder.path())).expect("saved");
    assert_eq!(saved.files, ["model.gguf"]);
    assert_eq!(saved.dialect, Some("gguf"));
    folder
}

pub(crate) fn logits(config: LoadConfig) -> Vec<f32> {
    let loader = Loader::<Cpu>::new(config).expect("a model");
    let loaded = loader.load::<CausalLm>().expect("loads");
    let tokens: Vec<u32> = (3..15).map(|token| token * 5).collect();
    values(loaded.model.forward(ids(&[tokens])))
}

pub(crate) fn header(folder: &Path) -> GgufHeader {
    let bytes = fs::read(folder.join("model.gguf")).expect("a file");
    match parse("model.gguf", &bytes, bytes.len() as u64).expect("a right file") {
        GgufParsed::Header(header) => header,
        GgufParsed::More(_) => panic!("all of the file is there"),
    }
}

/// Would catch a name of another part, rows of queries in the order of transformers, a norm without its one, a key with another
/// number, experts of another order.
#[test]
fn a_model_reads_back_as_itself() {
    for (model, fields) in MODELS {
        let path = variant(model, fields);
        let folder = written(path.path(), "none");
        let found = logits(load(folder.path().join("model.gguf"), "none"));
        let off = max_abs_difference(&found, &logits(load(path.path(), "none")));
        assert!(off <= 1e-4, "{model}: {off}");
    }
}

/// llama.cpp's converter has the keys and values of DeepSeek apart, and keys turned (`modify_tensors` of `DeepseekV2Model`).
#[test]
fn keys_and_values_unfold_from_two_tensors() {
    let path = Golden("deepseek_v3_bf16").path("");
    let config = Golden("deepseek_v3_bf16").json("config.json");
    let size = |field: &str| config[field].as_u64().expect("a number") as usize;
    let (plain, values) = (size("qk_nope_head_dim"), size("v_head_dim"));
    let (rank, heads) = (size("kv_lora_rank"), size("num_attention_heads"));
    let folder = written(&path, "none");
    let file = folder.path().join("model.gguf");
    let mut raw = RawFile::read(&fs::read(&file).expect("a file"));
    let mut tensors: Vec<RawTensor> = Vec::new();
    for tensor in raw.tensors {
        let (name, _, number, bytes) = &tensor;
        let Some(layer) = name.strip_suffix("attn_kv_b.weight") else {
            tensors.push(tensor);
            continue;
        };
        let value = |row: usize, col: usize| &bytes[2 * (row * rank + col)..][..2];
        let (mut keys, mut others) = (Vec::new(), Vec::new());
        for head in 0..heads {
            let first = head * (plain + values);
            for col in 0..rank {
                keys.extend((0..plain).flat_map(|row| value(first + row, col)));
            }
            for row in 0..values {
                others.extend((0..rank).flat_map(|col| value(first + plain + row, col)));
            }
        }
        let sides = |fast: usize, slow: usize| [fast, slow, heads].map(|side| side as u64).to_vec();
        tensors.push((
            format!("{layer}attn_k_b.weight"),
            sides(plain, rank),
            *number,
            keys,
        ));
        tensors.push((
            format!("{layer}attn_v_b.weight"),
            sides(rank, values),
            *number,
            others,
        ));
    }
    raw.tensors = tensors;
    let turned = size("qk_rope_head_dim");
    raw.say(
        "deepseek2.attention.key_length_mla",
        (plain + turned) as u32,
    );
    raw.say("deepseek2.attention.value_length_mla", values as u32);
    let right = raw.bytes();
    fs::write(&file, &right).expect("written");
    let found = logits(load(&file, "none"));
    let off = max_abs_difference(&found, &logits(load(&path, "none")));
    assert!(off <= 1e-4, "{off}");

    // Values that do not go with the keys.
    let tensor = raw
        .tensors
        .iter_mut()
        .find(|tensor| tensor.0.ends_with("attn_v_b.weight"));
    tensor.expect("a tensor").1.swap(0, 1);
    fs::write(&file, raw.bytes()).expect("written");
    let config = load(&file, "none");
    let error = Loader::<Cpu>::new(config).expect_err("refused").to_string();
    assert!(
        error.contains("attn_k_b") && error.contains("attn_v_b"),
        "{error}"
    );
}

/// The blocks of the file are those that are packed in memory, and a folder with one such file is a model.
#[test]
fn a_quantized_model_reads_back_as_itself() {
    for (model, quant) in [
        ("gpt_oss_bf16", "q8_0"),
        ("llama_bf16_untied", "q4_k"),
        ("llama_f32_tied", "iq4_nl"),
    ] {
        let path = Golden(model).path("");
        let folder = written(&path, quant);
        let found = logits(load(folder.path(), "none"));
        let off = max_abs_difference(&found, &logits(load(&path, quant)));
        assert!(off <= 1e-6, "{model}, {quant}: {off}");
    }
}

/// What llama-quantize does with rows that are not whole blocks (`tensor_type_fallback` of llama.cpp): 4-bit blocks of 256 become
/// 5-bit blocks of 32; what no block fits stays as it is stored, where llama.cpp takes F16. Vectors are F32.
#[test]
fn types_follow_the_rows() {
    let folder = written(Golden("llama_bf16_untied").path(""), "q4_k");
    let header = header(folder.path());
    let kinds: BTreeMap<&str, String> = (header.tensors.iter())
        .map(|tensor| {
            (
                &*tensor.name,
                format!("{:?} {:?}", tensor.kind, tensor.shape),
            )
        })
        .collect();
    assert_eq!(kinds["blk.0.attn_q.weight"], "Blocks(Q4K) [256, 256]");
    assert_eq!(kinds["blk.0.attn_norm.weight"], "Plain(F32) [256]");
    assert_eq!(kinds["output.weight"], "Plain(BF16) [512, 256]");
    let is_down = |name: &&&str| name.contains("ffn_down");
    let down = kinds.keys().find(is_down).expect("a matrix");
    assert!(kinds[*down].starts_with("Blocks(Q5_0)"), "{}", kinds[*down]);

    let folder = tempdir().expect("a folder");
    let config = load(Golden("qwen3_bf16").path(""), "q4_k");
    let loader = Loader::<Cpu>::new(config).expect("a model");
    let saved = loader.save::<CausalLm>(&to(folder.path())).expect("saved");
    let warnings = saved.report.warnings.join(" ");
    assert!(warnings.contains("mlp.down_proj"), "{warnings}");
}

/// Roles and patterns choose as they do elsewhere.
#[test]
fn rules_choose_types() {
    let rule = |rule: &str| rule.parse::<Rule>().expect("a rule");
    let config = load(Golden("llama_bf16_untied").path(""), "q4_0")
        .rule(rule("role:head=q6_k"))
        .rule(rule("role:embedding=q8_0"))
        .rule(rule("model.layers.1.mlp=q5_1"))
        .rule(rule("model.layers.0.self_attn=none"));
    let folder = tempdir().expect("a folder");
    save(config, &to(folder.path())).expect("saved");
    let header = header(folder.path());
    let kind = |name: &str| {
        let tensor = header.tensors.iter().find(|tensor| tensor.name == name);
        format!("{:?}", tensor.expect("a tensor").kind)
    };
    assert_eq!(kind("output.weight"), "Blocks(Q6K)");
    assert_eq!(kind("token_embd.weight"), "Blocks(Q8_0)");
    assert_eq!(kind("blk.1.ffn_up.weight"), "Blocks(Q5_1)");
    assert_eq!(kind("blk.1.attn_q.weight"), "Blocks(Q4_0)");
    assert_eq!(kind("blk.0.attn_q.weight"), "Plain(BF16)");
}

/// A file of blocks is written again as it is, under either command.
#[test]
fn a_file_is_written_again_to_the_byte() {
    let file = repository().join("tests/golden/gguf/llama_q4_0/model.gguf");
    let folder = written(&file, "none");
    let bytes = |path: &Path| {
        let file = fs::read(path).expect("a file");
        let Ok(GgufParsed::Header(header)) = parse("file", &file, file.len() as u64) else {
            panic!("a right file")
        };
        let tensors = header.tensors.into_iter().map(|tensor| {
            let range = tensor.range.start as usize..tensor.range.end as usize;
            (tensor.name, (tensor.kind, file[range].to_vec()))
        });
        tensors.collect::<BTreeMap<String, (GgufType, Vec<u8>)>>()
    };
    let (found, expected) = (bytes(&folder.path().join("model.gguf")), bytes(&file));
    assert_eq!(found.len(), expected.len());
    for (name, tensor) in expected {
        assert!(found[&name] == tensor, "{name}");
    }
}

/// A tokenizer beside the tiny model whose vocabulary it fits.
fn with_tokenizer(tokenizer: &str) -> TempDir {
    let folder = tempdir().expect("a folder");
    let model = Golden("llama_bf16_untied").path("");
    for file in fs::read_dir(model).expect("a model") {
        let file = file.expect("a file");
        let name = file.file_name();
        if !name.to_string_lossy().contains("token") {
            fs::copy(file.path(), folder.path().join(name)).expect("copied");
        }
    }
    let tokens = repository().join("tests/golden/tokenizer").join(tokenizer);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tokens.join(file), folder.path().join(file)).expect("copied");
    }
    folder
}

/// Byte pairs, and pieces of sentencepiece whose scores are those of its merges. Would catch merges in another order, a forgotten
/// first token, special tokens that are read as text.
#[test]
fn a_tokenizer_reads_back_as_itself() {
    for (tokenizer, model) in [("bytelevel", "gpt2"), ("metaspace", "llama")] {
        let original = with_tokenizer(tokenizer);
        let folder = written(original.path(), "q8_0");
        let header = header(folder.path());
        let said = header.keys.get("tokenizer.ggml.model");
        assert_eq!(said, Some(&GgufValue::Text(model.to_owned())));
        let open = |path: &Path| {
            let loader = Loader::<Cpu>::new(load(path, "none")).expect("a model");
            loader.tokenizer().expect("a tokenizer")
        };
        let (found, original) = (open(folder.path()), open(original.path()));
        // Of sentencepiece, a file does not say whether a space comes before texts that begin with one, or with the sign of one, and before
        // what follows a special token.
        let unsaid = |text: &str| {
            text.starts_with([' ', '▁']) || text.contains("<s>") || text.contains("</s>")
        };
        let texts = texts().into_iter();
        for text in texts.filter(|text| model == "gpt2" || !unsaid(text)) {
            let ids = |tokenizer: &Tokenizer| {
                let ids = tokenizer.encode(&text, SpecialTokens::Include);
                ids.expect("ids")
            };
            assert_eq!(ids(&found), ids(&original), "{tokenizer}: {text:?}");
        }
        assert_eq!(found.bos(), original.bos(), "{tokenizer}");
        assert_eq!(found.eos_ids(), original.eos_ids(), "{tokenizer}");
    }
}

/// Every expression that a file can name cuts texts without an error, and one that has no name is told.
#[test]
fn a_tokenizer_without_a_name_is_refused() {
    let folder = with_tokenizer("bytelevel");
    let path = folder.path().join("tokenizer.json");
    let json = fs::read(&path).expect("a tokenizer");
    let mut json: Value = serde_json::from_slice(&json).expect("JSON");
    json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\d{7}".into();
    fs::write(&path, json.to_string()).expect("written");
    let out = tempdir().expect("a folder");
    let error = save(load(folder.path(), "none"), &to(out.path())).expect_err("refused");
    let error = error.to_string();
    assert!(
        error.contains(r"\d{7}") && error.contains("moved elsewhere"),
        "{error}"
    );
    assert_eq!(fs::read_dir(out.path()).expect("a folder").count(), 0);
}

/// Cancelled after each weight in turn, the file comes out as if nothing had happened.
#[test]
fn an_interrupted_file_goes_on() {
    let config = || load(Golden("llama_f16_tied_bias").path(""), "q5_0");
    let whole = tempdir().expect("a folder");
    let weights = save(config(), &to(whole.path()))
        .expect("saved")
        .report
        .tensors;
    let expected = fs::read(whole.path().join("model.gguf")).expect("a file");
    for stop in [1, weights / 2, weights - 1] {
        let folder = tempdir().expect("a folder");
        let placed = AtomicUsize::new(0);
        let interrupted = config().observer(move |event: &Event<'_>| match event {
            Event::Placed { .. } if placed.fetch_add(1, Ordering::SeqCst) + 1 == stop => {
                Flow::Cancel
            }
            _ => Flow::Continue,
        });
        save(interrupted, &to(folder.path())).expect_err("cancelled");
        assert!(!folder.path().join("model.gguf").exists());
        let saved = save(config(), &to(folder.path()).resume(true)).expect("resumed");
        assert_eq!(saved.resumed, stop);
        let found = fs::read(folder.path().join("model.gguf")).expect("a file");
        assert!(found == expected, "after {stop} of {weights}");
        // The same again has nothing to do.
        let again = save(config(), &to(folder.path()).resume(true)).expect("complete");
        assert_eq!(again.made, 0);
    }
}

/// A bare file of weights keeps its names; vectors keep their types.
#[test]
fn a_bare_file_keeps_its_names() {
    let floats: Vec<u8> = (0..512u16)
        .flat_map(|k| (f32::from(k) / 100.0).to_le_bytes())
        .collect();
    let file = |tensors: Vec<(&str, TensorView<'_>)>| {
        let folder = tempdir().expect("a folder");
        let path = folder.path().join("weights.safetensors");
        safetensors::serialize_to_file(tensors, None, &path).expect("written");
        folder
    };
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes);
    let matrix = view(Dtype::F32, &[8, 64], &floats).expect("a tensor");
    let vector = view(Dtype::F16, &[16], &floats[..32]).expect("a tensor");
    let small = view(Dtype::F32, &[3, 5], &floats[..60]).expect("a tensor");
    let folder = file(vec![
        ("encoder.proj.weight", matrix.clone()),
        ("encoder.scale", vector),
        ("encoder.small.weight", small),
    ]);
    let out = tempdir().expect("a folder");
    let config = || {
        let path = folder.path().join("weights.safetensors");
        load(path, "q4_0").bare()
    };
    let loader = Loader::<Cpu>::new(config()).expect("weights");
    loader.save_tensors(&[], &to(out.path())).expect("saved");
    let header = header(out.path());
    let found: Vec<String> = (header.tensors.iter())
        .map(|tensor| format!("{} {:?} {:?}", tensor.name, tensor.kind, tensor.shape))
        .collect();
    for tensor in [
        "encoder.proj.weight Blocks(Q4_0) [8, 64]",
        "encoder.scale Plain(F16) [16]",
        "encoder.small.weight Plain(F32) [3, 5]",
    ] {
        assert!(found.contains(&tensor.to_owned()), "{tensor}: {found:?}");
    }

    // It is read as weights of no model, under either command.
    let again = tempdir().expect("a folder");
    let path = out.path().join("model.gguf");
    let loader = Loader::<Cpu>::new(load(&path, "none")).expect("weights");
    loader.save_tensors(&[], &to(again.path())).expect("saved");
    let bytes = |folder: &Path| fs::read(folder.join("model.gguf")).expect("a file");
    assert!(bytes(again.path()) == bytes(out.path()));

    let refused = |name: &str, dtype, words: &[&str]| {
        let folder = file(vec![
            ("a.weight", matrix.clone()),
            (name, view(dtype, &[4, 8], &floats[..32]).expect("a tensor")),
        ]);
        let path = folder.path().join("weights.safetensors");
        let loader = Loader::<Cpu>::new(load(path, "q4_0").bare()).expect("weights");
        let out = tempdir().expect("a folder");
        let error = loader
            .save_tensors(&[], &to(out.path()))
            .expect_err("refused");
        for word in words {
            let error = error.to_string();
            assert!(error.contains(word), "no {word:?} in: {error}");
        }
    };
    refused("codes", Dtype::U8, &["codes", "U8"]);
    let long = "x".repeat(64);
    refused(&long, Dtype::I8, &[&long, "64 bytes", "63"]);
}

/// Models that a file cannot say, and what it would say instead.
#[test]
fn what_a_file_cannot_say_is_refused() {
    for (model, words) in [
        ("llama_rope_dynamic", &["dynamic", "--to"][..]),
        // Of this one the scale of scores is another than llama.cpp's.
        ("gemma2_bf16", &["attention.scale", "0.25"]),
        // A layer with a window uses the keys of layer 2, and those of layer 1 in llama.cpp.
        (
            "gemma4_ple_bf16",
            &["layers.3.mixer.attention.keys_of", "is 2", "read 1"],
        ),
        // Chunks of a number that llama.cpp has in its code, layers without experts, heads of two lengths.
        ("llama4_bf16", &["layers.0.mixer.attention.sees", "8192"]),
        ("qwen2_moe_bf16", &["layers.0.feed_forward"]),
        ("qwen3_moe_bf16", &["layers.1.feed_forward"]),
        ("qwen3_next_bf16", &["delta.value_features", "is 16", "12"]),
        // Heads of other features, an odd number that turn, norms that llama.cpp has for the largest alone.
        ("nemotron_bf16", &["head_features", "48 features"]),
        ("gpt_neox_f16", &["rotary.features", "even"]),
        ("cohere_bf16", &["query_key_norm"]),
        ("arcee_bf16", &["bias"]),
    ] {
        let folder = tempdir().expect("a folder");
        let error = save(load(Golden(model).path(""), "none"), &to(folder.path()));
        let error = error.expect_err("refused").to_string();
        for word in words {
            assert!(error.contains(word), "{model}: no {word:?} in: {error}");
        }
    }
    let folder = tempdir().expect("a folder");
    let error = save(
        load(Golden("llama_bf16_untied").path(""), "nf4"),
        &to(folder.path()),
    );
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("nf4") && error.contains("gguf"), "{error}");
}
