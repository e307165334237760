//! Downloads: told, stopped, interrupted, resumed.

use std::{
    fs,
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::Duration,
};

use firebox::config::Reading;
use firebox::source::{Access, Source, SourceError, SourceExt};

use super::{
    counted,
    loopback::{FIRST, Files},
    model, serve, two_files,
};

#[test]
fn downloads_are_told_from_start_to_end() {
    let (hub, cache) = serve(two_files());
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let source = model(&hub, &cache).on_download(move |download| {
        let file = download.file.to_owned();
        tell.lock()
            .unwrap()
            .push((file, download.done, download.total));
        ControlFlow::Continue(())
    });
    let source = source.build().unwrap();
    source.peek("model.safetensors", 0, &mut [0; 8]).unwrap();
    assert_eq!(*told.lock().unwrap(), [], "a peek is no download");
    source.read("model.safetensors").unwrap();
    source.read("model.safetensors").unwrap();
    let told = told.lock().unwrap().clone();
    let weights = |done| ("model.safetensors".to_owned(), done, 100_000);
    assert_eq!(told.first(), Some(&weights(0)));
    assert_eq!(told.last(), Some(&weights(100_000)));
    assert_eq!(
        told.len(),
        2,
        "100 kB take less than a tenth of a second: {told:?}"
    );
}

/// Catches a stop that loses what has come, and one that is tried again like a failure.
#[test]
fn a_stopped_download_goes_on_where_it_was() {
    let bytes = counted(100_000);
    let files: Files = [("model.safetensors".to_owned(), bytes.clone())].into();
    let (hub, cache) = serve(files);
    hub.set(|state| state.dawdle = Duration::from_millis(30));
    let source = model(&hub, &cache)
        .retries(3)
        .on_download(|download| match download.done {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        });
    let error = source
        .build()
        .unwrap()
        .read("model.safetensors")
        .unwrap_err();
    let SourceError::Cancelled { done, total, .. } = error else {
        panic!("{error:?}");
    };
    assert!(0 < done && done < total && total == 100_000, "{done}");
    let text = error.to_string();
    assert!(
        text.contains("model.safetensors") && text.contains(&format!("{done} of 100000")),
        "{text}"
    );
    assert_eq!(hub.downloads("model.safetensors"), 1);

    let source = model(&hub, &cache).build().unwrap();
    assert_eq!(source.read("model.safetensors").unwrap(), bytes);
    let last = hub.log().pop().unwrap();
    assert_eq!(last.range, Some(format!("bytes={done}-")));
}

/// Catches a start of the file appended to its own middle by a hub that knows no ranges.
#[test]
fn a_hub_that_hangs_up_is_asked_for_the_rest() {
    let bytes = counted(100_000);
    let files: Files = [("model.safetensors".to_owned(), bytes.clone())].into();
    for ignore_ranges in [false, true] {
        let (hub, cache) = serve(files.clone());
        hub.set(|state| {
            state.hang_up_after = Some(60_000);
            state.ignore_ranges = ignore_ranges;
        });
        let source = model(&hub, &cache).build().unwrap();
        let error = source.read("model.safetensors").unwrap_err();
        assert!(matches!(error, SourceError::Network { .. }), "{error:?}");
        hub.set(|state| state.hang_up_after = None);
        assert_eq!(source.read("model.safetensors").unwrap(), bytes);
        let last = hub.log().pop().unwrap();
        assert_eq!(last.range.as_deref(), Some("bytes=60000-"));
    }
}

#[test]
fn a_file_is_downloaded_once_whatever_the_number_of_readers() {
    let (hub, cache) = serve(two_files());
    let source = model(&hub, &cache).build().unwrap();
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let source = &source;
            scope.spawn(move || {
                let mut bytes = [0; 1000];
                source
                    .read_at("model.safetensors", reader * 1000, &mut bytes)
                    .unwrap();
                assert_eq!(bytes, [7; 1000]);
            });
        }
    });
    assert_eq!(hub.downloads("model.safetensors"), 1);
}

/// Would catch a hub whose weights are copied though they lie in a cache on this machine.
#[test]
fn what_is_in_the_cache_can_be_mapped() {
    let (hub, cache) = serve(two_files());
    for mode in [Reading::Mapped, Reading::Buffered] {
        let source = model(&hub, &cache).reading(mode).build().unwrap();
        let shared = source
            .share("model.safetensors", 10, 99_990, Access::Often)
            .unwrap();
        let expected = (mode == Reading::Mapped).then(|| vec![7; 99_990]);
        assert_eq!(shared.as_deref(), expected.as_deref(), "{mode}");
    }
    assert_eq!(hub.downloads("model.safetensors"), 1);
}

/// Catches a start of the file appended to its own middle.
#[test]
fn an_interrupted_download_is_resumed() {
    let bytes = counted(100_000);
    for there in [40_000, 100_000, 100_001] {
        let mut files = two_files();
        files.insert("model.safetensors".to_owned(), bytes.clone());
        let (hub, cache) = serve(files);
        let source = model(&hub, &cache).retries(1).build().unwrap();
        // Download once to learn the blob's name, then make it a half-done download.
        source.read("model.safetensors").unwrap();
        let folder = cache.path().join("models--org--tiny");
        let file = folder
            .join("snapshots")
            .join(FIRST)
            .join("model.safetensors");
        let blob = fs::canonicalize(&file).unwrap();
        fs::remove_file(&file).unwrap();
        fs::remove_file(&blob).unwrap();
        let mut half = bytes.clone();
        half.resize(there, 0);
        fs::write(blob.with_extension("part"), half).unwrap();

        let source = model(&hub, &cache).retries(1).build().unwrap();
        assert_eq!(
            source.read("model.safetensors").unwrap(),
            bytes,
            "{there} bytes were there"
        );
        let resumed = hub
            .log()
            .iter()
            .any(|request| request.range.as_deref() == Some("bytes=40000-"));
        assert_eq!(resumed, there == 40_000);
    }
}

#[test]
fn a_download_that_is_not_as_long_as_announced_is_refused() {
    let (hub, cache) = serve(two_files());
    hub.set(|state| state.exaggerate = 5);
    let source = model(&hub, &cache).build().unwrap();
    let mut bytes = [0; 10];
    let error = source
        .read_at("model.safetensors", 0, &mut bytes)
        .unwrap_err();
    assert!(matches!(error, SourceError::Truncated { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("model.safetensors") && text.contains("100005") && text.contains("100000"),
        "{text}"
    );
    // It is not left in the cache, where the next would take it for good.
    let offline = model(&hub, &cache).offline(true).build().unwrap();
    assert!(
        offline
            .read_optional("model.safetensors")
            .unwrap()
            .is_none()
    );
}
