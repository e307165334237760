//! Every kind of save, and every kind of source.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use firebox::{
    Cpu, Error, LoadConfig, LoadRequest, Loader,
    config::{Pattern, SaveConfig},
    model::CausalLm,
    pipeline::{Event, Flow},
    report::Saved,
    source::Memory,
};
use tempfile::tempdir;

use crate::{
    common::Golden,
    files::{assert_same, done, files},
    watched::{Watched, cancel, config, save, to},
};

fn placed(event: &Event<'_>) -> bool {
    matches!(event, Event::Placed { .. })
}

fn save_llama(config: impl Into<LoadRequest>, to: &SaveConfig) -> Result<Saved, Error> {
    Loader::<Cpu>::new(config)?.save::<CausalLm>(to)
}

/// Interrupts `save` after `weights`, resumes it, and compares with one that is not interrupted.
#[track_caller]
fn goes_on(
    config: impl Fn() -> LoadRequest,
    save: impl Fn(LoadRequest, &SaveConfig) -> Result<Saved, Error>,
    to: impl Fn(&Path) -> SaveConfig,
    weights: usize,
) {
    let [folder, whole] = [(); 2].map(|()| tempdir().expect("a folder"));
    save(config(), &to(whole.path())).expect("saved");
    let interrupted = cancel(config(), weights - 1, placed);
    save(interrupted, &to(folder.path())).expect_err("cancelled");
    assert_eq!(done(folder.path()).len(), weights);
    let saved = save(config(), &to(folder.path()).resume(true)).expect("resumed");
    assert_eq!(saved.resumed, weights);
    assert_same(&files(folder.path()), &files(whole.path()));
}

/// What is packed already goes on in the same way: `convert`.
#[test]
fn a_conversion_goes_on() {
    let packed = tempdir().expect("a folder");
    save(config(Watched::tiny(), "nf4:nested"), &to(packed.path())).expect("saved");
    let source = || {
        let files = files(packed.path());
        let memory = files.iter().fold(Memory::new(), |memory, (name, bytes)| {
            memory.with(name.clone(), bytes)
        });
        Watched::new(memory)
    };
    let convert = || config(source(), "none");
    let folder = tempdir().expect("a folder");
    let plain = |folder: &Path| to(folder).nested(false);
    let expected = tempdir().expect("a folder");
    save(convert(), &plain(expected.path())).expect("saved");
    let placed = |event: &Event<'_>| matches!(event, Event::Placed { .. });
    save(cancel(convert(), 1, placed), &plain(folder.path())).expect_err("cancelled");
    let saved = save(convert(), &plain(folder.path()).resume(true)).expect("resumed");
    assert_eq!(saved.resumed, 2);
    assert_same(&files(folder.path()), &files(expected.path()));
}

/// Factors are found again and come out the same, though weights that they were found for are in files.
#[test]
fn balanced_columns_go_on() {
    let model = Golden("qwen2_bf16_tied");
    let balanced = Arc::new(Mutex::new(0));
    let config = || {
        let seen = Arc::clone(&balanced);
        let path = model.path("").to_string_lossy().into_owned();
        let config = LoadConfig::new(path).presinq(true);
        config
            .quant("nf4".parse().expect("a spec"))
            .observer(move |event: &Event<'_>| {
                *seen.lock().expect("no panic") +=
                    usize::from(matches!(event, Event::Balanced { .. }));
                Flow::Continue
            })
    };
    let to = |folder: &Path| SaveConfig::new(folder).shard_bytes(100_000);
    let saved = |weights| {
        *balanced.lock().expect("no panic") = 0;
        goes_on(config, save_llama, to, weights);
        *balanced.lock().expect("no panic")
    };
    let (few, many) = (saved(5), saved(22));
    // What all weights of are in files is not looked at again.
    assert!(many < few, "{many} {few}");
}

/// Tensors of no model, and tensors that are no floats and stay away.
#[test]
fn bare_tensors_go_on() {
    let shard = Golden("llama_f32_tied").path("model-00001-of-00004.safetensors");
    assert!(shard.is_file());
    let config = || {
        let path = shard.to_string_lossy().into_owned();
        LoadRequest::from(
            LoadConfig::new(path)
                .bare()
                .quant("int8".parse().expect("a spec")),
        )
    };
    let save = |config: LoadRequest, to: &SaveConfig| {
        let include: Pattern = "*mlp*".parse().expect("a pattern");
        Loader::<Cpu>::new(config)?.save_tensors(&[include], to)
    };
    let to = |folder: &Path| SaveConfig::new(folder).shard_bytes(200_000);
    goes_on(config, save, to, 4);
}

/// A model of the hub is known by its commit: no weight is asked for that is in files, and a branch that has moved is
/// another source.
#[cfg(feature = "hub")]
#[test]
fn a_model_of_the_hub_goes_on() {
    use std::fs;

    use crate::loopback::{FIRST, ID, Loopback, SECOND};
    use firebox::source::{Hub, SourceExt};

    let files_of = |folder: &Path| {
        let entries = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path());
        let read = entries.filter(|path| path.is_file()).map(|path| {
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            (name, fs::read(path).expect("a file"))
        });
        read.collect::<std::collections::BTreeMap<_, _>>()
    };
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tinyrust");
    let model = files_of(&model);
    let hub = Loopback::serve(model.clone());
    let config = |cache: &Path| {
        let source = Hub::builder(ID).environment([("HOME", "/nonexistent")]);
        let source = source
            .endpoint(&hub.url)
            .cache(cache)
            .retries(0)
            .build()
            .expect("a hub");
        assert_eq!(
            source.version().expect("a commit").as_deref().map(str::len),
            Some(40)
        );
        let config = LoadConfig::default().quant("nf4".parse().expect("a spec"));
        config.source(Arc::new(source))
    };
    let [folder, whole, first, second] = [(); 4].map(|()| tempdir().expect("a folder"));
    save_llama(config(first.path()), &SaveConfig::new(whole.path())).expect("saved");
    let cancelled = cancel(config(first.path()), 33, placed);
    save_llama(cancelled, &SaveConfig::new(folder.path())).expect_err("cancelled");

    // Another machine, which has nothing of the model yet: 34 of 38 weights are in files, and of what is left all is in
    // the last of three.
    let before = hub.log().len();
    let resume = SaveConfig::new(folder.path()).resume(true);
    let cancelled = cancel(config(second.path()), 0, |event| {
        matches!(event, Event::Started { .. })
    });
    save_llama(cancelled, &resume).expect_err("cancelled");
    let log = hub.log();
    let downloads = log[before..]
        .iter()
        .filter(|request| request.path.contains("model-00001-of") && request.range.is_none());
    assert_eq!(downloads.count(), 0);

    // The branch moves on, to the same files.
    hub.set(|state| {
        state.commits.insert(SECOND.to_owned(), model);
        state.branches.insert("main".to_owned(), SECOND.to_owned());
    });
    let error = save_llama(config(second.path()), &resume).expect_err("is another");
    let says = format!("source.version was {FIRST} and is {SECOND}");
    assert!(error.to_string().contains(&says), "{error}");
    hub.set(|state| {
        state.branches.insert("main".to_owned(), FIRST.to_owned());
    });
    let saved = save_llama(config(second.path()), &resume).expect("resumed");
    assert_eq!(saved.resumed, 34);
    assert_same(&files(folder.path()), &files(whole.path()));
}
