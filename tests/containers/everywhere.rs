//! One model in every container.

use std::{fs, path::Path};

use burn_store::burn_pack::{Bytes, DType, Tensor, Writer};
use firebox::{LoadConfig, LoadRequest};
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use super::{
    common::{Golden, repository},
    conformance::is_the_model,
    torch::golden,
};

const MODEL: Golden = Golden("llama_rope_linear");

/// A folder with the configuration of the model and other files.
fn folder(files: &[(&str, &Path)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let config = MODEL.path("config.json");
    for (name, path) in [("config.json", &*config)].iter().chain(files) {
        fs::copy(path, folder.path().join(name)).expect("copied");
    }
    folder
}

fn request(path: &Path) -> LoadRequest {
    LoadConfig::new(path.to_string_lossy()).into()
}

/// The model as Burn writes it.
fn burnpack(path: &Path) {
    let bytes = fs::read(MODEL.path("model.safetensors")).expect("a golden file");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensors = tensors.tensors().into_iter().map(|(name, view)| {
        assert_eq!(view.dtype(), Dtype::BF16);
        let bytes = Bytes::from_bytes_vec(view.data().to_vec());
        Tensor::new(name, DType::BF16, view.shape().to_vec(), Some(7), bytes)
    });
    Writer::new(tensors.collect())
        .write_to_file(path)
        .expect("written");
}

#[test]
fn a_model_is_the_same_in_every_container() {
    let [zip, legacy] = ["llama_rope_linear.bin", "llama_rope_linear.legacy.bin"].map(golden);
    let shards = repository().join("tests/golden/torch/shards");
    let shard = |nth: usize| format!("pytorch_model-0000{nth}-of-00002.bin");
    let [first, second] = [1, 2].map(|nth| (shard(nth), shards.join(shard(nth))));
    let index = (
        "pytorch_model.bin.index.json",
        shards.join("pytorch_model.bin.index.json"),
    );
    let safetensors = MODEL.path("model.safetensors");

    let cases: &[(&str, &[(&str, &Path)])] = &[
        ("safetensors", &[("model.safetensors", &safetensors)]),
        ("zip", &[("pytorch_model.bin", &zip)]),
        ("older file", &[("pytorch_model.bin", &legacy)]),
        ("consolidated", &[("consolidated.00.pth", &zip)]),
        (
            "another name",
            &[("weights.pt", &zip), ("optimizer.pt", &safetensors)],
        ),
        (
            "shards",
            &[
                (index.0, &index.1),
                (&first.0, &first.1),
                (&second.0, &second.1),
            ],
        ),
        (
            "shards without a list",
            &[(&first.0, &first.1), (&second.0, &second.1)],
        ),
        // Safetensors win, as in transformers: the other file is not looked at.
        (
            "safetensors beside another",
            &[
                ("model.safetensors", &safetensors),
                ("pytorch_model.bin", &index.1),
            ],
        ),
    ];
    for (what, files) in cases {
        let folder = folder(files);
        is_the_model(what, MODEL, || request(folder.path()));
    }
    for (what, name, file) in [
        ("a zip by name", "a.pt", &zip),
        ("an older file by name", "a.pth", &legacy),
    ] {
        let folder = folder(&[(name, file)]);
        is_the_model(what, MODEL, || request(&folder.path().join(name)));
    }
    let folder = folder(&[]);
    let path = folder.path().join("model.bpk");
    burnpack(&path);
    is_the_model("burnpack", MODEL, || request(folder.path()));
    is_the_model("burnpack by name", MODEL, || request(&path));
}

/// Files of a folder, and what the error says.
type Incomplete<'a> = (&'a [(&'a str, &'a Path)], &'a [&'a str]);

#[test]
fn folders_that_are_not_whole_say_what_is_missing() {
    let shards = repository().join("tests/golden/torch/shards");
    let index = shards.join("pytorch_model.bin.index.json");
    let first = shards.join("pytorch_model-00001-of-00002.bin");
    let zip = golden("llama_rope_linear.bin");
    let cases: &[Incomplete<'_>] = &[
        (
            &[
                ("pytorch_model.bin.index.json", &index),
                ("pytorch_model-00001-of-00002.bin", &first),
            ],
            &["pytorch_model-00002-of-00002.bin is missing"],
        ),
        (
            &[("pytorch_model-00001-of-00002.bin", &first)],
            &[
                "pytorch_model-00001-of-00002.bin",
                "shards 2 of 2 are missing",
            ],
        ),
        (
            &[("a.pt", &zip), ("b.pt", &zip)],
            &["a.pt", "b.pt", "name the file"],
        ),
        (
            &[("consolidated.00.pth", &zip), ("consolidated.01.pth", &zip)],
            &["consolidated.00.pth", "2 parts"],
        ),
    ];
    for (files, words) in cases {
        let folder = folder(files);
        let opened = request(folder.path()).open();
        let found = opened.and_then(|checkpoint| {
            let loader = firebox::Loader::<firebox::Cpu>::new(request(folder.path()))?;
            loader
                .load::<firebox::model::CausalLm>()
                .map(|_| checkpoint.files().len())
        });
        let text = found.expect_err("is not whole").to_string();
        for word in *words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
    }
}
