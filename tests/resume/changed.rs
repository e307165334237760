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

/// Two matrices of 2 x 64 values and a bias between them, so that a save takes a millisecond.
fn save(to: &SaveConfig, placed: Option<usize>) -> Result<Saved, Error> {
    save_with(&[64], to, placed)
}

/// The same with another shape of the bias.
fn save_with(bias: &[usize], to: &SaveConfig, placed: Option<usize>) -> Result<Saved, Error> {
    let entries: [tiny::Entry; 3] = [
        ("a.weight", vec![2, 64], tiny::values(128, 1)),
        ("b.bias", bias.to_vec(), tiny::values(64, 2)),
        ("c.weight", vec![2, 64], tiny::values(128, 3)),
    ];
    let source: Arc<Memory> = Arc::new(tiny::checkpoint(&entries));
    let config = LoadConfig::default().quant("int8".parse().expect("a spec"));
    let config = config.source(source);
    let config = match placed {
        Some(nth) => cancel(config, nth, |event| matches!(event, Event::Placed { .. })),
        None => config,
    };
    let matrices: Pattern = "*.weight".parse().expect("a pattern");
    Loader::<Cpu>::new(config)?.save_tensors(&[matrices], to)
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
            line["file"] = json!("model-00002-of-00002.safetensors");
        }),
        ("name", |line| {
            line["tensors"][0]["name"] = json!("norm.weighs");
        }),
        ("dtype", |line| line["tensors"][0]["dtype"] = json!("I32")),
        ("shape", |line| {
            line["tensors"][0]["shape"] = json!([2, 100]);
        }),
        ("start", |line| line["tensors"][0]["start"] = json!(0)),
        ("end", |line| line["tensors"][0]["end"] = json!(u64::MAX)),
        ("late", |line| line["tensors"][0]["late"] = json!(true)),
        ("xxh3", |line| {
            line["tensors"][0]["xxh3"] = json!("0123456789abcdef");
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

/// Lines that are whole, and not where they were written: twice, in another order, without the one before.
#[test]
fn lines_count_where_they_were_written() {
    type Change = fn(&mut Vec<String>);
    let changes: [(&str, usize, Change); 3] = [
        ("twice", 1, |lines| lines.insert(2, lines[1].clone())),
        ("swapped", 0, |lines| lines.swap(1, 2)),
        ("without the first", 0, |lines| drop(lines.remove(1))),
    ];
    for (what, resumed, change) in changes {
        let folder = interrupted();
        let mut lines = lines(folder.path());
        change(&mut lines);
        fs::write(journal(folder.path()), lines.concat()).expect("written");
        comes_out(folder.path(), resumed, what);
    }
}

/// A line of another journal, right in all but the shape: the bytes of both are the same, in the same place. Would catch a
/// line whose checksum is of the line alone.
#[test]
fn lines_of_another_journal_do_not_count() {
    let (half, whole) = small();
    let [folder, other] = [(); 2].map(|()| tempdir().expect("a folder"));
    for (name, bytes) in &half {
        fs::write(folder.path().join(name), bytes).expect("written");
    }
    save_with(&[2, 32], &SaveConfig::new(other.path()), Some(1)).expect_err("cancelled");
    let [mut lines, other] = [folder.path(), other.path()].map(lines);
    assert!(other[2].contains("[2,32]") && lines[2].contains("[64]"));
    lines[2].clone_from(&other[2]);
    fs::write(journal(folder.path()), lines.concat()).expect("written");
    let saved = save(&SaveConfig::new(folder.path()).resume(true), None).expect("saved");
    assert_eq!(saved.resumed, 1);
    assert_same(&files(folder.path()), &whole);
}
