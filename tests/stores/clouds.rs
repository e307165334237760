//! Azure and Google: read, written, published.

use tempfile::TempDir;

use crate::{
    SHARDS,
    blobs::{Blobs, Cloud, SAS},
    expected, fail, files, firebox, large, same, succeed, tinyrust,
};

/// The program, with the keys of a cloud and of no other.
fn reaching(cloud: &Blobs) -> std::process::Command {
    let mut command = firebox("http://127.0.0.1:9");
    for name in ["AZURE_STORAGE_SAS_TOKEN", "GOOGLE_SERVICE_ACCOUNT_KEY"] {
        command.env_remove(name);
    }
    command.envs(cloud.environment());
    command
}

/// Catches a dialect of uploads, lists, conditions or copies that is not the cloud's, and a key that is not sent.
#[test]
fn a_model_is_quantized_from_and_to_every_cloud() {
    let expected = expected();
    let record = ".firebox-saved.json";
    for kind in [Cloud::Azure, Cloud::Google] {
        let cloud = Blobs::serve(kind);
        cloud.put_folder("org/source", &tinyrust());
        let (from, to) = (cloud.address("org/source"), cloud.address("org/q"));
        let quantize = |more: &[&str]| {
            let mut command = reaching(&cloud);
            command
                .args(["quantize", &from, "--out", &to])
                .args(SHARDS)
                .args(more);
            command
        };
        succeed(&mut quantize(&[]));
        let mut found = cloud.objects("org/q");
        // Where a save comes from is part of its record.
        assert!(found.remove(record).is_some(), "{kind:?}");
        let others = expected.iter().filter(|(name, _)| *name != record);
        same(
            &found,
            &others
                .map(|(name, bytes)| (name.clone(), bytes.clone()))
                .collect(),
        );
        assert_eq!(cloud.open_parts(), 0, "{kind:?}");
        let again = succeed(&mut quantize(&["--resume"]));
        assert!(
            String::from_utf8_lossy(&again.stdout).contains("nothing was left to do"),
            "{kind:?}"
        );
        let error = fail(&mut quantize(&[]), 1);
        assert!(error.contains("is not empty"), "{error}");
        // It lists its files, of which shards without an index are found.
        let inspected = succeed(reaching(&cloud).args(["inspect", &to]));
        assert!(String::from_utf8_lossy(&inspected.stdout).contains("fetched"));

        // Wrong keys are refused by the names of their variables.
        let mut stranger = reaching(&cloud);
        let (variable, value) = match kind {
            Cloud::Azure => ("AZURE_STORAGE_ACCOUNT_NAME", "another"),
            Cloud::Google => ("GOOGLE_BEARER_TOKEN", "MARKEDWRONG"),
        };
        let error = fail(stranger.env(variable, value).args(["inspect", &from]), 1);
        assert!(
            error.contains("403") && error.contains("AZURE_") | error.contains("GOOGLE_"),
            "{error}"
        );
    }
}

/// Files of many parts, with those tensors that come last; and a finished folder that is published.
#[test]
fn uploads_of_many_parts_are_whole_in_every_cloud() {
    let folder = TempDir::new().unwrap();
    let (source, here) = (folder.path().join("source"), folder.path().join("here"));
    large(&source, 7);
    for kind in [Cloud::Azure, Cloud::Google] {
        let cloud = Blobs::serve(kind);
        let to = cloud.address("dense");
        let convert = |out: &std::ffi::OsStr| {
            succeed(
                reaching(&cloud)
                    .arg("convert")
                    .arg(&source)
                    .arg("--out")
                    .arg(out),
            );
        };
        if !here.exists() {
            convert(here.as_os_str());
        }
        convert(to.as_ref());
        same(&cloud.objects("dense"), &files(&here));
        assert_eq!(cloud.open_parts(), 0, "{kind:?}");

        let push = || {
            let mut push = reaching(&cloud);
            push.arg("push").arg(&here).arg(cloud.address("published"));
            push
        };
        succeed(&mut push());
        let mut published = cloud.objects("published");
        assert!(published.remove("README.md").is_some());
        let mut expected = files(&here);
        expected.retain(|name, _| !name.starts_with('.'));
        same(&published, &expected);
        let puts = || {
            cloud
                .log()
                .iter()
                .filter(|head| head.method() == "PUT")
                .count()
        };
        let before = puts();
        succeed(&mut push());
        assert_eq!(puts(), before, "what is there is sent again");
    }
}

/// A shared access signature goes along with every request, and is part of no name that is said.
#[test]
fn a_shared_access_signature_is_enough() {
    let cloud = Blobs::serve(Cloud::Azure);
    cloud.put_folder("m", &tinyrust());
    let mut command = reaching(&cloud);
    command
        .env_remove("AZURE_STORAGE_ACCOUNT_KEY")
        .env("AZURE_STORAGE_SAS_TOKEN", SAS);
    succeed(command.args(["inspect", &cloud.address("m"), "-vv"]));
    assert!(
        cloud
            .log()
            .iter()
            .all(|head| head.target().contains("MARKEDSAS"))
    );
}
