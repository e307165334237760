//! `firebox plan` for stated memory, `recommend`, `devices`, and settings from a file.

use std::fs;

use serde_json::{Value, json};

use crate::run::{TINYRUST, json, program, refuse, run, succeed};

fn failed(args: &[&str]) -> (Option<i32>, String) {
    let ran = run(&mut program(args));
    (ran.code, ran.stderr)
}

/// Would catch a field that is renamed, a plan and a load that count otherwise, and a plan that counts two devices as one.
#[test]
fn plans_and_loads_name_their_bytes_alike() {
    let args = [
        "--quant",
        "nf4",
        "--strategy",
        "low-memory",
        "--devices",
        "0,1",
    ];
    let plan = json(&[&["plan", TINYRUST, "--probe", "0"], &args[..]].concat());
    let load = json(&[&["load", TINYRUST], &args[..]].concat());
    // Worked out beside `load_reports_the_bytes_that_the_config_implies` in `load.rs`.
    assert_eq!(plan["bytes_packed"], 2_716_672);
    assert_eq!(load["bytes_packed"], 2_716_672);
    assert_eq!(plan["read"], Value::Null);
    let devices = |of: &Value| of["devices"].as_array().expect("a list").clone();
    assert_eq!(devices(&plan).len(), 2);
    for (planned, loaded) in devices(&plan).iter().zip(&devices(&load)) {
        for field in ["index", "target", "bytes", "layers"] {
            assert_eq!(planned[field], loaded[field], "{field}");
            assert!(!planned[field].is_null(), "{field}");
        }
        assert!(planned["peak_bytes"].is_u64() && loaded["peak_bytes"].is_u64());
    }
    let sum: u64 = devices(&plan)
        .iter()
        .filter_map(|device| device["bytes"].as_u64())
        .sum();
    assert_eq!(sum, 2_716_672);
    assert!(plan["peak_host_bytes"].as_u64() > Some(2_716_672));
    assert_eq!(plan["lacking"], json!([]));
}

/// Would catch a plan for a card that needs the card, memory that is ignored, and remedies that do not help.
#[test]
fn plans_are_made_for_devices_that_are_not_here() {
    let stated = [
        "--target",
        "cuda",
        "--device-memory",
        "24GiB,24GiB",
        "--host-memory",
        "64GiB",
    ];
    let plan = json(&[&["plan", TINYRUST, "--length", "256"], &stated[..]].concat());
    assert_eq!(plan["target"], "cuda");
    assert_eq!(plan["dtype"], "bf16");
    assert_eq!(plan["devices"][1]["memory"], 24_u64 << 30);
    // 4 layers, 2 · 256 tokens · the key features of a layer · 2 bytes.
    let cache: u64 = [0, 1]
        .iter()
        .filter_map(|nth| plan["devices"][nth]["cache_bytes"].as_u64())
        .sum();
    let config = json(&["inspect", TINYRUST]);
    let number = |field: &str| config["config"][field].as_u64().expect("a number");
    let kv = number("num_key_value_heads") * number("hidden_size") / number("num_attention_heads");
    assert_eq!(cache, 4 * 2 * 256 * kv * 2);
    assert!(
        plan["read"]["bytes_per_second"].as_f64() > Some(0.0),
        "{}",
        plan["read"]
    );

    // The context of the driver alone takes half of it.
    let little = [
        "plan",
        TINYRUST,
        "--target",
        "cuda",
        "--device-memory",
        "513MiB",
        "--json",
        "--length",
        "512",
    ];
    let ran = run(&mut program(&little));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("cuda 0") && ran.stderr.contains("513.00 MiB"),
        "{}",
        ran.stderr
    );
    let plan: Value = serde_json::from_str(&ran.stdout).expect("one JSON value");
    assert_eq!(plan["lacking"][0]["place"], "cuda 0");
}

/// Would catch a change that is offered and does not make the plan fit.
#[test]
fn what_would_fit_fits() {
    let machine = [
        "--target",
        "cuda",
        "--device-memory",
        "700MiB",
        "--length",
        "1024",
    ];
    let plan = |more: &[&str]| {
        let command = ["plan", TINYRUST, "--json", "--probe", "0"];
        run(&mut program(&[&command, &machine[..], more].concat()))
    };
    let ran = plan(&["--batch", "64"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let found: Value = serde_json::from_str(&ran.stdout).expect("one JSON value");
    let remedies = found["remedies"].as_array();
    let remedies = remedies.unwrap_or_else(|| panic!("no changes: {}", found["lacking"]));
    let changes = remedies
        .iter()
        .filter_map(|remedy| remedy["change"].as_str());
    let batch = changes
        .filter_map(|change| change.strip_prefix("--batch "))
        .next();
    let batch = batch.unwrap_or_else(|| panic!("{remedies:?}"));
    let ran = plan(&["--batch", batch]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let twice = (2 * batch.parse::<usize>().expect("a number")).to_string();
    assert_eq!(
        plan(&["--batch", &twice]).code,
        Some(1),
        "twice as many fit"
    );
}

/// Would catch settings that are not read back, flags that the file overrides, and a file that only one command takes.
#[test]
fn a_recommendation_is_a_file_for_the_other_commands() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("firebox.toml");
    let file = file.to_str().expect("UTF-8");
    let said = succeed(&[
        "recommend",
        TINYRUST,
        "--device-memory",
        "8GiB",
        "--quant",
        "nf4:nested",
        "--out",
        file,
    ])
    .stdout;
    assert!(
        said.contains("method: nf4:block=64,nested: asked for"),
        "{said}"
    );
    let text = fs::read_to_string(file).expect("readable");
    assert!(text.contains("quant = \"nf4:block=64,nested\""), "{text}");
    assert!(text.contains("# method: asked for"), "{text}");

    let by_flags = json(&["load", TINYRUST, "--quant", "nf4:nested"]);
    let by_file = json(&["load", TINYRUST, "--config", file]);
    assert_eq!(by_file["quant"], "nf4:block=64,nested");
    assert_eq!(by_file["bytes_packed"], by_flags["bytes_packed"]);
    let plan = json(&["plan", TINYRUST, "--config", file, "--probe", "0"]);
    assert_eq!(plan["bytes_packed"], by_flags["bytes_packed"]);
    let over = json(&["load", TINYRUST, "--config", file, "--quant", "int8"]);
    assert_eq!(over["quant"], "int8");

    let found = json(&["recommend", TINYRUST, "--device-memory", "8GiB"]);
    let choices = found["choices"].as_array().expect("a list");
    for setting in [
        "method",
        "bits",
        "strategy",
        "workers",
        "dtype",
        "placement",
    ] {
        let choice = choices.iter().find(|choice| choice["setting"] == setting);
        let choice = choice.unwrap_or_else(|| panic!("no {setting} in {choices:?}"));
        assert!(
            choice["reason"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty()),
            "{choice}"
        );
    }
    assert_eq!(found["choices"][0]["value"], "none");
    assert!(found["peak_host_bytes"].is_u64() && found["devices"][0]["peak_bytes"].is_u64());
}

/// Would catch unknown numbers that are guessed, and a look that never ends.
#[test]
fn devices_are_listed_with_their_memory() {
    let found = json(&["devices"]);
    assert_eq!(found["host"]["target"], "host");
    let device = &found["devices"][0];
    assert_eq!(
        (&device["target"], &device["index"]),
        (&json!("cpu"), &json!(0))
    );
    #[cfg(target_os = "linux")]
    {
        let number = |field: &str| found["host"][field].as_u64().expect("linux tells");
        // As the system says; free memory is that of the moment.
        let memory = fs::read_to_string("/proc/meminfo").expect("a file");
        let total = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"));
        let total = total.and_then(|total| total.trim().strip_suffix(" kB"));
        let total: u64 = total
            .and_then(|total| total.parse().ok())
            .expect("a number");
        assert!(number("total") <= total << 10);
        assert!(number("free") <= total << 10 && number("free") > 0);
        assert!(number("used") <= number("peak"));
    }
    let watched = succeed(&["devices", "--json", "--watch=0.01", "--times", "3"]).stdout;
    let looks: Vec<Value> = watched
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(looks.len(), 3);
    assert!(
        looks
            .iter()
            .all(|look| look["devices"][0]["total"] == found["host"]["total"])
    );
}

/// Would catch bad input that is taken, or refused without its name.
#[test]
fn impossible_machines_and_tasks_are_refused_by_name() {
    for (args, code, parts) in [
        (
            &["plan", TINYRUST, "--device-memory", "24QiB"][..],
            2,
            &["24QiB", "24GiB,24GiB"][..],
        ),
        (
            &["plan", TINYRUST, "--device-memory", "24GiB,0"],
            2,
            &["24GiB,0", "without memory"],
        ),
        (
            &[
                "plan",
                TINYRUST,
                "--host-memory",
                "0",
                "--device-memory",
                "1GiB",
            ],
            2,
            &["--host-memory"],
        ),
        (
            &["plan", TINYRUST, "--host-memory", "1GiB"],
            2,
            &["--device-memory"],
        ),
        (&["plan", TINYRUST, "--length", "0"], 2, &["--length"]),
        (
            &["plan", TINYRUST, "--length", "1025"],
            1,
            &["1025", "1024"],
        ),
        (
            &["plan", TINYRUST, "--batch", "2"],
            1,
            &["--batch", "--length"],
        ),
        (
            &["plan", TINYRUST, "--batch", "0", "--length", "2"],
            2,
            &["--batch"],
        ),
        (
            &["plan", TINYRUST, "--train", "lora:rank=0"],
            2,
            &["lora:rank=0", "above 0"],
        ),
        (
            &["plan", TINYRUST, "--train", "lora:rnak=8"],
            2,
            &["rnak=8"],
        ),
        (&["plan", TINYRUST, "--recompute"], 2, &["--train"]),
        (
            &["plan", TINYRUST, "--target", "cuda"],
            1,
            &["cuda", "--device-memory"],
        ),
        (&["load", TINYRUST, "--target", "cuda"], 2, &["cuda"]),
        (
            &["recommend", TINYRUST, "--device-memory", "1KiB"],
            1,
            &["nothing of", "host"],
        ),
        (&["devices", "--watch=0"], 2, &["--watch"]),
        (
            &["load", TINYRUST, "--config", "/nowhere.toml"],
            1,
            &["/nowhere.toml"],
        ),
    ] {
        let (found, said) = failed(args);
        assert_eq!(found, Some(code), "{args:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{args:?}: {said}");
        }
    }
}

/// 4 layers with keys and values of 4 heads of 32 features. Catches a flag that changes the model and not its plan, and factors that are not
/// counted.
#[test]
fn caches_take_the_bytes_of_their_type() {
    let rows = 4 * 2 * 4 * 512;
    for (kept, of_row) in [("f32", 128), ("f16", 64), ("bf16", 64), ("int8", 32 + 4)] {
        let kept = ["--kv-cache-dtype", kept];
        let plan = json(&[&["plan", TINYRUST, "--length", "512"], &kept[..]].concat());
        assert_eq!(plan["devices"][0]["cache_bytes"], rows * of_row, "{kept:?}");
        let generate = ["generate", TINYRUST, "--prompt", "fn main() {", "-n", "4"];
        let answer = json(&[&generate[..], &kept[..]].concat());
        assert_eq!(
            answer["tokens"].as_array().map(Vec::len),
            Some(4),
            "{kept:?}"
        );
    }
    refuse(
        2,
        &["plan", TINYRUST, "--kv-cache-dtype", "int4"],
        &["--kv-cache-dtype", "f32, f16, bf16 or int8"],
    );
}
