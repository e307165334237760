//! Finished folders that are published on the hub.

use std::process::Command;

use tempfile::TempDir;

use crate::{
    fail, files, firebox,
    hub_writes::{HubWrites, TOKEN},
    proxy::{Fault, Proxy, Rule},
    quantize, succeed,
};

const MODEL: &str = "org/tiny-nf4";

fn finished() -> TempDir {
    let folder = TempDir::new().unwrap();
    succeed(&mut quantize("http://127.0.0.1:9", folder.path()));
    folder
}

fn push(url: &str, folder: &TempDir) -> Command {
    let mut command = firebox("http://127.0.0.1:9");
    command.env("HF_ENDPOINT", url).env("HF_TOKEN", TOKEN);
    command
        .arg("push")
        .arg(folder.path())
        .arg(format!("hf://{MODEL}"));
    command
}

/// Catches a protocol that is not the hub's, a file that is missing, and a token that goes to the storage.
#[test]
fn a_folder_becomes_a_model_in_one_commit() {
    // The smaller files of weights go whole, the larger in parts.
    let (hub, folder) = (HubWrites::serve(600_000), finished());
    let mut first = push(&hub.url, &folder);
    let output = succeed(first.args(["--private", "--message", "Four bits", "--json"]));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["commit"], format!("{:040x}", 1));

    let mut found = hub.files(MODEL);
    let card = String::from_utf8(found.remove("README.md").unwrap()).unwrap();
    assert!(card.starts_with("---\n"), "{card}");
    found.remove(".gitattributes");
    let mut expected = files(folder.path());
    expected.retain(|name, _| !name.starts_with('.'));
    assert_eq!(found, expected);
    assert!(hub.is_private(MODEL));
    assert!(
        hub.large(MODEL)
            .iter()
            .all(|name| name.ends_with(".safetensors"))
    );
    let log = hub.log();
    let parts = log
        .iter()
        .filter(|head| head.method() == "PUT" && head.path().matches('/').count() == 2);
    let whole = log
        .iter()
        .filter(|head| head.method() == "PUT" && head.path().matches('/').count() == 1);
    assert!(parts.count() > 2 && whole.count() > 0);
    for head in log
        .iter()
        .filter(|head| head.target().contains("signature"))
    {
        let told = head.get("authorization").is_some() && head.method() == "PUT";
        assert!(!told, "the storage was told the token: {}", head.path());
    }

    // The same again changes nothing; other bytes are refused.
    succeed(&mut push(&hub.url, &folder));
    assert_eq!(hub.commits(), 1);
    std::fs::write(folder.path().join("generation_config.json"), "{}").unwrap();
    let error = fail(&mut push(&hub.url, &folder), 1);
    assert!(
        error.contains("generation_config.json: is there already"),
        "{error}"
    );
    succeed(push(&hub.url, &folder).arg("--replace"));
    assert_eq!(hub.files(MODEL)["generation_config.json"], b"{}");
    assert_eq!(hub.commits(), 2);
}

/// Catches an upload that is not tried again, and a redirect that takes the token along.
#[test]
fn faults_of_the_hub_are_survived_or_named() {
    let (hub, folder) = (HubWrites::serve(u64::MAX), finished());
    let proxy = Proxy::before(&hub.url);
    proxy.add(Rule::new(Fault::Status(503)).at("preupload").times(2));
    proxy.add(Rule::new(Fault::HangUp).at("/lfs/objects/batch").times(1));
    proxy.add(Rule::new(Fault::Status(500)).at("/verify/").times(1));
    succeed(&mut push(&proxy.url, &folder));
    assert_eq!(proxy.faults(), 4);
    assert_eq!(hub.commits(), 1);

    let elsewhere = HubWrites::serve(u64::MAX);
    proxy.heal();
    proxy.add(Rule::new(Fault::MoveTo(elsewhere.url.clone())));
    let error = fail(&mut push(&proxy.url, &folder), 1);
    assert!(error.contains("another host"), "{error}");
    assert!(elsewhere.log().is_empty());
    proxy.heal();
    proxy.add(Rule::new(Fault::Loop));
    let error = fail(&mut push(&proxy.url, &folder), 1);
    assert!(error.contains("redirects more than"), "{error}");
}

/// Catches errors that do not say what to do, and a token that is printed.
#[test]
fn a_token_that_may_not_write_is_named_by_its_variable() {
    let (hub, folder) = (HubWrites::serve(u64::MAX), finished());
    let error = fail(push(&hub.url, &folder).env("HF_TOKEN", "hf_MARKEDOTHER"), 1);
    assert!(
        error.contains("401") && error.contains("HF_TOKEN"),
        "{error}"
    );
    let error = fail(push(&hub.url, &folder).env("HF_TOKEN", ""), 1);
    assert!(error.contains("no token"), "{error}");
    assert!(hub.files(MODEL).is_empty());
}

/// Catches a comparison that believes the hub's first answer.
#[test]
fn damaged_bytes_are_found() {
    let (hub, folder) = (HubWrites::serve(u64::MAX), finished());
    succeed(&mut push(&hub.url, &folder));
    hub.damage();
    let error = fail(&mut push(&hub.url, &folder), 1);
    assert!(error.contains("with other bytes"), "{error}");
}
