//! Journals that are not as they were written: the files come out as if nothing had happened, or the save is refused. A
//! wrong checkpoint never does.

use std::{fs, path::Path, sync::Arc, thread};

use firebox::{
    Cpu, Error, LoadConfig, Loader,
    config::{Pattern, SaveConfig},
    pipeline::Event,
    place::SaveError,
    report::Saved,
    source::Memory,
};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::{
    files::{Files, assert_same, done, files, journal, lines},
    tiny,
    watched::{self, Watched, cancel, config, to},
};

/// Three matrices of 2 x 64 values, so that a save takes a millisecond.
fn save(to: &SaveConfig, placed: Option<usize>) -> Result<Saved, Error> {
    let entries = ["a.weight", "b.weight", "c.weight"];
    let entries: Vec<tiny::Entry> = (entries.into_iter().zip(1..))
        .map(|(name, seed)| (name, vec![2, 64], tiny::values(128, seed)))
        .collect();
    let source: Arc<Memory> = Arc::new(tiny::checkpoint(&entries));
    let config = LoadConfig::default().quant("int8".parse().expect("a spec"));
    let config = config.source(source);
    let config = match placed {
        Some(nth) => cancel(config, nth, |event| matches!(event, Event::Placed { .. })),
        None => config,
    };
    let all: Pattern = "*".parse().expect("a pattern");
    Loader::<Cpu>::new(config)?.save_tensors(&[all], to)
}

/// The files of an interrupted save with two of three weights, and of a complete one.
fn small() -> (Files, Files) {
    let [half, whole] = [Some(1), None].map(|placed| {
        let folder = tempdir().expect("a folder");
        let saved = save(&SaveConfig::new(folder.path()), placed);
        assert_eq!(saved.is_ok(), placed.is_none());
        files(folder.path())
    });
    assert!(!half.contains_key("config.json"));
    (half, whole)
}

fn write(files: &Files) -> TempDir {
    let folder = tempdir().expect("a folder");
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).expect("written");
    }
    folder
}

/// Every byte of a journal in turn, in each of its lines. Would catch a line that is believed because it is JSON.
#[test]
fn every_byte_of_a_journal_counts() {
    let (half, whole) = small();
    let name = crate::files::JOURNAL;
    let text = &half[name];
    let begins = text.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    let tried = |at: usize, mask: u8| {
        let mut half = half.clone();
        half.get_mut(name).expect("a journal")[at] ^= mask;
        let folder = write(&half);
        match save(&SaveConfig::new(folder.path()).resume(true), None) {
            Ok(saved) => {
                assert!(saved.resumed < 2, "byte {at} was believed");
                assert_same(&files(folder.path()), &whole);
                // Nothing can be told of the source and configuration: only without a whole first line is there nothing.
                assert!(at >= begins, "byte {at} of the first line was believed");
            }
            Err(Error::Save(SaveError::Journal { .. })) => {
                assert!(at < begins, "byte {at}");
                assert_same(&files(folder.path()), &half);
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    };
    let places: Vec<usize> = (0..text.len()).collect();
    assert!(places.len() > 1000);
    thread::scope(|scope| {
        for places in places.chunks(places.len().div_ceil(4)) {
            // A digit and a letter become another digit and letter.
            scope.spawn(|| places.iter().for_each(|at| tried(*at, 1)));
        }
    });
}

fn interrupted() -> TempDir {
    let folder = tempdir().expect("a folder");
    let placed = |event: &Event<'_>| matches!(event, Event::Placed { .. });
    let config = cancel(config(Watched::tiny(), "nf4:nested"), 1, placed);
    watched::save(config, &to(folder.path())).expect_err("cancelled");
    assert_eq!(done(folder.path()).len(), 2);
    folder
}

/// Resumes from `resumed` weights, and compares.
#[track_caller]
fn comes_out(folder: &Path, resumed: usize, what: &str) {
    let again = |folder: &Path| {
        let to = to(folder).resume(true);
        watched::save(config(Watched::tiny(), "nf4:nested"), &to).expect("saved")
    };
    assert_eq!(again(folder).resumed, resumed, "{what}");
    let whole = tempdir().expect("a folder");
    again(whole.path());
    assert_same(&files(folder), &files(whole.path()));
}

/// Each field of the second weight's line becomes another one that could be. Names and types that were believed made
/// checkpoints that nobody could load, or that held other values.
#[test]
fn every_field_of_a_line_counts() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 10] = [
        ("weight", |line| line["weight"] = json!("norm.weighs")),
        ("file", |line| {
            line["file"] = json!("model-00002-of-00002.safetensors")
        }),
        ("name", |line| {
            line["tensors"][0]["name"] = json!("norm.weighs")
        }),
        ("dtype", |line| line["tensors"][0]["dtype"] = json!("I32")),
        ("shape", |line| {
            line["tensors"][0]["shape"] = json!([2, 100])
        }),
        ("start", |line| line["tensors"][0]["start"] = json!(0)),
        ("end", |line| line["tensors"][0]["end"] = json!(u64::MAX)),
        ("late", |line| line["tensors"][0]["late"] = json!(true)),
        ("xxh3", |line| {
            line["tensors"][0]["xxh3"] = json!("0123456789abcdef")
        }),
        ("tensors", |line| line["tensors"] = json!([])),
    ];
    for (field, change) in changes {
        let folder = interrupted();
        let mut lines = lines(folder.path());
        let mut line: Value = serde_json::from_str(&lines[2]).expect("JSON");
        change(&mut line);
        lines[2] = format!("{line}\n");
        fs::write(journal(folder.path()), lines.concat()).expect("written");
        comes_out(folder.path(), 1, field);
    }
}

/// Lines that are whole, and not where they were written: twice, in another order, without the one before, from another
/// journal of the same weights.
#[test]
fn lines_count_where_they_were_written() {
    let other = tempdir().expect("a folder");
    let placed = |event: &Event<'_>| matches!(event, Event::Placed { .. });
    let of_other = cancel(config(Watched::tiny(), "nf4"), 1, placed);
    watched::save(of_other, &to(other.path())).expect_err("cancelled");
    let other = lines(other.path());
    type Change = fn(&mut Vec<String>, &[String]);
    let changes: [(&str, usize, Change); 4] = [
        ("twice", 1, |lines, _| lines.insert(2, lines[1].clone())),
        ("swapped", 0, |lines, _| lines.swap(1, 2)),
        ("without the first", 0, |lines, _| drop(lines.remove(1))),
        ("of another journal", 1, |lines, other| {
            lines[2].clone_from(&other[2])
        }),
    ];
    for (what, resumed, change) in changes {
        let folder = interrupted();
        let mut lines = lines(folder.path());
        change(&mut lines, &other);
        fs::write(journal(folder.path()), lines.concat()).expect("written");
        comes_out(folder.path(), resumed, what);
    }
}
