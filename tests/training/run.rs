//! Runs: what a step is, when a run ends, and that one that was interrupted ends as the uninterrupted one.

use std::{fs, path::Path};

use firebox::{
    Cpu, LoadConfig,
    adapter::LoraConfig,
    observe::Flow,
    train::{
        Decay, Ended, FinetuneConfig, MetricsLine, Run, RunEvent, RunReport, Schedule, StepMetrics,
        TrainError,
    },
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const MODEL: &str = "assets/tinyrust";

/// A run of small steps on a part of a text.
fn config(folder: &TempDir, out: &str) -> FinetuneConfig {
    let text = fs::read_to_string("assets/tinyrust-sample.txt").expect("a text");
    let [data, eval] = ["train.txt", "eval.txt"].map(|name| folder.path().join(name));
    let at = |place: usize| text.floor_char_boundary(place);
    fs::write(&data, &text[..at(3000)]).expect("written");
    fs::write(&eval, &text[at(3000)..at(3200)]).expect("written");
    FinetuneConfig {
        data,
        eval: Some(eval),
        out: folder.path().join(out),
        quant: "nf4".parse().expect("a format"),
        adapter: Some(
            "lora:rank=2,alpha=8,targets=*.{q,v}_proj,dropout=0.1"
                .parse()
                .expect("an adapter"),
        ),
        steps: Some(4),
        batch: 1,
        length: Some(12),
        accumulation: 2,
        learning_rate: 3e-3,
        eval_every: Some(2),
        seed: 3,
        ..FinetuneConfig::default()
    }
}

fn train(config: &FinetuneConfig, resume: bool) -> Result<RunReport, TrainError> {
    train_until(config, resume, u64::MAX)
}

/// Stops after step `stop`.
fn train_until(config: &FinetuneConfig, resume: bool, stop: u64) -> Result<RunReport, TrainError> {
    let run = Run::<Cpu>::open(LoadConfig::new(MODEL), config.clone(), resume)?;
    if let Some(report) = run.ended()? {
        return Ok(report);
    }
    run.load()?.train(&mut |event| match event {
        RunEvent::Step(metrics) if metrics.step == stop => Flow::Cancel,
        _ => Flow::Continue,
    })
}

fn lines(out: &Path) -> Vec<MetricsLine> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("JSON")
}

/// The steps, without what differs from run to run.
fn steps(out: &Path) -> Vec<StepMetrics> {
    let steps = lines(out).into_iter().filter_map(|line| match line {
        MetricsLine::Step(step) => Some(StepMetrics {
            seconds: 0.0,
            ..step
        }),
        MetricsLine::Eval(_) => None,
    });
    steps.collect()
}

fn adapter(out: &Path) -> Vec<u8> {
    fs::read(out.join("adapter/adapter_model.safetensors")).expect("an adapter")
}

/// After every step, and with the moments in 8 bits too. Would catch masks, moments, data, schedule or metrics that begin anew.
#[test]
fn a_run_that_stops_after_any_step_ends_as_the_uninterrupted_one() {
    for optimizer in ["adamw", "adamw8bit"] {
        let folder = TempDir::new().expect("a folder");
        let mut whole = config(&folder, "whole");
        whole.optimizer = optimizer.parse().expect("an optimizer");
        let expected = train(&whole, false).expect("a run");
        for stop in 1..4 {
            let cut = FinetuneConfig {
                out: folder.path().join(format!("cut{stop}")),
                ..whole.clone()
            };
            let stopped = train_until(&cut, false, stop);
            let Err(TrainError::Stopped { step, checkpoint }) = stopped else {
                panic!("{stopped:?}");
            };
            assert_eq!(step, stop);
            assert!(checkpoint.ends_with(format!("checkpoint-{stop}")));
            let report = train(&cut, true).expect("a run");
            assert_eq!(report.resumed_from, Some(stop));
            assert_eq!(report.steps_run, 4 - stop);
            assert_eq!(report.loss_last, expected.loss_last);
            assert_eq!(report.eval_perplexity, expected.eval_perplexity);
            assert_eq!(steps(&cut.out), steps(&whole.out));
            assert!(
                adapter(&cut.out) == adapter(&whole.out),
                "after step {stop}"
            );
        }
        // Nothing is left to do, and a lost adapter comes back from the checkpoint.
        let before = adapter(&whole.out);
        fs::remove_dir_all(whole.out.join("adapter")).expect("removed");
        let again = train(&whole, true).expect("a run");
        assert_eq!((again.steps, again.steps_run), (4, 0));
        assert!(adapter(&whole.out) == before);
    }
}

/// Stops in the middle: of a step of three batches, of the evaluations at the beginning, on the way and at the end. What was begun is left
/// out, and made again from its beginning when the run goes on. Catches batches that are lost, masks that are drawn twice, and an
/// evaluation that is forgotten.
#[test]
fn a_run_that_stops_in_the_middle_of_a_step_ends_as_the_uninterrupted_one() {
    let folder = TempDir::new().expect("a folder");
    let whole = FinetuneConfig {
        accumulation: 3,
        ..config(&folder, "whole")
    };
    let expected = train(&whole, false).expect("a run");
    let cut = FinetuneConfig {
        out: folder.path().join("cut"),
        ..whole.clone()
    };
    // After so many steps, in a step or an evaluation, after so many of its batches. Each process goes on where the one before was.
    let stops = [
        (0, None, 2),
        (0, Some(3), 1),
        (1, Some(3), 2),
        (2, None, 3),
        (2, Some(3), 1),
        (4, None, 1),
    ];
    for (nth, (after, wanted, batches)) in stops.into_iter().enumerate() {
        let run = Run::<Cpu>::open(LoadConfig::new(MODEL), cut.clone(), nth > 0).expect("a run");
        let mut steps_done = 0;
        let stopped = run.load().expect("a model").train(&mut |event| {
            match event {
                RunEvent::Begun { step, .. } => steps_done = *step,
                RunEvent::Step(metrics) => steps_done = metrics.step,
                _ => {}
            }
            let is_it = |done: usize, of| (steps_done, of, done) == (after, wanted, batches);
            match event {
                RunEvent::Batch { done, of } if is_it(*done, *of) => Flow::Cancel,
                _ => Flow::Continue,
            }
        });
        let Err(TrainError::Stopped { step, checkpoint }) = stopped else {
            panic!("process {nth}: {stopped:?}");
        };
        assert_eq!(step, after, "process {nth}");
        assert!(checkpoint.ends_with(format!("checkpoint-{step}")));
    }
    let report = train(&cut, true).expect("a run");
    assert_eq!(report.loss_last, expected.loss_last);
    assert_eq!(report.eval_perplexity, expected.eval_perplexity);
    assert_eq!(steps(&cut.out), steps(&whole.out));
    let evaluations = |out: &Path| {
        let lines = lines(out).into_iter().filter_map(|line| match line {
            MetricsLine::Eval(eval) => Some((eval.step, eval.eval_loss)),
            MetricsLine::Step(_) => None,
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(evaluations(&cut.out), evaluations(&whole.out));
    assert!(adapter(&cut.out) == adapter(&whole.out));
    assert_eq!(train(&cut, true).expect("a run").steps_run, 0);
}

/// New blocks on a packed base: whole tensors are trained, stopped and resumed, and come out as a model that loads without the run.
#[test]
fn new_blocks_are_trained_and_saved_as_a_model() {
    let folder = TempDir::new().expect("a folder");
    let whole = FinetuneConfig {
        adapter: None,
        expand: Some("blocks=2".parse().expect("an expansion")),
        steps: Some(2),
        ..config(&folder, "whole")
    };
    let report = train(&whole, false).expect("a run");
    let model = report.model.expect("a model");
    assert!(report.adapter.is_none() && model.ends_with("whole/model"));
    let tensors = |model: &Path| {
        let files = fs::read_dir(model).expect("a folder");
        let paths = files.map(|file| file.expect("a file").path());
        let mut paths: Vec<_> = paths
            .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
            .collect();
        paths.sort();
        paths
            .into_iter()
            .map(|path| fs::read(path).expect("a file"))
            .collect::<Vec<_>>()
    };
    let cut = FinetuneConfig {
        out: folder.path().join("cut"),
        ..whole.clone()
    };
    let stopped = train_until(&cut, false, 1);
    assert!(
        matches!(stopped, Err(TrainError::Stopped { step: 1, .. })),
        "{stopped:?}"
    );
    let resumed = train(&cut, true).expect("a run");
    assert_eq!(resumed.loss_last, report.loss_last);
    assert_eq!(steps(&cut.out), steps(&whole.out));
    assert!(tensors(&resumed.model.expect("a model")) == tensors(&model));
    assert_eq!(train(&whole, true).expect("a run").steps_run, 0);

    // The saved model measures what the run measured at its end.
    let eval = FinetuneConfig {
        adapter: Some("lora:rank=1".parse().expect("an adapter")),
        expand: None,
        quant: "none".parse().expect("a format"),
        steps: Some(1),
        ..config(&folder, "again")
    };
    let run = Run::<Cpu>::open(
        LoadConfig::new(model.to_string_lossy()),
        eval.clone(),
        false,
    );
    let run = run
        .expect("the saved model")
        .load()
        .expect("the saved model");
    run.train(&mut |_| Flow::Continue).expect("a run");
    let first = lines(&eval.out).into_iter().find_map(|line| match line {
        MetricsLine::Eval(eval) => Some(eval.eval_perplexity),
        MetricsLine::Step(_) => None,
    });
    let (first, last) = (
        first.expect("measured"),
        report.eval_perplexity.expect("measured"),
    );
    assert!((first - last).abs() < 2e-2 * last, "{first} {last}");
}

/// Rows of other lengths, each a document: eight at once, four and four, and two and two and two and two are one step. Would catch
/// a mean of means, and gradients that are divided twice.
#[test]
fn a_step_is_the_same_however_its_rows_are_divided() {
    let folder = TempDir::new().expect("a folder");
    let text = fs::read_to_string("assets/tinyrust-sample.txt").expect("a text");
    let mut words = text.split_whitespace();
    let records = (0..16).map(|nth| {
        let some: Vec<&str> = words.by_ref().take(2 + 5 * (nth % 4)).collect();
        json!({ "text": some.join(" ") }).to_string()
    });
    let data = folder.path().join("records.jsonl");
    fs::write(&data, records.collect::<Vec<_>>().join("\n")).expect("written");
    let run = |batch: usize| {
        let config = FinetuneConfig {
            data: data.clone(),
            eval: None,
            eval_every: None,
            adapter: Some("lora:rank=2,alpha=8".parse().expect("an adapter")),
            steps: Some(2),
            batch,
            accumulation: 8 / batch,
            length: Some(40),
            packing: false,
            warmup: 0.0,
            clip: 0.5,
            ..config(&folder, &format!("out{batch}"))
        };
        train(&config, false).expect("a run");
        steps(&config.out)
    };
    let whole = run(8);
    assert!(whole[0].grad_norm > 0.5, "nothing is clipped");
    for batch in [4, 2] {
        for (one, other) in run(batch).iter().zip(&whole) {
            assert_eq!(one.tokens, other.tokens);
            let close = |a: f64, b: f64| (a - b).abs() < 2e-5 * b.abs();
            assert!(close(one.loss, other.loss), "{one:?} {other:?}");
            assert!(close(one.grad_norm, other.grad_norm), "{one:?} {other:?}");
        }
    }
}

/// The factors of transformers 5.23.0 with 3 steps of warm-up out of 11, at a rate of 2e-4.
#[test]
fn learning_rates_are_those_of_transformers() {
    let cosine = [
        0.0,
        6.666666666666667e-05,
        0.00013333333333333334,
        0.0002,
        0.0001923879532511287,
        0.00017071067811865476,
        0.000138268343236509,
        0.0001,
        6.173165676349103e-05,
        2.9289321881345254e-05,
        7.612046748871327e-06,
        0.0,
    ];
    let with_floor = [
        0.0,
        6.666666666666667e-05,
        0.00013333333333333334,
        0.0002,
        0.00019314915792601581,
        0.00017363961030678927,
        0.00014444150891285807,
        0.00011000000000000002,
        7.555849108714192e-05,
        4.6360389693210735e-05,
        2.6850842073984196e-05,
        2e-05,
    ];
    let linear = [
        0.0,
        6.666666666666667e-05,
        0.00013333333333333334,
        0.0002,
        0.000175,
        0.00015000000000000001,
        0.000125,
        0.0001,
        7.500000000000001e-05,
        5e-05,
        2.5e-05,
        0.0,
    ];
    let constant = [
        0.0,
        6.666666666666667e-05,
        0.00013333333333333334,
        0.0002,
        0.0002,
        0.0002,
        0.0002,
        0.0002,
        0.0002,
        0.0002,
        0.0002,
        0.0002,
    ];
    for (decay, floor, expected) in [
        (Decay::Cosine, 0.0, cosine),
        (Decay::Cosine, 0.1, with_floor),
        (Decay::Linear, 0.0, linear),
        (Decay::Constant, 0.1, constant),
    ] {
        let schedule = Schedule {
            rate: 2e-4,
            decay,
            warmup: 3,
            floor,
            steps: 11,
        };
        for (step, expected) in expected.into_iter().enumerate() {
            let found = schedule.rate(step as u64);
            assert!(
                (found - expected).abs() < 1e-18,
                "{decay:?} {step}: {found} {expected}"
            );
        }
    }
    // A share of the steps is rounded up, as transformers has it.
    let config = FinetuneConfig::default();
    assert_eq!(config.learning_rates(101).warmup, 4);
}

/// With a rate that ruins the model the perplexity grows: the run waits as long as it was told to, and leaves the best adapter.
#[test]
fn a_run_without_progress_ends_early_with_the_best_adapter() {
    let folder = TempDir::new().expect("a folder");
    let config = FinetuneConfig {
        learning_rate: 0.5,
        schedule: Decay::Constant,
        warmup: 0.0,
        clip: 0.0,
        steps: Some(50),
        eval_every: Some(1),
        patience: Some(2),
        ..config(&folder, "out")
    };
    let report = train(&config, false).expect("a run");
    assert_eq!(report.ended, Ended::Patience);
    let best = report.best.expect("it was measured");
    assert_eq!(report.steps, best.step + 2);
    let perplexities: Vec<f64> = lines(&config.out)
        .into_iter()
        .filter_map(|line| match line {
            MetricsLine::Eval(eval) => Some(eval.eval_perplexity),
            MetricsLine::Step(_) => None,
        })
        .collect();
    assert_eq!(perplexities.len() as u64, report.steps + 1);
    let lowest = perplexities.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(
        (perplexities[best.step as usize], best.perplexity),
        (lowest, lowest)
    );
    let kept = fs::read(config.out.join("best/adapter_model.safetensors")).expect("an adapter");
    assert!(adapter(&config.out) == kept);
}

/// Weights with a value that is no number: the error names step and batch, and the checkpoint before stays.
#[test]
fn a_loss_that_is_no_number_ends_the_run() {
    let folder = TempDir::new().expect("a folder");
    let config = FinetuneConfig {
        eval: None,
        eval_every: None,
        // The values of the first step are within f32, and the products of the second are not.
        learning_rate: 3e37,
        adapter: Some(LoraConfig::new(2, 1000.0).into()),
        warmup: 0.0,
        weight_decay: Some(0.0),
        checkpoint_every: Some(1),
        ..config(&folder, "out")
    };
    let failed = train(&config, false).expect_err("no number");
    let said = failed.to_string();
    assert!(
        matches!(
            failed,
            TrainError::NotFinite {
                step: 2,
                batch: 1,
                ..
            }
        ),
        "{failed:?}"
    );
    for part in ["step 2, batch 1", "checkpoint-1", "--resume"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(config.out.join("checkpoint-1/state.json").is_file());
}

/// The last step makes values that are no numbers, which no loss shows any more. Catches an adapter of NaNs that is saved.
#[test]
fn values_that_are_no_numbers_are_not_saved() {
    let folder = TempDir::new().expect("a folder");
    let config = FinetuneConfig {
        eval: None,
        eval_every: None,
        steps: Some(1),
        learning_rate: 1e30,
        warmup: 0.0,
        weight_decay: Some(1e10),
        ..config(&folder, "out")
    };
    let failed = train(&config, false).expect_err("no number");
    assert!(
        matches!(failed, TrainError::Diverged { step: 1, .. }),
        "{failed:?}"
    );
    for part in ["after step 1", "lower learning rate", "no checkpoint yet"] {
        assert!(failed.to_string().contains(part), "{failed}");
    }
    for name in ["checkpoint-1", "adapter"] {
        assert!(!config.out.join(name).exists(), "{name}");
    }
}

/// Keys that nobody knows and values that nobody can use, each by its name.
#[test]
fn settings_are_refused_by_name() {
    let refused = |key: &str, value: Value| {
        let settings = Map::from_iter([
            ("data".to_owned(), "texts".into()),
            ("out".to_owned(), "run".into()),
            (key.to_owned(), value),
        ]);
        FinetuneConfig::from_map(settings)
            .expect_err(key)
            .to_string()
    };
    for (key, value, part) in [
        ("learning_rat", json!(1), "did you mean `learning-rate`?"),
        ("batches", json!(1), "did you mean `batch`?"),
        ("xyz", json!(1), "there are data, eval, out"),
        (
            "batch",
            json!(0),
            "`batch` is 0: a batch has 1 to 65536 rows",
        ),
        ("batch", json!(65_537), "`batch` is 65537"),
        ("learning-rate", json!(0), "`learning-rate` is 0"),
        // 0 and infinity as f32.
        ("learning-rate", json!(1e-50), "write a number above 0"),
        ("learning-rate", json!(1e50), "write a number above 0"),
        ("steps", json!(-1), "`steps` is -1"),
        ("clip", json!(-1.0), "`clip` is -1"),
        ("keep", json!(1), "keep 2 at least"),
        ("patience", json!(2), "--eval FILE"),
        ("quant", json!("nf5"), "`quant` is nf5"),
        ("optimizer", json!("adam8"), "`optimizer` is adam8"),
        ("out", json!(""), "--out"),
        ("train-type", json!("qlor"), "`train-type` is qlor"),
    ] {
        let said = refused(key, value);
        assert!(said.contains(part), "`{said}` lacks `{part}`");
    }
    for (train, key, value) in [
        ("full", "adapter", json!("lora:rank=4")),
        ("llama_pro", "adapter", json!("lora:rank=4")),
        ("full", "expand", json!("blocks=2")),
        ("qlora", "expand", json!("blocks=2")),
    ] {
        let settings = json!({ "data": "texts", "out": "run", "train-type": train, key: value });
        let settings = settings.as_object().cloned().expect("an object");
        let said = FinetuneConfig::from_map(settings)
            .expect_err(key)
            .to_string();
        let part = format!("`train-type` is {train}: `{key}` is set too");
        assert!(said.contains(&part), "`{said}` lacks `{part}`");
    }
    let settings =
        json!({ "data": "texts", "out": "run", "learning_rate": 1e-3, "adapter": "lora:rank=4" });
    let settings = settings.as_object().cloned().expect("an object");
    let config = FinetuneConfig::from_map(settings).expect("sound");
    assert_eq!(config.learning_rate, 1e-3);
    let written = serde_json::to_value(&config).expect("JSON");
    let written = written.as_object().cloned().expect("an object");
    assert_eq!(
        FinetuneConfig::from_map(written).expect("what was written"),
        config
    );
}
