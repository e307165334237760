//! The model of the tests, and what becomes of it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use firebox::{
    Cpu, Error, LoadConfig, Loader, SaveConfig,
    model::CausalLm,
    report::Saved,
    source::{Local, Remote, RemoteBuilder, Source},
};
use tempfile::TempDir;

/// A model in three shards.
pub(crate) fn tinyrust() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tinyrust")
}

/// A copy of it, which tests may change.
pub(crate) fn copy() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    for file in fs::read_dir(tinyrust()).expect("a folder") {
        let path = file.expect("an entry").path();
        let name = path.file_name().expect("a name");
        fs::copy(&path, folder.path().join(name)).expect("writable");
    }
    folder
}

/// A remote model and nothing of the environment of this process.
pub(crate) fn remote(address: &str) -> RemoteBuilder {
    Remote::builder(address).environment([("HOME", "/nonexistent")])
}

/// Blocks of 32 KiB, so that the small model is read by many requests.
pub(crate) const IN_FLIGHT: u64 = 360 << 10;

pub(crate) fn quantize(source: Arc<dyn Source>, to: &SaveConfig) -> Result<Saved, Error> {
    let request = LoadConfig::default()
        .quant("nf4".parse()?)
        .in_flight_bytes_max(IN_FLIGHT)
        .source(source);
    Loader::<Cpu>::new(request)?.save::<CausalLm>(to)
}

/// The files of a quantized model but the record of its source.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).expect("a folder");
    let files = files.map(|file| {
        let file = file.expect("an entry");
        let name = file.file_name().into_string().expect("UTF-8");
        (name, fs::read(file.path()).expect("a file"))
    });
    files.filter(|(name, _)| !name.starts_with('.')).collect()
}

/// What becomes of the model on this machine.
pub(crate) fn expected() -> &'static BTreeMap<String, Vec<u8>> {
    static EXPECTED: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    EXPECTED.get_or_init(|| {
        let folder = TempDir::new().expect("a folder");
        let source = Local::open(tinyrust()).expect("the model of the repository");
        quantize(Arc::new(source), &SaveConfig::new(folder.path())).expect("quantized");
        files(folder.path())
    })
}

/// Every error of a chain in both of its forms.
pub(crate) fn said(error: &dyn std::error::Error) -> String {
    let mut said = format!("{error} {error:?}");
    let mut next = error.source();
    while let Some(cause) = next {
        said += &format!(" {cause} {cause:?}");
        next = cause.source();
    }
    said
}
