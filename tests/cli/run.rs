//! Runs the program, and makes models for it to fail on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Golden, repository};

/// The model of the repository.
pub(crate) const TINYRUST: &str = "assets/tinyrust";

/// Every quantization that `--help` names.
pub(crate) const SPECS: [&str; 9] = [
    "none",
    "nf4",
    "fp4",
    "nf4:block=64,nested",
    "fp8:e4m3,scale=tensor",
    "fp8:e5m2,scale=channel",
    "fp8:e4m3,scale=block",
    "mlx:bits=4,group=64",
    "int8",
];

/// The program in the repository's root, untouched by the environment of whoever runs the tests.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firebox"));
    command.current_dir(repository()).args(arguments);
    for variable in ["RUST_LOG", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command
}

/// A shell script with mounts of its own, for a disk of a size. Its arguments follow.
#[cfg(target_os = "linux")]
pub(crate) fn with_own_mounts(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.args([script, "sh"]);
    command
}

#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn run(command: &mut Command) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .expect("the program was built for the tests");
    let text = |bytes| String::from_utf8(bytes).expect("the program prints UTF-8");
    Ran {
        code: status.code(),
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

/// What a successful run prints.
pub(crate) fn succeed(arguments: &[&str]) -> Ran {
    let ran = run(&mut program(arguments));
    assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
    ran
}

/// The one JSON value that a successful run prints. Anything before or after it is an error.
pub(crate) fn json(arguments: &[&str]) -> Value {
    let ran = succeed(&[arguments, &["--json"]].concat());
    serde_json::from_str(&ran.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", ran.stdout))
}

/// A run that ends with `code`, prints nothing on stdout, and an error with all of `parts` on stderr.
pub(crate) fn refuse(code: i32, arguments: &[&str], parts: &[&str]) {
    let ran = run(&mut program(arguments));
    assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
    assert_eq!(ran.stdout, "", "{arguments:?}");
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    for part in parts {
        let lacks = format!("{arguments:?}: `{}` lacks `{part}`", ran.stderr);
        assert!(ran.stderr.contains(part), "{lacks}");
    }
}

/// A copy of a model's folder, to be broken.
pub(crate) struct Copied(TempDir);

impl Copied {
    pub(crate) fn of(folder: &Path) -> Self {
        let copy = TempDir::new().expect("a temporary folder");
        for file in fs::read_dir(folder).expect("a model's folder") {
            let file = file.expect("a file");
            fs::copy(file.path(), copy.path().join(file.file_name())).expect("copied");
        }
        Self(copy)
    }

    pub(crate) fn golden(name: &'static str) -> Self {
        Self::of(&Golden(name).path(""))
    }

    pub(crate) fn tinyrust() -> Self {
        Self::of(&repository().join(TINYRUST))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn without(self, name: &str) -> Self {
        fs::remove_file(self.file(name)).expect("it was there");
        self
    }

    /// With one field of `config.json` set.
    pub(crate) fn config(self, field: &str, value: impl Into<Value>) -> Self {
        let path = self.file("config.json");
        let bytes = fs::read(&path).expect("it was copied");
        let mut config: Value = serde_json::from_slice(&bytes).expect("JSON");
        config[field] = value.into();
        fs::write(path, config.to_string()).expect("written");
        self
    }

    /// Without one tensor of `model.safetensors`.
    pub(crate) fn lacking(self, tensor: &str) -> Self {
        let path = self.file("model.safetensors");
        let bytes = fs::read(&path).expect("it was copied");
        let tensors = SafeTensors::deserialize(&bytes).expect("a checkpoint");
        let all = tensors.len();
        let kept: Vec<_> = tensors.iter().filter(|(name, _)| *name != tensor).collect();
        assert_eq!(kept.len(), all - 1, "{tensor} is not there to be left out");
        let file = safetensors::serialize(kept, None).expect("views are sound");
        fs::write(path, file).expect("written");
        self
    }

    /// With one number of a bf16 tensor, the `at`th, that is none.
    pub(crate) fn with_nan(self, tensor: &str, at: usize) -> Self {
        let files = fs::read_dir(self.0.path()).expect("it was copied");
        let paths = files.map(|file| file.expect("a file").path());
        for path in paths.filter(|path| path.extension().is_some_and(|end| end == "safetensors")) {
            let mut bytes = fs::read(&path).expect("it was copied");
            let tensors = SafeTensors::deserialize(&bytes).expect("a checkpoint");
            let Ok(view) = tensors.tensor(tensor) else {
                continue;
            };
            assert_eq!(view.dtype(), Dtype::BF16);
            let start = view.data().as_ptr().addr() - bytes.as_ptr().addr();
            bytes[start + 2 * at..][..2].copy_from_slice(&0x7FC0_u16.to_le_bytes());
            fs::write(path, bytes).expect("written");
            return self;
        }
        panic!("no file has {tensor}");
    }

    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().expect("UTF-8")
    }
}
