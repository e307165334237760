//! Memory is what the plan says and the budget allows: every allocation of this program is counted. One test after
//! another, since they share the counter.

#![cfg(feature = "cpu")]

#[path = "common/counting.rs"]
mod counting;

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use counting::COUNTING;
use firebox::{
    Cpu, DType, LoadConfig, Loader, Shared, Target, Workers,
    config::{Budget, MaxMemory, Reading, SaveConfig},
    model::{Architecture, BuildError, ConfigError, Linear, Matrix, Slot, Unit, Weights},
    observe::{Event, Flow},
    plan::PlanError,
    source::{Local, Source, SourceError},
    target::ToBurn,
};
use safetensors::{Dtype, tensor::TensorView};

const MIB: u64 = 1 << 20;
const ROWS: usize = 16 << 10;
const COLS: usize = 1 << 10;
/// Bytes of each of the two matrices, in bf16.
const SOURCE: u64 = (ROWS * COLS * 2) as u64;

/// Two large matrices.
#[derive(Module, Debug)]
struct Wide {
    first: Linear,
    second: Linear,
}

impl Architecture for Wide {
    type Config = ();
    fn config(_: &serde_json::Value) -> Result<(), ConfigError> {
        Ok(())
    }
    fn slots((): &()) -> Vec<Slot> {
        vec![
            Slot::linear("first.weight", ROWS, COLS),
            Slot::linear("second.weight", ROWS, COLS),
        ]
    }
    fn build((): &(), weights: &mut Weights) -> Result<Self, BuildError> {
        Ok(Self {
            first: weights.linear("first")?,
            second: weights.linear("second")?,
        })
    }
    fn units((): &()) -> Vec<Unit> {
        let unit = |name: &str, layer| Unit {
            name: name.to_owned(),
            layer: Some(layer),
            slots: vec![format!("{name}.weight")],
        };
        vec![unit("first", 0), unit("second", 1)]
    }
}

/// A checkpoint whose second matrix is made from `seed`.
fn checkpoint(folder: &Path, seed: u32) {
    let matrix = |seed: u32| -> Vec<u8> {
        let mut state = seed;
        let halves = (0..ROWS * COLS).flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Between 1/4 and 2 in magnitude, with either sign.
            let bits = 0x3e80 + ((state >> 20) & 0x7f) as u16 + ((state >> 31) as u16) * 0x8000;
            bits.to_le_bytes()
        });
        halves.collect()
    };
    let data = [("first.weight", matrix(1)), ("second.weight", matrix(seed))];
    let views = data.iter().map(|(name, bytes)| {
        let view = TensorView::new(Dtype::BF16, vec![ROWS, COLS], bytes);
        (*name, view.expect("as many bytes as the shape says"))
    });
    fs::write(folder.join("config.json"), "{}").expect("writable");
    let file = folder.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &file).expect("writable");
}

/// Counts the bytes read of weights.
#[derive(Debug)]
struct Watched(Local, Arc<AtomicU64>);

impl Source for Watched {
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn size(&self, file: &str) -> Result<u64, SourceError> {
        self.0.size(file)
    }
    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.1.fetch_add(into.len() as u64, Ordering::Relaxed);
        self.0.read_at(file, offset, into)
    }
}

fn config(folder: &Path, quant: &str) -> LoadConfig {
    let config = LoadConfig::new(folder.to_str().expect("a name in UTF-8"));
    config
        .quant(quant.parse().expect("a spec"))
        .dtype(DType::Bf16)
}

#[test]
fn memory_is_what_was_promised() {
    let folder = tempfile::tempdir().expect("a folder");
    let (base, tuned) = (folder.path().join("base"), folder.path().join("tuned"));
    for (folder, seed) in [(&base, 2), (&tuned, 3)] {
        fs::create_dir(folder).expect("writable");
        checkpoint(folder, seed);
    }
    loads_stay_within_their_budget(&base);
    loads_stay_within_the_limits_of_a_map(&base);
    saves_need_little_however_large_the_weights(&base, folder.path());
    packed_sources_need_no_more_than_dense_ones(&base, folder.path());
    what_cannot_work_is_refused_before_a_weight_is_read(&base, folder.path());
    equal_weights_are_held_once(&base, &tuned);
    mapped_weights_stay_in_their_file(&base);
    mapped_weights_are_packed_from_their_file(&base);
    halves_are_multiplied_where_they_are_mapped(&base);
    shards_are_as_large_and_as_many_as_asked(&base);
    threads_are_as_many_as_there_is_work_for(&base);
    the_lists_of_many_tensors_are_counted(folder.path());
}

/// Catches a budget of bytes of weights alone, and lists that grow: they took 8 KiB a tensor once.
fn the_lists_of_many_tensors_are_counted(folder: &Path) {
    const MANY: usize = 5000;
    let file = folder.join("many.safetensors");
    let names: Vec<String> = (0..MANY).map(|nth| format!("x.{nth}.weight")).collect();
    let view = || TensorView::new(Dtype::F32, vec![1, 2], &[0; 8]).expect("eight bytes");
    let tensors = names.iter().map(|name| (name, view()));
    safetensors::serialize_to_file(tensors, None, &file).expect("writable");
    let save = |budget: u64, to: &str| {
        let config = LoadConfig::new(file.to_str().expect("UTF-8")).bare();
        let config = config.host_budget(Budget::Bytes(budget));
        let to = SaveConfig::new(folder.join(to));
        COUNTING.peak(|| Loader::<Cpu>::new(config)?.save_tensors(&[], &to))
    };

    let (refused, _) = save(8 * MIB, "too-little");
    let error = refused.map(drop).expect_err("lists of more than 8 MiB");
    let said = error.to_string();
    let firebox::Error::Plan(PlanError::HostBudget { lists, .. }) = error else {
        panic!("{said}")
    };
    assert!(said.contains(&format!("{lists} for the lists")), "{said}");

    let (saved, most) = save(24 * MIB, "enough");
    saved.expect("enough");
    assert!(
        most < 24 * MIB && most / (MANY as u64) < 4096,
        "{most} bytes"
    );
}

fn numbers(model: Wide) -> Vec<TensorData> {
    let weights = [model.first, model.second].map(|linear| linear.weight);
    let numbers = weights.map(|weight| match weight {
        Matrix::Dense(weight) => weight.val().into_data(),
        other => panic!("nothing was to be packed: {other:?}"),
    });
    numbers.into()
}

/// Catches a map that is copied out of, one whose numbers are others, one that is written to, and one that ends before
/// the model.
fn mapped_weights_stay_in_their_file(folder: &Path) {
    let file = folder.join("model.safetensors");
    let before = fs::read(&file).expect("readable");
    let load = |reading| {
        let loader = Loader::<Cpu>::new(config(folder, "none").reading(reading)).expect("opens");
        COUNTING.peak(|| loader.load::<Wide>().expect("loads").model)
    };
    let (mapped, peak) = load(Reading::Mapped);
    assert!(peak < MIB, "{peak} bytes for two times {SOURCE} in a map");
    let (read, peak) = load(Reading::Buffered);
    assert!(peak >= 2 * SOURCE, "{peak} bytes hold two times {SOURCE}");
    let [mapped, read] = [mapped, read].map(numbers);
    assert!(mapped == read, "other numbers");
    // Nobody else has these: Burn may write where they lie.
    let (owned, _) = load(Reading::Mapped);
    let Matrix::Dense(weight) = owned.first.weight else {
        panic!("nothing was to be packed");
    };
    let (_, weight, _) = weight.consume();
    let zero = weight.zeros_like().slice([0..1, 0..COLS]);
    let changed = weight.slice_assign([0..1, 0..COLS], zero).into_data();
    assert!(changed != read[0], "nothing was written");
    assert!(fs::read(&file).expect("readable") == before, "the file");
}

/// Catches halves that are widened or copied on the way to a model that computes in f32, and while they are multiplied.
fn halves_are_multiplied_where_they_are_mapped(folder: &Path) {
    let asked = LoadConfig::new(folder.to_str().expect("a name in UTF-8"));
    let loader = Loader::<Cpu>::new(asked.reading(Reading::Mapped)).expect("opens");
    let (model, peak) = COUNTING.peak(|| loader.load::<Wide>().expect("loads").model);
    assert!(peak < MIB, "{peak} bytes for two times {SOURCE} in a map");
    let ones = Tensor::ones([1, COLS], &Cpu::device(0).expect("a CPU"));
    let (y, peak) = COUNTING.peak(|| model.first.forward::<2>(ones));
    assert!(peak < MIB, "{peak} bytes to multiply");
    assert_eq!(y.dtype(), DType::F32.burn().into());
}

/// Catches tiles of a map that are copied all the same, and codes of other bytes.
fn mapped_weights_are_packed_from_their_file(folder: &Path) {
    let load = |reading| {
        let config = config(folder, "nf4").reading(reading);
        let loader = Loader::<Cpu>::new(config).expect("opens");
        let (loaded, peak) = COUNTING.peak(|| loader.load::<Wide>().expect("loads"));
        let words = [loaded.model.first, loaded.model.second].map(|linear| match linear.weight {
            Matrix::Packed(packed) => packed.words.val().into_data(),
            other => panic!("all was to be packed: {other:?}"),
        });
        (words, peak.saturating_sub(loaded.report.bytes_packed))
    };
    let (read, beside) = load(Reading::Buffered);
    assert!(
        beside >= 4 * MIB,
        "{beside} bytes beside the packed weights"
    );
    let (mapped, beside) = load(Reading::Mapped);
    assert!(beside < 3 * MIB, "{beside} bytes beside the packed weights");
    assert!(mapped == read, "other codes");
}

/// Catches a size that only some reads keep to, and shards ahead that are counted otherwise.
fn shards_are_as_large_and_as_many_as_asked(folder: &Path) {
    for (shard, ahead) in [(2 * MIB, 3), (5 * MIB, 1), (MIB, 0)] {
        let (reads, seen) = mpsc::channel();
        let asked = config(folder, "nf4").shard_bytes(shard).prefetch(ahead);
        let asked = asked.observer(move |event: &Event<'_>| {
            if let Event::Read { bytes, .. } = event {
                reads.send(*bytes).expect("the test listens");
            }
            Flow::Continue
        });
        let loaded = Loader::<Cpu>::new(asked).expect("opens").load::<Wide>();
        let report = loaded.expect("loads").report;
        assert_eq!(report.in_flight_bytes_max, (ahead as u64 + 1) * shard);
        let mut left = SOURCE;
        for read in seen {
            assert_eq!(read, shard.min(left), "shards of {shard} bytes");
            left -= read;
            left = if left == 0 { SOURCE } else { left };
        }
    }
}

/// Catches threads for a load that only reads, and threads that are too many for tiles of a small budget.
fn threads_are_as_many_as_there_is_work_for(folder: &Path) {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = |config: LoadConfig| {
        let loaded = Loader::<Cpu>::new(config).expect("opens").load::<Wide>();
        loaded.expect("loads").report.workers
    };
    assert_eq!(workers(config(folder, "none")), 1);
    assert_eq!(workers(config(folder, "nf4")), cores.min(64));
    assert_eq!(workers(config(folder, "nf4").shard_bytes(64 << 10)), 1);
    let asked = Workers::Count(NonZeroUsize::new(3).expect("not zero"));
    assert_eq!(workers(config(folder, "none").workers(asked)), 3);
}

/// Catches finished weights that are copied, tiles beyond the budget, and queues between the stages that nobody counts.
fn loads_stay_within_their_budget(folder: &Path) {
    for quant in [
        "none",
        "nf4",
        "nf4:nested",
        "fp8:scale=tensor",
        "mlx:bits=3",
    ] {
        let loader = Loader::<Cpu>::new(config(folder, quant)).expect("opens");
        let kept = loader
            .plan::<Wide>()
            .expect("a plan")
            .totals()
            .bytes_finished;
        drop(loader);
        for beside in [8, 40] {
            let budget = kept + beside * MIB;
            let asked = config(folder, quant).host_budget(Budget::Bytes(budget));
            let loader = Loader::<Cpu>::new(asked).expect("opens");
            let (loaded, peak) = COUNTING.peak(|| loader.load::<Wide>().expect("fits"));
            assert!(
                peak <= budget + MIB,
                "{quant}: {peak} bytes at most, {budget} allowed"
            );
            // What was counted is what is there.
            assert!(peak >= kept, "{quant}: {peak} bytes, {kept} are kept");
            drop(loaded);
        }
    }
}

/// Catches a limit of host memory that counts weights alone, and reading that goes as far ahead as without one: 64 MiB. The device is
/// in host memory here, so that both limits bound the load together.
fn loads_stay_within_the_limits_of_a_map(folder: &Path) {
    for (quant, kept) in [("none", 2 * SOURCE), ("nf4", 2 * SOURCE * 9 / 32)] {
        let limited = |host: u64| {
            let limits = MaxMemory::new().device(0, Budget::Bytes(kept));
            let limits = limits.host(Budget::Bytes(host));
            Loader::<Cpu>::new(config(folder, quant).max_memory(limits)).expect("opens")
        };
        for beside in [8, 16] {
            let loader = limited(beside * MIB);
            let (loaded, peak) = COUNTING.peak(|| loader.load::<Wide>().expect("fits"));
            let allowed = kept + beside * MIB;
            assert!(
                peak <= allowed + MIB,
                "{quant}: {peak} bytes at most, {allowed} allowed"
            );
            assert!(peak >= kept, "{quant}: {peak} bytes, {kept} are kept");
            drop(loaded);
        }
        // There is room for the weights, and none to read them.
        let refused = limited(64 << 10).load::<Wide>();
        let error = refused.map(drop).expect_err("two tiles of 64 KiB");
        assert!(
            matches!(
                &error,
                firebox::Error::Plan(PlanError::HostBudget { budget, .. })
                    if *budget == kept + (64 << 10)
            ),
            "{error}"
        );
    }
}

/// Catches a weight that is whole in memory while it is saved: each is four times the budget, and packed in four bits as
/// large.
fn saves_need_little_however_large_the_weights(base: &Path, folder: &Path) {
    const BUDGET: u64 = 8 * MIB;
    const { assert!(SOURCE >= 4 * BUDGET) };
    for (nth, quant) in [
        "none",
        "nf4",
        "nf4:nested",
        "mlx:bits=4",
        "fp8:scale=tensor",
        "fp8:scale=block",
        "int8",
    ]
    .into_iter()
    .enumerate()
    {
        let asked = config(base, quant).host_budget(Budget::Bytes(BUDGET));
        let loader = Loader::<Cpu>::new(asked).expect("opens");
        let to = SaveConfig::new(folder.join(format!("saved-{nth}")));
        let (saved, peak) = COUNTING.peak(|| loader.save::<Wide>(&to).expect("fits"));
        assert!(
            peak <= BUDGET + 3 * MIB,
            "{quant}: {peak} bytes at most, {BUDGET} allowed"
        );
        assert!(saved.bytes_written > BUDGET, "{quant}");
    }
}

/// Catches a source that is whole in memory, packed or unpacked: each weight is 64 MiB of `f32`, and 8 to 16 MiB packed.
fn packed_sources_need_no_more_than_dense_ones(base: &Path, folder: &Path) {
    const BUDGET: u64 = 8 * MIB;
    for (nth, quant) in [
        "fp8:scale=block",
        "mlx:bits=4",
        "nf4:nested",
        "hqq:bits=4,group=64,axis=1,unsolved",
        "hqq:bits=8,group=64,axis=0,unsolved",
        "wna16:bits=4,group=128,asymmetric",
    ]
    .into_iter()
    .enumerate()
    {
        let packed = folder.join(format!("source-{nth}"));
        let loader = Loader::<Cpu>::new(config(base, quant)).expect("opens");
        loader
            .save::<Wide>(&SaveConfig::new(&packed))
            .expect("saved");
        for again in ["nf4", "none"] {
            let asked = config(&packed, again).requantize(true);
            let asked = asked.host_budget(Budget::Bytes(BUDGET));
            let loader = Loader::<Cpu>::new(asked).expect("opens");
            let to = SaveConfig::new(folder.join(format!("again-{nth}-{again}")));
            let (saved, peak) = COUNTING.peak(|| loader.save::<Wide>(&to).expect("fits"));
            assert!(
                peak <= BUDGET + 3 * MIB,
                "{quant} to {again}: {peak} bytes at most, {BUDGET} allowed"
            );
            assert!(saved.bytes_written > BUDGET, "{quant} to {again}");
            fs::remove_dir_all(folder.join(format!("again-{nth}-{again}"))).expect("removed");
        }
        fs::remove_dir_all(&packed).expect("removed");
    }
}

/// Both numbers, and not a byte of weights read. Catches a budget that is only noticed when it is spent.
fn what_cannot_work_is_refused_before_a_weight_is_read(base: &Path, folder: &Path) {
    let read = Arc::new(AtomicU64::new(0));
    let open = |quant: &str, budget: &str| {
        let source = Watched(Local::open(base).expect("a folder"), Arc::clone(&read));
        let config = LoadConfig::default()
            .quant(quant.parse().expect("a spec"))
            .dtype(DType::Bf16)
            .host_budget(budget.parse().expect("a budget"))
            .source(Arc::new(source));
        Loader::<Cpu>::new(config).expect("opens")
    };
    let refused = |error: firebox::Error, budget: u64, needed: u64| {
        let said = error.to_string();
        let firebox::Error::Plan(PlanError::HostBudget { .. }) = error else {
            panic!("{said}")
        };
        assert!(said.contains(&budget.to_string()), "{said} lacks {budget}");
        assert!(said.contains(&needed.to_string()), "{said} lacks {needed}");
    };

    // Finished weights alone are more.
    let loader = open("none", "60MiB");
    let before = read.load(Ordering::Relaxed);
    let error = loader.load::<Wide>().map(drop).expect_err("too little");
    // Two tiles of 64 KiB are in flight at least.
    refused(error, 60 * MIB, 2 * SOURCE + (128 << 10));
    assert_eq!(read.load(Ordering::Relaxed), before);

    // Files of hqq have the codes of rows far apart side by side: a weight is written whole, and there is no room for it.
    let loader = open("hqq:bits=4,group=64,axis=1,unsolved", "20MiB");
    let before = read.load(Ordering::Relaxed);
    let to = SaveConfig::new(folder.join("refused"));
    let error = loader.save::<Wide>(&to).map(drop).expect_err("too little");
    let firebox::Error::Plan(PlanError::HostBudget { needed, .. }) = error else {
        panic!("{error}")
    };
    let packed = (ROWS * COLS / 2) as u64;
    assert!(needed > 20 * MIB && needed > 2 * packed, "{needed}");
    refused(error, 20 * MIB, needed);
    // Saves know their source by 16 KiB of each tensor.
    let read = read.load(Ordering::Relaxed) - before;
    assert!(read <= 2 * (16 << 10), "{read} bytes");
    assert!(!folder.join("refused").exists(), "a folder was made");
}

/// One matrix of two is the same in both models. Catches a weight that is told to be shared and is not.
fn equal_weights_are_held_once(base: &Path, tuned: &Path) {
    let words = |matrix: &Matrix| match matrix {
        Matrix::Packed(packed) => packed.to_host(),
        other => panic!("planned packed, is {other:?}"),
    };
    for quant in ["none", "nf4"] {
        let configs = || [config(base, quant), config(tuned, quant)];
        let loader = Loader::<Cpu>::new(config(base, quant)).expect("opens");
        let each = loader.plan::<Wide>().expect("a plan").steps[0].bytes_finished();
        let before = COUNTING.live();
        let shared = Shared::new(16 * MIB);
        let models = shared.load::<Cpu, Wide>(configs()).expect("loads");
        assert_eq!(shared.bytes_saved(), each, "{quant}");
        let held = COUNTING.live() - before;
        assert!(
            held + MIB >= 3 * each && held < 3 * each + 2 * MIB,
            "{quant}: {held} bytes are held, three matrices have {}",
            3 * each
        );
        assert!(shared.in_flight().peak() <= 16 * MIB);
        // It keeps what it has seen; without it the models do.
        drop(shared);
        let held = COUNTING.live() - before;
        assert!(
            held + MIB >= 3 * each && held < 3 * each + 2 * MIB,
            "{quant}: {held} bytes of three matrices are held without it"
        );
        if quant == "nf4" {
            for (folder, loaded) in [base, tuned].into_iter().zip(&models) {
                let loader = Loader::<Cpu>::new(config(folder, quant)).expect("opens");
                let alone = loader.load::<Wide>().expect("loads").model;
                for (found, expected) in [
                    (&loaded.model.first, &alone.first),
                    (&loaded.model.second, &alone.second),
                ] {
                    assert!(words(&found.weight) == words(&expected.weight));
                }
            }
        }
    }
    // The one that fails is told of, not those that were stopped because of it.
    let missing: PathBuf = tuned.join("model.safetensors");
    let len = fs::metadata(&missing).expect("there").len();
    let file = fs::OpenOptions::new().write(true).open(&missing);
    let shared = Shared::new(MIB);
    let configs = [config(base, "nf4"), config(tuned, "nf4")];
    file.expect("writable").set_len(len - 10).expect("cut");
    let error = shared.load::<Cpu, Wide>(configs).map(drop);
    let said = error.expect_err("a file is cut").to_string();
    assert!(said.contains("model.safetensors"), "{said}");
}
