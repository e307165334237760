//! One suite over every source: the contract of `Source`, said once and run on each.

#[cfg(feature = "remote")]
#[path = "common/file_server.rs"]
mod file_server;
#[cfg(any(feature = "hub", feature = "remote"))]
#[path = "common/http.rs"]
mod http;
#[cfg(feature = "hub")]
#[path = "common/loopback.rs"]
mod loopback;

use std::time::{Duration, Instant};

use firebox::config::Reading;
use firebox::source::{
    Access, Fault, Local, Memory, SMALL_FILE_BYTES_MAX, Source, SourceError, SourceExt,
};
use tempfile::TempDir;

/// A file whose bytes tell where they are from.
fn counted(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// What each source of the suite holds.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{}".to_vec()),
        ("weights.safetensors", counted(10_000)),
        ("onnx/model.bin", counted(10)),
    ]
}

fn local(run: fn(&dyn Source)) {
    local_by(Reading::Auto, run);
}

fn mapped(run: fn(&dyn Source)) {
    local_by(Reading::Mapped, run);
}

fn direct(run: fn(&dyn Source)) {
    local_by(Reading::Direct, run);
}

fn local_by(reading: Reading, run: fn(&dyn Source)) {
    // On a disk: in memory there may be no direct reads.
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::create_dir(folder.path().join("onnx")).unwrap();
    for (name, bytes) in files() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let source = Local::open(folder.path()).unwrap().reading(reading);
    match source.size("weights.safetensors") {
        // Nor has every disk.
        Err(SourceError::NoDirectReads { .. }) if reading == Reading::Direct => {}
        _ => run(&source),
    }
}

fn memory(run: fn(&dyn Source)) {
    let add = |memory: Memory, (name, bytes)| memory.with(name, bytes);
    run(&files().into_iter().fold(Memory::new(), add));
}

#[cfg(feature = "hub")]
fn hub(run: fn(&dyn Source)) {
    let named = files().into_iter();
    let hub = loopback::Loopback::serve(
        named
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect(),
    );
    let cache = TempDir::new().unwrap();
    let source = firebox::source::Hub::builder(loopback::ID)
        .environment([("HOME", "/nonexistent")])
        .endpoint(&hub.url)
        .cache(cache.path())
        .retries(0);
    run(&source.build().unwrap());
}

#[cfg(all(feature = "hub", feature = "remote"))]
fn hub_streamed(run: fn(&dyn Source)) {
    let hub = loopback::Loopback::serve(
        files()
            .into_iter()
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect(),
    );
    let source = firebox::source::Hub::builder(loopback::ID)
        .environment([("HOME", "/nonexistent")])
        .endpoint(&hub.url);
    run(&source.stream().unwrap());
}

#[cfg(feature = "remote")]
fn web(run: fn(&dyn Source)) {
    let (_folder, server) = served();
    run(&firebox::source::Remote::open(&server.url).unwrap());
}

#[cfg(feature = "remote")]
fn web_cached(run: fn(&dyn Source)) {
    let (folder, server) = served();
    let source = firebox::source::Remote::builder(&server.url);
    let source = source.cache(folder.path().join("cache"), 1 << 30);
    run(&source.build().unwrap());
}

#[cfg(feature = "remote")]
fn served() -> (TempDir, file_server::FileServer) {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("onnx")).unwrap();
    for (name, bytes) in files() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let server = file_server::FileServer::serve(folder.path());
    (folder, server)
}

macro_rules! on_every_source {
    ($($test:ident),+ $(,)?) => {
        on_every_source!(@ local: $($test),+);
        on_every_source!(@ mapped: $($test),+);
        on_every_source!(@ direct: $($test),+);
        on_every_source!(@ memory: $($test),+);
        #[cfg(feature = "hub")]
        on_every_source!(@ hub: $($test),+);
        #[cfg(all(feature = "hub", feature = "remote"))]
        on_every_source!(@ hub_streamed: $($test),+);
        #[cfg(feature = "remote")]
        on_every_source!(@ web: $($test),+);
        #[cfg(feature = "remote")]
        on_every_source!(@ web_cached: $($test),+);
    };
    (@ $source:ident: $($test:ident),+) => {
        mod $source {
            $(#[test] fn $test() { super::$source(super::$test); })+
        }
    };
}

on_every_source!(
    any_range_is_read_exactly,
    a_whole_file_is_read,
    a_range_beyond_the_end_is_truncated,
    an_absent_file_is_told_from_a_broken_one,
    names_that_lead_out_are_refused,
    threads_read_at_once,
    it_says_where_it_is,
    it_lists_its_files_or_says_that_it_cannot,
);

fn any_range_is_read_exactly(source: &dyn Source) {
    let file = counted(10_000);
    for (offset, len) in [
        (0, 0),
        (0, 1),
        (1, 9_999),
        (5_000, 17),
        (9_999, 1),
        (10_000, 0),
    ] {
        let mut into = vec![0xff; len];
        source
            .read_at("weights.safetensors", offset as u64, &mut into)
            .unwrap();
        assert_eq!(into, file[offset..offset + len], "{offset} + {len}");
    }
}

fn a_whole_file_is_read(source: &dyn Source) {
    for (name, bytes) in files() {
        assert_eq!(source.size(name).unwrap(), bytes.len() as u64, "{name}");
        assert_eq!(source.read(name).unwrap(), bytes, "{name}");
        assert_eq!(source.read_optional(name).unwrap(), Some(bytes), "{name}");
    }
    assert_eq!(source.weights_file(), None);
}

/// Catches a short read that passes for a whole one, and an offset that wraps around.
fn a_range_beyond_the_end_is_truncated(source: &dyn Source) {
    for (offset, len) in [
        (9_999, 2),
        (10_001, 1),
        (0, 10_001),
        (u64::MAX, 1),
        (u64::MAX, 2),
    ] {
        let error = source
            .read_at("weights.safetensors", offset, &mut vec![0; len])
            .unwrap_err();
        assert!(matches!(error, SourceError::Truncated { .. }), "{error:?}");
        let end = offset.saturating_add(len as u64).to_string();
        let text = error.to_string();
        assert!(
            text.contains("weights.safetensors") && text.contains(&end) && text.contains("10000"),
            "{text}"
        );
    }
}

fn an_absent_file_is_told_from_a_broken_one(source: &dyn Source) {
    for absent in ["tokenizer.json", "config.json/inside", "no/such/folder"] {
        let read = source.read_at(absent, 0, &mut [0]);
        for error in [source.size(absent).unwrap_err(), read.unwrap_err()] {
            assert!(matches!(error, SourceError::NotFound { .. }), "{error:?}");
            assert!(error.is_absent());
            let text = error.to_string();
            assert!(
                text.contains(absent) && text.contains(&source.describe()),
                "{text}"
            );
        }
        assert_eq!(source.read_optional(absent).unwrap(), None, "{absent}");
    }
}

/// Catches an index that names `../../.ssh/id_rsa` as a shard. They are refused, not absent:
/// `read_optional` must not swallow them.
fn names_that_lead_out_are_refused(source: &dyn Source) {
    for name in [
        "../config.json",
        "onnx/../config.json",
        "onnx/../../x",
        "..",
        ".",
        "./config.json",
        "/etc/hostname",
        "",
        "onnx//model.bin",
        "onnx/",
        "..\\config.json",
        "C:\\x",
        "C:x",
        "config.json\0",
    ] {
        let error = source.read_optional(name).unwrap_err();
        assert!(
            matches!(error, SourceError::Name { .. }),
            "{name:?}: {error:?}"
        );
        assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        assert!(source.read_at(name, 0, &mut []).is_err(), "{name:?}");
    }
}

/// Catches a shared file position.
fn threads_read_at_once(source: &dyn Source) {
    let file = counted(10_000);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let file = &file;
            scope.spawn(move || {
                let mut into = [0; 100];
                for round in 0..100 {
                    let offset = (thread * 2_500 + round * 97) % 9_900;
                    source
                        .read_at("weights.safetensors", offset as u64, &mut into)
                        .unwrap();
                    assert_eq!(into, file[offset..offset + 100]);
                }
            });
        }
    });
}

fn it_says_where_it_is(source: &dyn Source) {
    assert!(!source.describe().is_empty());
    assert!(!format!("{source:?}").is_empty());
}

#[test]
fn a_local_file_is_its_folder_with_that_file_as_the_weights() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("adapter.safetensors");
    std::fs::write(&file, "weights").unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    let source = Local::open(&file).unwrap();
    assert_eq!(source.weights_file(), Some("adapter.safetensors"));
    assert_eq!(source.path(), folder.path());
    assert_eq!(source.read("config.json").unwrap(), b"{}");
}

#[test]
fn a_path_that_is_no_model_says_what_it_is() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("model.onnx"), "ONNX").unwrap();
    for (name, found) in [
        ("absent", "nothing here"),
        ("model.onnx", "none of weights"),
    ] {
        let path = folder.path().join(name);
        let error = Local::open(&path).unwrap_err();
        assert!(
            matches!(error, SourceError::NotAModelPath { .. }),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains(path.to_str().unwrap()) && text.contains(found),
            "{text}"
        );
    }
}

#[test]
fn a_folder_in_place_of_a_file_is_not_absent() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("config.json")).unwrap();
    let source = Local::open(folder.path()).unwrap();
    let error = source.read_optional("config.json").unwrap_err();
    assert!(matches!(error, SourceError::NotAFile { .. }), "{error:?}");
}

/// A download that another program cuts or restarts while it is being read.
#[test]
fn a_local_file_that_shrinks_is_truncated() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("weights.safetensors");
    std::fs::write(&path, counted(10_000)).unwrap();
    let source = Local::open(folder.path()).unwrap();
    assert_eq!(source.size("weights.safetensors").unwrap(), 10_000);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(4_000).unwrap();
    let error = source
        .read_at("weights.safetensors", 3_000, &mut [0; 2_000])
        .unwrap_err();
    assert!(
        matches!(
            error,
            SourceError::Truncated {
                wanted_end: 5_000,
                len: 4_000,
                ..
            }
        ),
        "{error:?}"
    );
}

/// Catches a load that waits for ever for somebody to write to a pipe.
#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_refused_before_it_is_opened() {
    let folder = TempDir::new().unwrap();
    let pipe = folder.path().join("model.safetensors");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    std::os::unix::fs::symlink(&pipe, folder.path().join("link")).unwrap();
    std::fs::create_dir(folder.path().join("config.json")).unwrap();

    let source = Local::open(folder.path()).unwrap();
    for (file, is) in [
        ("model.safetensors", "a pipe"),
        ("link", "a pipe"),
        ("config.json", "a folder"),
    ] {
        let error = source.size(file).unwrap_err();
        assert!(matches!(error, SourceError::NotAFile { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(file) && text.contains(is), "{text}");
    }
    let error = Local::open(&pipe).unwrap_err();
    assert!(
        matches!(error, SourceError::NotAModelPath { .. }),
        "{error:?}"
    );
}

/// A source that only knows a length: what a 3 GB `tokenizer.json` looks like.
#[derive(Debug)]
struct Huge;

impl Source for Huge {
    fn describe(&self) -> String {
        "huge".to_owned()
    }
    fn size(&self, _: &str) -> Result<u64, SourceError> {
        Ok(SMALL_FILE_BYTES_MAX + 1)
    }
    fn read_at(&self, _: &str, _: u64, _: &mut [u8]) -> Result<(), SourceError> {
        panic!("was read");
    }
}

#[test]
fn a_small_file_that_is_huge_is_refused_before_it_is_allocated() {
    let error = Huge.read("tokenizer.json").unwrap_err();
    assert!(matches!(error, SourceError::TooLarge { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("tokenizer.json") && text.contains("134217729") && text.contains("134217728"),
        "{text}"
    );
}

#[test]
fn memory_fails_ends_early_and_dawdles_when_told() {
    let memory = Memory::new().with("w", counted(100));
    let read = |from: u64, len: usize| memory.read_at("w", from, &mut vec![0; len]);

    memory.fault("w", Fault::FailFrom(50));
    assert!(read(0, 50).is_ok());
    assert!(matches!(read(49, 2).unwrap_err(), SourceError::Io { .. }));

    memory.fault("w", Fault::CutAt(50));
    assert!(read(0, 50).is_ok());
    assert_eq!(memory.size("w").unwrap(), 100);
    assert!(matches!(
        read(49, 2).unwrap_err(),
        SourceError::Truncated {
            wanted_end: 51,
            len: 50,
            ..
        }
    ));

    memory.fault("w", Fault::Slow(Duration::from_millis(30)));
    let start = Instant::now();
    read(0, 1).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(30));

    memory.heal();
    read(0, 100).unwrap();
    let ranges: Vec<_> = memory.reads().into_iter().map(|(_, range)| range).collect();
    assert_eq!(ranges, [0..50, 49..51, 0..50, 49..51, 0..1, 0..100]);
}

/// A source around another one. Would catch a hint that callers ask of the wrapper alone.
#[test]
fn a_source_that_wraps_another_passes_its_hints_on() {
    use firebox::source::SourceHints;
    #[derive(Debug)]
    struct Wrapper(Local, bool);
    impl Source for Wrapper {
        fn describe(&self) -> String {
            self.0.describe()
        }
        fn size(&self, file: &str) -> Result<u64, SourceError> {
            self.0.size(file)
        }
        fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
            self.0.read_at(file, offset, into)
        }
        fn hints(&self) -> Option<&dyn SourceHints> {
            self.1.then_some(&self.0)
        }
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.safetensors");
    std::fs::write(&path, counted(100)).unwrap();
    for passes in [true, false] {
        let inner = Local::open(&path).unwrap().reading(Reading::Mapped);
        let source = Wrapper(inner, passes);
        let file = passes.then_some("a.safetensors");
        assert_eq!(source.weights_file(), file);
        let shared = source.share("a.safetensors", 10, 20, Access::Once).unwrap();
        let expected = passes.then(|| counted(100)[10..30].to_vec());
        assert_eq!(shared.map(|bytes| bytes.to_vec()), expected);
        let mut peeked = [0; 4];
        source.peek("a.safetensors", 50, &mut peeked).unwrap();
        assert_eq!(peeked, counted(100)[50..54]);
    }
}

/// Catches a folder that is listed without the files in its folders.
fn it_lists_its_files_or_says_that_it_cannot(source: &dyn Source) {
    let mut names: Vec<&str> = files().into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    if let Some(listed) = source.list().unwrap() {
        assert_eq!(listed, names);
    }
}
