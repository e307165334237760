//! Downloads, which the reading thread tells of. Each test runs in a process of its own: the hub's address is a variable of
//! the environment.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use firebox::{
    Error, LoadConfig,
    model::CausalLm,
    observe::{Event, Flow},
    pipeline::PipelineError,
    source::SourceError,
};
use tempfile::TempDir;

use crate::{
    TINYRUST, alone, loader,
    loopback::{ID, Loopback},
    observer_failure,
};

/// Whether this process is the one that starts the test; a hub that takes its time for weights is its environment.
fn with_a_hub(test: &str) -> bool {
    let files = fs::read_dir(Path::new(TINYRUST)).unwrap().map(|file| {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        (name, fs::read(file.path()).unwrap())
    });
    let (hub, cache) = (Loopback::serve(files.collect()), TempDir::new().unwrap());
    hub.set(|state| state.dawdle = Duration::from_millis(4));
    let home = cache.path().to_str().unwrap();
    let variables = [
        ("HF_ENDPOINT", &*hub.url),
        ("HF_HOME", home),
        ("HF_HUB_OFFLINE", "0"),
    ];
    alone(&format!("download::{test}"), &variables)
}

fn weights(event: &Event<'_>) -> Option<u64> {
    match event {
        Event::Download { file, done, .. } if file.ends_with(".safetensors") => Some(*done),
        _ => None,
    }
}

/// Would catch a download whose observers are those of another moment, and a stop that is told as a broken network.
#[test]
fn a_download_can_be_stopped() {
    if with_a_hub("a_download_can_be_stopped") {
        return;
    }
    let config = LoadConfig::new(ID).observer(|event: &Event<'_>| match weights(event) {
        Some(done) if done > 0 => Flow::Cancel,
        _ => Flow::Continue,
    });
    let error = loader(config).load::<CausalLm>().map(|_| ()).unwrap_err();
    let Error::Pipeline(PipelineError::Read { tensor, source }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(tensor, "model.embed_tokens.weight");
    assert!(
        matches!(source, SourceError::Cancelled { .. }),
        "{source:?}"
    );
}

/// Would catch a reading thread that panics, and a failure that is told as somebody's wish.
#[test]
fn an_observer_that_panics_during_a_download_is_named() {
    if with_a_hub("an_observer_that_panics_during_a_download_is_named") {
        return;
    }
    let config = LoadConfig::new(ID).observer(|event: &Event<'_>| match weights(event) {
        Some(_) => panic!("too large for me"),
        None => Flow::Continue,
    });
    let (event, at, reason) = observer_failure(loader(config).load::<CausalLm>());
    assert_eq!(event, "download");
    assert_eq!(at, "model-00001-of-00003.safetensors");
    assert_eq!(reason, "it panicked: too large for me");
}

/// Would catch a handle that only listens from the first tensor on: its cancel would wait for gigabytes.
#[test]
fn a_handle_stops_a_download() {
    if with_a_hub("a_handle_stops_a_download") {
        return;
    }
    let done = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&done);
    let config = LoadConfig::new(ID).observer(move |event: &Event<'_>| {
        seen.fetch_max(weights(event).unwrap_or(0), Ordering::SeqCst);
        Flow::Continue
    });
    let loading = loader(config).start::<CausalLm>();
    let patience = Instant::now() + Duration::from_secs(30);
    while done.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < patience, "nothing was downloaded");
        std::thread::sleep(Duration::from_millis(2));
    }
    loading.cancel();
    let error = loading.wait().map(|_| ()).unwrap_err();
    let Error::Pipeline(PipelineError::Read { source, .. }) = error else {
        panic!("{error:?}");
    };
    assert!(
        matches!(source, SourceError::Cancelled { .. }),
        "{source:?}"
    );
}
