//! Balanced columns: the same model, other weights.

#[path = "common/mod.rs"]
mod common;

use std::fs;

use burn::tensor::Tensor;
use common::{Golden, MODELS, ids, max_abs_difference, rms_difference, values};
use firebox::{
    Cpu, DType, Error, LoadConfig, Loader,
    config::{SaveConfig, To},
    model::{
        Architecture, BuildError, CausalLm, ConfigError, Link, Matrix, Slot, Weights,
        decoder::Block,
    },
    plan::PlanError,
};
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

fn config(golden: Golden) -> LoadConfig {
    LoadConfig::new(golden.path("").to_string_lossy()).presinq(true)
}

fn load(config: LoadConfig) -> CausalLm {
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    loader.load().expect("loads").model
}

/// `[rows, columns]` and the numbers of a dense matrix.
fn dense(matrix: &Matrix) -> ([usize; 2], Vec<f32>) {
    let Matrix::Dense(weight) = matrix else {
        panic!("a dense matrix")
    };
    let weight: Tensor<2> = weight.val();
    (weight.dims(), values(weight))
}

/// The largest root mean square of a feature's columns over the smallest, in rows that are divided by their own. Each
/// `run` of features is repeated `times`.
fn spread(matrices: &[&Matrix], run: usize, times: usize) -> f64 {
    let mut squares = Vec::new();
    for matrix in matrices {
        let ([_, cols], numbers) = dense(matrix);
        squares.resize(cols / times, 0.0);
        for row in numbers.chunks(cols) {
            let of_row: f64 = row.iter().map(|w| f64::from(*w).powi(2)).sum();
            for (head, of_head) in row.chunks(run).enumerate() {
                for (k, w) in of_head.iter().enumerate() {
                    squares[head / times * run + k] += f64::from(*w).powi(2) / of_row;
                }
            }
        }
    }
    let high = squares.iter().copied().fold(0.0, f64::max);
    let low = squares.iter().copied().fold(f64::MAX, f64::min);
    (high / low).sqrt()
}

/// Logits are those of transformers for the model as it was, and every group of matrices has changed: its columns are
/// even. Would catch a bias or norm that is forgotten, one that is multiplied where it must not be (queries,
/// keys, query norms), heads shared the wrong way round, and factors that go the wrong way.
#[test]
fn the_model_computes_what_it_did() {
    for golden in MODELS {
        let model = load(config(golden).dtype(DType::F32));
        let plain = golden.load(DType::F32);
        let (expected, _) = golden.floats("logits_f32");
        let logits = model.forward(ids(&golden.ids("input_ids")));
        let error = max_abs_difference(&values(logits), &expected);
        assert!(error < 1e-4, "{}: largest error {error}", golden.0);

        for (nth, (after, before)) in model.blocks.iter().zip(&plain.blocks).enumerate() {
            let heads = after.mixer.attention().expect("grouped attention").heads;
            let shared = [heads.features, heads.query / heads.key_value];
            let names = [
                ("q, k, v", [1, 1]),
                ("o", shared),
                ("gate, up", [1, 1]),
                ("down", [1, 1]),
            ];
            for (group, (what, [run, times])) in names.into_iter().enumerate() {
                let [after, before] =
                    [after, before].map(|block| spread(&groups(block)[group], run, times));
                let what = format!("{} layer {nth} {what}: {before} to {after}", golden.0);
                assert!(before > 1.1 && after < 1.01, "{what}");
            }
        }
    }
}

/// Matrices that share an input.
fn groups(block: &Block) -> [Vec<&Matrix>; 4] {
    let linears = block.linears();
    // Queries, keys and values; the way out of attention; gate and `up`; `down`.
    [0..3, 3..4, 4..6, 6..7]
        .map(|group| linears[group].iter().map(|linear| &linear.weight).collect())
}

/// The file is an ordinary one: plain numbers in their own types, and the packed words that a load makes. Would catch
/// factors that only a load knows of, and a saving that forgets them.
#[test]
fn what_is_saved_is_an_ordinary_checkpoint() {
    let golden = Golden("qwen2_bf16_tied");
    let folder = TempDir::new().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let save = |quant: &str, name: &str| {
        let config = config(golden).quant(quant.parse().expect("a spec"));
        let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
        let saved = loader.save::<CausalLm>(&SaveConfig::new(at(name)));
        saved.expect("saved").dialect
    };
    let logits = |model: &CausalLm| values(model.forward(ids(&golden.ids("input_ids"))));
    let saved = |name: &str| {
        let config = LoadConfig::new(at(name).to_string_lossy()).dtype(DType::F32);
        logits(&load(config))
    };

    assert_eq!(save("none", "plain"), None);
    let bytes = fs::read(at("plain").join("model.safetensors")).expect("a file");
    let file = SafeTensors::deserialize(&bytes).expect("the reference reader reads it");
    assert!(file.iter().all(|(_, tensor)| tensor.dtype() == Dtype::BF16));
    // Logits have a deviation of 1.7; bf16 has steps of 1/256.
    let (expected, _) = golden.floats("logits_f32");
    let error = rms_difference(&saved("plain"), &expected);
    assert!(error < 0.03, "{error}");

    assert_eq!(save("nf4", "packed"), Some(To::BitsAndBytes.name()));
    let quant = "nf4".parse().expect("a spec");
    let loaded = load(config(golden).dtype(DType::F32).quant(quant));
    let error = rms_difference(&saved("packed"), &logits(&loaded));
    assert!(error < 0.03, "{error}");
    let packed = rms_difference(&logits(&loaded), &expected);
    assert!(packed > 0.1, "{packed}");
}

/// Factors do not depend on how the work is cut: every packed word is the same.
#[test]
fn the_weights_do_not_depend_on_threads_or_memory() {
    let golden = Golden("llama_f16_tied_bias");
    let words = |workers: usize, budget: u64| {
        let count = workers.try_into().expect("not zero");
        let config = config(golden)
            .quant("nf4".parse().expect("a spec"))
            .workers(firebox::Workers::Count(count))
            .in_flight_bytes_max(budget);
        let model = load(config);
        let of = |matrix: &Matrix| match matrix {
            Matrix::Packed(packed) => {
                let host = packed.to_host();
                (host.words, host.scales)
            }
            _ => panic!("a packed matrix"),
        };
        let blocks = model.blocks.iter();
        let all = blocks.flat_map(|block| {
            let linears = block.linears();
            [0, 3, 4, 6].map(|nth| of(&linears[nth].weight))
        });
        all.collect::<Vec<_>>()
    };
    let one = words(1, 2000);
    assert_eq!(one, words(3, 2000));
    assert_eq!(one, words(2, 256 << 20));
}

/// What has been packed already, and what nobody has described, is refused by name.
#[test]
fn what_cannot_be_balanced_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let golden = Golden("llama_f32_tied");
    let packed = LoadConfig::new(golden.path("").to_string_lossy()).quant("nf4".parse().expect(""));
    let loader = Loader::<Cpu>::new(packed).expect("a checkpoint");
    let saved = loader.save::<CausalLm>(&SaveConfig::new(folder.path()));
    saved.expect("saved");
    let again = LoadConfig::new(folder.path().to_string_lossy()).presinq(true);
    let error = Loader::<Cpu>::new(again)
        .expect("a checkpoint")
        .load::<CausalLm>();
    match error {
        Err(Error::Plan(PlanError::Balance { tensor, .. })) => {
            assert!(tensor.contains("layers.0.self_attn"), "{tensor}");
        }
        other => panic!("{other:?}"),
    }

    let bare = config(golden).bare();
    let tensors = Loader::<Cpu>::new(bare).expect("a checkpoint");
    let error = tensors.save_tensors(&[], &SaveConfig::new(folder.path().join("bare")));
    assert!(matches!(error, Err(Error::Plan(PlanError::NoLinks))));
    assert!(!CausalLm::links(&CausalLm::config(&golden.json("config.json")).expect("")).is_empty());
}

/// An architecture whose links name no slot: it is wrong, and says so before a weight is read.
#[derive(Debug)]
struct Misspelt;

impl Architecture for Misspelt {
    type Config = <CausalLm as Architecture>::Config;

    fn config(json: &serde_json::Value) -> Result<Self::Config, ConfigError> {
        CausalLm::config(json)
    }

    fn slots(config: &Self::Config) -> Vec<Slot> {
        CausalLm::slots(config)
    }

    fn links(config: &Self::Config) -> Vec<Link> {
        let mut links = CausalLm::links(config);
        links[1].to[0] = "model.layers.0.self_attn.o_porj.weight".to_owned();
        links
    }

    fn build(_: &Self::Config, _: &mut Weights) -> Result<Self, BuildError> {
        Ok(Self)
    }
}

/// Would catch a panic where the name is looked up.
#[test]
fn a_link_that_names_no_slot_is_an_error() {
    let loader = Loader::<Cpu>::new(config(Golden("llama_bf16_untied"))).expect("a checkpoint");
    match loader.load::<Misspelt>() {
        Err(Error::Plan(PlanError::LinkName { name })) => {
            assert_eq!(name, "model.layers.0.self_attn.o_porj.weight");
        }
        other => panic!("{other:?}"),
    }
}
