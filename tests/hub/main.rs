//! The hub source against a hub on this machine: what it asks, keeps and says.
#![cfg(feature = "hub")]

mod addresses;
mod downloads;
mod failures;
#[path = "../common/http.rs"]
mod http;
#[path = "../common/loopback.rs"]
mod loopback;
mod opening;
mod resolving;
mod tokens;

use std::{fs, path::Path};

use firebox::source::{Hub, HubBuilder};
use loopback::{Files, ID, Loopback};
use tempfile::TempDir;

/// The files of `assets/tinyrust`.
fn tinyrust() -> Files {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tinyrust");
    fs::read_dir(folder)
        .unwrap()
        .map(|file| {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            (name, fs::read(file.path()).unwrap())
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

/// Bytes of which each differs from the next.
fn counted(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// A hub with these files, and an empty cache.
fn serve(files: Files) -> (Loopback, TempDir) {
    (Loopback::serve(files), TempDir::new().unwrap())
}

/// A model on `hub`, cached in `cache`, and nothing from this process's environment.
fn model(hub: &Loopback, cache: &TempDir) -> HubBuilder {
    Hub::builder(ID)
        .environment([("HOME", "/nonexistent")])
        .endpoint(&hub.url)
        .cache(cache.path())
        .retries(0)
}
