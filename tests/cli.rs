//! The program as others run it: exit codes, what is on stdout and what on stderr, and numbers.

#![cfg(all(feature = "cli", feature = "cpu"))]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use common::{Golden, max_abs_difference};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

const TINYRUST: &str = "assets/tinyrust";

/// Every quantization that `--help` names.
const SPECS: [&str; 7] = [
    "none",
    "nf4",
    "fp4",
    "nf4:block=64,nested",
    "fp8:e4m3,scale=tensor",
    "fp8:e5m2,scale=channel",
    "fp8:e4m3,scale=block",
];

// ------------------------------------------------------------------------------------- running it

/// The program in the repository's root, untouched by the environment of whoever runs the tests.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firebox"));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(arguments);
    for variable in ["RUST_LOG", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(command: &mut Command) -> Ran {
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
fn succeed(arguments: &[&str]) -> Ran {
    let ran = run(&mut program(arguments));
    assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
    ran
}

/// The one JSON value that a successful run prints. Anything before or after it is an error.
fn json(arguments: &[&str]) -> Value {
    let ran = succeed(&[arguments, &["--json"]].concat());
    serde_json::from_str(&ran.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", ran.stdout))
}

/// A run that ends with `code`, prints nothing on stdout, and an error with all of `parts` on stderr.
fn refuse(code: i32, arguments: &[&str], parts: &[&str]) {
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
struct Copied(TempDir);

impl Copied {
    fn of(folder: &Path) -> Self {
        let copy = TempDir::new().expect("a temporary folder");
        for file in fs::read_dir(folder).expect("a model's folder") {
            let file = file.expect("a file");
            fs::copy(file.path(), copy.path().join(file.file_name())).expect("copied");
        }
        Self(copy)
    }

    fn golden(name: &'static str) -> Self {
        Self::of(&Golden(name).path(""))
    }

    fn tinyrust() -> Self {
        Self::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join(TINYRUST))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn without(self, name: &str) -> Self {
        fs::remove_file(self.file(name)).expect("it was there");
        self
    }

    /// With one field of `config.json` set.
    fn config(self, field: &str, value: impl Into<Value>) -> Self {
        let path = self.file("config.json");
        let bytes = fs::read(&path).expect("it was copied");
        let mut config: Value = serde_json::from_slice(&bytes).expect("JSON");
        config[field] = value.into();
        fs::write(path, config.to_string()).expect("written");
        self
    }

    /// Without one tensor of `model.safetensors`.
    fn lacking(self, tensor: &str) -> Self {
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

    fn path(&self) -> &str {
        self.0.path().to_str().expect("UTF-8")
    }
}

// ------------------------------------------------------------------------------------- exit codes

/// Scripts tell a call that can never work (2) from one that failed (1) by these. Would catch a value
/// that is only looked at after a model has been loaded.
#[test]
fn wrong_usage_ends_with_two_and_says_what_is_right() {
    let nothing = run(&mut program(&[]));
    assert_eq!((nothing.code, &*nothing.stdout), (Some(2), ""));
    assert!(nothing.stderr.contains("Usage: firebox"), "{nothing:?}");

    let cases: &[(&[&str], &[&str])] = &[
        (&["lode", TINYRUST], &["lode", "load"]),
        (&["load"], &["<MODEL>"]),
        (&["load", TINYRUST, "--fast"], &["--fast"]),
        (&["load", TINYRUST, "--quant", "nf5"], &["`nf5`", "nf4"]),
        (
            &["load", TINYRUST, "--quant", "nf4:block=48"],
            &["48", "32 to 4096"],
        ),
        (
            &["load", TINYRUST, "--quant", "fp8:e4m3,scale=rows"],
            &["rows", "tensor, channel, block"],
        ),
        (
            &["load", TINYRUST, "--rule", "lm_head"],
            &["`lm_head` has no `=`"],
        ),
        (
            &["load", TINYRUST, "--rule", "lm_head=int3"],
            &["lm_head=int3", "`int3`"],
        ),
        (
            &["load", TINYRUST, "--rule", "role:norm=nf4"],
            &["role:norm", "role:linear"],
        ),
        (&["load", TINYRUST, "--skip", "a{b"], &["a{b"]),
        (
            &["load", TINYRUST, "--target", "abacus"],
            &["abacus", "cpu"],
        ),
        (
            &["load", TINYRUST, "--dtype", "f64"],
            &["f64", "f32", "bf16"],
        ),
        (
            &["load", TINYRUST, "--in-flight", "lots"],
            &["`lots`", "512MiB"],
        ),
        (&["load", TINYRUST, "--workers", "0"], &["--workers"]),
        (&["generate", TINYRUST], &["--prompt"]),
        (
            &["generate", TINYRUST, "-p", "a", "--temperature", "0"],
            &["--temperature", "above 0"],
        ),
        (
            &["generate", TINYRUST, "-p", "a", "--top-k", "0"],
            &["--top-k"],
        ),
        (
            &["generate", TINYRUST, "-p", "a", "--top-p", "1.5"],
            &["--top-p", "at most 1"],
        ),
        (&["eval", TINYRUST], &["--text"]),
        (&["logits", TINYRUST, "--out", "x"], &["--tokens"]),
        (
            &["logits", TINYRUST, "--out", "x", "--tokens", "1,-2"],
            &["-2"],
        ),
        (
            &["synth", "--like", "llama-9", "--size", "1GiB", "--out", "x"],
            &["\"llama-9\"", "llama-3-8b"],
        ),
        (
            &["synth", "--size", "2 gallons", "--out", "x"],
            &["`2 gallons`"],
        ),
    ];
    for (arguments, parts) in cases {
        refuse(2, arguments, parts);
    }
}

/// Would catch an error that only says that something is wrong, a failure that ends with 0, and half an
/// answer on stdout that a script would take for a whole one.
#[test]
fn failures_end_with_one_and_name_the_file_and_the_numbers() {
    let tinyrust = Copied::tinyrust().without("tokenizer.json");
    let no_tokenizer = tinyrust.path();
    let empty = TempDir::new().expect("a temporary folder");
    let empty = empty.path().to_str().expect("UTF-8");
    let rwkv = Copied::golden("mistral_bf16").config("model_type", "rwkv");
    let wide = Copied::golden("mistral_bf16").config("vocab_size", 513);
    let no_config = Copied::golden("mistral_bf16").without("config.json");
    let no_weights = Copied::golden("mistral_bf16").without("model.safetensors");
    let shard = "model-00003-of-00006.safetensors";
    let no_shard = Copied::golden("llama_bf16_untied").without(shard);
    let norm = "model.norm.weight";
    let no_norm = Copied::golden("mistral_bf16").lacking(norm);
    let short = Copied::golden("mistral_bf16");
    let weights = fs::read(short.file("model.safetensors")).expect("it was copied");
    fs::write(short.file("model.safetensors"), &weights[..100_000]).expect("written");

    let latin1 = short.file("latin1.txt");
    fs::write(&latin1, b"caf\xe9").expect("written");
    let latin1 = latin1.to_str().expect("UTF-8");
    let one = short.file("one.txt");
    fs::write(&one, "a").expect("written");
    let one = one.to_str().expect("UTF-8");
    let mistral = Golden("mistral_bf16").path("");
    let mistral = mistral.to_str().expect("UTF-8");
    let many_ids = vec!["7"; 257].join(",");
    let long_prompt = " the".repeat(2000);

    let cases: &[(&[&str], &[&str])] = &[
        // What is no model.
        (&["load", "./nowhere"], &["./nowhere", "nothing here"]),
        (&["load", "a/b/c"], &["a/b/c", "nothing here"]),
        (&["inspect", empty], &[empty, "config.json"]),
        (&["load", "Cargo.toml"], &["Cargo.toml", ".safetensors"]),
        (
            &["load", no_config.path()],
            &["model.safetensors", "config.json"],
        ),
        (
            &["load", no_weights.path()],
            &["no weights", "model.safetensors"],
        ),
        (&["load", rwkv.path()], &["\"rwkv\"", "llama", "qwen3"]),
        // What is half of one. The index has 8 tensors in the third shard.
        (&["load", no_shard.path()], &[shard, "8 tensors"]),
        (
            &["load", short.path()],
            &["model.safetensors", "embed_tokens.weight", "100000"],
        ),
        (&["load", no_norm.path()], &[norm, "1 of 21"]),
        (
            &["load", wide.path()],
            &["lm_head", "model.safetensors", "[512, 64]", "[513, 64]"],
        ),
        (
            &["generate", no_tokenizer, "--prompt", "a"],
            &["tokenizer.json", no_tokenizer],
        ),
        (
            &["eval", no_tokenizer, "--text", one],
            &["tokenizer.json", no_tokenizer],
        ),
        // What does not suit the model.
        (&["load", TINYRUST, "--rule", "lm_haed=nf4"], &["`lm_haed`"]),
        (&["load", TINYRUST, "--device", "3"], &["cpu", "3"]),
        (
            &["logits", mistral, "--out", "x", "--tokens", "1,512"],
            &["512", "vocabulary of 512"],
        ),
        (
            &["logits", mistral, "--out", "x", "--tokens", &many_ids],
            &["257", "256"],
        ),
        (
            &["generate", TINYRUST, "--prompt", &long_prompt],
            &["context", "1024"],
        ),
        (
            &["generate", TINYRUST, "--chat", "--prompt", "a"],
            &["chat_template"],
        ),
        // What else has to be read or written.
        (&["eval", TINYRUST, "--text", "no.txt"], &["no.txt"]),
        (&["eval", TINYRUST, "--text", latin1], &[latin1, "UTF-8"]),
        (&["eval", TINYRUST, "--text", one], &[one, "1 tokens"]),
        (
            &[
                "logits",
                mistral,
                "--out",
                "no/such/folder",
                "--tokens",
                "1",
            ],
            &["no/such/folder"],
        ),
        (
            &[
                "synth", "--like", "tinyrust", "--size", "4MiB", "--out", TINYRUST,
            ],
            &[TINYRUST, "not empty"],
        ),
        (
            &[
                "synth", "--like", "tinyrust", "--size", "100000", "--out", "x",
            ],
            &["tinyrust", "100000"],
        ),
    ];
    for (arguments, parts) in cases {
        refuse(1, arguments, parts);
        if !matches!(arguments[0], "logits" | "synth") {
            refuse(1, &[arguments, &["--json"][..]].concat(), parts);
        }
    }
    assert!(!Path::new(env!("CARGO_MANIFEST_DIR")).join("x").exists());
}

/// Weights may be many gigabytes. Would catch the tokenizer being read after them.
#[test]
fn a_missing_tokenizer_is_found_before_weights_are_looked_at() {
    let broken = Copied::golden("mistral_bf16")
        .without("tokenizer.json")
        .lacking("model.norm.weight");
    refuse(
        1,
        &["generate", broken.path(), "--prompt", "a"],
        &["tokenizer.json"],
    );
}

/// `firebox plan MODEL | head -1` is how people look at long answers. Would catch a panic.
#[test]
fn a_closed_pipe_is_no_failure() {
    let prompt = ["generate", TINYRUST, "--prompt", "To", "-n", "3"];
    for arguments in [
        &["plan", TINYRUST][..],
        &["inspect", TINYRUST, "--tensors"],
        &["load", TINYRUST, "--json"],
        &prompt,
    ] {
        let mut child = program(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built for the tests");
        drop(child.stdout.take());
        let ended = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panic"), "{arguments:?}: {stderr}");
    }
}

/// The hub is not asked, and an empty cache has nothing. Would catch an attempt to download all the
/// same, and a message that takes a spelling mistake or a missing download for a folder that is no model.
#[cfg(feature = "hub")]
#[test]
fn a_model_that_is_not_in_the_cache_says_so_when_offline() {
    let cache = TempDir::new().expect("a temporary folder");
    for (variable, flag) in [("1", None), ("0", Some("--offline"))] {
        let mut command = program(&["load", "some-org/some-model"]);
        command.args(flag).env("HF_HUB_OFFLINE", variable);
        command.env("HF_HOME", cache.path());
        // Nobody listens there: an attempt would fail with another message.
        command.env("HF_ENDPOINT", "http://127.0.0.1:9");
        for other in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
            command.env_remove(other);
        }
        let ran = run(&mut command);
        assert_eq!((ran.code, &*ran.stdout), (Some(1), ""), "{ran:?}");
        let folder = cache.path().to_str().expect("UTF-8");
        let parts = [
            "error: some-org/some-model",
            "config.json",
            folder,
            "offline",
            "unset HF_HUB_OFFLINE",
        ];
        for part in parts {
            assert!(ran.stderr.contains(part), "{flag:?}: {}", ran.stderr);
        }
    }
}

// ------------------------------------------------------------------------------ stdout and stderr

/// Would catch colours in a file or under `NO_COLOR`. That colours can be forced shows that the bytes
/// looked for would be seen.
#[test]
fn there_are_no_colours_in_pipes_or_under_no_color() {
    const ESCAPE: char = '\u{1b}';
    let wrong = ["load", TINYRUST, "--quant", "nf5"];
    let forced = run(program(&wrong).env("CLICOLOR_FORCE", "1"));
    assert!(forced.stderr.contains(ESCAPE), "{forced:?}");

    let commands: [&[&str]; 8] = [
        &[],
        &wrong,
        &["--help"],
        &["load", "./nowhere"],
        &["-vv", "load", TINYRUST, "--quant", "nf4", "--tensors"],
        &["plan", TINYRUST],
        &["inspect", TINYRUST],
        &["generate", TINYRUST, "--prompt", "To", "-n", "2"],
    ];
    for arguments in commands {
        let piped = run(&mut program(arguments));
        let asked = run(program(arguments)
            .env("NO_COLOR", "1")
            .env("CLICOLOR_FORCE", "1"));
        for ran in [piped, asked] {
            let printed = ran.stdout + &ran.stderr;
            assert!(!printed.is_empty(), "{arguments:?} printed nothing");
            assert!(!printed.contains(ESCAPE), "{arguments:?}: {printed}");
        }
    }
}

/// Would catch logs on stdout, where they would break the JSON.
#[test]
fn logs_go_to_stderr() {
    let ran = succeed(&["load", TINYRUST, "--json", "-vv"]);
    let report: Value = serde_json::from_str(&ran.stdout).expect("one JSON value");
    assert_eq!(report["tensors"], 38);
    assert!(ran.stderr.contains("loaded"), "{}", ran.stderr);
    assert_eq!(succeed(&["load", TINYRUST, "--json"]).stderr, "");
}

#[test]
fn help_and_version_are_answers_not_errors() {
    let version = succeed(&["--version"]).stdout;
    assert_eq!(version, format!("firebox {}\n", env!("CARGO_PKG_VERSION")));
    for command in [
        "inspect", "plan", "load", "generate", "eval", "logits", "synth",
    ] {
        let help = succeed(&[command, "--help"]).stdout;
        let usage = format!("Usage: firebox {command}");
        assert!(help.contains(&usage), "{help}");
    }
}

// ------------------------------------------------------------------------------------------- load

/// What scripts read. `assets/tinyrust` has, by its `config.json`:
///
/// ```text
/// a layer     q 256 x 256, k and v 128 x 256, o 256 x 256       196,608 weights
///             gate and up 704 x 256, down 256 x 704             540,672 weights
/// 4 layers                                                    2,949,120 weights in 28 matrices
/// embedding   2048 x 256, tied                                  524,288 weights
/// norms       (2 x 4 + 1) x 256                                   2,304 weights
/// ```
///
/// All are bf16 in the checkpoint: 2 x 3,475,712 = 6,951,424 bytes. Embedding and norms stay dense, in
/// f32: 4 x 526,592 = 2,106,368 bytes. To these add the matrices:
///
/// ```text
/// none         4 bytes a weight                                            11,796,480
/// nf4, fp4     half a byte a weight, 4 a block of 64     1,474,560 + 184,320 = 1,658,880
/// nf4 nested   half a byte a weight, 1 a block, and 4 for each 256 blocks begun and 4 once a matrix:
///              q, o 1024 blocks, 1024 + 16 + 4 = 1,044; k, v 512 blocks, 512 + 8 + 4 = 524; the rest
///              2816 blocks, 2816 + 44 + 4 = 2,864; a layer 11,728
///                                                         1,474,560 + 46,912 = 1,521,472
/// fp8 tensor   a byte a weight, 4 a matrix                   2,949,120 + 112 = 2,949,232
/// fp8 channel  a byte a weight, 4 a row: 2,432 rows in a layer
///                                                         2,949,120 + 38,912 = 2,988,032
/// fp8 block    a byte a weight, 4 a tile of 128 x 128 begun: q, o 4, k, v 2, the rest 6 x 2; a layer 48
///                                                            2,949,120 + 768 = 2,949,888
/// ```
///
/// Would catch a report of plans instead of bytes, and scales that are not counted.
#[test]
fn load_reports_the_bytes_that_the_config_implies() {
    const DENSE: u64 = 2_106_368;
    let expected = [
        ("none", "none", 11_796_480),
        ("nf4", "nf4:block=64", 1_658_880),
        ("fp4", "fp4:block=64", 1_658_880),
        ("nf4:block=64,nested", "nf4:block=64,nested", 1_521_472),
        ("fp8:e4m3,scale=tensor", "fp8:e4m3,scale=tensor", 2_949_232),
        (
            "fp8:e5m2,scale=channel",
            "fp8:e5m2,scale=channel",
            2_988_032,
        ),
        ("fp8:e4m3,scale=block", "fp8:e4m3,scale=block", 2_949_888),
    ];
    assert_eq!(expected.map(|(spec, ..)| spec), SPECS);
    for (spec, quant, matrices) in expected {
        let report = json(&["load", TINYRUST, "--quant", spec]);
        assert_eq!(report["target"], "cpu");
        assert_eq!(report["quant"], quant);
        assert_eq!(report["tensors"], 38);
        assert_eq!(report["bytes_read"], 6_951_424);
        assert_eq!(report["bytes_packed"], DENSE + matrices, "{spec}");

        let seconds = report["seconds"].as_f64().expect("a number");
        assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
        match report["peak_host_bytes"].as_u64() {
            // The model itself is in that memory, and little else.
            Some(peak) => {
                let least = DENSE + matrices;
                let most = least + (512 << 20);
                assert!((least..most).contains(&peak), "{spec}: {peak}");
            }
            None => assert!(!cfg!(target_os = "linux") && report["peak_host_bytes"].is_null()),
        }
    }
}

/// Would catch an option that is read and forgotten.
#[test]
fn rules_skips_and_types_reach_the_load() {
    let report = json(&[
        "load",
        TINYRUST,
        "--quant=nf4",
        "--rule=role:embedding=fp8:e5m2",
        "--rule=model.layers.0.mlp=fp4",
        "--rule=model.layers.0=fp8",
        "--skip=*.3.self_attn.*",
        "--dtype=f16",
        "--workers=1",
        "--in-flight=64KiB",
        "--strategy=low-memory",
    ]);
    assert_eq!(report["dtype"], "f16");
    let tensors = report["per_tensor"].as_array().expect("a list");
    let quant = |name: &str| {
        let tensor = tensors.iter().find(|tensor| tensor["name"] == name);
        tensor.expect(name)["quant"].as_str().expect("text")
    };
    let expected = [
        ("model.embed_tokens.weight", "fp8:e5m2,scale=tensor"),
        ("model.layers.0.mlp.up_proj.weight", "fp4:block=64"),
        (
            "model.layers.0.self_attn.q_proj.weight",
            "fp8:e4m3,scale=tensor",
        ),
        ("model.layers.0.input_layernorm.weight", "none"),
        ("model.layers.1.mlp.up_proj.weight", "nf4:block=64"),
        ("model.layers.3.self_attn.q_proj.weight", "none"),
        ("model.layers.3.mlp.up_proj.weight", "nf4:block=64"),
        ("model.norm.weight", "none"),
    ];
    for (name, becomes) in expected {
        assert_eq!(quant(name), becomes, "{name}");
    }
}

/// The same numbers for people.
#[test]
fn load_prints_a_report_and_a_table() {
    let ran = succeed(&["load", TINYRUST, "--quant", "nf4", "--tensors"]);
    for part in [
        "38 tensors, 6.63 MiB read, 3.59 MiB kept (nf4:block=64 on cpu)",
        "| model.layers.3.mlp.up_proj.weight",
        // 704 x 256 weights: 90,112 bytes of codes and 11,264 of scales.
        "| 99.00 KiB |",
    ] {
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
}

// --------------------------------------------------------------------------------------- generate

const PROMPT: &str = "To create a new package, run";

/// What transformers 5.23 says after [`PROMPT`], greedily, in f32.
const CONTINUATION: &str = " the crate, and the\nsubgen is not a special problem, and the compiler is\n\
    installed.\n\nThe Rust programs can be used to";

fn generated(model: &str, more: &[&str]) -> Value {
    json(&[&["generate", model, "--prompt", PROMPT][..], more].concat())
}

/// Would catch nearly anything between the file and the text: a begin token left out, a piece of text
/// lost between tokens, the prompt repeated.
#[test]
fn the_continuation_is_that_of_transformers() {
    let answer = generated(TINYRUST, &["--max-new-tokens", "40"]);
    assert_eq!(answer["text"], CONTINUATION);
    assert_eq!(answer["prompt"], PROMPT);
    assert_eq!(answer["tokens"].as_array().expect("a list").len(), 40);
    assert_eq!(answer["stop"], "max-new-tokens");
    assert_eq!(answer["load"]["tensors"], 38);
}

/// Would catch a report that ends up in the text when stdout is a file.
#[test]
fn people_read_the_text_on_stdout_and_the_report_on_stderr() {
    let ran = succeed(&["generate", TINYRUST, "--prompt", PROMPT, "-n", "40"]);
    assert_eq!(ran.stdout, format!("{PROMPT}{CONTINUATION}\n"));
    for part in ["38 tensors, 6.63 MiB read", "40 tokens in"] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
}

/// Would catch a seed that is ignored, or taken from the clock.
#[test]
fn a_seed_draws_the_same_text_again_and_another_seed_another() {
    let draw = |seed| {
        let answer = generated(TINYRUST, &["-n=12", "--temperature=1", "--seed", seed]);
        answer["text"].clone()
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
    // The narrowest draw is no draw.
    let narrow = generated(TINYRUST, &["-n=12", "--top-k=1", "--seed=5"]);
    let greedy = CONTINUATION.strip_prefix(narrow["text"].as_str().expect("text"));
    assert!(greedy.is_some(), "{narrow}");
}

/// Would catch a spec that loads and answers nothing, or noise: the first words that each says are
/// still words.
#[test]
fn every_quantization_speaks() {
    for spec in SPECS {
        let answer = generated(TINYRUST, &["-n", "12", "--quant", spec]);
        let text = answer["text"].as_str().expect("text");
        let letters = text.chars().filter(|c| c.is_ascii_alphabetic()).count();
        assert!(letters >= 10, "{spec}: {text:?}");
    }
}

/// Would catch tokens beyond the model's positions, whose text is noise: of 256 positions two are the
/// prompt's, and the last token needs none.
#[test]
fn a_full_context_ends_the_text() {
    let mistral = Golden("mistral_bf16").path("");
    let mistral = mistral.to_str().expect("UTF-8");
    let answer = json(&["generate", mistral, "--prompt", "a", "-n", "400"]);
    assert_eq!(answer["stop"], "context-full");
    assert_eq!(answer["prompt_tokens"], 2);
    assert_eq!(answer["tokens"].as_array().expect("a list").len(), 255);
}

/// Would catch a template that is printed, applied without its generation prompt, or given a second
/// begin token.
#[test]
fn chat_wraps_the_prompt_in_the_template() {
    let model = Copied::tinyrust();
    let template = "{{ bos_token }}{% for message in messages %}<{{ message.role }}> {{ message.content }}\n\
        {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    fs::write(model.file("chat_template.jinja"), template).expect("written");

    let chat = json(&[
        "generate",
        model.path(),
        "--chat",
        "--prompt",
        "What is a crate?",
        "-n",
        "8",
    ]);
    let written_out = "<user> What is a crate?\n<assistant>";
    let plain = json(&["generate", TINYRUST, "--prompt", written_out, "-n", "8"]);
    assert_eq!(chat["tokens"], plain["tokens"]);
    assert_eq!(chat["prompt_tokens"], plain["prompt_tokens"]);
    assert_eq!(chat["prompt"], "What is a crate?");
}

// ----------------------------------------------------------------------------------------- logits

/// Logits that the program writes for some tokens: one row a token.
fn logits(model: &str, ids: &[u32]) -> (Vec<f32>, Vec<usize>) {
    let folder = TempDir::new().expect("a temporary folder");
    let out = folder.path().join("logits.safetensors");
    let tokens: Vec<String> = ids.iter().map(u32::to_string).collect();
    let (tokens, out) = (tokens.join(","), out.to_str().expect("UTF-8"));
    succeed(&["logits", model, "--tokens", &tokens, "--out", out]);

    let bytes = fs::read(out).expect("it was written");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    assert_eq!(file.names(), ["logits"]);
    let view = file.tensor("logits").expect("it is there");
    assert_eq!(view.dtype(), Dtype::F32);
    let values = view.data().as_chunks().0.iter().copied();
    (
        values.map(f32::from_le_bytes).collect(),
        view.shape().into(),
    )
}

/// Would catch logits of the last token only, of another order, or in another type.
#[test]
fn logits_are_written_as_transformers_computes_them() {
    for name in [
        "llama_bf16_untied",
        "llama_f16_tied_bias",
        "llama_f32_tied",
        "mistral_bf16",
        "qwen2_bf16_tied",
        "qwen3_bf16",
    ] {
        let golden = Golden(name);
        let model = golden.path("");
        let (expected, shape) = golden.floats("logits_f32");
        let rows = golden.ids("input_ids");
        assert_eq!(shape, [rows.len(), rows[0].len(), 512]);
        for (row, expected) in rows.iter().zip(expected.chunks(row_len(&shape))) {
            let (found, shape) = logits(model.to_str().expect("UTF-8"), row);
            assert_eq!(shape, [row.len(), 512], "{name}");
            let error = max_abs_difference(&found, expected);
            assert!(error < 1e-4, "{name}: largest error {error}");
        }
    }
}

fn row_len(shape: &[usize]) -> usize {
    shape[1] * shape[2]
}

// ------------------------------------------------------------------------------------------- eval

/// The slow one: 45 seconds without optimisation. The numbers are PyTorch's. Would catch text that is
/// tokenized by window, a begin token, windows that overlap, a first token that is scored.
#[test]
fn perplexity_is_that_of_the_reference() {
    let score = json(&["eval", TINYRUST, "--text", "assets/tinyrust-sample.txt"]);
    let perplexity = score["perplexity"].as_f64().expect("a number");
    assert!(
        (perplexity - 31.271488875716702).abs() < 1e-3,
        "{perplexity}"
    );
    assert_eq!(score["tokens"], 20070);
    assert_eq!(score["context"], 512);
}

/// The first characters of the sample, in a file, and their ids, without special tokens.
fn sample(folder: &TempDir, characters: usize) -> (String, Vec<u32>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("assets/tinyrust-sample.txt")).expect("the sample");
    let text: String = text.chars().take(characters).collect();
    let path = folder.path().join("text.txt");
    fs::write(&path, &text).expect("written");

    let tokenizer = tokenizers::Tokenizer::from_file(root.join(TINYRUST).join("tokenizer.json"));
    let encoded = tokenizer.expect("a tokenizer").encode(text, false);
    let ids = encoded.expect("text").get_ids().to_vec();
    (path.to_str().expect("UTF-8").to_owned(), ids)
}

/// Perplexity by the rule, the plainest way: windows of `context` tokens, each a forward pass of its own
/// and its first token not scored. With it the tokens that were scored.
fn by_the_rule(ids: &[u32], context: usize) -> (f64, usize) {
    let mut scores = Vec::new();
    for window in ids.chunks(context) {
        let (logits, shape) = logits(TINYRUST, window);
        for (t, row) in logits.chunks(shape[1]).enumerate().take(window.len() - 1) {
            let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            let next = window[t + 1] as usize;
            scores.push(total.ln() - f64::from(row[next]));
        }
    }
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    (mean.exp(), scores.len())
}

/// Would catch a last window that is dropped, padded, or joined to the one before, and one of a single
/// token that is counted, or divides by zero.
#[test]
fn windows_are_cut_by_the_documented_rule() {
    let folder = TempDir::new().expect("a temporary folder");
    let (text, ids) = sample(&folder, 330);
    let n = ids.len();
    let contexts = [
        // The last window is shorter, a single token, as long as the others; there is only one.
        (n * 2 / 5, n - 3),
        (n - 1, n - 2),
        (n.div_ceil(2), n - 2),
        (n, n - 1),
    ];
    for (context, scored) in contexts {
        let context_text = context.to_string();
        let score = json(&[
            "eval",
            TINYRUST,
            "--text",
            &text,
            "--context",
            &context_text,
        ]);
        let (expected, tokens) = by_the_rule(&ids, context);
        assert_eq!((tokens, &score["tokens"]), (scored, &json!(scored)));
        let found = score["perplexity"].as_f64().expect("a number");
        // The sums differ in their last bits: one subtracts the largest logit first.
        assert!(
            (found / expected - 1.0).abs() < 1e-6,
            "{context}: {found} {expected}"
        );
    }
}

/// Would catch a window longer than the model's positions.
#[test]
fn a_window_is_at_most_the_models_context() {
    let model = Copied::tinyrust().config("max_position_embeddings", 40);
    let folder = TempDir::new().expect("a temporary folder");
    let (text, ids) = sample(&folder, 330);
    let score = json(&["eval", model.path(), "--text", &text]);
    assert_eq!(score["context"], 40);
    assert_eq!(score["tokens"], ids.len() - ids.len().div_ceil(40));
    let same = json(&["eval", TINYRUST, "--text", &text, "--context", "40"]);
    assert_eq!(score["perplexity"], same["perplexity"]);
}

/// Several quantizations are a table for people and a list for scripts. Would catch one that is measured
/// with the weights of another, and one that breaks the model: 4 and 8 bits change the perplexity of this
/// model by less than 5 %.
#[test]
fn several_quantizations_are_compared() {
    let folder = TempDir::new().expect("a temporary folder");
    let (text, ids) = sample(&folder, 600);
    let mut arguments = vec!["eval", TINYRUST, "--text", &text, "--context", "100"];
    arguments.extend(SPECS.iter().flat_map(|spec| ["--quant", spec]));

    let scores = json(&arguments);
    let scores = scores.as_array().expect("a list");
    assert_eq!(scores.len(), SPECS.len());
    let perplexity = |k: usize| scores[k]["perplexity"].as_f64().expect("finite");
    for (k, spec) in SPECS.iter().enumerate() {
        assert_eq!(scores[k]["tokens"], ids.len() - ids.len().div_ceil(100));
        let ratio = perplexity(k) / perplexity(0);
        assert!((0.95..1.05).contains(&ratio), "{spec}: {ratio}");
        for earlier in 0..k {
            assert_ne!(perplexity(k), perplexity(earlier), "{spec}");
        }
    }
    // See `load_reports_the_bytes_that_the_config_implies`: 8 x 1,658,880 bits for 2,949,120 weights.
    assert_eq!(scores[1]["bits_per_weight"], 4.5);

    let table = succeed(&arguments).stdout;
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 2 + SPECS.len(), "{table}");
    assert!(rows[0].starts_with("| quant"), "{table}");
    for (row, score) in rows[2..].iter().zip(scores) {
        let quant = score["quant"].as_str().expect("text");
        let perplexity = format!(" {:.3} ", score["perplexity"].as_f64().expect("finite"));
        assert!(row.contains(quant) && row.contains(&perplexity), "{table}");
    }
}

// ------------------------------------------------------------------------------- plan and inspect

/// Would catch a field that is renamed: scripts read these. The sizes are worked out beside
/// [`load_reports_the_bytes_that_the_config_implies`].
#[test]
fn plan_has_the_documented_fields() {
    let plan = json(&["plan", TINYRUST, "--quant", "nf4"]);
    assert_eq!(plan["model"], TINYRUST);
    assert_eq!(plan["target"], "cpu");
    assert_eq!(plan["dtype"], "f32");
    let totals = json!({
        "tensors": 38,
        "packed": 28,
        "bytes_source": 6_951_424,
        "bytes_kept": 3_765_248,
    });
    assert_eq!(plan["totals"], totals);
    for list in ["missing", "unused", "unexpected"] {
        assert_eq!(plan[list], json!([]), "{list}");
    }
    let tensors = plan["tensors"].as_array().expect("a list");
    assert_eq!(tensors.len(), 38);
    let down = tensors
        .iter()
        .find(|tensor| tensor["name"] == "model.layers.0.mlp.down_proj.weight")
        .expect("a tensor of the model");
    let expected = json!({
        "name": "model.layers.0.mlp.down_proj.weight",
        "shape": [256, 704],
        "role": "linear",
        "file": "model-00001-of-00003.safetensors",
        "offset": down["offset"],
        "quant": "nf4:block=64",
        "bytes_read": 360_448,
        "bytes_kept": 101_376,
    });
    assert_eq!(*down, expected);
    assert!(down["offset"].is_u64(), "{down}");
}

/// Would catch an incomplete checkpoint whose plan cannot be looked at, or one that passes for a good
/// one.
#[test]
fn a_plan_that_cannot_be_carried_out_is_printed_and_fails() {
    let model = Copied::golden("mistral_bf16").lacking("model.norm.weight");
    let ran = run(&mut program(&["plan", model.path()]));
    assert_eq!(ran.code, Some(1));
    for part in ["missing: model.norm.weight", "20 tensors, 0 packed"] {
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    for part in ["1 of 21", "model.norm.weight"] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }

    let ran = run(&mut program(&["plan", model.path(), "--json"]));
    assert_eq!(ran.code, Some(1));
    let plan: Value = serde_json::from_str(&ran.stdout).expect("one JSON value");
    assert_eq!(plan["missing"], json!(["model.norm.weight"]));
}

/// Would catch a field that is renamed, and places in files that are not where the bytes are.
#[test]
fn inspect_has_the_documented_fields() {
    let found = json(&["inspect", TINYRUST]);
    assert_eq!(found["model"], TINYRUST);
    assert_eq!(found["config"]["hidden_size"], 256);
    // As the file system says.
    let files = [
        ("model-00001-of-00003.safetensors", 2_886_432_u64),
        ("model-00002-of-00003.safetensors", 2_953_136),
        ("model-00003-of-00003.safetensors", 1_116_008),
    ];
    let metadata = json!({ "format": "pt" });
    let listed =
        files.map(|(name, bytes)| json!({ "name": name, "bytes": bytes, "metadata": metadata }));
    assert_eq!(found["files"], json!(listed));
    assert_eq!(found["bytes"], 2_886_432 + 2_953_136 + 1_116_008);

    let tensors = found["tensors"].as_array().expect("a list");
    assert_eq!(tensors.len(), 38);
    for tensor in tensors {
        let field = |name: &str| tensor[name].as_u64().expect("a number") as usize;
        let file = tensor["file"].as_str().expect("text");
        let name = tensor["name"].as_str().expect("text");
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(TINYRUST)
            .join(file);
        let bytes = fs::read(path).expect("a shard");
        let shard = SafeTensors::deserialize(&bytes).expect("a shard");
        let view = shard.tensor(name).expect(name);
        assert_eq!(tensor["dtype"], "BF16");
        assert_eq!(tensor["shape"], json!(view.shape()));
        let there = &bytes[field("offset")..][..field("bytes")];
        assert!(there == view.data(), "{name}: other bytes");
    }

    let people = succeed(&["inspect", TINYRUST, "--tensors"]).stdout;
    for part in [
        "llama, 38 tensors, 6.63 MiB in 3 files",
        "hidden_size: 256",
        "| BF16 |",
        "| model.layers.3.mlp.up_proj.weight",
    ] {
        assert!(people.contains(part), "{people}");
    }
}

// ------------------------------------------------------------------------------------------ synth

/// Would catch a checkpoint that its own program cannot read, and one that differs from run to run.
#[test]
fn a_synthetic_checkpoint_loads() {
    let folder = TempDir::new().expect("a temporary folder");
    let made = |name: &str| {
        let out = folder.path().join(name);
        let out = out.to_str().expect("UTF-8").to_owned();
        let said = succeed(&[
            "synth", "--like", "tinyrust", "--size", "4MiB", "--out", &out,
        ]);
        (out, said.stdout)
    };
    let (first, said) = made("first");
    assert!(said.contains("2 layers"), "{said}");
    let (second, _) = made("second");

    let report = json(&["load", &first, "--quant", "nf4"]);
    // Embedding, last norm, and nine tensors in each of the two layers.
    assert_eq!(report["tensors"], 2 + 2 * 9);
    let read = report["bytes_read"].as_u64().expect("a number");
    assert!(read > 3 << 20 && read <= 4 << 20, "{read}");

    for file in fs::read_dir(&first).expect("a folder") {
        let name = file.expect("a file").file_name();
        let bytes = |folder: &str| fs::read(Path::new(folder).join(&name)).expect("a file");
        assert!(bytes(&first) == bytes(&second), "{name:?} differs");
    }
    refuse(
        1,
        &[
            "synth", "--like", "tinyrust", "--size", "4MiB", "--out", &first,
        ],
        &[&first, "not empty"],
    );
}
