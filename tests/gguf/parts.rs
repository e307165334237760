//! Models in several files.

use std::{fs, path::Path};

use firebox::{Cpu, DType, Error, LoadConfig, Loader, model::CausalLm};
use tempfile::{TempDir, tempdir};

use super::{
    common::{ids, max_abs_difference, repository, values},
    file::RawFile,
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
