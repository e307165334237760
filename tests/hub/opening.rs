//! A checkpoint on the hub: what is downloaded to open it, and what is not.

use std::sync::Arc;

use firebox::source::{Checkpoint, Source, SourceExt};
#[cfg(feature = "cpu")]
use firebox::{
    Cpu, Error, LoadConfig, Loader,
    model::CausalLm,
    source::{CheckpointError, HubBuilder, SourceError},
};

use super::{counted, loopback, model, serve, tinyrust, two_files};

#[test]
fn a_checkpoint_opens_from_the_hub_and_then_offline() {
    let (hub, cache) = serve(tinyrust());
    let online = Checkpoint::open(Arc::new(model(&hub, &cache).build().unwrap())).unwrap();
    // What a load does: it reads from every shard.
    for file in online.files() {
        online.source().read_at(&file.name, 0, &mut [0]).unwrap();
    }
    let requests = hub.log().len();

    let offline = model(&hub, &cache).offline(true).build().unwrap();
    let offline = Checkpoint::open(Arc::new(offline)).unwrap();
    assert_eq!(
        hub.log().len(),
        requests,
        "offline, and still asked the hub"
    );
    assert_eq!(offline.config(), online.config());
    assert_eq!(offline.total_bytes(), 2_886_432 + 2_953_136 + 1_116_008);
    assert!(offline.catalog().iter().eq(online.catalog()));
    for (file, bytes) in tinyrust() {
        if file.ends_with(".safetensors") {
            assert_eq!(offline.source().read(&file).unwrap(), bytes, "{file}");
        }
    }
}

/// Catches `inspect` of a model of 100 GB that downloads 100 GB.
#[test]
fn opening_brings_headers_and_reading_brings_the_weights() {
    let files = tinyrust();
    let (hub, cache) = serve(files.clone());
    let checkpoint = Checkpoint::open(Arc::new(model(&hub, &cache).build().unwrap())).unwrap();
    assert_eq!(checkpoint.total_bytes(), 2_886_432 + 2_953_136 + 1_116_008);
    let of_weights = hub.sent(".safetensors");
    assert!(
        (1..=3 * (64 << 10)).contains(&of_weights),
        "{of_weights} bytes of weights were sent"
    );
    let of_headers = |request: &loopback::Request| request.path.starts_with("/cdn/");
    let requests = hub
        .log()
        .iter()
        .filter(|request| of_headers(request))
        .count();
    assert_eq!(requests, 3, "a header takes one request");

    let shard = &checkpoint.files()[0].name;
    let mut bytes = vec![0; 1000];
    checkpoint
        .source()
        .read_at(shard, 5000, &mut bytes)
        .unwrap();
    assert_eq!(bytes, files[&**shard][5000..6000]);
    assert_eq!(hub.downloads(shard), 1);
    // In the cache now, and peeked at there.
    let requests = hub.log().len();
    checkpoint.source().peek(shard, 0, &mut bytes).unwrap();
    assert_eq!(bytes, files[&**shard][..1000]);
    assert_eq!(hub.log().len(), requests);
}

/// Around the 64 KiB that the first peek brings, and with a hub that knows no ranges.
#[test]
fn any_range_is_peeked_at_without_a_download() {
    let bytes = counted(10_000_000);
    let served = [("model.safetensors".to_owned(), bytes.clone())];
    for ignore_ranges in [false, true] {
        let (hub, cache) = serve(served.clone().into());
        hub.set(|state| state.ignore_ranges = ignore_ranges);
        let source = model(&hub, &cache).build().unwrap();
        for (offset, len) in [
            (0, 8),
            (8, 70_000),
            (65_530, 20),
            (65_536, 1),
            (100_000, 9),
            (7, 0),
        ] {
            let mut into = vec![0; len];
            let peeked = source.peek("model.safetensors", offset as u64, &mut into);
            peeked.unwrap();
            assert_eq!(into, bytes[offset..offset + len], "{offset} + {len}");
        }
        let error = source.peek("model.safetensors", 9_999_999, &mut [0; 2]);
        let error = error.unwrap_err();
        assert!(matches!(error, SourceError::Truncated { .. }), "{error:?}");
        // Five requests. Sockets hold some of what nobody reads.
        let sent = hub.sent("model.safetensors");
        assert!(
            sent < if ignore_ranges { 25_000_000 } else { 100_000 },
            "{sent} bytes were sent"
        );
        assert!(!cache.path().join("models--org--tiny").exists());
    }
}

#[cfg(feature = "cpu")]
#[test]
fn a_shard_that_the_hub_lacks_or_the_cache_offline_is_missing() {
    let mut files = tinyrust();
    let gone = files.keys().find(|name| name.ends_with(".safetensors"));
    let gone = gone.unwrap().clone();
    let (whole, cache) = serve(files.clone());
    Checkpoint::open(Arc::new(model(&whole, &cache).build().unwrap())).unwrap();
    let missing = |source: HubBuilder| {
        let config = LoadConfig::default().source(Arc::new(source.build().unwrap()));
        let loaded = match Loader::<Cpu>::new(config) {
            Ok(loader) => loader.load::<CausalLm>(),
            Err(error) => Err(error),
        };
        match loaded {
            Err(Error::Checkpoint(CheckpointError::MissingShard { shard, source, .. })) => {
                (shard, source)
            }
            other => panic!("{:?}", other.map(|loaded| loaded.report)),
        }
    };
    let (shard, error) = missing(model(&whole, &cache).offline(true));
    assert_eq!(shard, gone);
    assert!(matches!(*error, SourceError::NotCached { .. }), "{error:?}");

    files.remove(&gone);
    let (hub, cache) = serve(files);
    let (shard, error) = missing(model(&hub, &cache));
    assert_eq!(shard, gone);
    assert!(matches!(*error, SourceError::NotFound { .. }), "{error:?}");
}

/// Catches a plan made over the hub that downloads the weights in order to weigh them.
#[test]
fn asking_for_a_length_downloads_nothing() {
    let (hub, cache) = serve(two_files());
    let source = model(&hub, &cache).build().unwrap();
    assert_eq!(source.size("model.safetensors").unwrap(), 100_000);
    assert_eq!(hub.downloads("model.safetensors"), 0);
}

/// Of several GGUF files, one is named by a word in its name or by all of it; alone, it needs no name.
#[cfg(feature = "cpu")]
#[test]
fn a_gguf_file_is_taken_by_its_name() {
    let golden = |model: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = format!("tests/golden/gguf/{model}/model.gguf");
        std::fs::read(folder.join(file)).unwrap()
    };
    let mut files = loopback::Files::from([
        ("tiny-Q4_0.gguf".to_owned(), golden("llama_q4_0")),
        ("tiny-Q8_0.gguf".to_owned(), golden("qwen3_q8_0")),
        ("mmproj-tiny.gguf".to_owned(), vec![0; 64]),
    ]);
    let family = |files: &loopback::Files, name: &str| {
        let (hub, cache) = serve(files.clone());
        let source = model(&hub, &cache).build().unwrap();
        let request = LoadConfig::new(name).source(Arc::new(source));
        let config = request.open()?.config().clone();
        Ok::<_, Error>(config["model_type"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(family(&files, "org/tiny:Q4_0").unwrap(), "llama");
    assert_eq!(family(&files, "org/tiny:tiny-Q8_0.gguf").unwrap(), "qwen3");
    for (name, words) in [
        ("org/tiny", "several GGUF files"),
        ("org/tiny:Q5_K_M", "no GGUF file with \"Q5_K_M\""),
    ] {
        let error = family(&files, name).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(error.contains("tiny-Q4_0.gguf, tiny-Q8_0.gguf"), "{error}");
    }
    files.remove("tiny-Q4_0.gguf");
    assert_eq!(family(&files, "org/tiny").unwrap(), "qwen3");
}
