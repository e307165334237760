//! Golden checkpoints: made, read, written again.

use std::{fs, path::Path};

use firebox::{
    Cpu, DType, Loader,
    config::{SaveConfig, To},
    model::CausalLm,
    pipeline::Finished,
    quant::kernels::format::{Format, Packed},
};
use safetensors::Dtype;
use tempfile::TempDir;

use super::{
    QUANTIZED, Quantized,
    common::{Golden, ids, max_abs_difference, values},
    json, load, read, save, tensors, tensors_of, write,
};

/// What the library has written: names, types, shapes and bytes of every tensor, and `config.json`. Would catch a
/// wrong order of codes, scales in another type, a misspelt field, a module too much in a list.
#[test]
fn checkpoints_are_written_as_the_libraries_write_them() {
    for model in QUANTIZED {
        let folder = TempDir::new().expect("a folder");
        model.quantize(folder.path());
        let (end, expected) = model.otherwise.unwrap_or(("none", 0));
        let differ = model.compare(&tensors(folder.path()), |name| name.ends_with(end));
        assert_eq!(differ, expected, "{}", model.name);
        let config = json(&folder.path().join("config.json"));
        assert_eq!(config, model.json("config.json"), "{}", model.name);
        for file in [
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
        ] {
            let [copy, original] = [folder.path(), &model.base()].map(|at| at.join(file));
            assert_eq!(json(&copy), json(&original), "{} {file}", model.name);
        }
    }
}

/// Chat templates of a folder belong to a model as the one in a file of its own does. Would catch a save that loses them.
#[test]
fn chat_templates_of_a_folder_are_kept() {
    let [from, to] = [(); 2].map(|()| TempDir::new().expect("a folder"));
    for entry in fs::read_dir(QUANTIZED[0].base()).expect("a model") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        fs::copy(&path, from.path().join(name)).expect("copied");
    }
    let templates = Path::new("additional_chat_templates");
    fs::create_dir(from.path().join(templates)).expect("made");
    for (name, text) in [("rag.jinja", "{{ documents }}"), ("notes.txt", "none")] {
        fs::write(from.path().join(templates).join(name), text).expect("written");
    }
    let loader = Loader::<Cpu>::new(load(from.path())).expect("a checkpoint");
    let tokenizer = loader.tokenizer().expect("a tokenizer");
    let names = tokenizer.chat_template().expect("templates").names();
    assert_eq!(names.collect::<Vec<_>>(), ["rag"]);
    save(load(from.path()), &SaveConfig::new(to.path()));
    let kept = fs::read_dir(to.path().join(templates)).expect("a folder");
    let kept: Vec<_> = kept
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(kept, ["rag.jinja"]);
    let text = fs::read_to_string(to.path().join(templates).join("rag.jinja"));
    assert_eq!(text.expect("a text"), "{{ documents }}");
}

/// Would catch codes that are adopted in the wrong order, scales of other groups, a forgotten offset of nested
/// scales, biases that are taken for zero points.
#[test]
fn checkpoints_give_their_reference_logits() {
    for model in QUANTIZED {
        let folder = model.checkpoint();
        // Reference logits are of what the library gives back: f32 products, but for two libraries that round them
        // to the type that the model was stored in.
        let plain = TempDir::new().expect("a folder");
        let at = match model.to {
            To::BitsAndBytes if model.quant == "nf4:nested" => {
                let config = load(folder.path()).dequantize(true).dtype(DType::Bf16);
                let saved = save(config, &SaveConfig::new(plain.path()));
                assert_eq!(saved.dialect, None);
                plain.path()
            }
            To::Hqq => {
                rounded_twice(folder.path(), plain.path());
                plain.path()
            }
            _ => folder.path(),
        };
        let error = logits_error(model, at);
        assert!(error <= 5e-5, "{}: {error}", model.name);
        // Packed, the same checkpoint differs by the rounding of its weights alone.
        let error = logits_error(model, folder.path());
        assert!(error <= 0.1, "{}: {error}", model.name);
    }
}

/// Writes what hqq gives back in bf16, `round(round(code - zero) * scale)`, from the codes, zeros and scales that were
/// read.
fn rounded_twice(from: &Path, to: &Path) {
    let saved = save(load(from).dequantize(true), &SaveConfig::new(to));
    let mut all = tensors_of(&to.join(&saved.files[0]));
    for (name, weight) in read(from) {
        let Finished::Packed(packed) = weight else {
            continue;
        };
        let Format::Affine(affine) = packed.format else {
            panic!("{name} is {}", packed.format);
        };
        // With a scale of 1 and a zero of 0 a weight is its code.
        let groups = affine.groups(packed.shape);
        let (one, none) = (DType::Bf16.to_bits(1.0), DType::Bf16.to_bits(0.0));
        let scales = affine.join(&vec![one; groups], &vec![none; groups]);
        let codes = Packed {
            scales,
            ..packed.clone()
        }
        .dequantize();
        let round = |value: f32| DType::Bf16.round(value);
        let weights = codes.iter().enumerate().map(|(k, code)| {
            let (scale, zero) = affine.params(&packed.scales, k / affine.group);
            round(round(code - zero) * scale)
        });
        let bytes = weights.flat_map(f32::to_le_bytes).collect();
        all.insert(name, (Dtype::F32, packed.shape.to_vec(), bytes));
    }
    write(&to.join(&saved.files[0]), &all);
}

pub(super) fn logits_error(model: Quantized, at: &Path) -> f32 {
    let golden = Golden(model.name);
    let reference = Golden(Box::leak(
        format!("../quantized/{}", golden.0).into_boxed_str(),
    ));
    let loader = Loader::<Cpu>::new(load(at).dtype(DType::F32)).expect(model.name);
    let loaded = loader.load::<CausalLm>().expect(model.name).model;
    let logits = loaded.forward(ids(&reference.ids("input_ids")));
    let (expected, _) = reference.floats("logits_f32");
    max_abs_difference(&values(logits), &expected)
}

/// A checkpoint that is read and written again has the same bytes in every tensor: nothing is computed anew.
#[test]
fn reading_and_writing_changes_no_byte() {
    for model in QUANTIZED {
        let folder = model.checkpoint();
        let again = TempDir::new().expect("a folder");
        let saved = save(load(folder.path()), &SaveConfig::new(again.path()));
        assert_eq!(saved.dialect, Some(model.to.name()));
        assert_eq!(model.compare(&tensors(again.path()), |_| false), 0);
        let config = json(&again.path().join("config.json"));
        assert_eq!(config, model.json("config.json"), "{}", model.name);
    }
}

/// Would catch a tensor that is lost between two shards, an index that names the wrong one, and shards that
/// are not cut.
#[test]
fn shards_hold_what_one_file_holds() {
    for model in QUANTIZED {
        let folder = model.checkpoint();
        let again = TempDir::new().expect("a folder");
        let to = SaveConfig::new(again.path()).shard_bytes(300_000);
        let saved = save(load(folder.path()), &to);
        assert!(saved.files.len() >= 2, "{}: {:?}", model.name, saved.files);
        assert_eq!(
            tensors(again.path()),
            tensors(folder.path()),
            "{}",
            model.name
        );
        // The index is what the loader finds the shards by.
        let error = logits_error(model, again.path());
        assert!(error <= 0.1, "{}: {error}", model.name);
        let total: usize = tensors(again.path())
            .values()
            .map(|(_, _, bytes)| bytes.len())
            .sum();
        let index = json(&again.path().join("model.safetensors.index.json"));
        assert_eq!(index["metadata"]["total_size"], total, "{}", model.name);
    }
}
