//! The arithmetic of products: how far it moves the answers of a model, and that the plan and the report say which ran.

#![cfg(feature = "cpu")]

use std::collections::BTreeMap;

use burn::tensor::{Int, Tensor, TensorData};
use firebox::{
    Cpu, LoadConfig, Loaded, Loader, Strategy, Target,
    model::CausalLm,
    quant::kernels::linear::Compute,
    text::SpecialTokens,
    train::{FinetuneConfig, Run, TrainError},
};

const MODEL: &str = "assets/tinyrust";
const TOKENS: usize = 96;

fn config(quant: &str, compute: Compute) -> LoadConfig {
    LoadConfig::new(MODEL)
        .quant(quant.parse().expect("a spec"))
        .compute(compute)
}

fn load(config: LoadConfig) -> Loaded<CausalLm> {
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    loader.load().expect("loads")
}

/// The first tokens of the sample.
fn tokens() -> Vec<u32> {
    let loader = Loader::<Cpu>::new(LoadConfig::new(MODEL)).expect("a checkpoint");
    let text = std::fs::read_to_string("assets/tinyrust-sample.txt").expect("it is there");
    let tokenizer = loader.tokenizer().expect("it has one");
    let mut tokens = tokenizer
        .encode(&text[..4000], SpecialTokens::Omit)
        .expect("it has all of them");
    tokens.truncate(TOKENS);
    assert_eq!(tokens.len(), TOKENS);
    tokens
}

/// Logits `[tokens, vocabulary]`.
fn logits(model: &CausalLm, tokens: &[u32]) -> Vec<Vec<f64>> {
    let ids: Vec<i64> = tokens.iter().map(|id| i64::from(*id)).collect();
    let device = Cpu::device(0).expect("a CPU");
    let ids = TensorData::new(ids, [1, tokens.len()]);
    let logits = model.forward(Tensor::<2, Int>::from_data(ids, &device));
    let [_, _, vocabulary] = logits.dims();
    let values: Vec<f32> = logits.into_data().try_into_vec().expect("f32");
    let rows = values.chunks(vocabulary);
    rows.map(|row| row.iter().copied().map(f64::from).collect())
        .collect()
}

/// Logarithms of probabilities.
fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    logits
        .iter()
        .map(|logit| logit - largest - sum.ln())
        .collect()
}

/// The Kullback-Leibler divergence of `found` from `exact`, the mean over tokens, in nats.
fn divergence(exact: &[Vec<f64>], found: &[Vec<f64>]) -> f64 {
    let rows = exact.iter().zip(found).map(|(exact, found)| {
        let (exact, found) = (log_softmax(exact), log_softmax(found));
        let terms = exact.iter().zip(&found).map(|(p, q)| p.exp() * (p - q));
        terms.sum::<f64>()
    });
    rows.sum::<f64>() / exact.len() as f64
}

/// Would catch scales of another block, an offset that is left out, and columns that are not multiplied.
#[test]
fn answers_move_little_and_the_report_says_why() {
    let tokens = tokens();
    for (quant, whole) in [
        ("nf4", true),
        ("nf4:block=32,nested", true),
        ("mlx:bits=4,group=64", true),
        ("nvfp4", true),
        ("int8", true),
        ("fp8:e4m3,scale=channel", false),
        ("none", false),
    ] {
        let exact = logits(&load(config(quant, Compute::F32)).model, &tokens);
        for (compute, most) in [(Compute::Bf16, 5e-5), (Compute::Int8, 5e-4)] {
            let loaded = load(config(quant, compute));
            let found = logits(&loaded.model, &tokens);
            let divergence = divergence(&exact, &found);
            let report = &loaded.report;
            assert_eq!(report.compute, compute);
            let count = |compute| report.computes.get(&compute).copied().unwrap_or(0);
            let rounds = compute == Compute::Bf16 || whole;
            // Seven matrices of four layers, and the embedding, which is the head and stays as it is stored.
            let expected = match (compute, whole) {
                (Compute::Bf16, _) => BTreeMap::from([(Compute::Bf16, 29)]),
                (_, true) => BTreeMap::from([(Compute::F32, 1), (Compute::Int8, 28)]),
                _ => BTreeMap::from([(Compute::F32, 29)]),
            };
            assert_eq!(report.computes, expected, "{quant}");
            for tensor in &report.per_tensor {
                let matrix = tensor.name.ends_with("proj.weight");
                let is = tensor.compute == Some(compute);
                assert!(!matrix || is == rounds, "{quant}: {}", tensor.name);
            }
            let warned = report.warnings.iter().any(|text| text.contains("in int8"));
            assert_eq!(
                warned,
                count(compute) == 0,
                "{quant}: {:?}",
                report.warnings
            );
            assert!(divergence <= most, "{quant} in {compute}: {divergence:e}");
            assert_eq!(
                divergence > 1e-9,
                rounds,
                "{quant} in {compute}: {divergence:e}"
            );
        }
    }
}

/// Would catch a streamed weight that forgets its arithmetic.
#[test]
fn a_streamed_model_computes_as_a_full_one() {
    let tokens = &tokens()[..20];
    let full = load(config("nf4", Compute::Int8).strategy(Strategy::Full));
    let streamed = load(config("nf4", Compute::Int8).strategy(Strategy::Streaming));
    assert_eq!(logits(&streamed.model, tokens), logits(&full.model, tokens));
}

/// Would catch a cache or an incremental step in another arithmetic: one token after another, as all together.
#[test]
fn whole_numbers_do_not_depend_on_how_many_tokens_there_are() {
    let tokens = &tokens()[..12];
    let model = load(config("int8", Compute::Int8)).model;
    let (all, few) = (logits(&model, tokens), logits(&model, &tokens[..3]));
    for (all, few) in all.iter().zip(&few) {
        let apart = all.iter().zip(few).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f64::max) < 1e-3);
    }
}

/// Gradients would go back as if inputs were not rounded.
#[test]
fn training_in_whole_numbers_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let train = FinetuneConfig {
        data: "assets/tinyrust-sample.txt".into(),
        out,
        ..FinetuneConfig::default()
    };
    let error = Run::<Cpu>::open(config("nf4", Compute::Int8), train, false).map(drop);
    let error = error.expect_err("int8 is refused");
    assert!(
        matches!(
            error,
            TrainError::Compute {
                compute: Compute::Int8
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("bf16"), "{error}");
}
