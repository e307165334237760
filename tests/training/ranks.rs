//! Runs over several ranks: two of them end as one with batches of twice the rows, in whatever way they are stopped.

use std::{fs, path::Path, sync::Arc, thread, time::Duration};

use firebox::{
    Cpu, LoadConfig,
    collective::{CollectiveError, ThreadRanks},
    config::Parallel,
    model::{Architecture, CausalLm},
    observe::Flow,
    train::{FinetuneConfig, Run, RunEvent, RunReport, TrainError, on_devices},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tempfile::TempDir;

const MODEL: &str = "assets/tinyrust";

/// Rows of many lengths on a packed base. A batch of `batch` rows.
fn config(folder: &Path, out: &str, batch: usize) -> FinetuneConfig {
    let text = fs::read_to_string("assets/tinyrust-sample.txt").expect("a text");
    let [data, eval] = ["train.txt", "eval.txt"].map(|name| folder.join(name));
    let at = |place: usize| text.floor_char_boundary(place);
    fs::write(&data, &text[..at(3000)]).expect("written");
    fs::write(&eval, &text[at(3000)..at(3200)]).expect("written");
    FinetuneConfig {
        data,
        eval: Some(eval),
        out: folder.join(out),
        quant: "nf4".parse().expect("a format"),
        adapter: Some(
            "lora:rank=2,alpha=8,targets=*.{q,v}_proj,dropout=0.1"
                .parse()
                .expect("an adapter"),
        ),
        steps: Some(4),
        batch,
        length: Some(12),
        accumulation: 2,
        learning_rate: 3e-3,
        eval_every: Some(2),
        seed: 3,
        ..FinetuneConfig::default()
    }
}

/// A run on so many ranks, each of which is told to stop after its step of `stop`.
fn train(
    ranks: usize,
    config: impl Fn(usize) -> FinetuneConfig + Sync,
    resume: bool,
    stop: impl Fn(usize) -> Option<u64> + Sync,
) -> Vec<Result<RunReport, TrainError>> {
    train_on(MODEL, Parallel::Replicate, ranks, config, resume, stop)
}

/// The same on another base, divided among the ranks.
fn train_on(
    model: &str,
    parallel: Parallel,
    ranks: usize,
    config: impl Fn(usize) -> FinetuneConfig + Sync,
    resume: bool,
    stop: impl Fn(usize) -> Option<u64> + Sync,
) -> Vec<Result<RunReport, TrainError>> {
    let members = ThreadRanks::new(ranks, Duration::from_secs(60));
    let (config, stop) = (&config, &stop);
    thread::scope(|scope| {
        let threads = members.into_iter().enumerate().map(|(rank, member)| {
            scope.spawn(move || {
                let load = LoadConfig::new(model).rank(rank).world_size(ranks);
                let request = load.parallel(parallel).ranks(Arc::new(member));
                let run = Run::<Cpu>::open(request, config(rank), resume)?;
                if let Some(report) = run.ended()? {
                    return Ok(report);
                }
                run.load()?.train(&mut |event| match event {
                    RunEvent::Step(step) if Some(step.step) == stop(rank) => Flow::Cancel,
                    _ => Flow::Continue,
                })
            })
        });
        let threads: Vec<_> = threads.collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.map(|ended| ended.expect("no panic")).collect()
    })
}

/// A run on several devices of this process, which have the base whole each. The first rank has the run that `config` makes of `true`.
fn train_on_devices(
    devices: &str,
    config: impl Fn(bool) -> FinetuneConfig,
) -> Result<RunReport, TrainError> {
    let devices = devices
        .split(',')
        .map(|index| index.parse().expect("a number"));
    let request = LoadConfig::new(MODEL)
        .devices(devices)
        .parallel(Parallel::Replicate);
    on_devices::<Cpu, _>(request, &config(false), false, |request| {
        let run = Run::<Cpu>::open(request, config(true), false)?;
        run.load()?.train(&mut |_| Flow::Continue)
    })?
}

fn adapter(out: &Path) -> Vec<u8> {
    fs::read(out.join("adapter/adapter_model.safetensors")).expect("an adapter")
}

fn values(file: &[u8]) -> Vec<f32> {
    let tensors = SafeTensors::deserialize(file).expect("an adapter");
    let mut tensors = tensors.tensors();
    tensors.sort_by(|(one, _), (other, _)| one.cmp(other));
    let bytes = tensors.iter().flat_map(|(_, view)| view.data().to_vec());
    let bytes: Vec<u8> = bytes.collect();
    let (values, _) = bytes.as_chunks();
    values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect()
}

/// Would catch rows that two ranks both have or none, gradients that are a mean of means or counted twice, masks that are the same on
/// both ranks, an evaluation of a part of the text, and files that are written by no rank.
#[test]
fn two_ranks_end_as_one_with_twice_the_rows() {
    let folder = TempDir::new().expect("a folder");
    let one = train(1, |_| config(folder.path(), "one", 4), false, |_| None);
    let two = train(2, |_| config(folder.path(), "two", 2), false, |_| None);
    let one = one.into_iter().next().expect("a rank").expect("a run");
    let devices = train_on_devices("0,1", |_| config(folder.path(), "devices", 2));
    let devices = devices.expect("a run");
    let expected = values(&adapter(&folder.path().join("one")));
    let found = values(&adapter(&folder.path().join("two")));
    assert!(expected.iter().any(|value| value.abs() > 1e-3));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
    assert!(adapter(&folder.path().join("devices")) == adapter(&folder.path().join("two")));
    let two = two.into_iter().map(|report| report.expect("a run"));
    for report in two.chain([devices]) {
        assert_eq!(report.tokens, one.tokens);
        let close = |a: Option<f64>, b: Option<f64>| {
            let (a, b) = (a.expect("a number"), b.expect("a number"));
            assert!((a - b).abs() < 1e-5 * b, "{a} {b}");
        };
        close(report.loss_first, one.loss_first);
        close(report.loss_last, one.loss_last);
        close(report.eval_perplexity, one.eval_perplexity);
    }
    assert!(folder.path().join("two/report.html").is_file());
}

/// Would catch a rank that goes on alone, masks and moments that begin anew, and a run that is gone on with by other ranks.
#[test]
fn all_ranks_stop_with_one_and_go_on_together() {
    let folder = TempDir::new().expect("a folder");
    let whole = train(2, |_| config(folder.path(), "whole", 1), false, |_| None);
    for report in whole {
        report.expect("a run");
    }
    let cut = |_| config(folder.path(), "cut", 1);
    for stopped in train(2, cut, false, |rank| (rank == 1).then_some(3)) {
        let Err(TrainError::Stopped { step, checkpoint }) = stopped else {
            panic!("{stopped:?}");
        };
        assert_eq!(step, 3);
        assert!(checkpoint.join("state.json").is_file());
    }
    for alone in train(1, cut, true, |_| None) {
        let error = alone.expect_err("it is a run of two ranks").to_string();
        assert!(error.contains("ranks"), "{error}");
    }
    for report in train(2, cut, true, |_| None) {
        assert_eq!(report.expect("a run").resumed_from, Some(3));
    }
    assert!(adapter(&folder.path().join("cut")) == adapter(&folder.path().join("whole")));
    for report in train(2, cut, true, |_| None) {
        assert_eq!(report.expect("it is over").steps_run, 0);
    }
}

/// Would catch ranks that wait for one that has failed, and runs of different settings that are averaged.
#[test]
fn a_rank_that_fails_or_differs_ends_all() {
    let folder = TempDir::new().expect("a folder");
    let lost = |rank| FinetuneConfig {
        data: match rank {
            0 => config(folder.path(), "lost", 1).data,
            _ => folder.path().join("nowhere.txt"),
        },
        ..config(folder.path(), "lost", 1)
    };
    let mut ended = train(2, lost, false, |_| None).into_iter();
    let first = ended.next().expect("a rank").expect_err("it fails");
    let TrainError::Ranks(CollectiveError::Peer { peer: 1, reason }) = &first else {
        panic!("{first:?}");
    };
    assert!(reason.contains("nowhere.txt"), "{reason}");
    assert!(matches!(ended.next(), Some(Err(TrainError::Data(_)))));

    // A rank on another device.
    let error = train_on_devices("0,1", |first| lost(usize::from(!first)));
    let Err(TrainError::Ranks(CollectiveError::Peer { peer: 1, .. })) = error else {
        panic!("{error:?}");
    };
    let error = train_on_devices("1,1", |_| lost(0)).expect_err("one device");
    assert!(
        error.to_string().contains("device 1 is named twice"),
        "{error}"
    );

    let other = |rank| FinetuneConfig {
        learning_rate: [1e-3, 2e-3][rank],
        ..config(folder.path(), "other", 1)
    };
    for ended in train(2, other, false, |_| None) {
        let error = ended.expect_err("they differ").to_string();
        assert!(
            error.contains("rank 1") && error.contains("learning-rate"),
            "{error}"
        );
    }
    assert!(!folder.path().join("other/metrics.jsonl").exists());
}

/// A small model of experts with the tokenizer of the other one, and its folder.
fn experts(folder: &Path) -> String {
    let config = serde_json::json!({
        "model_type": "qwen3_moe",
        "vocab_size": 2048,
        "hidden_size": 32,
        "intermediate_size": 32,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 512,
    });
    let slots = CausalLm::slots(&CausalLm::config(&config).expect("a family"));
    let tensors = slots.into_iter().enumerate().map(|(nth, slot)| {
        let count = slot.shape.iter().product::<usize>();
        let value = |at: usize| ((at * 7919 + nth * 104_729) % 1009) as f32 / 1009.0 - 0.5;
        let values = (0..count).flat_map(|at| value(at).to_le_bytes());
        (slot.name, slot.shape, values.collect::<Vec<u8>>())
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name, view.expect("four bytes a value"))
    });
    fs::create_dir(folder).expect("a folder");
    let file = folder.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &file).expect("written");
    fs::write(folder.join("config.json"), config.to_string()).expect("written");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(Path::new(MODEL).join(name), folder.join(name)).expect("copied");
    }
    folder.to_str().expect("UTF-8").to_owned()
}

/// Would catch shares that do not come together in the backward pass, ranks that wait for one that has nothing to train on or more logits
/// at once than the others, and experts that come to the ranks that need them alone.
#[test]
fn a_base_in_shares_is_trained_as_a_whole_one() {
    let folder = TempDir::new().expect("a folder");
    // Three rows to measure with: the last batch has one for two ranks. One row has more logits than exist at once.
    let data = folder.path().join("rows.jsonl");
    let eval = folder.path().join("held-out.jsonl");
    let row = |nth: usize| format!("{{\"text\": \"let x = {nth}; let y = x + {nth};\"}}\n");
    let long = format!("{{\"text\": \"{}\"}}\n", "fn f() {} ".repeat(60));
    let rows: Vec<String> = (0..7).map(row).collect();
    fs::write(&data, rows[..4].concat() + &long).expect("written");
    fs::write(&eval, rows[4..].concat()).expect("written");
    let config = |out: &str, adapter: &str| FinetuneConfig {
        data: data.clone(),
        eval: Some(eval.clone()),
        adapter: Some(adapter.parse().expect("an adapter")),
        packing: false,
        length: Some(320),
        steps: Some(2),
        eval_every: None,
        recompute: true,
        ..config(folder.path(), out, 1)
    };
    let experts = experts(&folder.path().join("experts"));
    let shard = Parallel::Shard;
    for (nth, (model, adapter, ranks)) in [
        (MODEL, "lora:rank=2,targets=linear,dora,dropout=0.1", 2),
        (&*experts, "lora:rank=2,targets=linear", 3),
    ]
    .into_iter()
    .enumerate()
    {
        let [whole, shares] = ["whole", "shares"].map(|name| format!("{name}-{nth}"));
        let replicate = Parallel::Replicate;
        for (parallel, out) in [(replicate, &whole), (shard, &shares)] {
            let run = |_| config(out, adapter);
            for report in train_on(model, parallel, ranks, run, false, |_| None) {
                report.expect("a run");
            }
        }
        let [whole, shares] = [whole, shares].map(|out| self::adapter(&folder.path().join(out)));
        assert!(values(&whole).iter().any(|value| value.abs() > 1e-3));
        assert!(shares == whole, "{model}");
    }

    let lora = "lora:rank=2";
    let blocks = FinetuneConfig {
        adapter: None,
        expand: Some("blocks=1".parse().expect("new blocks")),
        ..config("not", lora)
    };
    for (model, parallel, run, part) in [
        (
            MODEL,
            Parallel::Tensor,
            config("not", lora),
            "`--parallel tensor`",
        ),
        (
            MODEL,
            Parallel::Layers,
            config("not", lora),
            "`--parallel layers`",
        ),
        (MODEL, shard, blocks, "whole tensors"),
    ] {
        for ended in train_on(model, parallel, 2, |_| run.clone(), false, |_| None) {
            let error = ended.expect_err("it is refused").to_string();
            assert!(
                error.contains(part) && error.contains("replicate"),
                "{error}"
            );
        }
    }
}
