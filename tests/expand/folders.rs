//! Folders of expanded models: saved ones, and those that other programs have expanded.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use firebox::{
    Cpu, Error, Loader,
    config::{Expand, SaveConfig},
    expand::ExpandError,
    model::CausalLm,
    observe::{Event, Flow},
};
use safetensors::{SafeTensors, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};

use super::{PACKED, config, expanded, load, logits, packed};
use crate::common::{Golden, max_abs_difference, repository};

const BASE: Golden = Golden("llama_bf16_untied");

fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden/packed").join(name)
}

fn json_of(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).expect("JSON")
}

/// What is saved is what is loaded, dense and packed, and a second expansion goes on from there.
#[test]
fn saved_folders_are_the_expanded_model() {
    let packed = PACKED.map(packed);
    let adopted = packed
        .iter()
        .map(|folder| (folder.path().to_owned(), "none"));
    let made = [
        (BASE.path(""), "none"),
        (BASE.path(""), "nf4"),
        (BASE.path(""), "mlx:bits=4,group=64"),
        (BASE.path(""), "hqq:bits=4,group=64"),
        (Golden("gpt_oss_bf16").path(""), "none"),
        (Golden("qwen3_moe_bf16").path(""), "nf4"),
        (golden("mixtral_bnb_nf4"), "none"),
        (golden("qwen3_moe_mlx_4bit"), "none"),
        (golden("deepseek_v3_fp8_block"), "none"),
    ];
    for (folder, quant) in made.into_iter().chain(adopted) {
        let name = format!("{}, {quant}", folder.display());
        let expanded = expanded(config(&folder, quant), 1);
        let loaded = load(expanded.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let out = tempfile::tempdir().expect("a folder");
        let to = SaveConfig::new(out.path());
        let loader = Loader::<Cpu>::new(expanded).expect(&name);
        let saved = loader.save::<CausalLm>(&to);
        saved.unwrap_or_else(|error| panic!("{name}: {error}"));

        let again =
            load(config(out.path(), "none")).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(again.new_blocks, loaded.new_blocks, "{name}");
        let error = max_abs_difference(&logits(&again.model), &logits(&loaded.model));
        assert!(error <= 1e-5, "{name}: {error}");
        let layers = loaded.model.blocks.len();
        let written = json_of(&out.path().join("config.json"));
        let count = written.get("num_hidden_layers").or(written.get("n_layer"));
        assert_eq!(count, Some(&json!(layers)), "{name}");

        // New blocks of a saved folder can be kept dense, and it can be expanded again.
        let dense = config(out.path(), "none").expand(Expand::known().dense());
        let dense = load(dense).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(dense.new_blocks, loaded.new_blocks, "{name}");
        let twice = super::expanded(config(out.path(), "none"), layers);
        let twice = load(twice).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            twice.new_blocks,
            (0..layers).map(|k| 2 * k + 1).collect::<Vec<_>>()
        );
        let error = max_abs_difference(&logits(&twice.model), &logits(&loaded.model));
        assert!(error <= 1e-5, "{name}, twice: {error}");
    }
}

/// The cache of packed weights has the expanded model under a name of its own.
#[test]
fn cached_weights_are_the_expanded_model() {
    let cache = tempfile::tempdir().expect("a folder");
    let with = |blocks: usize| {
        let config = config(&BASE.path(""), "nf4").cache_packed(cache.path());
        load(expanded(config, blocks)).expect("a cached load")
    };
    let first = with(2);
    for (blocks, new) in [(2, &[2, 5][..]), (4, &[1, 3, 5, 7])] {
        let again = with(blocks);
        assert_eq!(again.new_blocks, new);
        assert!(max_abs_difference(&logits(&again.model), &logits(&first.model)) <= 1e-5);
    }
}

/// A save that is interrupted after any number of weights goes on to the same files as one that is not.
#[test]
fn interrupted_saves_go_on() {
    let files = |folder: &Path| {
        let entries = fs::read_dir(folder).expect("a folder");
        let read = entries.map(|entry| {
            let path = entry.expect("an entry").path();
            (
                path.file_name().map(ToOwned::to_owned),
                fs::read(&path).expect("a file"),
            )
        });
        read.collect::<BTreeMap<_, _>>()
    };
    let save = |folder: &Path, weights: usize| {
        let placed = AtomicUsize::new(0);
        let request = expanded(config(&BASE.path(""), "nf4"), 2);
        let request = request.observer(move |event: &Event<'_>| match event {
            Event::Placed { .. } if placed.fetch_add(1, Ordering::Relaxed) >= weights => {
                Flow::Cancel
            }
            _ => Flow::Continue,
        });
        let to = SaveConfig::new(folder).resume(true);
        Loader::<Cpu>::new(request)?.save::<CausalLm>(&to)
    };
    let whole = tempfile::tempdir().expect("a folder");
    save(whole.path(), usize::MAX).expect("saved");
    // The zeros are the last weights.
    for weights in [3, 50, 54, 56] {
        let folder = tempfile::tempdir().expect("a folder");
        let error = save(folder.path(), weights).expect_err("cancelled");
        assert!(error.is_cancelled(), "{error}");
        let resumed = save(folder.path(), usize::MAX).expect("resumed");
        assert!(resumed.resumed > 0, "{weights}");
        assert!(files(folder.path()) == files(whole.path()), "{weights}");
    }
}

/// A folder as `scripts/block_expansion.py` of AnswerDotAI/fsdp_qlora makes it: shards under their names, layer i as
/// i + i / split, copies with zeros; no `config.json`, so that of the model is put beside, and maybe its index.
fn other_program(base: Golden, out: &Path, split: usize) {
    fs::create_dir_all(out).expect("a folder");
    for shard in base.shards() {
        let bytes = fs::read(base.path(&shard)).expect("a shard");
        let tensors = SafeTensors::deserialize(&bytes).expect("a shard");
        let zeros = vec![0; bytes.len()];
        let mut written: Vec<(String, TensorView<'_>)> = Vec::new();
        for (name, view) in tensors.iter() {
            let Some((before, rest)) = name.split_once("layers.") else {
                written.push((name.to_owned(), view));
                continue;
            };
            let (number, rest) = rest.split_once('.').expect("a layer");
            let old: usize = number.parse().expect("a number");
            let new = old + old / split;
            written.push((format!("{before}layers.{new}.{rest}"), view.clone()));
            if (old + 1).is_multiple_of(split) {
                let data = match name.contains("o_proj") || name.contains("down_proj") {
                    true => &zeros[..view.data().len()],
                    false => view.data(),
                };
                let view = TensorView::new(view.dtype(), view.shape().to_vec(), data);
                let name = format!("{before}layers.{}.{rest}", new + 1);
                written.push((name, view.expect("the same shape")));
            }
        }
        serialize_to_file(written, None, &out.join(&shard)).expect("a shard");
    }
    fs::copy(base.path("config.json"), out.join("config.json")).expect("a configuration");
}

#[test]
fn folders_of_other_programs_are_known_by_their_names() {
    let all = tempfile::tempdir().expect("a folder");
    let out = all.path().join("llama_blk_exp-4-6");
    other_program(BASE, &out, 2);
    let base = load(config(&BASE.path(""), "none")).expect("the model");
    let check = |quant: &str| {
        let loaded = load(config(&out, quant).expand(Expand::known().dense())).expect("expanded");
        assert_eq!(loaded.new_blocks, [2, 5]);
        loaded
    };
    let loaded = check("none");
    assert!(max_abs_difference(&logits(&loaded.model), &logits(&base.model)) <= 1e-5);
    let packed = check("nf4");
    let base = load(config(&BASE.path(""), "nf4")).expect("the model");
    assert!(max_abs_difference(&logits(&packed.model), &logits(&base.model)) <= 1e-5);

    // The index of the model places its layers where they are no longer.
    let index = "model.safetensors.index.json";
    fs::copy(BASE.path(index), out.join(index)).expect("an index");
    check("none");

    // A name with other numbers than the files, and one whose numbers cannot be.
    for (name, reason) in [
        ("llama_blk_exp-4-8", "6 layers"),
        ("llama_blk_exp-4-7", "makes 8"),
    ] {
        let wrong = all.path().join(name);
        fs::rename(&out, &wrong).expect("a name");
        let error = load(config(&wrong, "none")).expect_err(name);
        fs::rename(&wrong, &out).expect("a name");
        assert!(
            matches!(&error, Error::Expand(ExpandError::Folder { .. })),
            "{error}"
        );
        assert!(error.to_string().contains(reason), "{error}");
    }
}

/// Expanded weights alone beside a model, as `--llama_pro_path` of AnswerDotAI/fsdp_qlora takes them: no configuration, no tokenizer. The
/// name says which layers are new, or else the numbers of layers do. Would catch weights or an index of the model in their place.
#[test]
fn expanded_weights_go_with_the_configuration_of_their_model() {
    let all = tempfile::tempdir().expect("a folder");
    let model = load(config(&BASE.path(""), "none")).expect("the model");
    let of = |folder: &Path| {
        let config = config(&BASE.path(""), "none").weights(folder);
        load(config.expand(Expand::known().dense()))
    };
    let named = all.path().join("llama_blk_exp-4-6");
    other_program(BASE, &named, 2);
    fs::remove_file(named.join("config.json")).expect("it was there");
    let other = all.path().join("further");
    for folder in [&named, &other] {
        if folder == &other {
            fs::rename(&named, &other).expect("a name");
        }
        let loaded = of(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        assert_eq!(loaded.new_blocks, [2, 5]);
        assert!(max_abs_difference(&logits(&loaded.model), &logits(&model.model)) <= 1e-5);
    }

    // Three of four layers have no place after every n-th one.
    fs::remove_dir_all(&other).expect("it was there");
    for (split, name, reason) in [
        (3, "llama_blk_exp-4-7", "makes 8"),
        (2, "llama_blk_exp-5-6", "config.json says 4 layers"),
        (2, "llama_blk_exp-4-8", "tensors of 6 layers"),
    ] {
        let wrong = all.path().join(name);
        other_program(BASE, &wrong, split);
        let error = of(&wrong).expect_err(name);
        let is_it = matches!(&error, Error::Expand(ExpandError::Folder { .. }));
        assert!(is_it && error.to_string().contains(reason), "{error}");
    }
    // Weights of as many layers are the model's own.
    let plain = config(&BASE.path(""), "none").weights(BASE.path(""));
    let plain = load(plain).expect("the same weights");
    assert!(plain.new_blocks.is_empty());
    assert_eq!(logits(&plain.model), logits(&model.model));
}
