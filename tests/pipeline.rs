//! The pipeline carries out a plan within its budget, tells what it does, and stops when told to.

#[path = "common/tiny.rs"]
mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{IN, OUT, Tiny, stored, tiny, tiny_entries};
use firebox::{
    Cpu, DType, LoadConfig, Loader,
    model::{Architecture, BuildError, ConfigError, Matrix, Slot, Weights},
    pipeline::{Dense, Event, Finished, Flow, PipelineError, Settings, Sink, SinkError, Values},
    plan::{Plan, Step},
    quant::{
        Method, Packing, QuantSpec,
        kernels::{
            format::{Blocks, Format, FormatError},
            packer::Packer,
        },
    },
    source::{Fault, Source, SourceError},
    target::ToBurn,
};
use half::{bf16, f16};
use safetensors::Dtype;

/// Keeps every finished weight.
#[derive(Default)]
struct Keep(Vec<(String, Finished)>);

impl Sink for Keep {
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        self.0.push((step.slot.name.clone(), weight));
        Ok(())
    }
}

fn planned(source: Arc<dyn Source>, quant: &str) -> Plan {
    let config = LoadConfig::default()
        .quant(quant.parse().expect("a spec"))
        .source(source);
    Loader::<Cpu>::new(config)
        .expect("a checkpoint")
        .plan::<Tiny>()
        .expect("a plan")
}

fn run(plan: &Plan, source: &dyn Source, workers: usize, budget: u64) -> Vec<(String, Finished)> {
    let mut keep = Keep::default();
    let observer = |_: &Event<'_>| Flow::Continue;
    let settings = Settings::new(workers, budget, &observer);
    firebox::pipeline::run(plan, source, &mut keep, &settings)
        .expect("the plan can be carried out");
    keep.0
}

/// Everything about a weight that can differ, as bytes.
fn bits((name, weight): &(String, Finished)) -> (String, Vec<u32>, Vec<u32>) {
    match weight {
        Finished::Packed(packed) => (name.clone(), packed.words.clone(), packed.scales.clone()),
        Finished::Dense(Dense::Owned(Values::F32(values))) => (
            name.clone(),
            values.iter().map(|value| value.to_bits()).collect(),
            Vec::new(),
        ),
        other => panic!("{name}: planned on the host and in f32, is {other:?}"),
    }
}

/// The tile of a large budget is the whole tensor; small budgets cut it everywhere. Would catch tiles
/// that lose or repeat rows, two-pass formats that see one tile only, and results that depend on the
/// number of threads.
#[test]
fn neither_budget_nor_workers_change_a_bit() {
    let source = tiny();
    for quant in [
        "none",
        "nf4",
        "nf4:nested",
        "fp4:block=128",
        "fp8",
        "fp8:e5m2,scale=channel",
        "fp8:scale=block",
    ] {
        let plan = planned(source.clone(), quant);
        let whole: Vec<_> = run(&plan, &*source, 1, 1 << 30).iter().map(bits).collect();
        for (workers, budget) in [(1, 1), (2, 1000), (3, 64 << 10), (4, 1 << 30)] {
            let cut: Vec<_> = run(&plan, &*source, workers, budget)
                .iter()
                .map(bits)
                .collect();
            assert!(
                cut == whole,
                "{quant} with {workers} workers and {budget} bytes"
            );
        }
    }
}

/// Would catch a conversion through another type, and a transposed or reordered weight.
#[test]
fn dense_weights_arrive_as_they_are_stored() {
    for (dtype, bytes) in [
        (
            Dtype::F32,
            (|v: f32| v.to_le_bytes().to_vec()) as fn(f32) -> Vec<u8>,
        ),
        (Dtype::F16, |v| f16::from_f32(v).to_le_bytes().to_vec()),
        (Dtype::BF16, |v| bf16::from_f32(v).to_le_bytes().to_vec()),
    ] {
        for asked in DType::ALL {
            let source = Arc::new(stored(&tiny_entries(), dtype, bytes));
            let config = LoadConfig::default().dtype(asked).source(source);
            let loaded = Loader::<Cpu>::new(config)
                .expect("opens")
                .load::<Tiny>()
                .expect("loads");
            let Matrix::Dense(up) = &loaded.model.up.weight else {
                panic!("nothing was packed")
            };
            assert_eq!(up.val().dims(), [OUT, IN]);
            assert_eq!(
                up.val().dtype(),
                asked.burn().into(),
                "{dtype:?} as {asked}"
            );
            let found = up
                .val()
                .into_data()
                .convert::<f32>()
                .try_into_vec::<f32>()
                .expect("floats");
            assert_eq!(found, tiny_entries()[0].2, "{dtype:?} as {asked}");
        }
    }
}

/// Counts bytes handed out.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn Source>,
    read: Arc<AtomicU64>,
}

impl Source for Counting {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn size(&self, file: &str) -> Result<u64, SourceError> {
        self.inner.size(file)
    }
    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.read.fetch_add(into.len() as u64, Ordering::SeqCst);
        self.inner.read_at(file, offset, into)
    }
}

/// NF4 that dawdles, and tells of the most that was read ahead of it.
#[derive(Debug)]
struct Dawdling {
    read: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

struct DawdlingPacker {
    inner: Box<dyn Packer>,
    fed: u64,
    read: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

const NF4: Packing = Packing::Nf4(Blocks {
    block: 64,
    nested: false,
});

impl Method for Dawdling {
    fn format(&self, shape: [usize; 2], source: DType) -> Result<Format, FormatError> {
        NF4.format(shape, source)
    }

    fn packer(&self, shape: [usize; 2], source: DType) -> Result<Box<dyn Packer>, FormatError> {
        Ok(Box::new(DawdlingPacker {
            inner: NF4.packer(shape, source)?,
            fed: 0,
            read: Arc::clone(&self.read),
            most: Arc::clone(&self.most),
        }))
    }
}

impl Packer for DawdlingPacker {
    fn format(&self) -> Format {
        self.inner.format()
    }
    fn shape(&self) -> [usize; 2] {
        self.inner.shape()
    }
    fn passes(&self) -> usize {
        self.inner.passes()
    }
    fn tile_rows(&self) -> usize {
        self.inner.tile_rows()
    }
    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8], words: &mut [u32]) {
        std::thread::sleep(Duration::from_millis(5));
        // Tiles before this one have been given back, this one has not.
        let ahead = self.read.load(Ordering::SeqCst) - self.fed;
        self.most.fetch_max(ahead, Ordering::SeqCst);
        self.fed += tile.len() as u64;
        self.inner.feed(pass, first_row, tile, words);
    }
    fn finish(self: Box<Self>) -> Vec<u32> {
        self.inner.finish()
    }
}

/// A slow method gives the reader time to run ahead; the reader must wait until its bytes return. Would catch a bound that is
/// accepted and ignored, and a source that is read twice.
#[test]
fn reading_ahead_stays_within_the_budget() {
    const BUDGET: u64 = 16 << 10;
    let [read, most] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let method = Dawdling {
        read: Arc::clone(&read),
        most: Arc::clone(&most),
    };
    let source = tiny();
    let config = LoadConfig::default().quant(QuantSpec::Custom(Arc::new(method)));
    let config = config.source(source.clone());
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    let mut plan = loader.plan::<Tiny>().expect("a plan");
    // Norms and biases are read to their place, ahead or not; of one weight the packer knows all that is read.
    plan.steps.retain(|step| step.slot.name == "up.weight");
    let counting = Counting {
        inner: source,
        read: Arc::clone(&read),
    };
    let observer = |_: &Event<'_>| Flow::Continue;
    let settings = Settings::new(1, BUDGET, &observer);
    firebox::pipeline::run(&plan, &counting, &mut Keep::default(), &settings).expect("carried out");

    let most = most.load(Ordering::SeqCst);
    assert!(
        most <= BUDGET,
        "{most} bytes were in flight, {BUDGET} allowed"
    );
    assert!(
        most > BUDGET / 2,
        "{most} of {BUDGET} bytes: nothing was read ahead"
    );
    assert_eq!(settings.in_flight.peak(), most);
    assert_eq!(read.load(Ordering::SeqCst), plan.totals().bytes_source);
}

/// Would catch events that are lost, doubled or out of order.
#[test]
fn every_tensor_is_started_read_packed_and_placed() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = Arc::clone(&told);
    let config = LoadConfig::default()
        .quant("nf4".parse().expect("a spec"))
        .source(tiny())
        .observer(move |event: &Event<'_>| {
            let (what, name) = match event {
                Event::Planned { .. } => ("planned", ""),
                Event::Started { step } => ("started", step.slot.name.as_str()),
                Event::Read { step, .. } => ("read", step.slot.name.as_str()),
                Event::Packed { step, .. } => ("packed", step.slot.name.as_str()),
                Event::Placed { step, .. } => ("placed", step.slot.name.as_str()),
                Event::ShardOpened { file, .. } => ("opened", *file),
                Event::Finished { .. } => ("finished", ""),
                _ => ("unknown", ""),
            };
            teller
                .lock()
                .expect("no panic")
                .push(format!("{what} {name}"));
            Flow::Continue
        });
    Loader::<Cpu>::new(config)
        .expect("opens")
        .load::<Tiny>()
        .expect("loads");

    // The writer orders tensors of one type by name.
    let mut expected = vec!["planned ".to_owned(), "opened model.safetensors".to_owned()];
    for name in ["down.weight", "norm.weight", "up.bias", "up.weight"] {
        expected
            .extend(["started", "read", "packed", "placed"].map(|what| format!("{what} {name}")));
    }
    expected.push("finished ".to_owned());
    assert_eq!(*told.lock().expect("no panic"), expected);
}

/// Would catch a cancel that is ignored, or one that leaves the reader hanging (the test would not
/// end).
#[test]
fn a_load_can_be_cancelled_at_every_event() {
    for stop_at in 0..17 {
        let seen = AtomicU64::new(0);
        let config = LoadConfig::default()
            .in_flight_bytes_max(1000)
            .source(tiny())
            .observer(move |event: &Event<'_>| {
                // Tiles are many at this budget: count them once a tensor.
                if matches!(event, Event::Read { .. }) {
                    return Flow::Continue;
                }
                if seen.fetch_add(1, Ordering::SeqCst) == stop_at {
                    Flow::Cancel
                } else {
                    Flow::Continue
                }
            });
        let loaded = Loader::<Cpu>::new(config).expect("opens").load::<Tiny>();
        // One plan, one file, three of these events for each of four tensors, one end.
        if stop_at < 15 {
            let error = loaded.map(|_| ()).expect_err("cancelled");
            let said = error.to_string();
            assert!(
                matches!(
                    error,
                    firebox::Error::Pipeline(PipelineError::Cancelled { .. })
                ),
                "event {stop_at}: {said}"
            );
            assert!(said.contains("of 4 tensors"), "{said}");
        } else {
            loaded.expect("nobody cancelled");
        }
    }
}

/// Would catch an error that does not say which tensor, or that panics a thread.
#[test]
fn a_source_that_fails_half_way_names_tensor_and_file() {
    for (fault, says) in [
        (Fault::FailFrom(100_000), "told to fail"),
        (Fault::CutAt(100_000), "100000"),
    ] {
        let source = tiny();
        let loader =
            Loader::<Cpu>::new(LoadConfig::default().source(source.clone())).expect("opens");
        source.fault("model.safetensors", fault);
        let said = loader
            .load::<Tiny>()
            .map(|_| ())
            .expect_err("the source fails")
            .to_string();
        for part in ["up.weight", "model.safetensors", says] {
            assert!(said.contains(part), "`{said}` lacks `{part}`");
        }
        source.heal();
        loader
            .load::<Tiny>()
            .expect("a failed load can be tried again");
    }
}

#[test]
fn a_slow_source_is_waited_for() {
    let source = tiny();
    let loader = Loader::<Cpu>::new(LoadConfig::default().source(source.clone())).expect("opens");
    source.fault("model.safetensors", Fault::Slow(Duration::from_millis(5)));
    loader.load::<Tiny>().expect("slow is not wrong");
}

#[test]
fn a_sink_that_refuses_ends_the_run() {
    struct Full;
    impl Sink for Full {
        fn place(&mut self, step: &Step, _: Finished) -> Result<(), SinkError> {
            Err(SinkError::new(&*step.slot.name, "no space left"))
        }
    }
    let source = tiny();
    let plan = planned(source.clone(), "none");
    let observer = |_: &Event<'_>| Flow::Continue;
    let settings = Settings::new(1, 1000, &observer);
    let said = firebox::pipeline::run(&plan, &*source, &mut Full, &settings)
        .expect_err("the sink refuses")
        .to_string();
    assert!(
        said.contains("down.weight") && said.contains("no space left"),
        "{said}"
    );
}

/// [`Tiny`], whose `build` forgets a bias that `slots` promised.
#[derive(Debug)]
struct Forgetful;

impl Architecture for Forgetful {
    type Config = ();
    fn config(json: &serde_json::Value) -> Result<(), ConfigError> {
        Tiny::config(json)
    }
    fn slots(config: &()) -> Vec<Slot> {
        Tiny::slots(config)
    }
    fn build(_: &(), weights: &mut Weights) -> Result<Self, BuildError> {
        weights.linear("up")?;
        weights.take("down.weight")?;
        Ok(Self)
    }
}

/// Would catch a model that silently lacks one of its weights.
#[test]
fn a_weight_that_nobody_takes_is_refused() {
    let loader = Loader::<Cpu>::new(LoadConfig::default().source(tiny())).expect("opens");
    let said = loader
        .load::<Forgetful>()
        .map(|_| ())
        .expect_err("a norm is left")
        .to_string();
    assert!(said.contains("norm.weight"), "{said}");
}

/// FP8 with one scale for the whole tensor has to see it twice; would catch a report that tells what
/// was planned in place of what was read.
#[test]
fn the_report_counts_the_bytes_that_were_read() {
    let linear = 2 * (OUT * IN * 4) as u64;
    for (quant, again) in [("nf4", 0), ("fp8:e4m3,scale=tensor", linear)] {
        let config = LoadConfig::default()
            .quant(quant.parse().expect("a spec"))
            .source(tiny());
        let loaded = Loader::<Cpu>::new(config.source(tiny()))
            .expect("opens")
            .load::<Tiny>()
            .expect("loads");
        let report = loaded.report;
        assert_eq!(report.bytes_source, linear + ((OUT + IN) * 4) as u64);
        assert_eq!(report.bytes_read, report.bytes_source + again, "{quant}");
        let sum: u64 = report
            .per_tensor
            .iter()
            .map(|tensor| tensor.bytes_read)
            .sum();
        assert_eq!(sum, report.bytes_read);
    }
}

/// Would catch a report that only knows `--quant`.
#[test]
fn the_report_names_what_rules_packed() {
    for (rules, says) in [
        (&[][..], "none"),
        (&["*=nf4"], "nf4:block=64"),
        (&["up=nf4", "down=fp4"], " + "),
    ] {
        let mut config = LoadConfig::default();
        for rule in rules {
            config = config.rule(rule.parse().expect("a rule"));
        }
        let loaded = Loader::<Cpu>::new(config.source(tiny()))
            .expect("opens")
            .load::<Tiny>()
            .expect("loads");
        assert!(
            loaded.report.quant.contains(says),
            "{}",
            loaded.report.quant
        );
    }
}
