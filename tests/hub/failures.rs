//! What is not there, not allowed, not reachable or no name: each told apart.

use std::{fs, io::Write};

use firebox::{
    Error, LoadConfig,
    source::{Hub, Source, SourceError, SourceExt},
};
use flate2::{Compression, write::GzEncoder};
use tempfile::TempDir;

use super::{loopback::ID, model, serve, two_files};

#[test]
fn what_is_not_there_is_told_apart() {
    let (hub, cache) = serve(two_files());

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
    let (hub, cache) = serve(two_files());
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
    let (hub, cache) = serve(two_files());
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
    let (hub, cache) = serve(two_files());
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
    let (hub, cache) = serve(two_files());
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

/// A hub or a proxy that does not stop. Catches a download that compares lengths only at the end, and fills the disk.
#[test]
fn a_file_longer_than_announced_is_left_at_its_first_byte_too_many() {
    let (hub, cache) = serve(two_files());
    hub.set(|state| state.overlong = 256 << 20);
    for file in ["config.json", "model.safetensors"] {
        let source = model(&hub, &cache).build().unwrap();
        let error = source.read(file).unwrap_err();
        assert!(matches!(error, SourceError::Network { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(file) && text.contains("more than"), "{text}");
    }
    let blobs = fs::read_dir(cache.path().join("models--org--tiny/blobs")).unwrap();
    let bytes: u64 = blobs
        .map(|blob| blob.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(bytes, 0, "nothing of a wrong file stays");
}

/// 64 MiB in 64 KiB. Catches a limit that counts packed bytes, which gigabytes pass, and an answer that is asked for again although it
/// would be the same.
#[test]
fn a_packed_list_of_files_is_left_at_its_limit() {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&vec![b' '; 64 << 20]).unwrap();
    let (hub, cache) = serve(two_files());
    hub.set(|state| state.packed_listing = Some(gzip.finish().unwrap()));
    let source = model(&hub, &cache).retries(3).build().unwrap();
    let error = source.commit().unwrap_err();
    assert!(matches!(error, SourceError::Network { .. }), "{error:?}");
    assert!(error.to_string().contains("10485760"), "{error}");
    assert_eq!(hub.log().len(), 1);
}

/// Catches a client that follows a loop, or a redirect to a file of this machine.
#[test]
fn redirects_without_end_or_to_no_address_are_errors() {
    for (place, why) in [("", "redirects more than"), ("file://", "no http address")] {
        let (hub, cache) = serve(two_files());
        let place = match place {
            "" => hub.url.clone(),
            place => place.to_owned(),
        };
        hub.set(|state| state.listing_at = Some(place));
        let error = model(&hub, &cache).build().unwrap().commit().unwrap_err();
        assert!(matches!(error, SourceError::Network { .. }), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
    }
}

/// Catches a misspelt folder that is answered with nothing but trouble of the network.
#[test]
fn a_name_that_is_neither_here_nor_on_the_hub_says_both() {
    let cache = TempDir::new().unwrap();
    for name in ["nope", "org/nope", "my model"] {
        let config = LoadConfig::new(name).cache(cache.path()).offline(true);
        let error = config.open().unwrap_err();
        let Error::Source(SourceError::NotHere { .. }) = error else {
            panic!("{name}: {error:?}");
        };
        let text = error.to_string();
        let here = format!("no folder or file {name:?} exists here");
        assert!(text.contains(&here) && text.contains("hub"), "{text}");
    }
    // A path is never looked up.
    let error = LoadConfig::new("./nope").open().unwrap_err();
    assert!(
        matches!(error, Error::Source(SourceError::NotAModelPath { .. })),
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
