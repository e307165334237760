//! A model that is larger than the disk that its quantization goes to.

use std::process::Command;

use tempfile::TempDir;

use crate::{files, firebox, large, proxy::Proxy, s3::S3Server, succeed};

/// Bytes of the disk.
const DISK: u64 = 24 << 20;

/// The program alone sees its disk: in a namespace of its own it is made, filled, and copied from.
const SCRIPT: &str = "mount -t tmpfs -o size=24m none \"$1\" && cd \"$1\" && shift && \"$@\" && cp -r \"$PWD/out\" \"$COPY\" && \
                      ls -A \"$PWD\"";

/// Catches a copy of the source on the disk, and weights that are fetched twice.
#[test]
fn a_model_larger_than_the_disk_is_quantized_from_a_store() {
    let disk = TempDir::new().unwrap();
    let inside = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", script, "sh"]);
        command.arg(disk.path());
        command
    };
    let probe = inside("mount -t tmpfs -o size=1m none \"$1\"").output();
    let reason = match &probe {
        Ok(probe) if probe.status.success() => None,
        Ok(probe) => Some(String::from_utf8_lossy(&probe.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = reason {
        println!("skipped: no tmpfs can be mounted here: {}", reason.trim());
        return;
    }

    let (s3, place) = (S3Server::start(), TempDir::new().unwrap());
    let source = place.path().join("source");
    let weights = large(&source, 10);
    let is_weights = |name: &str| name.ends_with(".safetensors");
    assert!(weights > DISK + (DISK / 2), "{weights} bytes of weights");
    s3.put_folder("source", &source);

    let quant = ["--quant", "nf4", "--to", "bitsandbytes"];
    let proxy = Proxy::before(&s3.url);
    let copy = place.path().join("copy");
    let mut command = inside(SCRIPT);
    let program = firebox(&proxy.url);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .env("COPY", &copy)
        .env("TMPDIR", disk.path())
        .env("HOME", disk.path());
    command.arg(program.get_program());
    command
        .args(["quantize", "s3://models/source", "--out", "out"])
        .args(quant);
    let output = succeed(&mut command);
    let listed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        listed.lines().last(),
        Some("out"),
        "more than the output is on the disk"
    );
    let fetched = proxy.sent("/source/model");
    let headers = 256 << 10;
    assert!(
        (weights..=weights + headers).contains(&fetched),
        "{fetched} bytes were fetched of {weights}"
    );

    // The same as from a folder.
    let here = place.path().join("here");
    let mut command = firebox(&s3.url);
    command.arg("quantize").arg(&source).arg("--out").arg(&here);
    succeed(command.args(quant));
    let of_weights = |folder| {
        let mut files = files(folder);
        files.retain(|name, _| is_weights(name));
        files
    };
    assert!(of_weights(&here) == of_weights(&copy));
}
