//! Finished folders that are published in an object store.

use std::{ffi::OsStr, fs};

use tempfile::TempDir;

#[cfg(feature = "hub")]
use crate::loopback::{ID, Loopback};
use crate::{
    fail, files, firebox,
    proxy::{Fault, Proxy, Rule},
    quantize,
    s3::S3Server,
    succeed, tinyrust,
};

const SHA256_OF_EMPTY: usize = 64;

/// A finished folder in NF4.
fn finished() -> TempDir {
    let folder = TempDir::new().unwrap();
    succeed(&mut quantize("http://127.0.0.1:9", folder.path()));
    folder
}

/// All files but the program's own arrive with their bytes, and a card that says what is known.
#[test]
fn a_folder_is_published_with_a_card() {
    let (s3, folder) = (S3Server::start(), finished());
    let push = |more: &[&str]| {
        let mut command = firebox(&s3.url);
        command.arg("push").arg(folder.path());
        command.args([
            "s3://models/org/tiny-nf4",
            "--base-model",
            "org/tiny",
            "--json",
        ]);
        command.args(more);
        command
    };
    let source = tinyrust();
    let output = succeed(&mut push(&["--against", source.to_str().unwrap()]));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["to"], "s3://models/org/tiny-nf4");

    let mut found = s3.objects("org/tiny-nf4");
    let card = String::from_utf8(found.remove("README.md").unwrap()).unwrap();
    let mut expected = files(folder.path());
    expected.retain(|name, _| !name.starts_with('.'));
    assert_eq!(found, expected);
    let names: Vec<&str> = answer["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            assert_eq!(file["sha256"].as_str().unwrap().len(), SHA256_OF_EMPTY);
            file["name"].as_str().unwrap()
        })
        .collect();
    assert_eq!(names.last(), Some(&"config.json"));

    for line in [
        "base_model: \"org/tiny\"",
        "base_model_relation: quantized",
        "library_name: transformers",
        "- \"bitsandbytes\"",
        "- \"nf4\"",
        "- \"4-bit\"",
        "  method: \"bitsandbytes\"",
        "| method | `nf4:block=64` |",
        "firebox quantize org/tiny --quant nf4:block=64 --shard-size 800KB --out DIR",
    ] {
        assert!(card.contains(line), "{line} is missing in\n{card}");
    }
    // What `firebox verify` measured for this model, of which `src/docs` says 20 dB for NF4.
    let mut verify = firebox(&s3.url);
    verify
        .arg("verify")
        .arg(folder.path())
        .arg("--against")
        .arg(&source)
        .arg("--json");
    let report: serde_json::Value = serde_json::from_slice(&succeed(&mut verify).stdout).unwrap();
    let packed = report["tensors"].as_array().unwrap().iter();
    let worst = packed
        .filter_map(|tensor| tensor["sqnr_db"].as_f64())
        .fold(f64::MAX, f64::min);
    assert!(
        card.contains(&format!("{worst:.2} dB")),
        "{worst} is missing in\n{card}"
    );
    assert!(!card.contains(folder.path().to_str().unwrap()), "{card}");

    // The same again sends nothing; a changed file is refused, and replaced if asked for.
    let again = succeed(&mut push(&["--against", source.to_str().unwrap()]));
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    let there = again["files"].as_array().unwrap().iter();
    assert!(there.clone().all(|file| file["was_there"] == true));
    fs::write(folder.path().join("generation_config.json"), "{}").unwrap();
    let error = fail(&mut push(&["--against", source.to_str().unwrap()]), 1);
    assert!(
        error.contains("generation_config.json: is there already"),
        "{error}"
    );
    succeed(&mut push(&["--replace"]));
    let found = s3.objects("org/tiny-nf4");
    assert_eq!(found["generation_config.json"], b"{}");
    let card = String::from_utf8_lossy(&found["README.md"]);
    assert!(card.contains("were not measured"), "{card}");
}

/// A model of the hub is known without being named; of a configuration, an id is, and a path is not.
#[cfg(feature = "hub")]
#[test]
fn the_card_names_the_model_that_was_read() {
    let (s3, place) = (S3Server::start(), TempDir::new().unwrap());
    let hub = Loopback::serve(files(&tinyrust()));
    let card = |model: &OsStr, out: &str, more: &[&str]| {
        let mut save = firebox(&s3.url);
        let out = place.path().join(out);
        save.arg("quantize")
            .arg(model)
            .args(["--quant", "nf4", "--out"]);
        succeed(
            save.arg(&out)
                .args(more)
                .env("HF_ENDPOINT", &hub.url)
                .env("HF_HOME", place.path()),
        );
        let mut push = firebox(&s3.url);
        succeed(
            push.arg("push")
                .arg(&out)
                .args(["s3://models/p", "--replace"]),
        );
        String::from_utf8(s3.objects("p").remove("README.md").unwrap()).unwrap()
    };
    for (nth, more) in [&["--no-cache"][..], &[]].into_iter().enumerate() {
        let card = card(ID.as_ref(), &format!("of-hub-{nth}"), more);
        assert!(card.contains("base_model: \"org/tiny\""), "{card}");
        assert!(
            card.contains("firebox quantize org/tiny --quant nf4:block=64 --out DIR"),
            "{card}"
        );
    }
    for (nth, (name, expected)) in [
        ("\"org/of-config\"", "base_model: \"org/of-config\""),
        ("\"/home/me/llama\"", "firebox quantize MODEL"),
        ("\"\"", "firebox quantize MODEL"),
    ]
    .into_iter()
    .enumerate()
    {
        let source = place.path().join(format!("source-{nth}"));
        fs::create_dir(&source).unwrap();
        for (file, mut bytes) in files(&tinyrust()) {
            if file == "config.json" {
                let config = String::from_utf8(bytes).unwrap();
                bytes = config
                    .replacen('{', &format!("{{\"_name_or_path\": {name},"), 1)
                    .into_bytes();
            }
            fs::write(source.join(file), bytes).unwrap();
        }
        let card = card(source.as_os_str(), &format!("of-config-{nth}"), &[]);
        assert!(
            card.contains(expected) && !card.contains("/home/me"),
            "{card}"
        );
    }
}

/// Catches a comparison that is none: the store gives other bytes back than it was sent.
#[test]
fn damaged_bytes_are_found() {
    let (s3, folder) = (S3Server::start(), finished());
    let proxy = Proxy::before(&s3.url);
    proxy.add(
        Rule::new(Fault::Replaced)
            .method("GET")
            .at("model-00001")
            .times(1),
    );
    let mut push = firebox(&proxy.url);
    let error = fail(push.arg("push").arg(folder.path()).arg("s3://models/p"), 1);
    assert!(
        error.contains("model-00001") && error.contains("SHA-256"),
        "{error}"
    );
    assert!(!s3.objects("p").contains_key("config.json"));
}

/// What is no finished model is not published, and no secret gets into a card.
#[test]
fn unfinished_folders_and_secrets_are_refused() {
    let s3 = S3Server::start();
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    let push = |folder: &TempDir| {
        let mut command = firebox(&s3.url);
        command.arg("push").arg(folder.path()).arg("s3://models/p");
        command
    };
    let error = fail(&mut push(&folder), 1);
    assert!(error.contains("no file of weights"), "{error}");
    let folder = finished();
    fs::write(folder.path().join(".firebox-journal.jsonl"), "").unwrap();
    let error = fail(&mut push(&folder), 1);
    assert!(error.contains("interrupted"), "{error}");
    fs::remove_file(folder.path().join(".firebox-journal.jsonl")).unwrap();
    let error = fail(
        push(&folder).args(["--base-model", "org/MARKEDPASSWORD"]),
        1,
    );
    assert!(error.contains("DEPLOY_PASSWORD"), "{error}");
    assert!(s3.objects("p").is_empty());
}

/// The errors of an earlier report are those of the card, and the folder's own README.md stays.
#[test]
fn a_report_is_enough_and_a_card_of_ones_own_stays() {
    let (s3, folder) = (S3Server::start(), finished());
    let report = TempDir::new().unwrap();
    let report = report.path().join("report.json");
    fs::create_dir_all(report.parent().unwrap()).unwrap();
    let mut verify = firebox(&s3.url);
    verify
        .arg("verify")
        .arg(folder.path())
        .arg("--against")
        .arg(tinyrust())
        .arg("--json");
    fs::write(&report, succeed(&mut verify).stdout).unwrap();
    let mut push = firebox(&s3.url);
    push.arg("push")
        .arg(folder.path())
        .arg("s3://models/p")
        .arg("--report")
        .arg(&report);
    succeed(&mut push);
    let card = s3.objects("p").remove("README.md").unwrap();
    assert!(String::from_utf8_lossy(&card).contains("| `nf4:block=64` |"));

    fs::write(folder.path().join("README.md"), "# Mine").unwrap();
    let mut push = firebox(&s3.url);
    let output = succeed(push.arg("push").arg(folder.path()).arg("s3://models/own"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("no card was written"));
    assert_eq!(s3.objects("own")["README.md"], b"# Mine");
}
