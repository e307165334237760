//! What an interrupted save does not go on with, and what the error says.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use firebox::{
    DType, Error, LoadRequest,
    config::{SaveConfig, To},
    pipeline::{Event, Flow},
    place::SaveError,
    source::{Access, Bytes, Memory, Probe, Source, SourceError, SourceExt, SourceHints},
};
use tempfile::{TempDir, tempdir};

use crate::{
    files::{assert_same, done, files, journal, lines},
    tiny::{self, Entry, tiny_entries},
    watched::{Watched, cancel, config, save, to},
};

fn source(entries: &[Entry]) -> Arc<dyn Source> {
    Arc::new(tiny::checkpoint(entries))
}

fn tiny_source() -> Arc<dyn Source> {
    source(&tiny_entries())
}

fn interrupted(config: impl Into<LoadRequest>) -> TempDir {
    let folder = tempdir().expect("a folder");
    let placed = |event: &Event<'_>| matches!(event, Event::Placed { .. });
    save(cancel(config, 1, placed), &to(folder.path())).expect_err("cancelled");
    assert_eq!(done(folder.path()).len(), 2);
    folder
}

/// That the save is refused for this difference, and that the folder stays as it is.
#[track_caller]
fn differs(
    config: impl Into<LoadRequest>,
    to: impl Fn(&Path) -> SaveConfig,
    field: &str,
    was: &str,
    now: &str,
) {
    let folder = interrupted(self::config(tiny_source(), "nf4"));
    let before = files(folder.path());
    let error = save(config, &to(folder.path()).resume(true)).expect_err("is another");
    let Error::Save(SaveError::Changed { difference, .. }) = &error else {
        panic!("{field}: {error}");
    };
    let found = (&*difference.field, &*difference.was, &*difference.now);
    assert_eq!(found, (field, was, now));
    for part in [field, was, now] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_same(&files(folder.path()), &before);
}

/// Would catch each part of the configuration that is not compared.
#[test]
fn another_configuration_is_refused() {
    let nf4 = || config(tiny_source(), "nf4");
    let (absent, some) = ("absent", |text: &str| text.parse().expect("a pattern"));
    differs(
        config(tiny_source(), "nf4:nested"),
        to,
        "configuration.quant",
        "nf4:block=64",
        "nf4:block=64,nested",
    );
    let rule = nf4().with(|config| config.rule("up=none".parse().expect("a rule")));
    differs(rule, to, "configuration.rules", "[]", r#"["up=none"]"#);
    differs(
        nf4().with(|config| config.skip(some("up"))),
        to,
        "configuration.skip",
        "[]",
        r#"["up"]"#,
    );
    differs(
        nf4().with(|config| config.dequantize(true)),
        to,
        "configuration.dequantize",
        "false",
        "true",
    );
    let candidate = nf4().with(|config| config.candidate("int8".parse().expect("a spec")));
    differs(
        candidate,
        to,
        "configuration.candidates",
        "[]",
        r#"["int8"]"#,
    );
    let dialect = |folder: &Path| to(folder).dialect(To::BitsAndBytes);
    differs(
        nf4(),
        dialect,
        "configuration.dialect",
        absent,
        "bitsandbytes",
    );
    differs(
        nf4(),
        |folder| to(folder).nested(true),
        "configuration.nested",
        absent,
        "true",
    );
    differs(
        nf4(),
        |folder| to(folder).shard_bytes(15_001),
        "configuration.shard_bytes",
        "15000",
        "15001",
    );
}

/// One number of each tensor, wherever it is in a small one; another type, shape, or file beside it.
#[test]
fn another_source_is_refused() {
    for (nth, (name, _, values)) in tiny_entries().iter().enumerate() {
        let last = values.len() - 1;
        for place in [0, last] {
            let mut entries = tiny_entries();
            entries[nth].2[place] += 1.0;
            let folder = interrupted(config(tiny_source(), "nf4"));
            let error = save(
                config(source(&entries), "nf4"),
                &to(folder.path()).resume(true),
            );
            let error = error.expect_err("is another");
            let Error::Save(SaveError::Changed { difference, .. }) = error else {
                panic!("{error}");
            };
            assert_eq!(
                difference.field,
                format!("weights.{name}.tensors.{name}.sample")
            );
            assert_ne!(difference.was, difference.now);
        }
    }

    let files = |memory: &Memory, file: &str| memory.read(file).expect("a file");
    let right = tiny::checkpoint(&tiny_entries());
    let rest = |config: &[u8]| {
        let weights = files(&right, "model.safetensors");
        Memory::new()
            .with("config.json", config)
            .with("model.safetensors", weights)
    };
    let other = rest(br#"{"model_type":"tiny","rope_theta":5}"#);
    differs(
        config(Arc::new(other), "nf4"),
        to,
        "source.config.rope_theta",
        "absent",
        "5",
    );
    let other = rest(br#"{"model_type":"tiny"}"#).with("tokenizer.json", "{}");
    let config_other = config(Arc::new(other), "nf4");
    let folder = interrupted(config(tiny_source(), "nf4"));
    let error = save(config_other, &to(folder.path()).resume(true)).expect_err("is another");
    assert!(
        error.to_string().contains("source.files.tokenizer.json"),
        "{error}"
    );

    // Halves instead of singles: the file's length tells first.
    let halves = tiny::stored(&tiny_entries(), safetensors::Dtype::BF16, |value| {
        ((value.to_bits() >> 16) as u16).to_le_bytes().to_vec()
    });
    let [was, now] = [&right, &halves].map(|memory| {
        let bytes = memory.size("model.safetensors").expect("a file");
        bytes.to_string()
    });
    let field = "source.files.model.safetensors.bytes";
    differs(config(Arc::new(halves), "nf4"), to, field, &was, &now);
}

/// A shape that changes while the file's length stays: what is stored as `[96, 200]` is `[200, 96]` now.
#[test]
fn another_shape_is_refused() {
    let mut entries = tiny_entries();
    entries[1].0 = "rotary.inv_freq";
    entries.push(("up.bias", vec![tiny::OUT], tiny::values(tiny::OUT, 2)));
    let more = config(source(&entries), "nf4");
    let folder = interrupted(config(tiny_source(), "nf4"));
    let error = save(more, &to(folder.path()).resume(true)).expect_err("is another");
    let Error::Save(SaveError::Changed { difference, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(difference.field, "source.files.model.safetensors.bytes");
}

/// A source that can name its state is asked for no bytes, and is another when the name is.
#[test]
fn a_state_with_a_name_is_known_by_it() {
    #[derive(Debug)]
    struct Named(Memory, &'static str, Mutex<usize>);
    impl Source for Named {
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
            Some(self)
        }
    }
    impl SourceHints for Named {
        fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
            *self.2.lock().expect("no panic") += 1;
            self.0.peek(file, offset, into)
        }

        fn version(&self) -> Result<Option<String>, SourceError> {
            Ok(Some(self.1.to_owned()))
        }

        fn share(
            &self,
            _: &str,
            _: u64,
            _: usize,
            _: Access,
        ) -> Result<Option<Bytes>, SourceError> {
            Ok(None)
        }

        fn probe(&self) -> Option<Probe> {
            None
        }

        fn weights_file(&self) -> Option<&str> {
            None
        }

        fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
            self.0.list()
        }

        fn unchanged(&self) -> Result<(), SourceError> {
            Ok(())
        }

        fn concurrency(&self) -> usize {
            2
        }

        fn request_bytes(&self) -> Option<u64> {
            None
        }

        fn fetched(&self) -> Option<firebox::source::FetchTotals> {
            None
        }
    }
    let named = |name| {
        Arc::new(Named(
            tiny::checkpoint(&tiny_entries()),
            name,
            Mutex::new(0),
        ))
    };
    let first = named("aaa");
    let folder = interrupted(config(first.clone(), "nf4"));
    // The header's length and the header.
    assert_eq!(*first.2.lock().expect("no panic"), 2);
    let error = save(config(named("bbb"), "nf4"), &to(folder.path()).resume(true));
    let error = error.expect_err("is another").to_string();
    assert!(
        error.contains("source.version was aaa and is bbb"),
        "{error}"
    );
    save(config(named("aaa"), "nf4"), &to(folder.path()).resume(true)).expect("is the same");
}

/// More threads, another budget: nothing that the files depend on.
#[test]
fn what_files_do_not_depend_on_may_change() {
    let folder = interrupted(config(tiny_source(), "nf4"));
    let other = config(tiny_source(), "nf4").with(|config| {
        config
            .workers(firebox::Workers::Count(std::num::NonZeroUsize::MIN))
            .in_flight_bytes_max(1 << 12)
    });
    let saved = save(other, &to(folder.path()).resume(true)).expect("is the same");
    assert_eq!(saved.resumed, 2);
    // Plain weights stay in the type that they are stored in, whatever is computed in.
    let folder = interrupted(config(tiny_source(), "nf4"));
    let other = config(tiny_source(), "nf4").with(|config| config.dtype(DType::Bf16));
    save(other, &to(folder.path()).resume(true)).expect("is the same");
}

#[test]
fn a_journal_that_cannot_be_gone_by_is_refused() {
    for (first, says) in [
        (
            r#"{"journal":3,"identity":{}}"#,
            "version 3, and this program writes version 2",
        ),
        (r#"{"identity":{}}"#, "says no version"),
        ("what is this", "not JSON"),
        (
            r#"{"journal":2}"#,
            "its first line is not as it was written",
        ),
    ] {
        let folder = interrupted(config(tiny_source(), "nf4"));
        let mut lines = lines(folder.path());
        lines[0] = format!("{first}\n");
        fs::write(journal(folder.path()), lines.concat()).expect("written");
        let before = files(folder.path());
        let error = save(
            config(tiny_source(), "nf4"),
            &to(folder.path()).resume(true),
        );
        let error = error.expect_err("is no journal of ours");
        assert!(
            matches!(error, Error::Save(SaveError::Journal { .. })),
            "{error}"
        );
        assert!(error.to_string().contains(says), "{error}");
        assert_same(&files(folder.path()), &before);
    }
}

/// Folders with something in them: each kind has its own words, and stays as it is.
#[test]
fn folders_that_are_not_to_be_written_are_refused() {
    let nf4 = || config(tiny_source(), "nf4");
    let folder = interrupted(nf4());
    let before = files(folder.path());
    let error = save(nf4(), &to(folder.path())).expect_err("was not asked to resume");
    assert!(
        matches!(error, Error::Save(SaveError::Unfinished { .. })),
        "{error}"
    );
    assert_same(&files(folder.path()), &before);

    for resume in [false, true] {
        let folder = tempdir().expect("a folder");
        fs::write(folder.path().join("notes.txt"), "mine").expect("written");
        let error = save(nf4(), &to(folder.path()).resume(resume)).expect_err("is not empty");
        assert!(
            matches!(error, Error::Save(SaveError::NotEmpty { .. })),
            "{error}"
        );
    }

    // What the dialect does not hold is found out before anything is written.
    let folder = tempdir().expect("a folder");
    let error = save(nf4(), &to(folder.path()).dialect(To::Mlx)).expect_err("cannot be held");
    assert!(
        matches!(error, Error::Save(SaveError::Dialect(_))),
        "{error}"
    );
    assert!(files(folder.path()).is_empty());
}

/// While one save writes a folder another is refused, with and without `resume`; the first does not notice.
#[test]
fn two_saves_do_not_write_one_folder() {
    let folder = tempdir().expect("a folder");
    let refused = Arc::new(Mutex::new(Vec::new()));
    let (path, seen) = (folder.path().to_owned(), Arc::clone(&refused));
    let first = config(Watched::tiny(), "nf4").observer(move |event: &Event<'_>| {
        if matches!(event, Event::Placed { .. }) {
            for resume in [false, true] {
                let second = save(config(Watched::tiny(), "nf4"), &to(&path).resume(resume));
                seen.lock()
                    .expect("no panic")
                    .push(second.expect_err("is busy"));
            }
        }
        Flow::Continue
    });
    save(first, &to(folder.path())).expect("is not disturbed");
    let refused = refused.lock().expect("no panic");
    assert_eq!(refused.len(), 8);
    for error in &*refused {
        assert!(
            matches!(error, Error::Save(SaveError::Busy { .. })),
            "{error}"
        );
    }
    let alone = tempdir().expect("a folder");
    save(config(Watched::tiny(), "nf4"), &to(alone.path())).expect("saved");
    assert_same(&files(folder.path()), &files(alone.path()));
}
