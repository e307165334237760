//! How many requests it takes: the servers count.

use std::{fs, path::Path, sync::Arc};

use firebox::{
    Cpu, LoadConfig, LoadRequest, Loader, SaveConfig,
    config::{Limits, To, VerifyConfig},
    model::CausalLm,
    report::VerifyReport,
    source::{Local, Source},
};
use tempfile::TempDir;

use crate::{
    file_server::FileServer,
    models::{remote, tinyrust},
    reading::weights,
    s3::{BUCKET, S3Server},
};

/// A model, and how it is loaded.
fn request(source: Arc<dyn Source>, quant: &str) -> LoadRequest {
    let config = LoadConfig::default().quant(quant.parse().unwrap());
    config.source(source)
}

fn here() -> Arc<dyn Source> {
    Arc::new(Local::open(tinyrust()).unwrap())
}

/// Bytes of the files of a folder whose names end so.
fn bytes(folder: &Path, end: &str) -> u64 {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap());
    let files = files.filter(|file| file.file_name().to_string_lossy().ends_with(end));
    files.map(|file| file.metadata().unwrap().len()).sum()
}

/// Requests for files whose paths end so, and the bytes of their answers.
fn asked(server: &FileServer, end: &str) -> (usize, u64) {
    let log = server.log();
    let asked = log
        .iter()
        .filter(|served| served.head.path().ends_with(end));
    (asked.count(), server.sent(end))
}

fn same(found: &VerifyReport, expected: &VerifyReport) {
    assert_eq!(found.tensors.len(), expected.tensors.len());
    for (found, expected) in found.tensors.iter().zip(&expected.tensors) {
        assert_eq!(
            (&found.name, &found.stats),
            (&expected.name, &expected.stats)
        );
    }
}

/// Catches a comparison that reads tile by tile, and one that reads what it has in memory already. The model has 39 tensors in three
/// files, each of which takes a request for its header.
#[test]
fn a_source_is_compared_with_by_large_ranges() {
    let folder = TempDir::new().unwrap();
    let save = SaveConfig::new(folder.path());
    Loader::<Cpu>::new(request(here(), "nf4"))
        .unwrap()
        .save::<CausalLm>(&save)
        .unwrap();
    let all = bytes(&tinyrust(), ".safetensors");
    let headers = 3 * (64 << 10);

    let server = FileServer::serve(&tinyrust());
    let of_web = || -> Arc<dyn Source> { Arc::new(remote(&server.url).build().unwrap()) };
    let against = |dense: Arc<dyn Source>| {
        let packed = LoadConfig::new(folder.path().display().to_string());
        let loader = Loader::<Cpu>::new(packed).unwrap();
        let dense = request(dense, "none").open().unwrap();
        loader
            .verify_against::<CausalLm>(&dense, &Limits::default())
            .unwrap()
    };
    same(&against(of_web()), &against(here()));
    let (requests, sent) = asked(&server, ".safetensors");
    assert!(requests <= 8, "{requests} requests for what three hold");
    assert!(sent <= all + headers, "{sent} bytes of {all}");

    // A weight is read to be packed, and again to be compared.
    let server = FileServer::serve(&tinyrust());
    let pack = |source: Arc<dyn Source>| {
        let loader = Loader::<Cpu>::new(request(source, "nf4")).unwrap();
        loader
            .verify::<CausalLm>(&VerifyConfig::new(Limits::default()))
            .unwrap()
    };
    same(
        &pack(Arc::new(remote(&server.url).build().unwrap())),
        &pack(here()),
    );
    let (requests, sent) = asked(&server, ".safetensors");
    assert!(requests <= 12, "{requests} requests for what six hold");
    assert!(sent <= 2 * all + headers, "{sent} bytes of {all} twice");
}

/// Catches columns that are balanced by a request for each tile of each pass.
#[test]
fn weights_are_balanced_by_large_ranges() {
    let server = FileServer::serve(&tinyrust());
    let balanced = |source: Arc<dyn Source>| {
        let folder = TempDir::new().unwrap();
        let config = LoadConfig::default()
            .quant("nf4".parse().unwrap())
            .presinq(true);
        let loader = Loader::<Cpu>::new(config.source(source)).unwrap();
        loader
            .save::<CausalLm>(&SaveConfig::new(folder.path()))
            .unwrap();
        fs::read(folder.path().join("model.safetensors")).unwrap()
    };
    let of_web = balanced(Arc::new(remote(&server.url).build().unwrap()));
    assert!(of_web == balanced(here()));
    let (requests, _) = asked(&server, ".safetensors");
    assert!(requests <= 16, "{requests} requests");
}

/// Catches a request for each tensor of a GGUF file, and for each head whose rows are in another order there. The weights are those
/// of the files of transformers.
#[test]
fn a_gguf_file_is_read_by_large_ranges() {
    let folder = TempDir::new().unwrap();
    let save = SaveConfig::new(folder.path()).dialect(To::Gguf);
    Loader::<Cpu>::new(request(here(), "none"))
        .unwrap()
        .save::<CausalLm>(&save)
        .unwrap();
    let server = FileServer::serve(folder.path());
    let s3 = S3Server::start();
    s3.put_folder("org/gguf", folder.path());
    let expected = weights(here());

    let file = remote(&format!("{}/model.gguf", server.url))
        .build()
        .unwrap();
    assert_eq!(weights(Arc::new(file)), expected);
    // The beginning of the file, for its length; its header; and small blocks, as the bytes in flight are few in these tests.
    let (requests, sent) = asked(&server, ".gguf");
    let all = bytes(folder.path(), ".gguf");
    let blocks = sent.div_ceil(32 << 10) as usize;
    assert!(
        requests <= blocks + 40,
        "{requests} requests for {sent} bytes"
    );
    assert!(sent <= 2 * all, "{sent} bytes of {all}");

    let server = FileServer::serve(folder.path());
    let file = remote(&format!("{}/model.gguf", server.url))
        .build()
        .unwrap();
    let loaded = Loader::<Cpu>::new(request(Arc::new(file), "nf4"))
        .unwrap()
        .load::<CausalLm>();
    let fetched = loaded.unwrap().report.fetched.unwrap();
    let (requests, sent) = asked(&server, ".gguf");
    assert_eq!((fetched.requests, fetched.bytes), (requests as u64, sent));
    assert!(
        requests <= 8,
        "{requests} requests for a file of {all} bytes"
    );

    let at = remote(&format!("s3://{BUCKET}/org/gguf/model.gguf"));
    let file = at
        .environment(S3Server::environment(&s3.url))
        .build()
        .unwrap();
    assert_eq!(weights(Arc::new(file)), expected);
}
