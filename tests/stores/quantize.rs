//! Checkpoints that are written to an object store while they are made.

use tempfile::TempDir;

use crate::{
    expected, fail, files, firebox, large,
    proxy::{Fault, Proxy, Rule},
    quantize, run,
    s3::{BUCKET, S3Server},
    same, succeed, tinyrust,
};

/// The objects are the files of a folder, byte for byte; none has its name before all weights are there, and the configuration
/// comes last.
#[test]
fn a_store_gets_what_a_folder_gets_and_sees_nothing_before_it_is_whole() {
    let (s3, expected) = (S3Server::start(), expected());
    let proxy = Proxy::before(&s3.url);
    succeed(&mut quantize(&proxy.url, "s3://models/org/q"));
    same(&s3.objects("org/q"), &expected);
    assert_eq!(s3.open_uploads(), 0);

    let log = proxy.log();
    let puts = log.iter().filter(|passed| passed.head.method() == "PUT");
    let targets: Vec<&str> = puts.map(|passed| passed.head.path()).collect();
    let named = |path: &str| !path.contains("/.firebox-");
    let first = targets.iter().position(|path| named(path)).unwrap();
    let parts = targets
        .iter()
        .rposition(|path| path.contains("unpublished"));
    assert!(parts.unwrap() < first, "{targets:?}");
    let last = targets.iter().rfind(|path| named(path));
    assert_eq!(last, Some(&"/models/org/q/config.json"));
    let shards = expected
        .keys()
        .filter(|name| name.ends_with(".safetensors"));
    assert!(shards.count() > 2);

    // The same again finds nothing to do, and without --resume nothing is touched.
    let again = succeed(quantize(&proxy.url, "s3://models/org/q").arg("--resume"));
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(said.contains("nothing was left to do"), "{said}");
    let error = fail(&mut quantize(&proxy.url, "s3://models/org/q"), 1);
    assert!(error.contains("s3://models/org/q is not empty"), "{error}");
    same(&s3.objects("org/q"), &expected);
}

/// A file of weights of many parts, with late tensors and a header that is written last.
#[test]
fn files_of_many_parts_are_whole() {
    let (s3, folder) = (S3Server::start(), TempDir::new().unwrap());
    let source = folder.path().join("source");
    large(&source, 7);
    let here = folder.path().join("here");
    let convert = |out: &std::ffi::OsStr| {
        let mut command = firebox(&s3.url);
        succeed(command.arg("convert").arg(&source).arg("--out").arg(out));
    };
    convert(here.as_os_str());
    convert("s3://models/dense".as_ref());
    same(&s3.objects("dense"), &files(&here));
    assert!(s3.objects("dense")["model.safetensors"].len() > 3 * (8 << 20));
}

/// One file with everything in it, or its parts, of which the first has the keys; both are read where they are.
#[test]
fn a_gguf_file_is_written_to_a_store_as_to_a_folder() {
    let s3 = S3Server::start();
    for (name, more) in [("whole", &[][..]), ("parts", &["--shard-size", "800KB"])] {
        let folder = TempDir::new().unwrap();
        let quantize = |out: &std::ffi::OsStr| {
            let mut command = firebox(&s3.url);
            command.arg("quantize").arg(tinyrust());
            command.args(["--quant", "q8_0", "--to", "gguf"]).args(more);
            succeed(command.arg("--out").arg(out));
        };
        quantize(folder.path().as_os_str());
        let expected = files(folder.path());
        let address = format!("s3://models/{name}");
        quantize(address.as_ref());
        same(&s3.objects(name), &expected);
        assert_eq!(s3.open_uploads(), 0);
        let weights = expected.keys().filter(|name| name.ends_with(".gguf"));
        assert_eq!(weights.count() > 1, name == "parts");
        let inspect = |model: &std::ffi::OsStr| {
            let mut command = firebox(&s3.url);
            let inspected = succeed(command.arg("inspect").arg("--json").arg(model));
            let json: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
            json["tensors"].clone()
        };
        let found = inspect(address.as_ref());
        assert_eq!(found, inspect(folder.path().as_os_str()));
        assert!(
            found.is_number() || found.as_array().is_some_and(|all| !all.is_empty()),
            "{found}"
        );
    }
}

/// Objects of somebody else are neither overwritten nor mixed with.
#[test]
fn objects_of_a_stranger_are_left_alone() {
    let s3 = S3Server::start();
    s3.put("theirs/notes.txt", b"mine".to_vec());
    let before = s3.objects("");
    for more in [&[][..], &["--resume"]] {
        let error = fail(quantize(&s3.url, "s3://models/theirs").args(more), 1);
        assert!(error.contains("s3://models/theirs is not empty"), "{error}");
    }
    assert_eq!(s3.objects(""), before);
    // A folder whose name only begins alike is another one.
    succeed(&mut quantize(&s3.url, "s3://models/their"));
}

/// Lost connections, a server that is busy, an answer that does not come back.
#[test]
fn faults_of_a_store_change_nothing() {
    let (s3, expected) = (S3Server::start(), expected());
    let proxy = Proxy::before(&s3.url);
    for rule in [
        Rule::new(Fault::Status(503)).at("partNumber").times(2),
        Rule::new(Fault::HangUp).at("partNumber").skip(1).times(2),
        Rule::new(Fault::TooMany { retry_after: 1 })
            .at("uploads")
            .times(1),
        // The object is there, and nobody knows of it.
        Rule::new(Fault::LoseAnswer)
            .method("POST")
            .at("uploadId")
            .times(1),
        Rule::new(Fault::LoseAnswer)
            .method("PUT")
            .at("journal")
            .skip(1)
            .times(1),
        Rule::new(Fault::Status(500)).at("config.json").times(1),
    ] {
        proxy.add(rule);
    }
    succeed(&mut quantize(&proxy.url, "s3://models/q"));
    same(&s3.objects("q"), &expected);
    assert_eq!(s3.open_uploads(), 0);
    assert!(proxy.faults() >= 8, "{} faults", proxy.faults());
}

/// Source and output in a store: no file on this machine, each byte of the source once.
#[test]
fn a_store_is_quantized_into_a_store_without_a_disk() {
    let (s3, expected) = (S3Server::start(), expected());
    s3.put_folder("source", &tinyrust());
    let (proxy, place) = (Proxy::before(&s3.url), TempDir::new().unwrap());
    let mut command = firebox(&proxy.url);
    command
        .args(["quantize", "s3://models/source", "--out", "s3://models/q"])
        .args(crate::SHARDS)
        .current_dir(place.path())
        .env("HOME", place.path())
        .env("TMPDIR", place.path());
    succeed(&mut command);
    let mut found = s3.objects("q");
    // Where a save comes from is part of its record.
    let record = ".firebox-saved.json";
    assert!(found.remove(record).is_some());
    let others = expected.into_iter().filter(|(name, _)| name != record);
    same(&found, &others.collect());
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    let weights: u64 = files(&tinyrust())
        .iter()
        .filter(|(name, _)| name.ends_with(".safetensors"))
        .map(|(_, bytes)| bytes.len() as u64)
        .sum();
    let fetched = proxy.sent("/source/model-0");
    let headers = 3 * (64 << 10);
    assert!(
        (weights..=weights + headers).contains(&fetched),
        "{fetched} bytes of {weights}"
    );
}

/// What cannot be written to is refused by name, without what is secret in it.
#[test]
fn other_addresses_are_refused_by_name() {
    for (out, expected) in [
        ("https://example.org/q", "plain HTTP"),
        ("hf://org/name", "firebox push"),
        ("s3://user:pass@models/q", "keys and signatures"),
        ("s3://models/q/model.safetensors", "names a file"),
    ] {
        let error = fail(&mut quantize("http://127.0.0.1:9", out), 1);
        assert!(error.contains(expected), "{out}: {error}");
        assert!(!error.contains("pass@"), "{error}");
    }
}

/// `merge` and `--json` with an output in a store, and a bucket that does not exist.
#[test]
fn the_answer_names_the_address() {
    let s3 = S3Server::start();
    let output = succeed(quantize(&s3.url, "s3://models/q").arg("--json"));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["folder"], "s3://models/q");
    assert_eq!(BUCKET, "models");
    let lost = run(&mut quantize(&s3.url, "s3://nowhere/q"));
    assert_eq!(lost.status.code(), Some(1));
    let said = String::from_utf8_lossy(&lost.stderr);
    assert!(said.contains("NoSuchBucket"), "{said}");
}
