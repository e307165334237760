//! Stopping at every kind of event, by will and by failure.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use firebox::{
    Error, LoadConfig, LoadRequest, Loaded,
    config::{Limits, SaveConfig, VerifyConfig},
    model::CausalLm,
    observe::{Event, Flow},
    pipeline::PipelineError,
    plan::Step,
};
use tempfile::TempDir;

use crate::{alone, loader, observer_failure, tinyrust};

/// What a load tells that has formats chosen and columns balanced, in the order of their first.
const KINDS: [&str; 9] = [
    "balanced", "measured", "planned", "shard", "started", "read", "packed", "placed", "finished",
];

/// A load that tells of this kind, and no more of what takes time.
fn telling(kind: &str) -> LoadConfig {
    if !["balanced", "measured"].contains(&kind) {
        return tinyrust("nf4").in_flight_bytes_max(256 << 10);
    }
    tinyrust("auto:bits=5")
        .candidate("nf4".parse().unwrap())
        .presinq(true)
        .in_flight_bytes_max(256 << 10)
}

/// Runs `at` at the `nth` event of this kind, whose answer it is; events that are told afterwards are counted.
fn at(
    config: LoadConfig,
    kind: &'static str,
    nth: usize,
    at: impl Fn(&Event<'_>) -> Flow + Send + Sync + 'static,
) -> (LoadRequest, Arc<AtomicUsize>) {
    let after = Arc::new(AtomicUsize::new(0));
    let (seen, counting) = (AtomicUsize::new(0), Arc::clone(&after));
    let config = config.observer(move |event: &Event<'_>| {
        if seen.load(Ordering::SeqCst) > nth {
            counting.fetch_add(1, Ordering::SeqCst);
        } else if event.kind() == kind && seen.fetch_add(1, Ordering::SeqCst) == nth {
            return at(event);
        }
        Flow::Continue
    });
    (config, after)
}

/// Would catch a cancel that is not heeded, heeded late, or told as something else; and counts that are not those of
/// the moment.
#[test]
fn every_kind_of_event_can_stop_a_load() {
    let plan = loader(telling("planned")).plan::<CausalLm>().unwrap();
    let tensor = |k: usize| plan.steps[k].slot.name.as_str();
    let of_the_first = |step: &&Step| step.begins().0 == plan.steps[0].begins().0;
    let first_file = plan.steps.iter().filter(of_the_first).count();
    for (kind, nth, names, finished) in [
        ("balanced", 3, "", 0),
        ("measured", 0, "nf4:block=64", 0),
        ("planned", 0, "the plan", 0),
        ("shard", 1, "model-00002-of-00003.safetensors", first_file),
        ("started", 5, tensor(5), 5),
        ("read", 0, tensor(0), 0),
        ("packed", 7, tensor(7), 7),
        ("placed", 9, tensor(9), 10),
        ("finished", 0, "the end", 38),
    ] {
        let (config, after) = at(telling(kind), kind, nth, |_| Flow::Cancel);
        let stopped = loader(config).load::<CausalLm>().map(|_| ());
        let Err(Error::Pipeline(PipelineError::Cancelled { at, done, total })) = stopped else {
            panic!("{kind}: {stopped:?}");
        };
        assert!(at.contains(names), "{kind}: {at}");
        assert_eq!((done, total), (finished, 38), "{kind}");
        assert_eq!(after.load(Ordering::SeqCst), 0, "told on after {kind}");
    }
}

/// Would catch one kind of event whose answer a save ignores, and a folder that passes for a model.
#[test]
fn a_save_that_is_stopped_leaves_no_model() {
    let folder = TempDir::new().unwrap();
    for kind in [
        "planned", "shard", "started", "read", "packed", "placed", "finished",
    ] {
        let out = folder.path().join(kind);
        let (config, after) = at(tinyrust("nf4"), kind, 0, |_| Flow::Cancel);
        let stopped = loader(config)
            .save::<CausalLm>(&SaveConfig::new(&out))
            .map(|_| ());
        // Until the end it can be gone on with, which the error says.
        let cause = match &stopped {
            Err(Error::Interrupted { source, .. }) if kind != "finished" => source,
            Err(error) if kind == "finished" => error,
            other => panic!("{kind}: {other:?}"),
        };
        let cancelled = matches!(cause, Error::Pipeline(PipelineError::Cancelled { .. }));
        assert!(cancelled, "{kind}: {stopped:?}");
        assert_eq!(after.load(Ordering::SeqCst), 0, "told on after {kind}");
        // At the end all files are written.
        assert_eq!(
            out.join("config.json").exists(),
            kind == "finished",
            "{kind}"
        );
    }
}

#[test]
fn a_verification_can_be_stopped_at_a_weight() {
    let (config, after) = at(tinyrust("nf4"), "verified", 4, |_| Flow::Cancel);
    let stopped = loader(config).verify::<CausalLm>(&VerifyConfig::new(Limits::default()));
    let Err(Error::Pipeline(PipelineError::Cancelled { at, done, total })) = stopped else {
        panic!("{stopped:?}");
    };
    assert_eq!(
        (&*at, done, total),
        ("model.layers.0.self_attn.o_proj.weight", 4, 28)
    );
    assert_eq!(after.load(Ordering::SeqCst), 0);
}

/// Threads of this process.
fn threads() -> usize {
    let tasks = Path::new("/proc/self/task");
    fs::read_dir(tasks).map_or(0, Iterator::count)
}

/// Alone in its process, where threads can be counted. Would catch a panic that goes through, that is told as a
/// cancel, that leaves a thread behind, or after which the same loader cannot load.
#[test]
fn an_observer_that_panics_ends_the_load_and_no_more() {
    if alone(
        "cancel::an_observer_that_panics_ends_the_load_and_no_more",
        &[],
    ) {
        return;
    }
    let before = threads();
    for kind in KINDS {
        let (config, after) = at(telling(kind), kind, 0, |event| {
            panic!("I do not like {}", event.kind())
        });
        let loader = loader(config);
        let (event, at, reason) = observer_failure(loader.load::<CausalLm>());
        assert_eq!(
            (event, reason),
            (kind, format!("it panicked: I do not like {kind}"))
        );
        assert!(!at.is_empty());
        assert_eq!(after.load(Ordering::SeqCst), 0, "told on after {kind}");
        if kind == "read" {
            let again = loader.load::<CausalLm>();
            again.expect("its observer is content now");
        }
    }
    // Workers end by themselves when their pool is gone.
    let patience = Instant::now() + Duration::from_secs(10);
    while threads() > before && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(threads(), before);
}

/// Would catch a failure that is only caught where several observers are told, and messages of another type.
#[test]
fn panics_of_all_kinds_are_caught_wherever_observers_are_told() {
    for (panics, said) in [
        (
            (|_| panic!("plain")) as fn(&Event<'_>) -> Flow,
            "it panicked: plain",
        ),
        (|event| panic!("{}", event.kind()), "it panicked: verified"),
        (
            |_| std::panic::panic_any(7_u8),
            "it panicked: without a word",
        ),
    ] {
        let (config, _) = at(tinyrust("nf4"), "verified", 2, panics);
        let config = config.observer(|_: &Event<'_>| Flow::Continue);
        let verified = loader(config).verify::<CausalLm>(&VerifyConfig::new(Limits::default()));
        let (event, at, reason) = observer_failure(verified);
        assert_eq!((event, &*reason), ("verified", said));
        assert_eq!(at, "model.layers.0.mlp.up_proj.weight");
    }
}

/// Would catch a cancel that keeps the others from being told, and one that is outvoted.
#[test]
fn everybody_is_told_of_the_event_that_one_stops_at() {
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let (config, _) = at(tinyrust("none"), "started", 2, |_| Flow::Cancel);
    let config = config.observer(move |event: &Event<'_>| {
        count.fetch_add(usize::from(event.kind() == "started"), Ordering::SeqCst);
        Flow::Continue
    });
    let stopped: Result<Loaded<CausalLm>, Error> = loader(config).load();
    assert!(stopped.is_err());
    assert_eq!(told.load(Ordering::SeqCst), 3);
}
