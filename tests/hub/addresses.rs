//! What people have of a model besides its id.

use firebox::{
    Error, LoadConfig,
    source::{Checkpoint, CheckpointError, Hub, Source, SourceError},
};
use std::sync::Arc;

use super::{ID, loopback, model, serve, tinyrust};

/// Catches an address that is taken for a path, and a revision that is dropped.
#[test]
fn addresses_of_a_model_are_understood() {
    let commit = "0123456789012345678901234567890123456789";
    for (given, means) in [
        ("org/name/", "org/name@main"),
        ("org/name@v1", "org/name@v1"),
        ("hf://org/name", "org/name@main"),
        ("hf://models/org/name@v1", "org/name@v1"),
        ("models--org--name", "org/name@main"),
        ("https://huggingface.co/org/name", "org/name@main"),
        ("https://huggingface.co/org/name/", "org/name@main"),
        (
            "http://www.huggingface.co/org/name?library=transformers#usage",
            "org/name@main",
        ),
        ("https://huggingface.co/org/name.git", "org/name@main"),
        ("huggingface.co/org/name", "org/name@main"),
        ("hf.co/org/name", "org/name@main"),
        ("https://hf.co/org/name/tree/main", "org/name@main"),
        ("https://huggingface.co/org/name/tree/v1", "org/name@v1"),
        (
            "https://huggingface.co/org/name/tree/refs%2Fpr%2F3",
            "org/name@refs/pr/3",
        ),
        (
            "https://huggingface.co/org/name/resolve/refs/pr/3/config.json",
            "org/name@refs/pr/3",
        ),
        (
            "https://huggingface.co/org/name/blob/v1/config.json",
            "org/name@v1",
        ),
        (
            "https://huggingface.co/org/name/resolve/v1/model.safetensors?download=true",
            "org/name@v1",
        ),
        (
            &format!("https://huggingface.co/org/name/commit/{commit}"),
            &format!("org/name@{commit}"),
        ),
        (
            "https://huggingface.co/org/name/discussions/7",
            "org/name@main",
        ),
        (
            "https://huggingface.co/api/models/org/name",
            "org/name@main",
        ),
        (
            "https://huggingface.co/api/models/org/name/revision/v1",
            "org/name@v1",
        ),
        ("https://huggingface.co/gpt2/tree/main", "gpt2@main"),
        (
            "https://mirror.example:8443/org/name/tree/v1",
            "org/name@v1",
        ),
        ("mirror.example:8443/org/name", "org/name@main"),
    ] {
        let hub = Hub::builder(given).endpoint("https://mirror.example:8443/");
        let hub = hub.environment([("HOME", "/nonexistent")]).build();
        assert_eq!(hub.expect(given).describe(), means, "{given}");
    }
}

/// Catches a request, and a token with it, to whatever host an address has.
#[test]
fn addresses_of_something_else_are_refused() {
    for (given, why) in [
        (
            "https://example.com/org/name",
            "example.com is not the hub, which is https://mirror.example",
        ),
        ("https://huggingface.co.example.com/org/name", "HF_ENDPOINT"),
        ("https://huggingface.co/datasets/org/name", "no model"),
        ("https://huggingface.co/spaces/org/name", "no model"),
        ("https://huggingface.co/", "org/name"),
        ("s3://bucket/model", "s3://"),
        ("file:///models/x", "path of a folder"),
        ("https://huggingface.co/a/b/c", "one slash"),
    ] {
        let hub = Hub::builder(given).endpoint("https://mirror.example");
        let error = hub
            .environment([("HOME", "/nonexistent")])
            .build()
            .unwrap_err();
        assert!(
            matches!(error, SourceError::BadId { .. }),
            "{given}: {error:?}"
        );
        let text = error.to_string();
        assert!(text.contains(why) && text.contains(given), "{text}");
    }
    let twice = Hub::builder("org/name@v1").revision("v2").build();
    let text = twice.unwrap_err().to_string();
    assert!(text.contains("v2") && text.contains("v1"), "{text}");
    let same = Hub::builder("org/name@v1").revision("v1").build();
    assert_eq!(same.unwrap().describe(), "org/name@v1");
}

/// Requests go to the endpoint. Catches an address that is asked of its own host.
#[test]
fn an_address_is_asked_of_the_endpoint() {
    let (hub, cache) = serve(tinyrust());
    let url = format!("https://huggingface.co/{ID}/tree/main");
    for given in [url, format!("{}/{ID}", hub.url)] {
        let source = Hub::builder(given).environment([("HOME", "/nonexistent")]);
        let source = source
            .endpoint(&hub.url)
            .cache(cache.path())
            .retries(0)
            .build();
        Checkpoint::open(Arc::new(source.unwrap())).unwrap();
    }
    let by_id = Checkpoint::open(Arc::new(model(&hub, &cache).build().unwrap())).unwrap();
    assert!(by_id.catalog().len() > 10);
    assert!(
        hub.log()
            .iter()
            .any(|request: &loopback::Request| request.path.contains(ID))
    );
}

/// The road of a load. Catches an address that is looked up as a folder, and a folder that is looked up on the hub.
#[test]
fn a_load_takes_addresses_for_models_of_the_hub() {
    let cache = tempfile::TempDir::new().unwrap();
    for name in [
        "https://huggingface.co/org/nope",
        "hf.co/org/nope/tree/main",
        "hf://org/nope",
        "org/nope/",
    ] {
        let config = LoadConfig::new(name).cache(cache.path()).offline(true);
        let error = config.open().unwrap_err();
        let is_right = match error {
            // An address with a scheme was not meant as a folder.
            Error::Checkpoint(CheckpointError::Source(SourceError::NotCached { .. })) => {
                name.contains("hf://")
            }
            Error::Source(SourceError::NotHere { .. }) => !name.contains("hf://"),
            _ => false,
        };
        assert!(is_right, "{name}: {error:?}");
    }
    for name in ["nope/", "./org/nope/", "a/b/nope/"] {
        let error = LoadConfig::new(name).open().unwrap_err();
        assert!(
            matches!(error, Error::Source(SourceError::NotAModelPath { .. })),
            "{error:?}"
        );
    }
}
