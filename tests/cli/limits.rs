//! The program where something has an end: memory, files, threads, a model that is cut while it is in use.

use std::{fs, process::Stdio};

use tempfile::tempdir;

use crate::{
    common::repository,
    run::{TINYRUST, program, refuse, run, succeed},
};

/// The budget of a device that computes in the host's memory. Catches one that is read and not asked.
#[test]
fn a_device_budget_bounds_a_load_on_the_cpu() {
    for command in [
        vec!["plan", TINYRUST],
        vec!["load", TINYRUST],
        vec!["generate", TINYRUST, "--prompt", "hi", "-n", "1"],
        vec!["logits", TINYRUST, "--tokens", "1", "--out", "/dev/null"],
    ] {
        let little = [&command[..], &["--device-budget", "1MiB"]].concat();
        let ran = run(&mut program(&little));
        assert_eq!(ran.code, Some(1), "{command:?}: {}", ran.stderr);
        let both = [
            "1048576 may be used",
            "7087104 bytes of host memory are needed",
        ];
        for part in both {
            assert!(ran.stderr.contains(part), "{command:?}: {}", ran.stderr);
        }
        succeed(&[&command[..], &["--device-budget", "64MiB"]].concat());
    }
}

/// A device without an end, and a pipe. Catches a text that is read until memory ends.
#[test]
#[cfg(target_os = "linux")]
fn a_text_to_measure_on_has_a_limit() {
    let eval = |text| ["eval", TINYRUST, "--text", text, "--context", "16"];
    refuse(
        1,
        &eval("/dev/zero"),
        &["/dev/zero", "more than 128.00 MiB"],
    );

    let text = Stdio::from(fs::File::open(repository().join("README.md")).expect("a text"));
    let ran = run(program(&eval("/dev/stdin")).stdin(text));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

/// Catches an output that is lost with the bare words of the system.
#[test]
#[cfg(target_os = "linux")]
fn an_output_that_cannot_be_written_names_the_cause() {
    let full = fs::File::options().write(true).open("/dev/full");
    let mut command = program(&["models"]);
    command.stdout(Stdio::from(full.expect("Linux has it")));
    let ran = run(&mut command);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("the output could not be written"),
        "{}",
        ran.stderr
    );
}

/// A mapped model whose file is cut while the program generates from it. Catches an end without a word: the system's own
/// answer is a signal.
#[test]
#[cfg(target_os = "linux")]
fn a_mapped_file_that_is_cut_ends_the_program_with_its_cause() {
    use std::io::Read;

    let folder = tempdir().expect("a folder");
    for file in fs::read_dir(repository().join(TINYRUST)).expect("a model") {
        let file = file.expect("a file");
        fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
    }
    let model = folder.path().to_str().expect("UTF-8");
    let mut command = program(&[
        "generate",
        model,
        "--reading",
        "mapped",
        "--prompt",
        "To",
        "-n",
        "100000",
    ]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built for the tests");
    let mut first = [0];
    let stdout = child.stdout.as_mut().expect("piped");
    stdout.read_exact(&mut first).expect("a first character");
    for file in fs::read_dir(folder.path()).expect("a model") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|end| end == "safetensors") {
            let file = fs::File::options().write(true).open(path).expect("a file");
            file.set_len(4096).expect("cut");
        }
    }
    let ended = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("mapped into memory was cut"), "{said}");
}

/// Files of at most some bytes, as `ulimit -f` allows them. Catches an end by a signal.
#[test]
#[cfg(target_os = "linux")]
fn a_limit_of_file_sizes_is_an_error() {
    let folder = tempdir().expect("a folder");
    let out = folder.path().join("out");
    let quantize = program(&["quantize", TINYRUST, "--quant", "nf4", "--out"]);
    let mut shell = std::process::Command::new("sh");
    shell.current_dir(repository());
    shell.args(["-c", "ulimit -f 200; exec \"$0\" \"$@\""]);
    shell.arg(quantize.get_program()).args(quantize.get_args());
    let ran = run(shell.arg(&out));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("File too large"), "{}", ran.stderr);
}

/// Limits of addresses from far too little to enough. Catches an allocation that is not asked for before: it ends the process
/// by a signal, or as a panic.
#[test]
#[cfg(target_os = "linux")]
fn little_memory_is_an_error() {
    let load = program(&["load", TINYRUST, "--dtype", "f32", "--workers", "1"]);
    let mut codes = Vec::new();
    for mib in (150..=900).step_by(50) {
        let mut shell = std::process::Command::new("sh");
        shell.current_dir(repository());
        let limited = format!("ulimit -v {}; exec \"$0\" \"$@\"", mib << 10);
        shell.args(["-c", &limited]).arg(load.get_program());
        let ran = run(shell.args(load.get_args()));
        assert!(matches!(ran.code, Some(0 | 1)), "{mib} MiB: {ran:?}");
        codes.push(ran.code);
    }
    assert!(codes.contains(&Some(0)), "{codes:?}");
}

/// A folder whose name is no text. Catches a command that takes names for texts, and one that says it cannot find what a
/// shell has completed.
#[test]
#[cfg(target_os = "linux")]
fn a_folder_whose_name_is_no_text_is_a_model() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    let folder = tempdir().expect("a folder");
    let model = folder.path().join(OsStr::from_bytes(b"model-\xff"));
    std::os::unix::fs::symlink(repository().join(TINYRUST), &model).expect("a link");
    for command in ["inspect", "plan", "load"] {
        let ran = run(program(&[command]).arg(&model));
        assert_eq!(ran.code, Some(0), "{command}: {}", ran.stderr);
    }
}
