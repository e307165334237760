//! Ranks that meet in a folder: they agree, or learn why not within the deadline.

use std::{
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use firebox::{
    Cpu, Error, LoadConfig, LoadRequest, LoadedPart, Loader,
    config::Parallel,
    model::CausalLm,
    pipeline::{Event, Flow},
    ranks::RankError,
    source::{Fault, Memory, Source},
};
use tempfile::TempDir;

use super::model::llama;

fn config(place: [usize; 2], quant: &str, folder: &Path, seconds: u64) -> LoadConfig {
    LoadConfig::default()
        .quant(quant.parse().expect("a quantization"))
        .rank(place[0])
        .world_size(place[1])
        .parallel(Parallel::Shard)
        .rendezvous(folder)
        .rank_deadline(seconds)
}

/// Loads, or says why not; the error of another stage counts as a failure of rank 1.
fn run(request: LoadRequest) -> Result<LoadedPart, RankError> {
    let loader = Loader::<Cpu>::new(request).expect("opens");
    loader.load_part::<CausalLm>().map_err(|error| match error {
        Error::Rank(error) => *error,
        other => RankError::Failed {
            rank: 1,
            reason: other.to_string(),
        },
    })
}

fn load(
    source: &Arc<Memory>,
    folder: &Path,
    place: [usize; 2],
    quant: &str,
    seconds: u64,
) -> Result<LoadedPart, RankError> {
    let source: Arc<dyn Source> = source.clone();
    run(config(place, quant, folder, seconds).source(source))
}

/// Two ranks at once, each with a source and a quantization.
fn both(
    folder: &Path,
    sources: [&Arc<Memory>; 2],
    quants: [&str; 2],
    seconds: u64,
) -> [Result<LoadedPart, RankError>; 2] {
    thread::scope(|scope| {
        let ranks = [0, 1].map(|rank| {
            let (source, quant) = (sources[rank], quants[rank]);
            scope.spawn(move || load(source, folder, [rank, 2], quant, seconds))
        });
        ranks.map(|rank| rank.join().expect("no panic"))
    })
}

/// The second run finds the files of the first. Would catch a rank that takes an earlier run for the present one.
#[test]
fn ranks_that_agree_load_again_and_again() {
    let source = llama(12, true);
    let folder = TempDir::new().expect("a folder");
    for quant in ["nf4", "nf4", "fp4"] {
        for loaded in both(folder.path(), [&source, &source], [quant; 2], 20) {
            loaded.expect("loads");
        }
    }
    let left = fs::read_dir(folder.path()).expect("a folder");
    let names: Vec<_> = left.map(|file| file.expect("a file").file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// Would catch ranks that load different things without a word.
#[test]
fn ranks_that_differ_are_refused() {
    let [source, tied] = [llama(12, false), llama(12, true)];
    let folder = TempDir::new().expect("a folder");
    for (sources, quants, field) in [
        ([&source, &source], ["nf4", "fp4"], "configuration.quant"),
        ([&source, &tied], ["nf4", "nf4"], "source."),
    ] {
        let found = both(folder.path(), sources, quants, 20);
        for (rank, found) in found.into_iter().enumerate() {
            match found.expect_err("they differ") {
                RankError::Differs {
                    rank: ours,
                    other,
                    field: found,
                    ..
                } => {
                    assert_eq!([ours, other], [rank, 1 - rank]);
                    assert!(found.starts_with(field), "{found}");
                }
                other => panic!("{other}"),
            }
        }
    }
}

/// Would catch a rank that waits for ever.
#[test]
fn a_rank_that_never_comes_is_named() {
    let source = llama(12, true);
    let folder = TempDir::new().expect("a folder");
    let begun = Instant::now();
    let error = load(&source, folder.path(), [1, 3], "nf4", 1).expect_err("it is alone");
    assert!(begun.elapsed() < Duration::from_secs(10));
    match error {
        RankError::Absent {
            absent, seconds, ..
        } => assert_eq!((absent, seconds), (vec![0, 2], 1)),
        other => panic!("{other}"),
    }
}

/// Would catch a failure that the others wait out, and one that nobody hears of.
#[test]
fn a_failure_reaches_the_others() {
    let [source, broken] = [llama(12, true), llama(12, true)];
    let folder = TempDir::new().expect("a folder");
    let size = broken.size("model.safetensors").expect("a file");
    let [good, bad] = thread::scope(|scope| {
        let good = scope.spawn(|| load(&source, folder.path(), [0, 2], "nf4", 20));
        let bad = scope.spawn(|| {
            // What it reads before the ranks meet is whole.
            let cut = {
                let broken = broken.clone();
                move |event: &Event<'_>| {
                    if let Event::Planned { .. } = event {
                        broken.fault("model.safetensors", Fault::CutAt(size - 1));
                    }
                    Flow::Continue
                }
            };
            let source: Arc<dyn Source> = broken.clone();
            let request = config([1, 2], "nf4", folder.path(), 20).source(source);
            run(request.observer(cut))
        });
        [good, bad].map(|rank| rank.join().expect("no panic"))
    });
    let bad = bad.expect_err("its file is cut short").to_string();
    let good = good.expect_err("rank 1 failed");
    assert!(matches!(good, RankError::Failed { rank: 1, .. }), "{good}");
    assert_eq!(
        good.to_string(),
        bad,
        "the reason is that of the other rank"
    );
}
