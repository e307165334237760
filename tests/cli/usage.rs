//! What all commands share: exit codes, messages, stdout and stderr.

use std::{fs, process::Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    common::{Golden, repository},
    run::{Copied, TINYRUST, program, refuse, run, succeed},
};

// ------------------------------------------------------------------------------------- exit codes

/// Scripts tell a call that can never work (2) from one that failed (1) by these: 2 is for what is wrong on the command line or in a
/// file of settings whatever the model and the machine, in every command. Would catch a value that is only looked at after a model has been
/// loaded.
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
            &["load", TINYRUST, "--reading", "mmap"],
            &["--reading", "mapped or direct"],
        ),
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
        (
            &["load", TINYRUST, "--workers", "0"],
            &["--workers", "from 1 to 1024"],
        ),
        (
            &["load", TINYRUST, "--workers", "1025"],
            &["--workers", "from 1 to 1024"],
        ),
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
        (
            &["generate", TINYRUST, "-p", "a", "--seed", "5"],
            &["--temperature", "--top-k", "--top-p"],
        ),
        (&["eval", TINYRUST], &["--text"]),
        (
            &["eval", TINYRUST, "--text", "x", "--context", "0"],
            &["--context", "2 or more"],
        ),
        (
            &["eval", TINYRUST, "--text", "x", "--context", "1"],
            &["--context", "2 or more"],
        ),
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
        (&["models", "--famlies"], &["--famlies"]),
        (&["inspect"], &["<MODEL>"]),
        (
            &["inspect", TINYRUST, "--expand", "blocks=0"],
            &["`blocks=0`", "above 0"],
        ),
        (
            &["plan", TINYRUST, "--strategy", "quick"],
            &["quick", "streaming"],
        ),
        (
            &["plan", TINYRUST, "--prefetch", "65"],
            &["--prefetch", "65"],
        ),
        (&["quantize", TINYRUST, "--quant", "nf4"], &["--out"]),
        (
            &[
                "quantize", TINYRUST, "--quant", "nf4", "--out", "x", "--to", "gguf5",
            ],
            &["gguf5", "mlx"],
        ),
        (
            &[
                "quantize",
                TINYRUST,
                "--quant",
                "nf4",
                "--out",
                "x",
                "--fallback",
                "none",
            ],
            &["--fallback", "--min-sqnr"],
        ),
        (
            &["convert", TINYRUST, "--out", "x", "--scales", "flat"],
            &["flat", "nested"],
        ),
        (&["merge", TINYRUST, "--out", "x"], &["--adapter DIR"]),
        (
            &["merge", TINYRUST, "--out", "x", "--adapter", "lora:rang=1"],
            &["`rang=1`", "rank=16"],
        ),
        (
            &["verify", TINYRUST, "--against", TINYRUST, "--quant", "nf4"],
            &["--against", "--quant"],
        ),
        (
            &["verify", TINYRUST, "--quant", "nf4", "--min-cosine", "2"],
            &["--min-cosine", "from -1 to 1"],
        ),
        (&["finetune", TINYRUST], &["`data` is not given", "--data"]),
        (
            &["finetune", TINYRUST, "--data", "x"],
            &["`out` is not given", "--out"],
        ),
        (
            &[
                "finetune",
                TINYRUST,
                "--data",
                "x",
                "--out",
                "x",
                "--learning-rate",
                "0",
            ],
            &["`learning-rate` is 0", "2e-4"],
        ),
        (
            &[
                "finetune", TINYRUST, "--data", "x", "--out", "x", "--steps", "1", "--epochs", "1",
            ],
            &["`epochs`", "`steps`"],
        ),
        (
            &[
                "finetune",
                TINYRUST,
                "--data",
                "x",
                "--out",
                "x",
                "--adapter",
                "a",
                "--adapter",
                "b",
            ],
            &["2 times", "one adapter"],
        ),
        (
            &["finetune", TINYRUST, "--schedule", "cosin"],
            &["cosin", "cosine"],
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
    let garbled = Copied::golden("mistral_bf16");
    fs::write(garbled.file("tokenizer.json"), "{}").expect("written");
    let garbled_file = garbled.file("tokenizer.json");
    let garbled_file = garbled_file.to_str().expect("UTF-8");
    let empty = TempDir::new().expect("a temporary folder");
    let empty = empty.path().to_str().expect("UTF-8");
    let rwkv = Copied::golden("mistral_bf16").config("model_type", "rwkv");
    let wide = Copied::golden("mistral_bf16").config("vocab_size", 513);
    let no_config = Copied::golden("mistral_bf16").without("config.json");
    let no_weights = Copied::golden("mistral_bf16")
        .without("model.safetensors")
        .without("logits.safetensors");
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
        (
            &["generate", garbled.path(), "--prompt", "a"],
            &[garbled_file],
        ),
        // What does not suit the model.
        (&["load", TINYRUST, "--rule", "lm_haed=nf4"], &["`lm_haed`"]),
        (&["load", TINYRUST, "--device", "8"], &["cpu", "8"]),
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
        (
            &["finetune", TINYRUST, "--data", "no.txt", "--out", "x"],
            &["no.txt"],
        ),
        (
            &["finetune", TINYRUST, "--config", "no.toml", "--out", "x"],
            &["no.toml"],
        ),
        (
            &["merge", TINYRUST, "--out", "x", "--adapter", "no/adapter"],
            &["no/adapter"],
        ),
    ];
    for (arguments, parts) in cases {
        refuse(1, arguments, parts);
        if !matches!(arguments[0], "logits" | "synth" | "finetune") {
            refuse(1, &[arguments, &["--json"][..]].concat(), parts);
        }
    }
    assert!(!repository().join("x").exists());
}

/// Weights may be many gigabytes. Each of these models lacks one: an error that is not about it came before
/// any was read. Would catch a tokenizer that is read, or a text that is looked at, after them.
#[test]
fn what_else_is_wrong_is_found_before_weights_are_looked_at() {
    let broken = || Copied::golden("mistral_bf16").lacking("model.norm.weight");
    let (whole, small) = (broken(), broken().config("vocab_size", 300));
    let no_tokenizer = broken().without("tokenizer.json");
    let text = whole.file("text.txt");
    fs::write(&text, "To create a new package, run the program.").expect("written");
    let text = text.to_str().expect("UTF-8");
    let one = whole.file("one.txt");
    fs::write(&one, "a").expect("written");
    let one = one.to_str().expect("UTF-8");
    let nowhere = whole.file("no/logits.safetensors");
    let nowhere = nowhere.to_str().expect("UTF-8");
    let long = " the".repeat(300);
    let (whole, small) = (whole.path(), small.path());

    refuse(1, &["load", whole], &["model.norm.weight"]);
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["generate", no_tokenizer.path(), "--prompt", "a"],
            &["tokenizer.json"],
        ),
        (
            &["generate", whole, "--chat", "--prompt", "a"],
            &["chat template"],
        ),
        (&["generate", whole, "--prompt", &long], &["256 at most"]),
        (
            &["generate", small, "--prompt", "To create"],
            &["vocabulary of 300"],
        ),
        (&["eval", whole, "--text", one], &[one, "1 tokens"]),
        (
            &["eval", small, "--text", text],
            &[text, "vocabulary of 300"],
        ),
        (
            &["logits", whole, "--out", "x", "--tokens", "1,512"],
            &["token 1 is 512", "vocabulary of 512"],
        ),
        (
            &["logits", whole, "--out", nowhere, "--tokens", "1"],
            &[nowhere, "there is no folder"],
        ),
    ];
    for (arguments, parts) in cases {
        refuse(1, arguments, parts);
    }
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
            "error: no folder or file \"some-org/some-model\" exists here",
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

/// A target that this build has not, by the names that other programs have for it. Catches advice to take the CPU instead.
#[cfg(not(any(feature = "cuda", feature = "metal", feature = "wgpu")))]
#[test]
fn a_target_that_the_build_lacks_names_its_feature() {
    for (target, words) in [
        ("cuda", "--features cuda"),
        ("nvidia", "`--target cuda`"),
        ("cuda:0", "`--target cuda --device 0`"),
        ("CUDA:1", "`--target cuda --device 1`"),
        ("rocm", "--features vulkan"),
        ("metal", "--features metal"),
        ("mps", "--features metal"),
        ("vulkan", "--features vulkan"),
        ("webgpu", "--features webgpu"),
        ("gpu", "--features wgpu"),
        ("cpu:0", "write `--target cpu --device 0`"),
        ("CPU", "write `--target cpu`"),
        ("abacus", "this build has cpu"),
    ] {
        let ran = run(&mut program(&["load", TINYRUST, "--target", target]));
        assert_eq!(ran.code, Some(2), "{target}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{target}: {}", ran.stderr);
        assert!(!ran.stderr.contains("similar"), "{target}: {}", ran.stderr);
    }
}
