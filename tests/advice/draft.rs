//! A golden model with something changed.

use std::{collections::BTreeMap, fs, path::Path};

use firebox::{Cpu, Error, LoadConfig, Loaded, Loader, model::CausalLm, target::DType};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Golden, ids, max_abs_difference, values};

/// A tensor of a file: type, shape, bytes.
pub(crate) type Stored = (Dtype, Vec<usize>, Vec<u8>);

/// A checkpoint that is to be written.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, Stored>,
}

impl Draft {
    /// A golden model as it is.
    pub(crate) fn of(golden: Golden) -> Self {
        let mut tensors = BTreeMap::new();
        for shard in golden.shards() {
            tensors.extend(read(&golden.path(&shard)));
        }
        Self {
            config: golden.json("config.json"),
            tensors,
        }
    }

    /// Says something else in `config.json`.
    pub(crate) fn say(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.config[field] = value.into();
        self
    }

    /// Says nothing about `field`.
    pub(crate) fn unsay(mut self, field: &str) -> Self {
        self.config
            .as_object_mut()
            .expect("an object")
            .remove(field);
        self
    }

    /// Adds a tensor of zeros.
    pub(crate) fn zeros(mut self, name: &str, shape: &[usize]) -> Self {
        let bytes = vec![0; 4 * shape.iter().product::<usize>()];
        self.tensors
            .insert(name.to_owned(), (Dtype::F32, shape.to_vec(), bytes));
        self
    }

    /// Leaves out the tensors whose names `are` meant.
    pub(crate) fn without(mut self, are: impl Fn(&str) -> bool) -> Self {
        self.tensors.retain(|name, _| !are(name));
        self
    }

    /// Names every tensor otherwise.
    pub(crate) fn rename(mut self, to: impl Fn(&str) -> String) -> Self {
        let tensors = self.tensors.into_iter();
        self.tensors = tensors.map(|(name, stored)| (to(&name), stored)).collect();
        self
    }

    /// Gives the tensor `to` the values of `from` too.
    pub(crate) fn copy(mut self, from: &str, to: &str) -> Self {
        let stored = self.tensors[from].clone();
        self.tensors.insert(to.to_owned(), stored);
        self
    }

    /// Writes it into a folder.
    pub(crate) fn write(&self, folder: &Path) {
        let config = serde_json::to_vec(&self.config).expect("JSON");
        fs::write(folder.join("config.json"), config).expect("a file");
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor");
            (name.clone(), view)
        });
        let file = safetensors::serialize(views, None).expect("a file");
        fs::write(folder.join("model.safetensors"), file).expect("a file");
    }

    /// A folder with it.
    pub(crate) fn folder(&self) -> TempDir {
        let folder = TempDir::new().expect("a folder");
        self.write(folder.path());
        folder
    }

    /// The error of a load with `quant`.
    pub(crate) fn refused(&self, quant: &str) -> Error {
        let folder = self.folder();
        match load(folder.path(), quant) {
            Ok(_) => panic!("was loaded"),
            Err(error) => error,
        }
    }
}

/// The tensors of a file.
pub(crate) fn read(file: &Path) -> BTreeMap<String, Stored> {
    let bytes = fs::read(file).expect("a file");
    let tensors = SafeTensors::deserialize(&bytes).expect("a file of tensors");
    let tensors = tensors.iter().map(|(name, view)| {
        let stored = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name.to_owned(), stored)
    });
    tensors.collect()
}

pub(crate) fn loader(folder: &Path, quant: &str) -> Result<Loader<Cpu>, Error> {
    let config = LoadConfig::new(folder.to_string_lossy()).dtype(DType::F32);
    Loader::new(config.quant(quant.parse()?))
}

pub(crate) fn load(folder: &Path, quant: &str) -> Result<Loaded<CausalLm>, Error> {
    loader(folder, quant)?.load()
}

/// Compares the logits of a model with those of the reference for `golden`.
pub(crate) fn is_like(model: &CausalLm, golden: Golden) -> bool {
    let logits = model.forward(ids(&golden.ids("input_ids")));
    let (expected, _) = golden.floats("logits_f32");
    max_abs_difference(&values(logits), &expected) < golden.tolerance()
}

/// Asserts that a message has all of these words.
#[track_caller]
pub(crate) fn says(error: &impl ToString, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

/// A field of `config.json` in `folder`.
pub(crate) fn said(folder: &Path, field: &str) -> Value {
    let config = fs::read(folder.join("config.json")).expect("a configuration");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    config.get(field).cloned().unwrap_or(json!(null))
}
