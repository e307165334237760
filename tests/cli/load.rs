//! `firebox load`: bytes, by what rule, and for whom.

use std::fs;

use crate::run::{Copied, SPECS, TINYRUST, json, program, run, succeed};

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
/// All are bf16 in the checkpoint: 2 x 3,475,712 = 6,951,424 bytes. Embedding and norms stay dense, the
/// first as it is stored and the others in f32: 2 x 524,288 + 4 x 2,304 = 1,057,792 bytes. To these add the matrices:
///
/// ```text
/// none         2 bytes a weight, as they are stored                         5,898,240
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
/// mlx          half a byte a weight, two bf16 a group of 64  1,474,560 + 184,320 = 1,658,880
/// int8         as fp8 channel                                2,949,120 + 38,912 = 2,988,032
/// ```
///
/// Would catch a report of plans instead of bytes, and scales that are not counted.
#[test]
fn load_reports_the_bytes_that_the_config_implies() {
    const DENSE: u64 = 1_057_792;
    let expected = [
        ("none", "none", 5_898_240),
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
        ("mlx:bits=4,group=64", "mlx:bits=4,group=64", 1_658_880),
        ("int8", "int8", 2_988_032),
    ];
    assert_eq!(expected.map(|(spec, ..)| spec), SPECS);
    for (spec, quant, matrices) in expected {
        let report = json(&["load", TINYRUST, "--quant", spec]);
        assert_eq!(report["target"], "cpu");
        assert_eq!(report["quant"], quant);
        assert_eq!(report["tensors"], 38);
        assert_eq!(report["bytes_source"], 6_951_424);
        // All in bf16.
        assert_eq!(report["parameters"], 6_951_424 / 2);
        // One scale for a whole tensor has to see it first: 2,949,120 weights of two bytes again.
        let again = if spec.ends_with("scale=tensor") {
            5_898_240
        } else {
            0
        };
        assert_eq!(report["bytes_read"], 6_951_424 + again, "{spec}");
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

/// Would catch a strategy that a command does not hand on: a model that streams, from a file too, says the same.
#[test]
fn a_streamed_model_generates_the_same_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let spill = format!("--spill={}", folder.path().display());
    let generate = |more: &[&str]| {
        let prompt = [
            "generate",
            TINYRUST,
            "--quant=nf4",
            "--prompt=Use",
            "--max-new-tokens=8",
        ];
        succeed(&[&prompt[..], more].concat())
    };
    let full = generate(&["--strategy=full"]);
    for more in [
        &["--strategy=streaming"][..],
        &["--strategy=streaming", "--prefetch=0", &spill],
        &["--strategy=unified-memory"],
    ] {
        let ran = generate(more);
        assert_eq!(ran.stdout, full.stdout, "{more:?}");
        let said = more[0].replace("--", "").replace('=', " ");
        assert!(ran.stderr.contains(&said), "{}", ran.stderr);
    }
}

/// Would catch counts that a command does not print, and a rate that is not the share of the counts.
#[test]
fn how_often_a_streamed_expert_was_there_is_in_both_reports() {
    let model = Copied::golden("qwen2_moe_bf16");
    let vocab: serde_json::Map<_, _> = (0..320).map(|id| (format!("w{id}"), id.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    });
    fs::write(model.file("tokenizer.json"), tokenizer.to_string()).expect("written");
    let text = model.file("text");
    fs::write(&text, "w7 w8 w9 w10 w11").expect("written");
    let text = text.to_str().expect("UTF-8");

    let streaming = [
        "--strategy=streaming",
        "--quant=nf4",
        "--device-budget=64MiB",
    ];
    let generate = [
        "generate",
        model.path(),
        "--prompt=w7 w8",
        "--max-new-tokens=4",
    ];
    let eval = ["eval", model.path(), "--text", text];
    for command in [&generate[..], &eval] {
        let streamed = &json(&[command, &streaming].concat())["streamed"];
        let number = |field: &str| streamed[field].as_f64().expect(field);
        let (found, fetched) = (number("experts_found"), number("experts_fetched"));
        assert!(fetched > 0.0, "{streamed}");
        assert_eq!(number("hit_rate"), found / (found + fetched), "{streamed}");
        assert!(
            number("experts_bytes_peak") <= number("experts_bytes_max"),
            "{streamed}"
        );
    }
}

/// Would catch options that the program does not hand on.
#[test]
fn how_to_read_is_as_asked() {
    let report = json(&[
        "load",
        TINYRUST,
        "--quant=nf4",
        "--read-shard=1MiB",
        "--prefetch=1",
        "--workers=3",
    ]);
    assert_eq!(report["in_flight_bytes_max"], 2 << 20);
    assert_eq!(report["workers"], 3);
    assert_eq!(report["probe"]["reason"], "little to read");
    let mapped = json(&["load", TINYRUST, "--dtype=bf16", "--reading=mapped"]);
    assert_eq!(mapped["probe"], serde_json::Value::Null);
    assert_eq!(mapped["bytes_read"], report["bytes_read"]);
    assert_eq!(mapped["workers"], 1);
}

/// The same numbers for people.
#[test]
fn load_prints_a_report_and_a_table() {
    let ran = succeed(&["load", TINYRUST, "--quant", "nf4", "--tensors"]);
    for part in [
        "38 tensors, 6.63 MiB read, 2.59 MiB kept (nf4:block=64 and f32, matrices in bf16 on cpu)",
        "| model.layers.3.mlp.up_proj.weight",
        // 704 x 256 weights: 90,112 bytes of codes and 11,264 of scales.
        "| 99.00 KiB |",
    ] {
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
}

/// Would catch files that are not written, of another load, or not whole; and a failure that does not name the file.
#[test]
fn load_writes_what_happens_and_a_page_about_it() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let [events, page] = ["events.jsonl", "page"].map(|name| folder.path().join(name));
    let [events_at, page_at] = [&events, &page].map(|path| path.to_str().expect("UTF-8"));
    let report = json(&[
        "load", TINYRUST, "--quant", "nf4", "--events", events_at, "--report", page_at,
    ]);
    let events = fs::read_to_string(&events).expect("lines");
    let kinds = events.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["event"].as_str().expect("a kind").to_owned()
    });
    let kinds: Vec<String> = kinds.collect();
    assert_eq!(
        (&*kinds[0], &**kinds.last().expect("some")),
        ("planned", "finished")
    );
    assert_eq!(kinds.iter().filter(|kind| *kind == "placed").count(), 38);
    let written = fs::read(page.join("report.json")).expect("numbers");
    let written: serde_json::Value = serde_json::from_slice(&written).expect("JSON");
    assert_eq!(written["seconds"], report["seconds"]);
    let html = fs::read_to_string(page.join("index.html")).expect("a page");
    assert!(html.ends_with("</html>\n"));

    let missing = folder.path().join("no/events.jsonl");
    let missing = missing.to_str().expect("UTF-8");
    for arguments in [
        ["load", TINYRUST, "--events", missing],
        ["load", TINYRUST, "--report", events_at],
    ] {
        let ran = run(&mut program(&arguments));
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        let named = format!("{}: could not be written: ", arguments[3]);
        assert!(ran.stderr.contains(&named), "{}", ran.stderr);
    }
}

/// Would catch a second quantization that empties the file of the first.
#[test]
fn the_events_of_every_load_of_a_command_are_in_one_file() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let [events, out] = ["events.jsonl", "out"].map(|name| folder.path().join(name));
    let [events_at, out] = [&events, &out].map(|path| path.to_str().expect("UTF-8"));
    succeed(&[
        "quantize",
        TINYRUST,
        "--quant",
        "nf4",
        "--min-sqnr",
        "1",
        "--out",
        out,
        "--events",
        events_at,
    ]);
    let events = fs::read_to_string(&events).expect("lines");
    let count = |kind: &str| events.matches(&format!("{{\"event\":\"{kind}\"")).count();
    // Verified first, then saved.
    assert_eq!((count("planned"), count("finished")), (2, 2));
    assert_eq!((count("verified"), count("placed")), (28, 28 + 38));
}
