//! Files that commands write beside models, and stdout and stderr that nobody can write to.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::run::{Copied, TINYRUST, program, refuse, run, succeed};

/// Every output that names one file: a shard of the model itself, then a stranger's text. Catches a file that is emptied before the model
/// is looked at.
#[test]
fn no_output_replaces_a_file_of_another_kind() {
    let model = Copied::golden("mistral_bf16");
    let folder = TempDir::new().expect("a folder");
    let stranger = folder.path().join("thesis.txt");
    fs::write(&stranger, "years of work").expect("room");
    let weights = Path::new(model.path()).join("model.safetensors");
    for path in [&weights, &stranger] {
        let before = fs::read(path).expect("a file");
        let at = path.to_str().expect("UTF-8");
        for arguments in [
            &["load", model.path(), "--events", at][..],
            &["plan", model.path(), "--events", at],
            &["logits", model.path(), "--tokens=1", "--out", at],
        ] {
            refuse(1, arguments, &[at, "not replaced"]);
            assert!(fs::read(path).expect("a file") == before, "{arguments:?}");
        }
    }
    let page = folder.path().join("index.html");
    fs::write(&page, "<title>my home page</title>").expect("room");
    let at = folder.path().to_str().expect("UTF-8");
    let arguments = ["load", model.path(), "--report", at];
    let ran = run(&mut program(&arguments));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("index.html"), "{}", ran.stderr);
    let kept = fs::read_to_string(&page).expect("a page");
    assert_eq!(kept, "<title>my home page</title>");
    assert!(!folder.path().join("report.json").exists());
}

/// The same command twice. Catches a check that refuses a file of its own.
#[test]
fn an_output_replaces_an_earlier_one_of_its_kind() {
    let folder = TempDir::new().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (events, page, logits) = (at("events"), at("page"), at("logits"));
    for _ in 0..2 {
        succeed(&["load", TINYRUST, "--events", &events, "--report", &page]);
        succeed(&["logits", TINYRUST, "--tokens=1,2", "--out", &logits]);
    }
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["events", "logits", "page"], "no part is left");
}

/// A full disk behind stderr, and a stderr that is closed. Catches a panic, an answer that is lost, and another exit code.
#[cfg(target_os = "linux")]
#[test]
fn a_stderr_that_cannot_be_written_to_changes_nothing() {
    let full = || {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        Stdio::from(full.expect("a device"))
    };
    for (code, arguments) in [
        (0, &["load", TINYRUST, "-vv", "--json"][..]),
        (0, &["generate", TINYRUST, "--prompt=hi", "-n3"]),
        (0, &["inspect", TINYRUST]),
        (1, &["inspect", "/nonexistent"]),
        (2, &["no-command"]),
    ] {
        let expected = run(&mut program(arguments));
        let with_full = run(program(arguments).stderr(full()));
        let mut closed = Command::new("sh");
        let script = format!("exec {} \"$@\" 2>&-", env!("CARGO_BIN_EXE_firebox"));
        closed.current_dir(crate::common::repository());
        let closed = run(closed.args(["-c", &script, "sh"]).args(arguments));
        for ran in [expected, with_full, closed] {
            assert_eq!(ran.code, Some(code), "{arguments:?}");
            assert_eq!(ran.stdout.is_empty(), code != 0, "{arguments:?}");
        }
    }
}
