//! A save into a folder that an earlier one has completed: the same finds nothing left to do, as a job that is started twice
//! has to, and another is refused.

use std::{fs, path::Path, sync::Arc};

use firebox::{Error, LoadRequest, config::To, pipeline::Event, place::SaveError, source::Source};
use tempfile::{TempDir, tempdir};

use crate::{
    files::{assert_same, files},
    tiny::{self, tiny_entries},
    watched::{Watched, cancel, config, save, to},
};

const RECORD: &str = ".firebox-saved.json";

fn complete(config: impl Into<LoadRequest>) -> TempDir {
    let folder = tempdir().expect("a folder");
    let saved = save(config, &to(folder.path())).expect("saved");
    assert_eq!((saved.resumed, saved.made), (0, 4));
    folder
}

/// Whatever was asked for: packed, dense, measured.
#[test]
fn the_same_again_has_nothing_to_do() {
    let auto = |source: Arc<dyn Source>| {
        let [nf4, none] = ["nf4", "none"].map(|spec| spec.parse().expect("a spec"));
        config(source, "auto:bits=20").with(|config| config.candidate(nf4).candidate(none))
    };
    let request = |quant: &str, source: Arc<dyn Source>| match quant {
        "auto" => auto(source),
        quant => config(source, quant),
    };
    for quant in ["nf4:nested", "none", "int8", "auto"] {
        let source = Watched::tiny();
        let folder = complete(request(quant, source.clone()));
        let before = files(folder.path());
        let first = save(
            request(quant, source.clone()),
            &to(tempdir().expect("a folder").path()),
        );
        let first = first.expect("saved");

        source.forget();
        let measured = |event: &Event<'_>| matches!(event, Event::Measured { .. });
        let again = cancel(request(quant, source.clone()), 0, measured);
        let saved = save(again, &to(folder.path()).resume(true)).expect("nothing is left");
        assert_eq!((saved.resumed, saved.made), (4, 0), "{quant}");
        assert_eq!(source.tensors_read(), Vec::<String>::new(), "{quant}");
        assert_same(&files(folder.path()), &before);
        // It tells of the folder what the first told.
        assert_eq!(saved.dialect, first.dialect);
        assert_eq!(saved.files, first.files);
        assert_eq!(saved.bytes_written, first.bytes_written);
        let quants = |saved: &firebox::report::Saved| -> Vec<String> {
            let tensors = saved.report.per_tensor.iter();
            tensors
                .map(|tensor| format!("{} {}", tensor.name, tensor.quant))
                .collect()
        };
        assert_eq!(quants(&saved), quants(&first));
    }
}

/// A published folder says nothing of the machine that it was made on.
#[test]
fn the_record_names_no_path() {
    let model = tempdir().expect("a folder");
    for (name, bytes) in [
        ("config.json", br#"{"model_type":"tiny"}"#.to_vec()),
        ("model.safetensors", {
            let source = tiny::checkpoint(&tiny_entries());
            let mut bytes = vec![0; source.size("model.safetensors").expect("a file") as usize];
            source
                .read_at("model.safetensors", 0, &mut bytes)
                .expect("read");
            bytes
        }),
    ] {
        fs::write(model.path().join(name), bytes).expect("written");
    }
    let source = Arc::new(firebox::source::Local::open(model.path()).expect("a model"));
    let folder = complete(config(source, "nf4"));
    let record = fs::read_to_string(folder.path().join(RECORD)).expect("a record");
    for part in [model.path(), folder.path(), &std::env::temp_dir()] {
        let name = part.file_name().expect("a name").to_string_lossy();
        assert!(!record.contains(&*name), "{name} in {record}");
    }
}

/// Refused, with the folder as it was; returns the message.
#[track_caller]
fn refused(folder: &Path, config: impl Into<LoadRequest>, is: fn(&SaveError) -> bool) -> String {
    let before = files(folder);
    let error = save(config, &to(folder).resume(true)).expect_err("is another");
    let Error::Save(found) = &error else {
        panic!("{error}");
    };
    assert!(is(found), "{error}");
    assert_same(&files(folder), &before);
    error.to_string()
}

fn is_complete(error: &SaveError) -> bool {
    matches!(error, SaveError::Complete { .. })
}

#[test]
fn another_save_is_refused() {
    let folder = complete(config(Watched::tiny(), "nf4"));
    let says = refused(folder.path(), config(Watched::tiny(), "fp4"), is_complete);
    for part in [
        "configuration.quant",
        "nf4:block=64",
        "fp4:block=64",
        "nothing is left",
    ] {
        assert!(says.contains(part), "{says}");
    }

    // One value of one tensor.
    let mut entries = tiny_entries();
    entries[1].2[0] += 1.0;
    let other = Arc::new(tiny::checkpoint(&entries));
    let says = refused(folder.path(), config(other, "nf4"), is_complete);
    assert!(says.contains("weights was "), "{says}");

    let before = files(folder.path());
    let other = to(folder.path()).dialect(To::BitsAndBytes).resume(true);
    let error = save(config(Watched::tiny(), "nf4"), &other).expect_err("is another");
    assert!(
        error.to_string().contains("configuration.dialect"),
        "{error}"
    );
    let error = save(config(Watched::tiny(), "nf4"), &to(folder.path())).expect_err("no resume");
    assert!(
        matches!(error, Error::Save(SaveError::NotEmpty { .. })),
        "{error}"
    );
    assert_same(&files(folder.path()), &before);

    // Of a folder from elsewhere nothing is known.
    for text in [None, Some(""), Some("{\"saved\":2}")] {
        let path = folder.path().join(RECORD);
        match text {
            None => fs::remove_file(&path).expect("removed"),
            Some(text) => fs::write(&path, text).expect("written"),
        }
        refused(folder.path(), config(Watched::tiny(), "nf4"), is_complete);
    }
}

/// Nothing is left to do, says a folder that has all its weights.
#[test]
fn a_file_that_was_lost_is_named() {
    let file = "model-00001-of-00002.safetensors";
    let is_lost = |error: &SaveError| matches!(error, SaveError::Lost { .. });
    let folder = complete(config(Watched::tiny(), "nf4"));
    let path = folder.path().join(file);
    let bytes = fs::read(&path).expect("a file");
    fs::write(&path, &bytes[1..]).expect("written");
    let says = refused(folder.path(), config(Watched::tiny(), "nf4"), is_lost);
    for part in [
        file,
        &bytes.len().to_string(),
        &(bytes.len() - 1).to_string(),
    ] {
        assert!(says.contains(part), "{says}");
    }
    fs::remove_file(&path).expect("removed");
    let says = refused(folder.path(), config(Watched::tiny(), "nf4"), is_lost);
    assert!(says.contains(file) && says.contains("missing"), "{says}");
}
