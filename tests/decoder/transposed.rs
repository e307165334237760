//! Matrices that a checkpoint stores `[in, out]`: saved and kept in a cache, dense ones are as they were stored, and packed
//! ones are `[out, in]`.

use std::{fs, path::Path};

use burn::tensor::Tensor;
use firebox::{Cpu, LoadConfig, Loader, SaveConfig, model::CausalLm, target::DType};
use safetensors::SafeTensors;

use super::common::{Golden, ids, values};

const GPT2: Golden = Golden("gpt2_f32");

/// A square matrix stays dense: turned the wrong way, it has the right shape.
const DENSE: &str = "transformer.h.1.attn.c_proj.weight";

fn config(folder: &Path, quant: &str) -> LoadConfig {
    let config = LoadConfig::new(folder.to_string_lossy()).dtype(DType::F32);
    let config = config.quant(quant.parse().expect("a quantization"));
    match quant {
        "none" => config,
        _ => config.rule(format!("{DENSE}=none").parse().expect("a rule")),
    }
}

fn logits(config: LoadConfig) -> Vec<f32> {
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    let model: CausalLm = loader.load().expect("a model").model;
    let logits: Tensor<3> = model.forward(ids(&GPT2.ids("input_ids")));
    values(logits)
}

/// Catches a dense matrix that is saved as it is computed with, `[out, in]`: whoever reads it turns it again.
#[test]
fn a_saved_model_has_dense_matrices_as_they_were_stored() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let packed = config(&GPT2.path(""), "nf4");
    let loader = Loader::<Cpu>::new(packed.clone()).expect("a checkpoint");
    loader
        .save::<CausalLm>(&SaveConfig::new(folder.path().join("saved")))
        .expect("saves");

    let [ours, theirs] = [&folder.path().join("saved"), &GPT2.path("")].map(|folder| {
        let file = fs::read(folder.join("model.safetensors")).expect("a file");
        let file = SafeTensors::deserialize(&file).expect("safetensors");
        let dense = file.tensor(DENSE).expect("a tensor");
        (dense.shape().to_vec(), dense.data().to_vec())
    });
    assert!(ours == theirs);
    let again = config(&folder.path().join("saved"), "none");
    assert!(logits(again) == logits(packed));
}

/// Catches a cache whose dense matrices are turned when they are written and again when they are read.
#[test]
fn a_cache_has_the_same_model() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let plain = config(&GPT2.path(""), "nf4");
    let cached = || plain.clone().cache_packed(folder.path());

    let [first, second] = [logits(cached()), logits(cached())];

    let expected = logits(plain.clone());
    assert!(first == expected && second == expected);
}

/// Catches factors of columns that are multiplied with the rows of a matrix as it is stored.
#[test]
fn a_dense_matrix_that_is_balanced_is_not_saved() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let name = "transformer.h.0.attn.c_attn.weight";
    let config = LoadConfig::new(GPT2.path("").to_string_lossy())
        .quant("nf4".parse().expect("a quantization"))
        .rule(format!("{name}=none").parse().expect("a rule"))
        .presinq(true);
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");

    let saved = loader.save::<CausalLm>(&SaveConfig::new(folder.path().join("saved")));

    let error = saved.expect_err("no such file").to_string();
    assert!(
        error.contains(name) && error.contains("[in, out]"),
        "{error}"
    );
}
