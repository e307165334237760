//! The hub source against a hub on this machine: what it asks, keeps and says.
#![cfg(feature = "hub")]

#[path = "common/loopback.rs"]
mod loopback;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use firebox::LoadConfig;
use firebox::source::{
    Checkpoint, CheckpointError, Hub, HubBuilder, Source, SourceError, SourceExt,
};
use loopback::{FIRST, Files, ID, Loopback, SECOND};
use tempfile::TempDir;

/// The files of `assets/tinyrust`.
fn tinyrust() -> Files {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tinyrust");
    std::fs::read_dir(folder)
        .unwrap()
        .map(|file| {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            (name, std::fs::read(file.path()).unwrap())
        })
        .collect()
}

fn two_files() -> Files {
    [
        ("config.json".to_owned(), b"{\"a\": 1}".to_vec()),
        ("model.safetensors".to_owned(), vec![7; 100_000]),
    ]
    .into()
}

/// A model on `hub`, cached in `cache`, and nothing from this process's environment.
fn model(hub: &Loopback, cache: &TempDir) -> HubBuilder {
    Hub::builder(ID)
        .environment([("HOME", "/nonexistent")])
        .endpoint(&hub.url)
        .cache(cache.path())
        .retries(0)
}

#[test]
fn a_checkpoint_opens_from_the_hub_and_then_offline() {
    let (hub, cache) = (Loopback::serve(tinyrust()), TempDir::new().unwrap());
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
    let (hub, cache) = (Loopback::serve(files.clone()), TempDir::new().unwrap());
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
    let bytes: Vec<u8> = (0..10_000_000_u32).map(|i| (i % 251) as u8).collect();
    let served = [("model.safetensors".to_owned(), bytes.clone())];
    for ignore_ranges in [false, true] {
        let (hub, cache) = (
            Loopback::serve(served.clone().into()),
            TempDir::new().unwrap(),
        );
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

#[test]
fn a_shard_that_the_hub_lacks_or_the_cache_offline_is_missing() {
    let mut files = tinyrust();
    let gone = files.keys().find(|name| name.ends_with(".safetensors"));
    let gone = gone.unwrap().clone();
    let (whole, cache) = (Loopback::serve(files.clone()), TempDir::new().unwrap());
    Checkpoint::open(Arc::new(model(&whole, &cache).build().unwrap())).unwrap();
    let missing = |source: HubBuilder| {
        let error = Checkpoint::open(Arc::new(source.build().unwrap())).unwrap_err();
        match error {
            CheckpointError::MissingShard { shard, source, .. } => (shard, *source),
            error => panic!("{error:?}"),
        }
    };
    let (shard, error) = missing(model(&whole, &cache).offline(true));
    assert_eq!(shard, gone);
    assert!(matches!(error, SourceError::NotCached { .. }), "{error:?}");

    files.remove(&gone);
    let (hub, cache) = (Loopback::serve(files), TempDir::new().unwrap());
    let (shard, error) = missing(model(&hub, &cache));
    assert_eq!(shard, gone);
    assert!(matches!(error, SourceError::NotFound { .. }), "{error:?}");
}

#[test]
fn downloads_are_told_from_start_to_end() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
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
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    let files: Files = [("model.safetensors".to_owned(), bytes.clone())].into();
    let (hub, cache) = (Loopback::serve(files), TempDir::new().unwrap());
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
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    let files: Files = [("model.safetensors".to_owned(), bytes.clone())].into();
    for ignore_ranges in [false, true] {
        let (hub, cache) = (Loopback::serve(files.clone()), TempDir::new().unwrap());
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
fn a_mirror_that_lists_names_only_and_moves_files_serves() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
    hub.set(|state| {
        state.names_only = true;
        state.moved = true;
        state.token = Some("hf_secret".to_owned());
    });
    let source = model(&hub, &cache).token("hf_secret").build().unwrap();
    assert_eq!(source.size("model.safetensors").unwrap(), 100_000);
    assert_eq!(hub.downloads("model.safetensors"), 0);
    assert_eq!(source.read("config.json").unwrap(), b"{\"a\": 1}");
    assert_eq!(source.read("model.safetensors").unwrap(), vec![7; 100_000]);
}

/// Catches a token in the logs of whoever stores the hub's files.
#[test]
fn the_token_does_not_follow_to_another_host() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
    hub.set(|state| {
        state.token = Some("hf_secret".to_owned());
        state.cdn = Some(hub.url.replace("127.0.0.1", "localhost"));
    });
    let source = model(&hub, &cache).token("hf_secret").build().unwrap();
    source.peek("model.safetensors", 0, &mut [0; 8]).unwrap();
    assert_eq!(source.read("model.safetensors").unwrap(), vec![7; 100_000]);
    let (there, here): (Vec<_>, Vec<_>) = hub
        .log()
        .into_iter()
        .partition(|request| request.path.starts_with("/cdn/"));
    assert_eq!(there.len(), 2);
    assert!(
        there.iter().all(|request| request.authorization.is_none()),
        "{there:?}"
    );
    assert!(
        here.iter().all(|request| request.authorization.is_some()),
        "{here:?}"
    );
}

/// Catches a layout that Python would not find, and so would download a second time.
#[test]
fn the_cache_is_laid_out_as_python_does() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
    let source = model(&hub, &cache).build().unwrap();
    source.read("config.json").unwrap();

    let folder = cache.path().join("models--org--tiny");
    assert_eq!(
        std::fs::read_to_string(folder.join("refs/main")).unwrap(),
        FIRST
    );
    let file = folder.join("snapshots").join(FIRST).join("config.json");
    assert_eq!(std::fs::read(&file).unwrap(), b"{\"a\": 1}");
    let blob = std::fs::canonicalize(&file).unwrap();
    assert_eq!(
        blob.parent(),
        Some(&*std::fs::canonicalize(folder.join("blobs")).unwrap())
    );
}

/// A cache that Python filled: a ref, a snapshot, nothing else.
#[test]
fn a_cache_that_python_filled_is_read_offline() {
    let cache = TempDir::new().unwrap();
    let folder = cache.path().join("models--org--tiny");
    let snapshot = folder.join("snapshots").join(FIRST);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(folder.join("refs")).unwrap();
    std::fs::write(folder.join("refs/main"), FIRST).unwrap();
    std::fs::write(snapshot.join("config.json"), "{}").unwrap();

    let source = Hub::builder(ID).cache(cache.path()).offline(true);
    let source = source.build().unwrap();
    assert_eq!(source.read("config.json").unwrap(), b"{}");
    assert_eq!(source.commit().unwrap(), FIRST);
}

#[test]
fn a_file_is_downloaded_once_whatever_the_number_of_readers() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
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

/// Catches a plan made over the hub that downloads the weights in order to weigh them.
#[test]
fn asking_for_a_length_downloads_nothing() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
    let source = model(&hub, &cache).build().unwrap();
    assert_eq!(source.size("model.safetensors").unwrap(), 100_000);
    assert_eq!(hub.downloads("model.safetensors"), 0);
}

#[test]
fn the_token_is_sent_and_never_printed() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
    hub.set(|state| state.token = Some("hf_secret".to_owned()));
    let builder = model(&hub, &cache).token("hf_secret\n");
    assert!(!format!("{builder:?}").contains("hf_secret"));
    let source = builder.build().unwrap();
    source.read("config.json").unwrap();
    assert!(!format!("{source:?}").contains("hf_secret"));
    for request in hub.log() {
        assert_eq!(
            request.authorization.as_deref(),
            Some("Bearer hf_secret"),
            "{}",
            request.path
        );
    }
}

#[test]
fn the_token_comes_from_where_python_looks_in_that_order() {
    let home = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (_, elsewhere) = (write("token", "in_home\n"), write("other", " elsewhere "));
    let hf_home = home.path().to_str().unwrap();
    let sent = |variables: &[(&str, &str)]| {
        let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
        let source = model(&hub, &cache).environment(variables.iter().copied());
        source.build().unwrap().commit().unwrap();
        hub.log()[0].authorization.clone()
    };
    let all = [
        ("HF_TOKEN", "direct"),
        ("HF_TOKEN_PATH", &elsewhere),
        ("HF_HOME", hf_home),
    ];
    assert_eq!(sent(&all).as_deref(), Some("Bearer direct"));
    assert_eq!(sent(&all[1..]).as_deref(), Some("Bearer elsewhere"));
    assert_eq!(sent(&all[2..]).as_deref(), Some("Bearer in_home"));
    assert_eq!(sent(&[("HOME", "/nonexistent")]), None);
    // An empty variable is no token, and hides no file.
    assert_eq!(
        sent(&[("HF_TOKEN", ""), all[2]]).as_deref(),
        Some("Bearer in_home")
    );
}

#[test]
fn cache_endpoint_and_offline_come_from_the_environment() {
    let (hub, home) = (Loopback::serve(two_files()), TempDir::new().unwrap());
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let cached_in = |variables: Vec<(&str, String)>, folder: &str| {
        let variables = variables.into_iter().chain([
            ("HF_ENDPOINT", format!("{}/", hub.url)),
            ("HOME", path("home")),
        ]);
        let source = Hub::builder(ID).environment(variables).build().unwrap();
        source.read("config.json").unwrap();
        assert!(
            home.path()
                .join(folder)
                .join("models--org--tiny/refs/main")
                .is_file(),
            "{folder}"
        );
    };
    cached_in(vec![], "home/.cache/huggingface/hub");
    cached_in(vec![("XDG_CACHE_HOME", path("xdg"))], "xdg/huggingface/hub");
    cached_in(vec![("HF_HOME", path("hf"))], "hf/hub");
    cached_in(vec![("HF_HOME", "~/mine".to_owned())], "home/mine/hub");
    cached_in(
        vec![
            ("HF_HOME", path("hf")),
            ("HUGGINGFACE_HUB_CACHE", path("old")),
        ],
        "old",
    );
    cached_in(
        vec![
            ("HUGGINGFACE_HUB_CACHE", path("old")),
            ("HF_HUB_CACHE", path("new")),
        ],
        "new",
    );

    for yes in ["1", "true", "YES", "On"] {
        let variables = [
            ("HF_ENDPOINT", hub.url.as_str()),
            ("HF_HUB_OFFLINE", yes),
            ("HF_HUB_CACHE", "/nonexistent"),
        ];
        let source = Hub::builder(ID).environment(variables).build().unwrap();
        let error = source.size("config.json").unwrap_err();
        assert!(
            matches!(error, SourceError::NotCached { .. }),
            "{yes}: {error}"
        );
    }
}

/// Catches index and shards from two savings, when the branch moves between two files.
#[test]
fn all_files_are_of_one_commit_though_the_branch_moves() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
    let source = model(&hub, &cache).build().unwrap();
    source.read("config.json").unwrap();
    let mut moved = two_files();
    moved.insert("model.safetensors".to_owned(), vec![8; 100_000]);
    hub.set(|state| {
        state.commits.insert(SECOND.to_owned(), moved);
        state.branches.insert("main".to_owned(), SECOND.to_owned());
    });
    assert_eq!(source.read("model.safetensors").unwrap(), vec![7; 100_000]);
    assert_eq!(source.commit().unwrap(), FIRST);

    // The next to come gets the new state, and downloads only what has changed.
    let next = model(&hub, &cache).build().unwrap();
    assert_eq!(next.read("model.safetensors").unwrap(), vec![8; 100_000]);
    assert_eq!(next.read("config.json").unwrap(), b"{\"a\": 1}");
    assert_eq!(next.commit().unwrap(), SECOND);
    assert_eq!(hub.downloads("config.json"), 1);
    assert_eq!(hub.downloads("model.safetensors"), 2);
}

#[test]
fn the_revision_may_be_a_branch_with_a_slash_or_a_commit() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
    hub.set(|state| {
        let mut files = two_files();
        files.insert("config.json".to_owned(), b"second".to_vec());
        state.commits.insert(SECOND.to_owned(), files);
        state
            .branches
            .insert("refs/pr/1".to_owned(), SECOND.to_owned());
    });
    for revision in ["refs/pr/1", SECOND] {
        let source = model(&hub, &cache).revision(revision).build().unwrap();
        assert_eq!(source.read("config.json").unwrap(), b"second", "{revision}");
    }
    let requests = hub.log().len();
    let cached = model(&hub, &cache).revision(SECOND).build().unwrap();
    assert_eq!(cached.read("config.json").unwrap(), b"second");
    assert_eq!(
        hub.log().len(),
        requests,
        "a commit in the cache needs no hub"
    );
    let main = model(&hub, &cache).build().unwrap();
    assert_eq!(main.read("config.json").unwrap(), b"{\"a\": 1}");
}

#[test]
fn what_is_not_there_is_told_apart() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());

    let source = model(&hub, &cache).build().unwrap();
    let error = source.size("tokenizer.json").unwrap_err();
    assert!(matches!(error, SourceError::NotFound { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "org/tiny@main/tokenizer.json: no such file"
    );
    assert_eq!(source.read_optional("tokenizer.json").unwrap(), None);

    let source = model(&hub, &cache).revision("v9").build().unwrap();
    let error = source.size("config.json").unwrap_err();
    assert!(matches!(error, SourceError::NoRevision { .. }), "{error:?}");
    assert!(error.to_string().contains("\"v9\""), "{error}");
    assert!(source.read_optional("config.json").is_err());

    let source = Hub::builder("org/tinny").environment([("HOME", "/nonexistent")]);
    let source = source.endpoint(&hub.url).cache(cache.path()).retries(0);
    let error = source.build().unwrap().size("config.json").unwrap_err();
    assert!(matches!(error, SourceError::NoModel { .. }), "{error:?}");
    assert!(error.to_string().contains("org/tinny"), "{error}");
}

#[test]
fn a_refusal_says_how_to_be_let_in() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
    hub.set(|state| state.token = Some("right".to_owned()));
    let source = model(&hub, &cache).build().unwrap();
    let error = source.size("config.json").unwrap_err();
    assert!(
        matches!(
            error,
            SourceError::Unauthorized {
                status: 401,
                with_token: false,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");

    // A licence that was not accepted: the list of files is open, the file is not.
    hub.set(|state| state.gated = Some("model.safetensors".to_owned()));
    let source = model(&hub, &cache).token("right").build().unwrap();
    source.read("config.json").unwrap();
    let error = source.read("model.safetensors").unwrap_err();
    assert!(
        matches!(
            error,
            SourceError::Unauthorized {
                status: 403,
                with_token: true,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("model.safetensors") && error.to_string().contains("licence"),
        "{error}"
    );
}

#[test]
fn offline_names_the_file_that_the_cache_lacks() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
    let offline = || model(&hub, &cache).offline(true).build().unwrap();
    // Nothing in the cache at all, then one file of two.
    for _ in 0..2 {
        let error = offline().read("model.safetensors").unwrap_err();
        assert!(matches!(error, SourceError::NotCached { .. }), "{error:?}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
        assert_eq!(offline().read_optional("model.safetensors").unwrap(), None);
        model(&hub, &cache)
            .build()
            .unwrap()
            .read("config.json")
            .unwrap();
    }
    assert_eq!(offline().read("config.json").unwrap(), b"{\"a\": 1}");
}

#[test]
fn a_hub_that_is_down_leaves_the_cache_usable() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
    let source = model(&hub, &cache).build().unwrap();
    source.read("config.json").unwrap();
    // Port 1 of this machine: nobody listens.
    let down = || model(&hub, &cache).endpoint("http://127.0.0.1:1");
    let source = down().build().unwrap();
    assert_eq!(source.read("config.json").unwrap(), b"{\"a\": 1}");
    let error = source.read("model.safetensors").unwrap_err();
    assert!(matches!(error, SourceError::Network { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("model.safetensors") && text.contains("http://127.0.0.1:1"),
        "{text}"
    );
    assert!(source.read_optional("model.safetensors").is_err());
}

#[test]
fn a_hub_that_is_unwell_is_asked_again() {
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
    hub.set(|state| state.unwell = 1);
    let source = model(&hub, &cache).retries(1).build().unwrap();
    source.commit().unwrap();
    hub.set(|state| state.unwell = 1);
    assert_eq!(source.read("model.safetensors").unwrap(), vec![7; 100_000]);

    let cache = TempDir::new().unwrap();
    hub.set(|state| state.unwell = 1);
    let source = model(&hub, &cache).build().unwrap();
    let error = source.size("config.json").unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
}

/// Catches a start of the file appended to its own middle.
#[test]
fn an_interrupted_download_is_resumed() {
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    for there in [40_000, 100_000, 100_001] {
        let mut files = two_files();
        files.insert("model.safetensors".to_owned(), bytes.clone());
        let (hub, cache) = (Loopback::serve(files), TempDir::new().unwrap());
        let source = model(&hub, &cache).retries(1).build().unwrap();
        // Download once to learn the blob's name, then make it a half-done download.
        source.read("model.safetensors").unwrap();
        let folder = cache.path().join("models--org--tiny");
        let file = folder
            .join("snapshots")
            .join(FIRST)
            .join("model.safetensors");
        let blob = std::fs::canonicalize(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::remove_file(&blob).unwrap();
        let mut half = bytes.clone();
        half.resize(there, 0);
        std::fs::write(blob.with_extension("part"), half).unwrap();

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
    let (hub, cache) = (Loopback::serve(two_files()), TempDir::new().unwrap());
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

/// Catches a misspelt folder that is answered with nothing but trouble of the network.
#[test]
fn a_name_that_is_neither_here_nor_on_the_hub_says_both() {
    let cache = TempDir::new().unwrap();
    for name in ["nope", "org/nope", "my model"] {
        let config = LoadConfig::new(name).cache(cache.path()).offline(true);
        let error = config.open().unwrap_err();
        let firebox::Error::Source(SourceError::NotHere { .. }) = error else {
            panic!("{name}: {error:?}");
        };
        let text = error.to_string();
        let here = format!("no folder or file {name:?} exists here");
        assert!(text.contains(&here) && text.contains("hub"), "{text}");
    }
    // A path is never looked up.
    let error = LoadConfig::new("./nope").open().unwrap_err();
    assert!(
        matches!(
            error,
            firebox::Error::Source(SourceError::NotAModelPath { .. })
        ),
        "{error:?}"
    );
}

#[test]
fn ids_and_revisions_that_are_paths_are_refused() {
    for id in [
        "",
        "/",
        "a/b/c",
        "../x",
        "a/..",
        ".hidden/x",
        "a b/c",
        "a/b--c",
        "a\\b",
        "a/b?x",
    ] {
        let error = Hub::builder(id).build().unwrap_err();
        assert!(
            matches!(error, SourceError::BadId { .. }),
            "{id:?}: {error}"
        );
        assert!(error.to_string().contains(&format!("{id:?}")), "{error}");
    }
    for revision in ["", "..", "a/../../b", "/etc", "a b", "a?b"] {
        let error = Hub::builder(ID).revision(revision).build().unwrap_err();
        assert!(
            matches!(error, SourceError::BadId { .. }),
            "{revision:?}: {error}"
        );
    }
    for id in ["gpt2", "org/name", "Qwen/Qwen2.5-0.5B_x"] {
        assert!(Hub::builder(id).build().is_ok(), "{id}");
    }
}

/// Would catch a token in the logs of everybody who prints a configuration.
#[test]
fn a_configuration_that_is_printed_keeps_its_token() {
    let config = LoadConfig::new("org/name").token("hf_of_mine");
    let printed = format!("{config:?}");
    assert!(printed.contains("org/name"), "{printed}");
    assert!(!printed.contains("hf_of_mine"), "{printed}");
}

/// The whole road of a stranger: a model id, a mirror and an empty cache; then the same without a
/// network. Would catch a program that does not find what its library downloads.
#[cfg(all(feature = "cli", feature = "cpu"))]
#[test]
fn the_program_speaks_from_a_model_id_and_then_offline() {
    let (hub, cache) = (Loopback::serve(tinyrust()), TempDir::new().unwrap());
    let text = |offline: &str| {
        let ran = std::process::Command::new(env!("CARGO_BIN_EXE_firebox"))
            .args(["generate", ID, "--prompt", "To create a new package, run"])
            .args(["--max-new-tokens", "5", "--json"])
            .env("HF_ENDPOINT", &hub.url)
            .env("HF_HOME", cache.path())
            .env("HF_HUB_OFFLINE", offline)
            .env_remove("HF_HUB_CACHE")
            .env_remove("HUGGINGFACE_HUB_CACHE")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "offline {offline}: {said}");
        let answer: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        answer["text"].as_str().unwrap().to_owned()
    };

    let online = text("0");
    assert!(online.starts_with(" the crate"), "{online}");
    assert_eq!(hub.downloads("model-00001-of-00003.safetensors"), 1);

    let requests = hub.log().len();
    assert_eq!(text("1"), online);
    assert_eq!(
        hub.log().len(),
        requests,
        "offline, and still asked the hub"
    );
}
