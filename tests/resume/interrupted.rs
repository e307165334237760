//! Interruptions within one process: cancels, a source that fails, files that are not as they were left.

use std::{fs, fs::OpenOptions, io::Write as _, path::Path, sync::Arc};

use firebox::{
    Error, LoadRequest,
    pipeline::{Event, PipelineError},
    report::Saved,
    source::{Fault, Source},
};
use tempfile::{TempDir, tempdir};

use crate::{
    files::{Files, JOURNAL, assert_same, done, files, journal, lines},
    tiny,
    watched::{Watched, cancel, config, save, to},
};

/// In the order of the file, which is that of the plan.
const WEIGHTS: [&str; 4] = ["down.weight", "norm.weight", "up.bias", "up.weight"];
const QUANT: &str = "nf4:nested";

/// The files of a save that nothing interrupts.
fn whole(config: impl Into<LoadRequest>) -> Files {
    let folder = tempdir().expect("a folder");
    save(config, &to(folder.path())).expect("saved");
    let whole = files(folder.path());
    assert!(!whole.contains_key(JOURNAL), "the journal stays");
    whole
}

/// A save of the tiny model that is cancelled when `weights` are placed.
fn interrupted_after(weights: usize) -> TempDir {
    let folder = tempdir().expect("a folder");
    let config = config(Watched::tiny(), QUANT);
    let placed = |event: &Event<'_>| matches!(event, Event::Placed { .. });
    save(cancel(config, weights - 1, placed), &to(folder.path())).expect_err("cancelled");
    assert_eq!(done(folder.path()), WEIGHTS[..weights]);
    folder
}

fn resume(folder: &Path) -> Result<Saved, Error> {
    save(config(Watched::tiny(), QUANT), &to(folder).resume(true))
}

/// Resumes, from `resumed` weights, and compares.
fn comes_out(folder: &Path, resumed: usize) {
    let saved = resume(folder).expect("resumed");
    assert_eq!(saved.resumed, resumed);
    assert_same(&files(folder), &whole(config(Watched::tiny(), QUANT)));
}

/// At every event that a save tells of, each time it does. What was in files before is not read again, and everything
/// else is; the files are those of an uninterrupted save. Would catch weights that are told of before they are written,
/// weights that are left out or made twice, and bytes after the last whole weight.
#[test]
fn a_save_that_is_cancelled_at_any_event_goes_on() {
    type Kind = (&'static str, fn(&Event<'_>) -> bool, usize);
    let kinds: [Kind; 5] = [
        ("planned", |event| matches!(event, Event::Planned { .. }), 1),
        ("started", |event| matches!(event, Event::Started { .. }), 4),
        ("read", |event| matches!(event, Event::Read { .. }), 4),
        ("packed", |event| matches!(event, Event::Packed { .. }), 4),
        ("placed", |event| matches!(event, Event::Placed { .. }), 4),
    ];
    let expected = whole(config(Watched::tiny(), QUANT));
    for (kind, is, times) in kinds {
        for nth in 0..times {
            let folder = tempdir().expect("a folder");
            let source = Watched::tiny();
            let cancelled = cancel(config(source.clone(), QUANT), nth, is);
            let error = save(cancelled, &to(folder.path())).expect_err("cancelled");
            let finished = if kind == "placed" { nth + 1 } else { nth };
            let Error::Interrupted {
                done: told,
                total,
                source: cause,
                ..
            } = &error
            else {
                panic!("{kind} {nth}: {error}");
            };
            let cause = &**cause;
            assert!(
                matches!(cause, Error::Pipeline(PipelineError::Cancelled { .. })),
                "{error}"
            );
            assert_eq!((*told, *total), (finished, 4), "{kind} {nth}");
            assert!(error.to_string().contains("--resume"), "{error}");
            assert_eq!(done(folder.path()), WEIGHTS[..finished], "{kind} {nth}");
            assert!(!folder.path().join("config.json").exists(), "is a model");

            source.forget();
            let again = save(
                config(source.clone(), QUANT),
                &to(folder.path()).resume(true),
            );
            let saved = again.expect("resumed");
            assert_eq!(saved.resumed, finished, "{kind} {nth}");
            assert_eq!(source.tensors_read(), WEIGHTS[finished..], "{kind} {nth}");
            let report = &saved.report.per_tensor;
            let names: Vec<_> = report.iter().map(|tensor| &*tensor.name).collect();
            assert_eq!(names, WEIGHTS, "the report tells of all");
            let read = report.iter().map(|tensor| tensor.bytes_read > 0);
            let expected_read = (0..4).map(|k| k >= finished);
            assert!(read.eq(expected_read), "{kind} {nth}");
            assert_same(&files(folder.path()), &expected);
        }
    }
}

/// Again and again, each time one weight further.
#[test]
fn a_save_that_is_interrupted_many_times_goes_on() {
    let folder = tempdir().expect("a folder");
    for weights in 1..=4 {
        let config = config(Watched::tiny(), QUANT);
        let placed = |event: &Event<'_>| matches!(event, Event::Placed { .. });
        let to = to(folder.path()).resume(true);
        save(cancel(config, 0, placed), &to).expect_err("cancelled");
        assert_eq!(done(folder.path()), WEIGHTS[..weights]);
    }
    comes_out(folder.path(), 4);
}

#[test]
fn with_nothing_to_go_on_with_a_save_begins() {
    let folder = tempdir().expect("a folder");
    comes_out(&folder.path().join("not/there/yet"), 0);
    comes_out(
        folder.path().join("not").as_path().join("empty").as_path(),
        0,
    );
}

#[test]
fn a_source_that_fails_loses_nothing() {
    let source = Arc::new(tiny::checkpoint(&tiny::tiny_entries()));
    let len = source.size("model.safetensors").expect("a file");
    let folder = tempdir().expect("a folder");
    // Within the last weight. What is read of it beforehand is told of as a failure only when it is its turn.
    source.fault("model.safetensors", Fault::FailFrom(len - 40_000));
    let error = save(config(source.clone(), QUANT), &to(folder.path()));
    let error = error.expect_err("is failing");
    // A sample of the last weight is read first, and nothing was written before.
    assert!(error.to_string().contains("told to fail"), "{error}");
    assert_eq!(lines(folder.path()).len(), 0);

    source.heal();
    let failing = Arc::clone(&source);
    let config_failing = config(source.clone(), QUANT).observer(move |event: &Event<'_>| {
        if matches!(event, Event::Planned { .. }) {
            failing.fault("model.safetensors", Fault::FailFrom(len - 40_000));
        }
        firebox::pipeline::Flow::Continue
    });
    let error = save(config_failing, &to(folder.path())).expect_err("is failing");
    assert!(error.to_string().contains("told to fail"), "{error}");
    assert!(error.to_string().contains("3 of 4 weights"), "{error}");
    source.heal();
    comes_out(folder.path(), 3);
}

/// What was chosen by measuring is gone by, without measuring again.
#[test]
fn what_was_chosen_stays() {
    let auto = |source: Arc<dyn Source>| {
        let [nf4, none] = ["nf4", "none"].map(|spec| spec.parse().expect("a spec"));
        // Room for one of the two matrices as it is.
        config(source, "auto:bits=20").with(|config| config.candidate(nf4).candidate(none))
    };
    let source = Watched::tiny();
    let expected = whole(auto(source.clone()));
    let folder = tempdir().expect("a folder");
    let placed = |event: &Event<'_>| matches!(event, Event::Placed { .. });
    save(cancel(auto(source.clone()), 1, placed), &to(folder.path())).expect_err("cancelled");
    source.forget();
    let measured = |event: &Event<'_>| matches!(event, Event::Measured { .. });
    let again = cancel(auto(source.clone()), 0, measured);
    let saved = save(again, &to(folder.path()).resume(true)).expect("without measuring");
    assert_eq!(saved.resumed, 2);
    assert_eq!(source.tensors_read(), WEIGHTS[2..]);
    assert_same(&files(folder.path()), &expected);
}

/// A line that was not written to its end does not count, whatever it lacks, nor do those after one that is none. A
/// complete file of which not all is told is made again.
#[test]
fn a_torn_journal_counts_up_to_its_last_whole_line() {
    for cut in [1, 2, 40] {
        for (weights, left) in [(1, 0), (2, 1), (3, 0), (4, 3)] {
            let folder = interrupted_after(weights);
            let path = journal(folder.path());
            let text = fs::read(&path).expect("a journal");
            fs::write(&path, &text[..text.len() - cut]).expect("written");
            comes_out(folder.path(), left);
        }
    }
    for garbage in ["\0\0\0\0\n", "{}\n", "not JSON\n"] {
        let folder = interrupted_after(2);
        let path = journal(folder.path());
        let mut lines = lines(folder.path());
        lines.insert(2, garbage.to_owned());
        fs::write(&path, lines.concat()).expect("written");
        comes_out(folder.path(), 1);
    }
    // Its first line is torn: nothing was done.
    let folder = tempdir().expect("a folder");
    fs::write(journal(folder.path()), "{\"journal\":1,\"mod").expect("written");
    comes_out(folder.path(), 0);
}

/// After a loss of power, or somebody's mistake: weights whose bytes are not what was told are made again, and those
/// after them.
#[test]
fn bytes_that_are_not_on_the_disk_are_made_again() {
    let first = "model-00001-of-00002.safetensors";
    let second = "model-00002-of-00002.safetensors";
    let data_start = |folder: &Path, file: &str| {
        let bytes = whole(config(Watched::tiny(), QUANT))[file].clone();
        let room = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        assert!(folder.is_dir());
        8 + room
    };
    let flip = |folder: &Path, file: &str, at: u64| {
        let path = folder.join(file);
        let mut bytes = fs::read(&path).expect("a file");
        bytes[at as usize] ^= 1;
        fs::write(&path, bytes).expect("written");
    };
    let partial = format!("{first}.partial");

    // The first byte of the first weight, and the last byte of the second.
    let folder = interrupted_after(2);
    flip(folder.path(), &partial, data_start(folder.path(), first));
    comes_out(folder.path(), 0);
    let folder = interrupted_after(2);
    let len = folder
        .path()
        .join(&partial)
        .metadata()
        .expect("a file")
        .len();
    flip(folder.path(), &partial, len - 1);
    comes_out(folder.path(), 1);

    // Tensors that wait for the end of the file.
    let folder = interrupted_after(2);
    flip(folder.path(), &format!("{first}.late"), 0);
    comes_out(folder.path(), 0);
    let folder = interrupted_after(2);
    fs::remove_file(folder.path().join(format!("{first}.late"))).expect("removed");
    comes_out(folder.path(), 0);

    // Cut short, or gone.
    let folder = interrupted_after(2);
    let file = OpenOptions::new()
        .write(true)
        .open(folder.path().join(&partial));
    file.expect("a file").set_len(len - 1).expect("cut");
    comes_out(folder.path(), 1);
    let folder = interrupted_after(2);
    fs::remove_file(folder.path().join(&partial)).expect("removed");
    comes_out(folder.path(), 0);

    // More than was told of.
    let folder = interrupted_after(2);
    let file = OpenOptions::new()
        .append(true)
        .open(folder.path().join(&partial));
    file.expect("a file").write_all(&[7; 100]).expect("written");
    comes_out(folder.path(), 2);

    // What waited for a file that was given its name just before the end.
    let folder = interrupted_after(3);
    fs::write(folder.path().join(format!("{first}.late")), "left").expect("written");
    comes_out(folder.path(), 3);

    // A complete file that is gone, cut, or of another header: its weights and all after them.
    let folder = interrupted_after(4);
    fs::remove_file(folder.path().join(second)).expect("removed");
    comes_out(folder.path(), 3);
    let folder = interrupted_after(4);
    let file = OpenOptions::new()
        .write(true)
        .open(folder.path().join(first));
    file.expect("a file").set_len(len).expect("cut");
    comes_out(folder.path(), 0);
    let folder = interrupted_after(4);
    flip(folder.path(), second, 20);
    comes_out(folder.path(), 3);

    // A value in one.
    let folder = interrupted_after(4);
    flip(folder.path(), second, data_start(folder.path(), second));
    comes_out(folder.path(), 3);
    let folder = interrupted_after(4);
    let len = folder.path().join(first).metadata().expect("a file").len();
    flip(folder.path(), first, len - 1);
    comes_out(folder.path(), 0);
}

/// A file that is complete is compared with the journal, and left as it is.
#[cfg(unix)]
#[test]
fn complete_files_are_left_alone() {
    use std::os::unix::fs::MetadataExt;

    let folder = interrupted_after(3);
    let first = folder.path().join("model-00001-of-00002.safetensors");
    let seen = |path: &Path| {
        let meta = path.metadata().expect("a file");
        (meta.ino(), meta.mtime(), meta.mtime_nsec())
    };
    let before = seen(&first);
    comes_out(folder.path(), 3);
    assert_eq!(seen(&first), before);
}
