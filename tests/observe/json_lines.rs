//! Every line is an object with the fields that the documentation says.

use std::{fs, path::Path};

use firebox::{
    LoadConfig, LoadRequest,
    config::{Limits, VerifyConfig},
    model::CausalLm,
    observe::JsonLines,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{loader, tinyrust};

fn to(config: LoadConfig, path: &Path) -> LoadRequest {
    config.observer(JsonLines::create(path).unwrap())
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn keys(line: &Value) -> Vec<&str> {
    line.as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// The reader may be a digit off.
fn near(field: &Value, expected: f64) {
    let found = field.as_f64().expect("a number");
    let off = (found - expected).abs();
    assert!(off <= 1e-14 * expected.abs(), "{found} {expected}");
}

fn of<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == kind).collect()
}

fn sum<'a>(lines: impl IntoIterator<Item = &'a &'a Value>, field: &str) -> u64 {
    let numbers = lines.into_iter().map(|line| line[field].as_u64());
    numbers.map(|number| number.expect("a whole number")).sum()
}

/// Would catch a field that is missing, renamed or of another tensor; times that go back; bytes that are not those of
/// the plan.
#[test]
fn a_load_is_told_field_by_field() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("events.jsonl");
    let loader = loader(to(
        tinyrust("nf4").rule("role:embedding=fp8".parse().unwrap()),
        &path,
    ));
    let plan = loader.plan::<CausalLm>().unwrap();
    let report = loader.load::<CausalLm>().unwrap().report;
    let lines = lines(&path);

    let mut last = 0.0;
    for line in &lines {
        let fields: &[&str] = match line["event"].as_str().unwrap() {
            "planned" => &[
                "model",
                "target",
                "dtype",
                "tensors",
                "bytes",
                "bytes_kept",
                "host_bytes",
            ],
            "shard" => &["file", "bytes"],
            "started" => &["tensor", "quant", "bytes"],
            "read" => &["tensor", "bytes", "seconds"],
            "packed" => &["tensor", "quant", "bytes", "seconds"],
            "placed" => &["tensor", "quant", "bytes", "seconds", "host_bytes"],
            "finished" => &[
                "tensors",
                "bytes",
                "bytes_read",
                "bytes_kept",
                "seconds",
                "host_bytes",
                "peak_host_bytes",
            ],
            other => panic!("{other}"),
        };
        assert_eq!(keys(line), [&["event", "at"], fields].concat());
        let at = line["at"].as_f64().unwrap();
        assert!(last <= at && at < 600.0, "{at} after {last}");
        last = at;
        for field in ["seconds", "host_bytes", "peak_host_bytes"] {
            let number = &line[field];
            assert!(
                number.is_null() || number.as_f64().unwrap() >= 0.0,
                "{line}"
            );
        }
    }

    let totals = plan.totals();
    let planned = &lines[0];
    assert_eq!(planned["event"], "planned");
    assert_eq!(planned["model"], plan.model);
    assert_eq!(planned["target"], "cpu");
    assert_eq!(planned["dtype"], "f32");
    assert_eq!(planned["tensors"], totals.tensors);
    assert_eq!(planned["bytes"], totals.bytes_source);
    assert_eq!(planned["bytes_kept"], totals.bytes_finished);

    for kind in ["started", "packed", "placed"] {
        let lines = of(&lines, kind);
        assert_eq!(lines.len(), plan.steps.len(), "{kind}");
        for (line, step) in lines.into_iter().zip(&plan.steps) {
            assert_eq!(line["tensor"], step.slot.name);
            assert_eq!(line["quant"], step.quant().to_string());
            let bytes = if kind == "started" {
                step.bytes_source()
            } else {
                step.bytes_finished()
            };
            assert_eq!(line["bytes"], bytes, "{kind} {}", step.slot.name);
        }
    }
    let read = of(&lines, "read");
    for step in &plan.steps {
        let name = step.slot.name.as_str();
        // One scale for the whole embedding: it is seen twice.
        let times = if name == "model.embed_tokens.weight" {
            2
        } else {
            1
        };
        let of_it: Vec<&Value> = read
            .iter()
            .copied()
            .filter(|line| line["tensor"] == name)
            .collect();
        assert_eq!(sum(&of_it, "bytes"), times * step.bytes_source(), "{name}");
    }
    assert_eq!(sum(&of(&lines, "shard"), "bytes"), totals.bytes_source);

    let finished = &lines[lines.len() - 1];
    assert_eq!(finished["event"], "finished");
    assert_eq!(finished["tensors"], totals.tensors);
    assert_eq!(finished["bytes"], totals.bytes_source);
    assert_eq!(finished["bytes_read"], sum(&read, "bytes"));
    assert_eq!(finished["bytes_kept"], totals.bytes_finished);
    near(&finished["seconds"], report.seconds);
    if cfg!(target_os = "linux") {
        assert_eq!(finished["peak_host_bytes"], report.peak_host_bytes.unwrap());
        for line in of(&lines, "placed") {
            assert!(line["host_bytes"].as_u64().unwrap() > 1 << 20, "{line}");
        }
    }
}

/// Would catch kinds that only some loads have, and a clock that does not begin anew with a plan.
#[test]
fn choosing_balancing_and_verifying_have_lines_too() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("auto.jsonl");
    let config = tinyrust("auto:bits=5")
        .candidate("nf4".parse().unwrap())
        .presinq(true);
    loader(to(config, &path)).load::<CausalLm>().unwrap();
    let chosen = lines(&path);
    let measured = of(&chosen, "measured");
    assert_eq!(keys(measured[0]), ["event", "at", "quant"]);
    assert_eq!(measured[0]["quant"], "nf4:block=64");
    let balanced = of(&chosen, "balanced");
    assert_eq!(keys(balanced[0]), ["event", "at", "tensors"]);
    let first = balanced[0]["tensors"].as_array().unwrap();
    assert!(
        first
            .iter()
            .all(|name| name.as_str().unwrap().ends_with("_proj.weight")),
        "{first:?}"
    );
    let planned = of(&chosen, "planned")[0]["at"].as_f64().unwrap();
    assert!(planned < measured[0]["at"].as_f64().unwrap());

    let path = folder.path().join("verify.jsonl");
    let config = VerifyConfig::new(Limits::default());
    let report = loader(to(tinyrust("nf4"), &path))
        .verify::<CausalLm>(&config)
        .unwrap();
    let verified = lines(&path);
    let verified = of(&verified, "verified");
    assert_eq!(verified.len(), report.tensors.len());
    for (line, tensor) in verified.into_iter().zip(&report.tensors) {
        let fields = [
            "max_error",
            "relative_error",
            "cosine",
            "sqnr_db",
            "seconds",
        ];
        assert_eq!(
            keys(line),
            [&["event", "at", "tensor", "quant"], &fields[..]].concat()
        );
        assert_eq!(line["tensor"], tensor.name);
        assert_eq!(line["quant"], tensor.quant.to_string());
        near(&line["max_error"], tensor.stats.max_error);
        near(&line["relative_error"], tensor.stats.relative_error);
        near(&line["cosine"], tensor.stats.cosine);
        near(&line["sqnr_db"], tensor.stats.sqnr);
    }
}

/// Would catch lines that get lost in silence, and an error that does not say where.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_ends_the_load_with_the_name_of_the_file() {
    let config = to(tinyrust("nf4"), Path::new("/dev/full"));
    let (event, at, reason) = crate::observer_failure(loader(config).load::<CausalLm>());
    assert_eq!((event, &*at), ("planned", "the plan"));
    assert!(
        reason.starts_with("/dev/full: could not be written: "),
        "{reason}"
    );
}
