//! Runs on a text that the model has not seen, against the same runs in PyTorch.

use std::{fs, path::Path};

use firebox::{
    Cpu, LoadConfig,
    observe::Flow,
    train::{FinetuneConfig, MetricsLine, Run},
};

/// What PyTorch 2.15.0 (dense) and peft 0.21.2 on bitsandbytes 0.50.2 (NF4) have as losses of every step, from the same factors on the same tokens: `torch_training.py --steps 10 --rows 2 --length 64 --learning-rate 5e-3 --every 1`.
const DENSE: [f64; 10] = [
    5.1144, 4.4015, 4.0881, 4.4965, 3.5263, 3.9317, 4.4827, 3.6957, 4.1483, 3.9930,
];
const NF4: [f64; 10] = [
    5.1001, 4.3964, 4.0726, 4.4960, 3.5508, 3.9174, 4.5051, 3.6951, 4.1715, 3.9884,
];

fn train(quant: &str, out: &Path) -> Vec<MetricsLine> {
    let held_out = fs::read_to_string("assets/burn-book/held-out.txt").expect("a text");
    let eval = out.join("held-out.txt");
    fs::write(&eval, &held_out[..4000]).expect("written");
    let config = FinetuneConfig {
        data: "assets/burn-book/train.txt".into(),
        eval: Some(eval),
        out: out.join(quant),
        quant: quant.parse().expect(quant),
        adapter: Some("lora:rank=8,alpha=16".parse().expect("an adapter")),
        steps: Some(10),
        batch: 2,
        length: Some(64),
        learning_rate: 5e-3,
        weight_decay: Some(0.0),
        seed: 1,
        ..FinetuneConfig::default()
    };
    let run = Run::<Cpu>::open(LoadConfig::new("assets/tinyrust"), config, false).expect("a run");
    let run = run.load().expect("a model");
    run.train(&mut |_| Flow::Continue).expect("trained");
    let metrics = fs::read_to_string(out.join(quant).join("metrics.jsonl")).expect("metrics");
    let lines = metrics
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    lines.collect()
}

/// Would catch another order of tokens, another loss, gradient, clipping, schedule or optimizer, a base that is not the one of
/// bitsandbytes, and training that does not help.
#[test]
fn runs_are_those_of_pytorch_and_lower_the_perplexity_of_unseen_text() {
    let folder = tempfile::tempdir().expect("a folder");
    for (quant, expected) in [("none", DENSE), ("nf4", NF4)] {
        let (mut losses, mut perplexities) = (Vec::new(), Vec::new());
        for line in train(quant, folder.path()) {
            match line {
                MetricsLine::Step(step) => losses.push(step.loss),
                MetricsLine::Eval(eval) => perplexities.push(eval.eval_perplexity),
            }
        }
        assert_eq!(losses.len(), expected.len());
        for (step, (loss, expected)) in losses.iter().zip(expected).enumerate() {
            let error = (loss - expected).abs();
            assert!(
                error <= 1e-3,
                "{quant}, step {step}: {loss} is not {expected}"
            );
        }
        let [before, after] = *perplexities else {
            panic!("{quant}: {perplexities:?}");
        };
        assert!(
            after < 0.95 * before,
            "{quant}: perplexity {before}, then {after}"
        );
    }
}
