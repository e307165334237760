//! A model on disk that another program writes to while it is read.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use firebox::{
    Cpu, Error, LoadConfig, LoadRequest, Loader,
    config::{Reading, SaveConfig},
    model::CausalLm,
    pipeline::{Event, Flow},
    source::SourceError,
};
use tempfile::{TempDir, tempdir_in};

use crate::{
    common::Golden,
    files::{assert_same, done, files},
};

const MODES: [Reading; 3] = [Reading::Buffered, Reading::Mapped, Reading::Direct];

/// A copy of a small model, on a disk, where direct reads mean something.
fn model() -> (TempDir, PathBuf) {
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let golden = Golden("llama_rope_linear");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden.path(file), folder.path().join(file)).expect("copied");
    }
    let weights = folder.path().join("model.safetensors");
    (folder, weights)
}

/// Other bits in the last tensor of a file, which stays as long as it was.
fn scribble(weights: &Path) {
    let mut file = File::options().write(true).open(weights).expect("a file");
    file.seek(SeekFrom::End(-64)).expect("long enough");
    file.write_all(&[0x3f; 64]).expect("written");
}

/// The model, read in one way; `act` runs when the first weight is placed.
fn request(folder: &TempDir, mode: Reading, act: impl Fn() + Send + Sync + 'static) -> LoadRequest {
    let model = folder.path().to_str().expect("UTF-8");
    let config = LoadConfig::new(model).quant("int8".parse().expect("a spec"));
    let acted = std::sync::Once::new();
    config.reading(mode).observer(move |event: &Event<'_>| {
        if matches!(event, Event::Placed { .. }) {
            acted.call_once(&act);
        }
        Flow::Continue
    })
}

/// Whether `error` says that the file changed.
fn is_changed(error: &Error) -> bool {
    match error {
        Error::Source(SourceError::Changed { file, was, now, .. }) => {
            file == "model.safetensors" && was == now
        }
        Error::Interrupted { source, .. } => is_changed(source),
        _ => false,
    }
}

/// Bytes of both states are in what was read. Catches a load or a save that says nothing, and a save that goes on from
/// weights of the earlier state.
#[test]
fn a_source_that_is_written_to_is_noticed() {
    for mode in MODES {
        let (folder, weights) = model();
        let changed = weights.clone();
        let changes = request(&folder, mode, move || scribble(&changed));
        let loaded = Loader::<Cpu>::new(changes).and_then(|loader| loader.load::<CausalLm>());
        let error = loaded.map(drop).expect_err("changed");
        assert!(is_changed(&error), "{mode}: {error}");

        let (folder, weights) = model();
        let to = |name: &str| SaveConfig::new(folder.path().join(name));
        let save = |act: Box<dyn Fn() + Send + Sync>, to: &SaveConfig| {
            Loader::<Cpu>::new(request(&folder, mode, act))?.save::<CausalLm>(to)
        };
        let changed = weights.clone();
        let saved = save(Box::new(move || scribble(&changed)), &to("out"));
        let error = saved.map(drop).expect_err("changed");
        assert!(is_changed(&error), "{mode}: {error}");
        assert!(
            !folder.path().join("out/config.json").exists(),
            "is a model"
        );
        assert_eq!(done(&folder.path().join("out")), [""; 0], "{mode}");

        // Of the same state, all weights are made again.
        let (again, _) = model();
        fs::rename(again.path().join("model.safetensors"), &weights).expect("as it was");
        let resumed = save(Box::new(|| ()), &to("out").resume(true)).expect("resumed");
        assert_eq!(resumed.resumed, 0);
        save(Box::new(|| ()), &to("new")).expect("saved");
        let [out, new] = ["out", "new"].map(|name| files(&folder.path().join(name)));
        assert_same(&out, &new);
    }
}

/// A file that is replaced or removed is read in its old state. Catches a check by the name.
#[test]
fn a_source_that_is_replaced_is_read_as_it_was() {
    for mode in MODES {
        let (folder, weights) = model();
        let (other, replaces) = model();
        scribble(&replaces);
        let act = move || fs::rename(&replaces, &weights).expect("replaced");
        let loaded = Loader::<Cpu>::new(request(&folder, mode, act));
        let loaded = loaded.and_then(|loader| loader.load::<CausalLm>());
        assert!(loaded.is_ok(), "{mode}: {:?}", loaded.map(drop));
        drop(other);
    }
}
