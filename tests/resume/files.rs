//! Folders as they are on disk, and what their journal says, read the plainest way there is.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

pub(crate) const JOURNAL: &str = ".firebox-journal.jsonl";

/// Name and bytes of every file.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn files(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).expect("a folder");
    let read = entries.map(|entry| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        (name.into_owned(), fs::read(&path).expect("a file"))
    });
    read.collect()
}

/// Compares files without printing megabytes.
pub(crate) fn assert_same(found: &Files, expected: &Files) {
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (name, bytes) in expected {
        let same = found[name] == *bytes;
        assert!(same, "{name} differs, {} bytes", bytes.len());
    }
}

pub(crate) fn journal(folder: &Path) -> PathBuf {
    folder.join(JOURNAL)
}

/// Whole lines of the journal.
pub(crate) fn lines(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(journal(folder)).unwrap_or_default();
    let whole = text.split_inclusive('\n');
    whole
        .filter(|line| line.ends_with('\n'))
        .map(str::to_owned)
        .collect()
}

/// Weights that the journal says are in files, in their order.
pub(crate) fn done(folder: &Path) -> Vec<String> {
    let lines = lines(folder);
    let name = |line: &String| {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        line["weight"].as_str().expect("a name").to_owned()
    };
    lines.iter().skip(1).map(name).collect()
}
