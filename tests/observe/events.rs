//! Order and sums.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use firebox::{
    LoadConfig, LoadRequest, Shared,
    config::{Limits, VerifyConfig},
    model::CausalLm,
    observe::{Event, Flow},
};

use crate::{
    common::{Tiny, tiny},
    loader, tinyrust,
};

/// What an event says, without what it borrows.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    kind: &'static str,
    about: String,
    bytes: u64,
}

fn listen(config: LoadConfig) -> (LoadRequest, Arc<Mutex<Vec<Told>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = Arc::clone(&told);
    let config = config.observer(move |event: &Event<'_>| {
        let bytes = match event {
            Event::ShardOpened { bytes, .. } | Event::Read { bytes, .. } => *bytes,
            _ => 0,
        };
        let about = match (event, event.step()) {
            (Event::ShardOpened { file, .. }, _) => (*file).to_owned(),
            (_, Some(step)) => step.slot.name.clone(),
            _ => String::new(),
        };
        let kind = event.kind();
        teller.lock().unwrap().push(Told { kind, about, bytes });
        Flow::Continue
    });
    (config, told)
}

/// Would catch an event that is lost, doubled, early or late; files that are told twice or after their tensors; and
/// bytes that are not those of the plan.
#[test]
fn tensors_come_in_order_and_bytes_add_up() {
    for (quant, passes) in [("nf4", 1), ("fp8:e4m3,scale=tensor", 2)] {
        // Small enough that every matrix is several tiles.
        let (config, told) = listen(tinyrust(quant).in_flight_bytes_max(256 << 10));
        let loader = loader(config);
        let plan = loader.plan::<CausalLm>().unwrap();
        let loaded = loader.load::<CausalLm>().unwrap();
        let told = told.lock().unwrap().clone();

        let kinds = [told[0].kind, told[told.len() - 1].kind];
        assert_eq!(kinds, ["planned", "finished"]);
        let mut events = told[1..told.len() - 1].iter().peekable();
        let mut files: HashMap<&str, u64> = HashMap::new();
        let mut tiles = 0;
        for step in &plan.steps {
            let (file, _) = step.begins();
            if !files.contains_key(file) {
                let opened = events.next().unwrap();
                assert_eq!((opened.kind, &*opened.about), ("shard", file));
                files.insert(file, opened.bytes);
            }
            let mut next = |kind: &str| {
                let event = events.next_if(|event| event.kind == kind)?;
                assert_eq!(event.about, step.slot.name, "{kind}");
                Some(event.bytes)
            };
            assert_eq!(next("started"), Some(0));
            let mut read = 0;
            while let Some(bytes) = next("read") {
                read += bytes;
                tiles += 1;
            }
            let packed = step.action.format().is_some();
            let times = if packed { passes } else { 1 };
            assert_eq!(read, times * step.bytes_source(), "{}", step.slot.name);
            assert_eq!((next("packed"), next("placed")), (Some(0), Some(0)));
        }
        assert_eq!(events.next(), None);
        assert!(tiles > 100, "{tiles} tiles of {}", plan.steps.len());
        assert_eq!(files.len(), 3);
        assert_eq!(files.values().sum::<u64>(), plan.totals().bytes_source);
        assert_eq!(loaded.report.bytes_source, plan.totals().bytes_source);
    }
}

/// Would catch a comparison that is not told, told of another weight, or with other numbers than the report's.
#[test]
fn what_is_verified_is_told_with_its_error() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = Arc::clone(&told);
    let config = tinyrust("nf4").observer(move |event: &Event<'_>| {
        match event {
            Event::Verified { step, stats, .. } => {
                let verified = (step.slot.name.clone(), Some(stats.sqnr));
                teller.lock().unwrap().push(verified);
            }
            Event::Placed { step, .. } => {
                teller.lock().unwrap().push((step.slot.name.clone(), None));
            }
            _ => {}
        }
        Flow::Continue
    });
    let verified = loader(config).verify::<CausalLm>(&VerifyConfig::new(Limits::default()));
    let mut expected = Vec::new();
    let tensors = verified.unwrap().tensors;
    // The report of a load has the same numbers.
    let config = tinyrust("nf4").verify(VerifyConfig::new(Limits::default()));
    let report = loader(config).load::<CausalLm>().unwrap().report;
    let errors = report.per_tensor.iter().filter_map(|tensor| {
        let error = tensor.error.as_ref()?;
        Some((tensor.name.clone(), Some(error.sqnr)))
    });
    told.lock().unwrap().extend(errors);
    assert_eq!(tensors.len(), 28);
    for tensor in &tensors {
        expected.push((tensor.name.clone(), Some(tensor.stats.sqnr)));
        expected.push((tensor.name.clone(), None));
    }
    for tensor in &tensors {
        expected.push((tensor.name.clone(), Some(tensor.stats.sqnr)));
    }
    assert_eq!(*told.lock().unwrap(), expected);
}

/// Would catch events of candidates and of links that nobody is told, or that come at another time.
#[test]
fn choosing_and_balancing_are_told_before_weights_are() {
    let (config, told) = listen(
        tinyrust("auto:bits=5")
            .candidate("nf4".parse().unwrap())
            .candidate("int8".parse().unwrap())
            .presinq(true),
    );
    loader(config).load::<CausalLm>().unwrap();
    let told = told.lock().unwrap();
    let mut kinds: Vec<&str> = told.iter().map(|told| told.kind).collect();
    kinds.dedup();
    // Columns are balanced to measure, and again to load.
    let first = [
        "balanced", "measured", "planned", "balanced", "shard", "started",
    ];
    assert_eq!(kinds[..first.len()], first);
    let count = |kind| told.iter().filter(|told| told.kind == kind).count();
    assert_eq!(count("measured"), 2);
    // Attention, its output, the MLP and its output, of four layers.
    assert_eq!(count("balanced"), 2 * 4 * 4);
}

/// One that dawdles when a tensor is finished leaves the reader all the time it wants. Would catch a pipeline that
/// reads on beyond its budget meanwhile, and one that loses events.
#[test]
fn a_slow_observer_slows_the_load_and_nothing_else() {
    const BUDGET: u64 = 16 << 10;
    let shared = Shared::new(BUDGET);
    let told = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&told);
    let config = LoadConfig::default()
        .quant("nf4".parse().unwrap())
        .in_flight_bytes_max(BUDGET)
        .source(tiny())
        .share(&shared)
        .observer(move |event: &Event<'_>| {
            match event {
                Event::Read { bytes, .. } => {
                    counted.fetch_add(*bytes, Ordering::SeqCst);
                }
                Event::Packed { .. } | Event::Placed { .. } | Event::Started { .. } => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => {}
            }
            Flow::Continue
        });
    let slow = loader(config).load::<Tiny>().unwrap();
    let peak = shared.in_flight().peak();
    assert!((BUDGET / 2..=BUDGET).contains(&peak), "{peak}");
    assert_eq!(told.load(Ordering::SeqCst), slow.report.bytes_source);
    assert!(slow.report.seconds > 0.24, "{}", slow.report.seconds);
    assert_eq!(slow.report.bytes_read, slow.report.bytes_source);
}
