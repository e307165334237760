//! One model in every place: the same catalog, the same bytes, the same weights.

use std::{collections::BTreeMap, fs, sync::Arc};

use firebox::{
    Cpu, LoadConfig, Loader, SaveConfig,
    model::CausalLm,
    observe::{Event, Flow},
    source::{Checkpoint, Hub, Local, Memory, Source, SourceError, SourceExt},
};
use tempfile::TempDir;

use crate::{
    file_server::FileServer,
    loopback::{ID, Loopback},
    models::{self, IN_FLIGHT, copy, expected, files, quantize, remote, tinyrust},
    s3::{BUCKET, S3Server},
};

fn of_folder() -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(tinyrust()).unwrap();
    let files = files.map(|file| {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        (name, fs::read(file.path()).unwrap())
    });
    files.collect()
}

/// The names, types, shapes and places of all tensors, and their bytes.
fn tensors(source: &Arc<dyn Source>) -> Vec<(String, Vec<u8>)> {
    let checkpoint = Checkpoint::open(Arc::clone(source)).unwrap();
    let tensors = checkpoint.catalog().iter();
    let tensors = tensors.map(|tensor| {
        let mut bytes = vec![0; tensor.bytes() as usize];
        source
            .read_at(&tensor.file, tensor.range.start, &mut bytes)
            .unwrap();
        (format!("{tensor:?}"), bytes)
    });
    tensors.collect()
}

/// A digest of the weights that a load keeps.
pub(crate) fn weights(source: Arc<dyn Source>) -> String {
    let config = LoadConfig::default().quant("nf4".parse().unwrap());
    let config = config.rank(0).world_size(1);
    let request = config.in_flight_bytes_max(IN_FLIGHT).source(source);
    let part = Loader::<Cpu>::new(request).unwrap().load_part::<CausalLm>();
    part.unwrap().report.rank.expect("of one rank").digest
}

#[test]
fn a_model_is_the_same_wherever_it_is() {
    let memory = of_folder()
        .into_iter()
        .fold(Memory::new(), |memory, (name, bytes)| {
            memory.with(name, bytes)
        });
    let server = FileServer::serve(&tinyrust());
    let s3 = S3Server::start();
    s3.put_folder("org/tiny", &tinyrust());
    let hub = Loopback::serve(of_folder());
    let cache = TempDir::new().unwrap();
    let on_hub = || {
        Hub::builder(ID)
            .environment([("HOME", "/nonexistent")])
            .endpoint(&hub.url)
            .cache(cache.path())
    };
    let streamed = on_hub().stream().unwrap();
    let parts = TempDir::new().unwrap();
    let at_s3 =
        remote(&format!("s3://{BUCKET}/org/tiny")).environment(S3Server::environment(&s3.url));
    let sources: [(&str, Arc<dyn Source>); 7] = [
        ("local", Arc::new(Local::open(tinyrust()).unwrap())),
        ("memory", Arc::new(memory)),
        ("http", Arc::new(remote(&server.url).build().unwrap())),
        ("s3", Arc::new(at_s3.build().unwrap())),
        (
            "http with a cache",
            Arc::new(
                remote(&server.url)
                    .cache(parts.path(), 2 << 20)
                    .build()
                    .unwrap(),
            ),
        ),
        ("hub, streamed", Arc::new(streamed)),
        ("hub", Arc::new(on_hub().build().unwrap())),
    ];
    let [(_, local), ..] = &sources;
    let (same, loaded) = (tensors(local), weights(Arc::clone(local)));
    for (place, source) in sources {
        let cached = fs::read_dir(cache.path()).unwrap().count();
        assert!(tensors(&source) == same, "{place}");
        assert_eq!(weights(Arc::clone(&source)), loaded, "{place}");
        let folder = TempDir::new().unwrap();
        quantize(source, &SaveConfig::new(folder.path())).unwrap();
        assert!(files(folder.path()) == *expected(), "{place}");
        let more = fs::read_dir(cache.path()).unwrap().count() > cached;
        assert_eq!(
            more,
            place == "hub",
            "{place} wrote to the cache of the hub"
        );
    }
}

/// Catches weights that are fetched twice, a request for each tensor, and numbers that are made up.
#[test]
fn each_byte_is_fetched_once_and_neighbours_together() {
    let server = FileServer::serve(&tinyrust());
    let source = Arc::new(remote(&server.url).build().unwrap());
    let folder = TempDir::new().unwrap();
    let saved = quantize(source.clone(), &SaveConfig::new(folder.path())).unwrap();
    let fetched = source.fetched().unwrap();
    let log = server.log();
    assert_eq!(fetched.requests, log.len() as u64);
    assert_eq!(
        fetched.bytes,
        log.iter().map(|served| served.bytes).sum::<u64>()
    );
    assert_eq!(
        saved.report.fetched.map(|report| report.bytes > 0),
        Some(true)
    );
    let weights: u64 = of_folder()
        .iter()
        .filter(|(name, _)| name.ends_with(".safetensors"))
        .map(|(name, bytes)| {
            // The first 64 KiB are fetched with the header, and the tensors among them again.
            let most = bytes.len() as u64 + 2 * (64 << 10);
            let sent = server.sent(name);
            assert!(
                sent >= bytes.len() as u64 - (64 << 10) && sent <= most,
                "{name}: {sent}"
            );
            sent
        })
        .sum();
    // Blocks of 32 KiB: more bytes a request would be too many for the budget, and far fewer a request for each tensor.
    let ranges = log
        .iter()
        .filter(|served| served.head.path().ends_with(".safetensors"));
    assert!(ranges.count() as u64 <= weights / (16 << 10));
}

/// Catches a header for which the weights are fetched.
#[test]
fn opening_a_model_brings_small_files_and_headers() {
    let server = FileServer::serve(&tinyrust());
    let source: Arc<dyn Source> = Arc::new(remote(&format!("{}/", server.url)).build().unwrap());
    Checkpoint::open(Arc::clone(&source)).unwrap();
    let fetched = source.fetched().unwrap();
    assert!(fetched.bytes <= 6 * (64 << 10), "{fetched}");
    assert!(fetched.requests <= 6, "{fetched}");
}

/// A file by its address, and folders that nobody can list: with a single file of weights, and with a GGUF file.
#[test]
fn files_are_found_without_a_list() {
    let folder = TempDir::new().unwrap();
    let shards = copy();
    let name = "model-00001-of-00003.safetensors";
    fs::copy(
        shards.path().join(name),
        folder.path().join("model.safetensors"),
    )
    .unwrap();
    let server = FileServer::serve(folder.path());
    for (address, weights) in [
        (server.url.clone(), None),
        (
            format!("{}/model.safetensors", server.url),
            Some("model.safetensors"),
        ),
    ] {
        let source = Arc::new(remote(&address).build().unwrap());
        assert_eq!(source.weights_file(), weights);
        assert_eq!(source.list().unwrap(), None);
        let opened = Checkpoint::bare(source).unwrap();
        assert_eq!(opened.files().len(), 1, "{address}");
    }
    fs::rename(
        folder.path().join("model.safetensors"),
        folder.path().join("model.gguf"),
    )
    .unwrap();
    let source = remote(&server.url).build().unwrap();
    assert_eq!(source.weights_file(), Some("model.gguf"));
}

/// A bucket says which files it has, and an unindexed folder of shards is found by that.
#[test]
fn a_store_lists_its_files() {
    let s3 = S3Server::start();
    s3.put_folder("org/tiny", &tinyrust());
    s3.put("org/tiny/more/notes.txt", b"text".to_vec());
    s3.put("org/tinyer/config.json", b"{}".to_vec());
    s3.remove("org/tiny/model.safetensors.index.json");
    let address = format!("s3://{BUCKET}/org/tiny");
    let source = remote(&address).environment(S3Server::environment(&s3.url));
    let source = Arc::new(source.build().unwrap());
    let mut names: Vec<String> = of_folder().into_keys().collect();
    names.retain(|name| name != "model.safetensors.index.json");
    names.push("more/notes.txt".to_owned());
    names.sort();
    assert_eq!(source.list().unwrap(), Some(names));
    assert_eq!(Checkpoint::open(source).unwrap().files().len(), 3);
}

/// An interrupted save goes on without what is finished, also from another process, which knows no more than the address.
#[test]
fn a_save_goes_on_without_fetching_again() {
    let server = FileServer::serve(&tinyrust());
    let folder = TempDir::new().unwrap();
    let to = SaveConfig::new(folder.path());
    let source = remote(&server.url).build().unwrap();
    let placed = std::sync::atomic::AtomicUsize::new(0);
    let request = LoadConfig::default()
        .quant("nf4".parse().unwrap())
        .in_flight_bytes_max(IN_FLIGHT)
        .source(Arc::new(source))
        .observer(move |event: &Event<'_>| {
            let is_placed = matches!(event, Event::Placed { .. });
            let nth = placed.fetch_add(is_placed.into(), std::sync::atomic::Ordering::Relaxed);
            if nth >= 30 {
                Flow::Cancel
            } else {
                Flow::Continue
            }
        });
    Loader::<Cpu>::new(request)
        .unwrap()
        .save::<CausalLm>(&to)
        .unwrap_err();
    let before = server.sent(".safetensors");

    let source = remote(&server.url).build().unwrap();
    let saved = quantize(Arc::new(source), &to.resume(true)).unwrap();
    assert!(saved.resumed >= 30, "{}", saved.resumed);
    assert!(files(folder.path()) == *expected());
    let [again, all] = [
        server.sent(".safetensors") - before,
        saved.report.bytes_source,
    ];
    let rest = saved.report.per_tensor.iter().skip(saved.resumed);
    let rest: u64 = rest.map(|tensor| tensor.bytes_read).sum();
    assert!(rest < all / 2, "{rest} of {all}");
    // Headers, and the ends of blocks.
    assert!(again <= rest + 6 * (64 << 10), "{again} for {rest}");
}

/// What is kept is not fetched again, is used by another process, and stays within the limit.
#[test]
fn a_cache_is_kept_where_one_is_asked_for() {
    let server = FileServer::serve(&tinyrust());
    let folder = TempDir::new().unwrap();
    let size = |folder: &std::path::Path| -> u64 {
        let files = fs::read_dir(folder.join("firebox-ranges")).unwrap();
        files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum()
    };
    let quantized = |limit: u64| {
        let before = server.sent(".safetensors");
        let source = remote(&server.url)
            .cache(folder.path(), limit)
            .build()
            .unwrap();
        let out = TempDir::new().unwrap();
        quantize(Arc::new(source), &SaveConfig::new(out.path())).unwrap();
        assert!(files(out.path()) == *expected());
        assert!(size(folder.path()) <= limit);
        server.sent(".safetensors") - before
    };
    assert!(quantized(1 << 30) > 6 << 20);
    // The beginnings of three files, which tell that they are still the same.
    assert!(quantized(1 << 30) <= 3 * (64 << 10));
    quantized(2 << 20);
}

/// Catches a token of the hub that goes to the host of the bytes, and a signed address that is used after it has expired.
#[test]
fn the_hub_is_streamed_from_a_commit_and_the_token_stays_there() {
    let hub = Loopback::serve(of_folder());
    let cdn = Loopback::serve(of_folder());
    hub.set(|hub| {
        hub.cdn = Some(cdn.url.clone());
        hub.token = Some("hf_MARKED".to_owned());
    });
    let source = Hub::builder(ID)
        .environment([("HF_TOKEN", "hf_MARKED")])
        .endpoint(&hub.url)
        .stream()
        .unwrap();
    assert!(!format!("{source:?}").contains("MARKED"));
    let folder = TempDir::new().unwrap();
    quantize(Arc::new(source), &SaveConfig::new(folder.path())).unwrap();
    assert!(files(folder.path()) == *expected());
    assert!(!cdn.log().is_empty());
    assert!(
        cdn.log()
            .iter()
            .all(|request| request.authorization.is_none())
    );
    // Each file is asked for at the hub once, and then where it is.
    let resolved = hub
        .log()
        .iter()
        .filter(|request| request.path.ends_with(".safetensors"))
        .count();
    assert_eq!(resolved, 3);
}

#[test]
fn addresses_and_environments_that_make_no_store_are_refused() {
    for (address, environment, expected) in [
        (
            "s3://bucket/a?X-Amz-Signature=MARK",
            vec![],
            "AWS_ACCESS_KEY_ID",
        ),
        ("s3://MARK:MARK@bucket/a", vec![], "AWS_ACCESS_KEY_ID"),
        (
            "s3://bucket/a",
            vec![("AWS_ACCESS_KEY_ID", "MARK")],
            "ecret",
        ),
        (
            "s3://bucket/a",
            vec![("AWS_ENDPOINT_URL", "http://MARK:MARK@host")],
            "AWS_ENDPOINT_URL",
        ),
        (
            "https://host/a",
            vec![("SSL_CERT_FILE", "/nonexistent")],
            "SSL_CERT_FILE",
        ),
    ] {
        let error = remote(address)
            .environment(environment)
            .build()
            .unwrap_err();
        let said = models::said(&error);
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains("MARK"), "{said}");
    }
    // Keys would be sent in the clear.
    let plain = [
        ("AWS_ENDPOINT_URL", "http://store.invalid"),
        ("AWS_ACCESS_KEY_ID", "MARKED-ID"),
        ("AWS_SECRET_ACCESS_KEY", "MARKED-KEY"),
    ];
    let source = remote("s3://bucket/a").environment(plain).build().unwrap();
    let error = source.size("config.json").unwrap_err();
    assert!(matches!(error, SourceError::Network { .. }), "{error:?}");
    assert!(error.to_string().contains("AWS_ALLOW_HTTP"), "{error}");
}
