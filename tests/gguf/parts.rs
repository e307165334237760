//! Models in several files.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use firebox::{
    Cpu, DType, Error, LoadConfig, Loader,
    model::CausalLm,
    pipeline::{Event, Flow},
};
use tempfile::{TempDir, tempdir};

use super::{
    common::{Golden, ids, max_abs_difference, repository, values},
    file::{RawFile, text},
    written::{load, save, to},
};

/// The keys and the tensors of a golden file in `count` files, as llama-gguf-split writes them: the keys are in the first, and each
/// says which one it is. `change` may lie about one of them.
fn split(count: usize, change: impl Fn(usize, &mut Part)) -> TempDir {
    let file = repository().join("tests/golden/gguf/llama_q4_0/model.gguf");
    let whole = RawFile::read(&fs::read(file).expect("a golden file"));
    let folder = tempdir().expect("a folder");
    let each = whole.tensors.len().div_ceil(count);
    for (nth, tensors) in whole.tensors.chunks(each).enumerate() {
        let mut part = Part {
            number: nth as u32,
            count: count as u32,
            all: whole.tensors.len() as u32,
            name: format!("model-{:05}-of-{count:05}.gguf", nth + 1),
            file: RawFile {
                keys: match nth {
                    0 => whole.keys.clone(),
                    _ => (0, Vec::new()),
                },
                tensors: tensors.to_vec(),
            },
        };
        change(nth, &mut part);
        let mut file = part.file;
        file.say("split.no", part.number);
        file.say("split.count", part.count);
        file.say("split.tensors.count", part.all);
        fs::write(folder.path().join(&part.name), file.bytes()).expect("written");
    }
    folder
}

/// A part of a model, and what it says of itself.
struct Part {
    number: u32,
    count: u32,
    all: u32,
    name: String,
    file: RawFile,
}

fn logits(path: &Path) -> Result<Vec<f32>, Error> {
    let config = LoadConfig::new(path.display().to_string()).dtype(DType::F32);
    let loaded = Loader::<Cpu>::new(config)?.load::<CausalLm>()?;
    Ok(values(loaded.model.forward(ids(&[vec![1, 5, 9, 2]]))))
}

/// Whichever part is named, and their folder.
#[test]
fn parts_are_one_model() {
    let folder = split(3, |_, _| {});
    let whole = repository().join("tests/golden/gguf/llama_q4_0/model.gguf");
    let expected = logits(&whole).expect("loads");
    for name in ["model-00001-of-00003.gguf", "model-00003-of-00003.gguf", ""] {
        let found = logits(&folder.path().join(name)).expect("loads");
        assert!(max_abs_difference(&found, &expected) == 0.0, "{name:?}");
    }
}

/// A way in which a part does not fit, and what the error says.
type PartLie = (fn(usize, &mut Part), &'static [&'static str]);

#[test]
fn parts_that_do_not_fit_are_refused_by_name() {
    let lies: &[PartLie] = &[
        (
            |nth, part| {
                if nth == 1 {
                    part.number = 2;
                }
            },
            &["model-00002-of-00003.gguf", "split.no 2", "1 and 3"],
        ),
        (
            |nth, part| {
                if nth == 2 {
                    part.count = 4;
                }
            },
            &["model-00003-of-00003.gguf", "split.count 4", "2 and 3"],
        ),
        (
            |nth, part| {
                if nth == 1 {
                    part.file.tensors[0].0 = "token_embd.weight".to_owned();
                }
            },
            &[
                "model-00002-of-00003.gguf",
                "second tensor token_embd.weight",
            ],
        ),
        (
            |nth, part| {
                if nth == 0 {
                    part.all = 7;
                }
            },
            &["model-00001-of-00003.gguf", "split.tensors.count 7"],
        ),
        (
            |nth, part| {
                if nth == 1 {
                    part.name = "other.gguf".to_owned();
                }
            },
            &["model-00002-of-00003.gguf"],
        ),
        (
            |_, part| part.count = u32::MAX,
            &["split.count", "of-4294967295"],
        ),
    ];
    for (k, (lie, words)) in lies.iter().enumerate() {
        let folder = split(3, lie);
        let error = logits(&folder.path().join("model-00001-of-00003.gguf"));
        let error = error.expect_err(&format!("lie {k}")).to_string();
        for word in *words {
            assert!(error.contains(word), "{k}: no {word:?} in: {error}");
        }
    }
    // A part that is cut short.
    let folder = split(3, |_, _| {});
    let part = folder.path().join("model-00002-of-00003.gguf");
    let bytes = fs::read(&part).expect("a part");
    fs::write(&part, &bytes[..bytes.len() / 2]).expect("written");
    let error = logits(&folder.path().join("model-00001-of-00003.gguf")).expect_err("cut");
    assert!(
        error.to_string().contains("model-00002-of-00003.gguf"),
        "{error}"
    );
}

/// Bytes of a part, of which the model needs several.
const PART_BYTES: u64 = 300_000;

/// The files of a folder that are no records, by name.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let names = fs::read_dir(folder).expect("a folder");
    let names = names.map(|file| file.expect("a file").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    let read = |name: String| {
        let bytes = fs::read(folder.join(&name)).expect("a file");
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

/// As llama-gguf-split does: keys in the first file alone, but for those that count the files, which llama.cpp reads in 16 bits
/// with and without a sign (`gguf_set_val_u16`, `gguf_set_val_i32`). Would catch a tensor that is in two files or in none, and numbers
/// from 1.
#[test]
fn a_model_is_written_in_parts() {
    let config = || load(Golden("llama_bf16_untied").path(""), "q8_0");
    let whole = tempdir().expect("a folder");
    save(config(), &to(whole.path())).expect("saved");
    let bytes = fs::read(whole.path().join("model.gguf")).expect("a file");
    let expected = RawFile::read(&bytes);
    let folder = tempdir().expect("a folder");
    let in_parts = |folder: &Path| to(folder).shard_bytes(PART_BYTES);
    let saved = save(config(), &in_parts(folder.path())).expect("saved");
    let parts = files(folder.path());
    let count = parts.len();
    assert!(count > 2, "{count} parts");
    let mut tensors = Vec::new();
    for (nth, (name, bytes)) in parts.iter().enumerate() {
        assert_eq!(*name, format!("model-{:05}-of-{count:05}.gguf", nth + 1));
        assert_eq!(saved.files[nth], *name);
        let file = RawFile::read(bytes);
        let key = |key: &str, kind: u32, value: &[u8]| {
            let key = [&text(key)[..], &kind.to_le_bytes(), value].concat();
            file.keys.1.windows(key.len()).any(|found| found == key)
        };
        let [number, of] = [nth, count].map(|number| (number as u16).to_le_bytes());
        let all = (expected.tensors.len() as i32).to_le_bytes();
        assert!(key("split.no", 2, &number), "{name}");
        assert!(key("split.count", 2, &of), "{name}");
        assert!(key("split.tensors.count", 5, &all), "{name}");
        let own = if nth == 0 { expected.keys.0 } else { 0 };
        assert_eq!(file.keys.0, own + 3, "{name}");
        tensors.extend(file.tensors);
    }
    assert!(tensors == expected.tensors);
    let path = folder.path().join(&parts[1].0);
    let found = logits(&path).expect("loads");
    let expected = logits(&whole.path().join("model.gguf")).expect("loads");
    assert!(max_abs_difference(&found, &expected) == 0.0);

    // In the first part, between two, and in the last.
    let weights = saved.report.tensors;
    for stop in [1, weights / 2, weights - 1] {
        let again = tempdir().expect("a folder");
        let placed = AtomicUsize::new(0);
        let interrupted = config().observer(move |event: &Event<'_>| match event {
            Event::Placed { .. } if placed.fetch_add(1, Ordering::SeqCst) + 1 == stop => {
                Flow::Cancel
            }
            _ => Flow::Continue,
        });
        save(interrupted, &in_parts(again.path())).expect_err("cancelled");
        let resumed = save(config(), &in_parts(again.path()).resume(true)).expect("resumed");
        assert_eq!(resumed.resumed, stop);
        assert!(files(again.path()) == parts, "after {stop} of {weights}");
        // The same again has nothing to do.
        let complete = save(config(), &in_parts(again.path()).resume(true)).expect("complete");
        assert_eq!(complete.made, 0);
    }
}
