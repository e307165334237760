//! The program and what is not on this machine: checkpoints written to an object store, and published there and on the hub.

#![cfg(all(feature = "cpu", feature = "remote", unix))]
#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]

#[path = "../common/blobs.rs"]
mod blobs;
#[path = "../common/file_server.rs"]
mod file_server;
#[path = "../common/http.rs"]
mod http;
#[cfg(feature = "hub")]
#[path = "../common/hub_writes.rs"]
mod hub_writes;
#[cfg(feature = "hub")]
#[path = "../common/loopback.rs"]
mod loopback;
#[path = "../common/proxy.rs"]
mod proxy;
#[path = "../common/s3.rs"]
mod s3;

mod clouds;
#[cfg(feature = "hub")]
mod hub;
mod interrupted;
mod push;
mod quantize;
#[cfg(feature = "hub")]
mod secrets;
#[cfg(target_os = "linux")]
mod tmpfs;
#[cfg(feature = "hub")]
mod tokens;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use s3::{KEY_ID, S3Server, SECRET};
use safetensors::{Dtype, tensor::TensorView};

/// The model of the repository.
fn tinyrust() -> PathBuf {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let found = folders.find(|folder| folder.join("assets/tinyrust").is_dir());
    found
        .expect("tests run in a checkout of the repository")
        .join("assets/tinyrust")
}

/// Some files of weights of the model in NF4.
const SHARDS: [&str; 4] = ["--quant", "nf4", "--shard-size", "800KB"];

/// The program, with the keys of the store at `url`, and with marks in every other variable that holds a secret.
fn firebox(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firebox"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["AWS_", "HF_", "AZURE_", "GOOGLE_"]
            .iter()
            .any(|start| name.starts_with(start))
        {
            command.env_remove(&*name);
        }
    }
    command
        .envs(S3Server::environment(url))
        .envs(marked())
        .env("HOME", "/nonexistent")
        .env("RUST_LOG", "debug");
    command
}

/// Secrets that no request needs.
fn marked() -> [(&'static str, &'static str); 5] {
    [
        ("HF_TOKEN", "hf_MARKEDTOKEN"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "MARKEDAZUREKEY=="),
        ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=MARKEDSAS"),
        (
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            "{\"private_key\":\"MARKEDGOOGLE\"}",
        ),
        ("DEPLOY_PASSWORD", "MARKEDPASSWORD"),
    ]
}

/// Runs to the end. Nothing that is said has a secret in it.
#[track_caller]
fn run(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    no_secret("stdout", &output.stdout);
    no_secret("stderr", &output.stderr);
    output
}

#[track_caller]
fn no_secret(what: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for secret in ["MARKED", SECRET, "marked-secret"] {
        // The id of a key is no secret: it is in every signature.
        let text = text.replace(KEY_ID, "");
        assert!(!text.contains(secret), "{what} has {secret}: {text}");
    }
}

#[track_caller]
fn succeed(command: &mut Command) -> Output {
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    output
}

/// The error of a run that fails with this exit code.
#[track_caller]
fn fail(command: &mut Command, code: i32) -> String {
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    let error = said.lines().filter(|line| line.starts_with("error: "));
    error.collect::<Vec<_>>().join("\n")
}

/// `firebox quantize` of the model in NF4, in some files of weights.
fn quantize(url: &str, out: impl AsRef<OsStr>) -> Command {
    let mut command = firebox(url);
    command.arg("quantize").arg(tinyrust()).args(SHARDS);
    command.arg("--out").arg(out);
    command
}

/// The files of a folder, all of them.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).expect("a folder");
    let files = files.map(|file| {
        let file = file.expect("a file");
        let name = file.file_name().into_string().expect("UTF-8");
        (name, fs::read(file.path()).expect("a file"))
    });
    files.collect()
}

/// What the same save writes to a folder of this machine.
fn expected() -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::TempDir::new().expect("a folder");
    succeed(&mut quantize("http://127.0.0.1:9", folder.path()));
    files(folder.path())
}

#[track_caller]
fn same(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (name, bytes) in expected {
        assert!(found[name] == *bytes, "{name} has other bytes");
    }
}

/// Writes a checkpoint of no known family to `folder`: so many matrices of 4 MiB in f32, and a vector that is not whole eights of
/// bytes. Bytes of its file of weights.
fn large(folder: &Path, matrices: usize) -> u64 {
    const SIDE: usize = 1 << 10;
    let numbers = |seed: u32, count: usize| -> Vec<u8> {
        let mut state = seed;
        let next = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f32::from((state >> 16) as u16) / 65_536.0 - 0.5).to_le_bytes()
        });
        next.take(count).flatten().collect()
    };
    let names = (0..matrices).map(|nth| format!("model.layers.{nth}.mlp.up_proj.weight"));
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = names
        .zip(1..)
        .map(|(name, seed)| (name, vec![SIDE, SIDE], numbers(seed, SIDE * SIDE)))
        .collect();
    tensors.push(("model.odd".to_owned(), vec![3], numbers(0, 3)));
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes");
        (name.clone(), view)
    });
    fs::create_dir_all(folder).expect("a folder");
    let file = folder.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &file).expect("a file");
    fs::write(
        folder.join("config.json"),
        "{\"model_type\": \"of_no_family\"}",
    )
    .expect("a file");
    file.metadata().expect("a file").len()
}
