//! Packed weights that are kept for the next load: the same module, to the bit, without packing again.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Barrier, Mutex},
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Int, Tensor, TensorData},
};
use firebox::{
    Cpu, DType, Error, LoadConfig, LoadRequest, Loaded, Loader,
    model::{CausalLm, Linear, Matrix},
    pipeline::{Event, Flow},
    place::SaveError,
    plan::Treatment,
    quant::Layout,
    source::{Local, Source},
};
use tempfile::tempdir;

use crate::{
    common::{Golden, linears},
    files::{JOURNAL, assert_same, files},
    watched::Watched,
};

const WEIGHTS: &str = "model.safetensors";

const GOLDEN: Golden = Golden("llama_bf16_untied");

fn config(quant: &str) -> LoadConfig {
    of(GOLDEN).quant(quant.parse().expect("a spec"))
}

fn of(golden: Golden) -> LoadConfig {
    LoadConfig::new(golden.path("").to_string_lossy())
}

fn load(config: impl Into<LoadRequest>) -> Result<Loaded<CausalLm>, Error> {
    Loader::<Cpu>::new(config)?.load()
}

/// The type, shape and bytes of every parameter, in the order of the module, and what the packed ones are.
#[derive(Debug, PartialEq)]
struct Bits(Vec<(String, Vec<usize>, Vec<u8>)>, Vec<Option<Layout>>);

fn bits(model: &CausalLm) -> Bits {
    struct Visitor(Vec<(String, Vec<usize>, Vec<u8>)>);
    impl ModuleVisitor for Visitor {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let data = param.val().into_data();
            self.0.push(seen(&data));
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            let data = param.val().into_data();
            self.0.push(seen(&data));
        }
    }
    let mut visitor = Visitor(Vec::new());
    model.visit(&mut visitor);
    let layout = |linear: &Linear| match &linear.weight {
        Matrix::Packed(packed) => Some(packed.layout()),
        _ => None,
    };
    let linears = model.blocks.iter().flat_map(linears);
    Bits(visitor.0, linears.map(layout).collect())
}

fn seen(data: &TensorData) -> (String, Vec<usize>, Vec<u8>) {
    let dtype = format!("{:?}", data.dtype());
    (dtype, data.shape().to_vec(), data.as_bytes().to_vec())
}

/// The folders of a cache.
fn entries(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache).into_iter().flatten();
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

/// Counts weights that are packed, by a spec, not kept.
fn packed(config: impl Into<LoadRequest>) -> (LoadRequest, Arc<Mutex<usize>>) {
    let count = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&count);
    let config = config.into().observer(move |event: &Event<'_>| {
        if let Event::Packed { step, .. } = event {
            let packs = matches!(step.quant(), Treatment::Packed(_));
            *seen.lock().expect("no panic") += usize::from(packs);
        }
        Flow::Continue
    });
    (config, count)
}

/// Loads without a cache, with an empty one, and with a full one. The last packs nothing.
#[track_caller]
fn same(config: impl Fn() -> LoadConfig, packs: usize) {
    let cache = tempdir().expect("a folder");
    let plain = bits(&load(config()).expect("loads").model);
    for (run, expected) in [("first", packs), ("second", 0)] {
        let (config, count) = packed(config().cache_packed(cache.path()));
        let found = bits(&load(config).expect("loads").model);
        assert!(found == plain, "the {run} load gives another module");
        assert_eq!(*count.lock().expect("no panic"), expected, "{run}");
    }
    assert_eq!(entries(cache.path()).len(), 1);
}

/// Every kind of format and dialect, in the type that the target chooses and in the file's own. Would catch a dialect
/// that rounds what it holds, and plain weights that are rounded twice.
#[test]
fn a_kept_model_is_the_same_to_the_bit() {
    for quant in [
        "nf4",
        "fp4:nested",
        "int8",
        "fp8:e4m3,scale=tensor",
        "fp8:e4m3,scale=channel",
        "fp8:e4m3,scale=block",
        "mlx:bits=3,group=32",
        "hqq:bits=4,group=64",
        "wna16:bits=4,group=128",
        "wna16:bits=8,scale=channel,asymmetric",
        "mxfp4",
        "nvfp4",
    ] {
        same(|| config(quant), 28);
    }
    same(|| config("nf4").dtype(DType::Bf16), 28);
}

/// Factors that norms take up are rounded once, as without a cache.
#[test]
fn balanced_columns_are_kept() {
    let model = || of(Golden("qwen2_bf16_tied")).quant("nf4".parse().expect("a spec"));
    let linear = load(model()).expect("loads").report.per_tensor;
    let linear = linear
        .iter()
        .filter(|tensor| tensor.quant.to_string() != "none");
    let linear = linear.count();
    for dtype in [DType::F32, DType::F16] {
        same(|| model().presinq(true).dtype(dtype), linear);
    }
}

/// What was chosen by measuring is chosen once, and by the size of what is loaded.
#[test]
fn choices_are_kept() {
    let auto = |quant: &'static str| {
        move || {
            let [three, six] =
                ["mlx:bits=3", "mlx:bits=6"].map(|spec| spec.parse().expect("a spec"));
            config(quant).candidate(three).candidate(six)
        }
    };
    for (quant, specs) in [("auto:bits=5", 2), ("auto:size=1776000", 2)] {
        let kinds = load(auto(quant)()).expect("loads").report;
        let kinds: std::collections::BTreeSet<String> = (kinds.per_tensor.iter())
            .map(|tensor| tensor.quant.to_string())
            .filter(|quant| quant != "none")
            .collect();
        assert_eq!(kinds.len(), specs, "{kinds:?}");
        same(auto(quant), 28);
    }
    let cache = tempdir().expect("a folder");
    let load_auto = || load(auto("auto:bits=5")().cache_packed(cache.path()));
    load_auto().expect("loads");
    let measured = |event: &Event<'_>| match event {
        Event::Measured { .. } => Flow::Cancel,
        _ => Flow::Continue,
    };
    let second = auto("auto:bits=5")()
        .cache_packed(cache.path())
        .observer(measured);
    load(second).expect("loads without measuring");
}

/// One folder for each source and configuration; all types that are computed in share it.
#[test]
fn another_source_or_configuration_is_kept_beside() {
    let cache = tempdir().expect("a folder");
    let kept = |config: LoadConfig| {
        load(config.cache_packed(cache.path())).expect("loads");
        entries(cache.path()).len()
    };
    assert_eq!(kept(config("nf4")), 1);
    assert_eq!(kept(config("nf4:block=64")), 1);
    assert_eq!(kept(config("nf4").dtype(DType::Bf16)), 1);
    assert_eq!(kept(config("nf4:nested")), 2);
    assert_eq!(
        kept(config("nf4").skip("model.layers.0".parse().expect("a pattern"))),
        3
    );

    // Another number in the last tensor.
    let model = tempdir().expect("a folder");
    for entry in fs::read_dir(GOLDEN.path("")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            let name = path.file_name().expect("a name");
            fs::copy(&path, model.path().join(name)).expect("copied");
        }
    }
    let copied = || {
        let path = model.path().to_string_lossy();
        LoadConfig::new(path).quant("nf4".parse().expect("a spec"))
    };
    assert_eq!(kept(copied()), 3, "the same bytes elsewhere");
    let shard = GOLDEN.shards().pop().expect("a shard");
    let path = model.path().join(shard);
    let mut bytes = fs::read(&path).expect("a file");
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&path, bytes).expect("written");
    assert_eq!(kept(copied()), 4);

    // Nothing is packed, so nothing is kept.
    assert_eq!(kept(config("none")), 4);
}

/// Of the source no weight is read when its packed weights are there: only the few bytes that tell it apart.
#[test]
fn the_source_is_not_read_again() {
    let cache = tempdir().expect("a folder");
    let folder = Golden("llama_bf16_untied").path("");
    let local = Local::open(&folder).expect("a model");
    let source = Watched::new(local);
    let load = || {
        let config = LoadConfig::default().quant("nf4".parse().expect("a spec"));
        let config = config.cache_packed(cache.path());
        load(config.source(source.clone() as Arc<dyn Source>)).expect("loads")
    };
    load();
    assert!(!source.tensors_read().is_empty());
    source.forget();
    load();
    assert_eq!(source.tensors_read(), Vec::<String>::new());
}

/// A load that was interrupted while it kept goes on; what is damaged or half there is made again.
#[test]
fn what_is_not_finished_is_gone_on_with() {
    let cache = tempdir().expect("a folder");
    let cancelled = Mutex::new(0);
    let config_cancelled =
        config("nf4")
            .cache_packed(cache.path())
            .observer(move |event: &Event<'_>| {
                let mut placed = cancelled.lock().expect("no panic");
                *placed += usize::from(matches!(event, Event::Placed { .. }));
                if *placed >= 20 {
                    Flow::Cancel
                } else {
                    Flow::Continue
                }
            });
    let error = load(config_cancelled).expect_err("cancelled");
    assert!(matches!(error, Error::Pipeline(_)), "{error}");
    let [entry] = &entries(cache.path())[..] else {
        panic!("one folder");
    };
    assert!(!entry.join("config.json").exists());
    let plain = bits(&load(config("nf4")).expect("loads").model);
    let again = |expected: usize| {
        let (config, count) = packed(config("nf4").cache_packed(cache.path()));
        assert!(bits(&load(config).expect("loads").model) == plain);
        assert_eq!(*count.lock().expect("no panic"), expected);
    };
    let left = packed(config("nf4"));
    load(left.0).expect("loads");
    let all = *left.1.lock().expect("no panic");
    assert_eq!(all, 28);
    // Of 39 weights 20 are done, and of those that are left these are packed.
    let told = crate::files::done(entry);
    assert_eq!(told.len(), 20);
    let packed_before = told.iter().filter(|name| name.contains("proj")).count();
    again(28 - packed_before);
    again(0);

    let whole = files(entry);
    fs::remove_file(entry.join("model.safetensors")).expect("removed");
    let placed = |event: &Event<'_>| match event {
        Event::Placed { .. } => Flow::Cancel,
        _ => Flow::Continue,
    };
    let cancelled = config("nf4").cache_packed(cache.path()).observer(placed);
    load(cancelled).expect_err("cancelled");
    assert!(
        !entry.join("config.json").exists(),
        "half of a model is one"
    );
    again(28);
    assert_same(&files(entry), &whole);
    fs::remove_file(entry.join("config.json")).expect("removed");
    again(0);
    assert_same(&files(entry), &whole);
    fs::remove_dir_all(entry).expect("removed");
    again(28);
    assert!(whole.contains_key(JOURNAL));
}

/// One bit of each file, and of each weight: the module is the same, since what is damaged is made again, and the folder is
/// right after that. Would catch a file that nobody compares.
#[test]
fn a_bit_that_was_lost_is_noticed() {
    let cache = tempdir().expect("a folder");
    let kept = || packed(config("nf4:nested").cache_packed(cache.path()));
    load(kept().0).expect("loads");
    let plain = bits(&load(config("nf4:nested")).expect("loads").model);
    let [entry] = &entries(cache.path())[..] else {
        panic!("one folder");
    };
    let whole = files(entry);
    let header = u64::from_le_bytes(whole[WEIGHTS][..8].try_into().expect("eight bytes"));
    let data = 8 + header as usize;
    let len = whole[WEIGHTS].len();
    let weights = [0, 9, data, (data + len) / 2, len - 1].map(|at| (WEIGHTS, at));
    let others = whole.iter().filter(|(name, _)| *name != WEIGHTS);
    let others = others.map(|(name, bytes)| (&**name, bytes.len() / 2));
    for (name, at) in weights.into_iter().chain(others) {
        let mut bytes = whole[name].clone();
        bytes[at] ^= 1;
        fs::write(entry.join(name), bytes).expect("written");
        let (config, count) = kept();
        assert!(
            bits(&load(config).expect("loads").model) == plain,
            "{name} {at}"
        );
        assert_eq!(*count.lock().expect("no panic"), 28, "{name} {at}");
        assert_same(&files(entry), &whole);
    }
}

/// Copies without names that begin with a dot, cuts, and files that are gone: never an error.
#[test]
fn an_entry_that_has_lost_files_is_made_again() {
    let cache = tempdir().expect("a folder");
    let kept = || packed(config("nf4").cache_packed(cache.path()));
    load(kept().0).expect("loads");
    let [entry] = &entries(cache.path())[..] else {
        panic!("one folder");
    };
    let whole = files(entry);
    for name in whole.keys() {
        for cut in [false, true] {
            if cut {
                let half = &whole[name][..whole[name].len() / 2];
                fs::write(entry.join(name), half).expect("written");
            } else {
                fs::remove_file(entry.join(name)).expect("removed");
            }
            load(kept().0).expect("loads");
            assert_same(&files(entry), &whole);
        }
    }
    for (name, bytes) in [
        (JOURNAL, ""),
        (JOURNAL, "{\"journal\":1}\n"),
        (JOURNAL, "?\n"),
    ] {
        fs::write(entry.join(name), bytes).expect("written");
        load(kept().0).expect("loads");
        assert_same(&files(entry), &whole);
    }
    // The files of another entry.
    let other = tempdir().expect("a folder");
    load(config("fp4").cache_packed(other.path())).expect("loads");
    for (name, bytes) in files(&entries(other.path())[0]) {
        fs::write(entry.join(name), bytes).expect("written");
    }
    load(kept().0).expect("loads");
    assert_same(&files(entry), &whole);
    let (config, count) = kept();
    load(config).expect("loads");
    assert_eq!(*count.lock().expect("no panic"), 0);
}

/// Formats that no dialect has side by side, and a folder that cannot be.
#[test]
fn what_cannot_be_kept_is_refused() {
    let cache = tempdir().expect("a folder");
    let mixed = config("nf4").rule("model.layers.0.mlp=mxfp4".parse().expect("a rule"));
    let error = load(mixed.clone().cache_packed(cache.path())).expect_err("cannot be kept");
    assert!(
        matches!(error, Error::Save(SaveError::NotCacheable { .. })),
        "{error}"
    );
    assert!(entries(cache.path()).is_empty());
    load(mixed).expect("loads without");

    let file = cache.path().join("file");
    fs::write(&file, "").expect("written");
    let error = load(config("nf4").cache_packed(&file)).expect_err("is a file");
    assert!(
        matches!(error, Error::Save(SaveError::Write { .. })),
        "{error}"
    );

    // One dialect has these, though the first weight is usually written in another.
    let both = || {
        let tile = config("fp8:e4m3,scale=channel");
        tile.rule(
            "model.layers.0.self_attn=fp8:e4m3,scale=block"
                .parse()
                .expect("a rule"),
        )
    };
    same(both, 28);
}

/// Two that both find nothing and only then begin: the measuring comes between.
#[test]
fn loads_that_begin_at_once_pack_once() {
    let cache = tempdir().expect("a folder");
    let together = Arc::new(Barrier::new(2));
    let counts: Vec<usize> = std::thread::scope(|scope| {
        let start = || {
            let together = Arc::clone(&together);
            let auto = config("auto:bits=5").candidate("mlx:bits=4".parse().expect("a spec"));
            let auto = auto.cache_packed(cache.path());
            let auto = auto.observer(move |event: &Event<'_>| {
                if matches!(event, Event::Measured { .. }) {
                    together.wait();
                }
                Flow::Continue
            });
            let (config, count) = packed(auto);
            load(config).expect("loads");
            *count.lock().expect("no panic")
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(start)).collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        joined.collect()
    });
    assert_eq!(counts.iter().sum::<usize>(), 28, "{counts:?}");
}

/// Several loads at once: one packs, the others wait for it and load what it has made.
#[test]
fn loads_at_once_pack_once() {
    let cache = tempdir().expect("a folder");
    let plain = bits(&load(config("nf4")).expect("loads").model);
    let counts: Vec<usize> = std::thread::scope(|scope| {
        let start = || {
            let (config, count) = packed(config("nf4").cache_packed(cache.path()));
            let found = bits(&load(config).expect("loads").model);
            assert!(found == plain);
            *count.lock().expect("no panic")
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        joined.collect()
    });
    assert_eq!(counts.iter().sum::<usize>(), 28, "{counts:?}");
}
