//! Recommendations for a table of models and memories, each held against a plan of its own; and the table of the page on planning.

use std::{env, fs, path::Path};

use firebox::{
    LoadConfig, Planner,
    adapter::AdapterConfig,
    config::{Bytes, StatedMemory},
    plan::MemoryPlan,
    recommend::{RecommendError, Recommendation, Task, planned, recommend},
    target::KnownTarget,
};

use super::fixtures::{SHAPES, checkpoint, parameters};

const MEMORIES: [&str; 6] = ["8GiB", "16GiB", "24GiB", "48GiB", "2x24GiB", "8x80GiB"];
const GIB: u64 = 1 << 30;
/// Of the host of each row.
const HOST: u64 = 64 * GIB;

fn memory(devices: &str) -> StatedMemory {
    StatedMemory::new(devices.parse().expect("memories")).host(HOST)
}

fn task(trains: bool) -> Task {
    match trains {
        false => Task::new(),
        true => {
            let adapter: AdapterConfig = "lora:rank=16".parse().expect("an adapter");
            Task::new().train(adapter)
        }
    }
}

fn recommended(
    model: &Path,
    devices: &str,
    trains: bool,
) -> Result<Recommendation, RecommendError> {
    let config = LoadConfig::new(model.to_str().expect("UTF-8"));
    let planner = Planner::new(config, KnownTarget::Cuda, &memory(devices))?;
    recommend(&planner, &task(trains))
}

fn value<'r>(recommended: &'r Recommendation, setting: &str) -> &'r str {
    let mut choices = recommended.choices.iter();
    let choice = choices.find(|choice| choice.setting == setting);
    &choice
        .unwrap_or_else(|| panic!("no choice of {setting}"))
        .value
}

/// The memory of the recommended configuration, planned anew from its configuration alone.
fn anew(recommended: &Recommendation, devices: &str, trains: bool) -> MemoryPlan {
    let planner = Planner::new(
        recommended.config.clone(),
        KnownTarget::Cuda,
        &memory(devices),
    );
    let size = recommended.size;
    let mut task = task(trains).batch(size.batch).length(size.length);
    if trains {
        task = task.recompute(value(recommended, "recompute") == "true");
    }
    let planned = planned(&planner.expect("a checkpoint"), &task).expect("a plan");
    assert!(planned.refused.is_none(), "{:?}", planned.refused);
    planned.memory
}

/// Would catch a recommendation that does not fit, one that packs more than it has to, and a choice without a reason. Bounds are worked out from published numbers of parameters.
#[test]
fn every_recommendation_is_what_its_plan_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut table = vec![
        "| model | devices | for | method | bits | strategy | devices used | batch × length | peak of a device | why |".to_owned(),
        "|---|---|---|---|---:|---|---:|---:|---:|---|".to_owned(),
    ];
    for shape in SHAPES {
        let model = checkpoint(folder.path(), shape);
        let halves = 2 * parameters(shape);
        for trains in [false, true] {
            let mut bits_before = 0.0;
            for devices in MEMORIES {
                let of = format!("{shape}, {devices}, training {trains}");
                let what = if trains { "LoRA" } else { "inference" };
                let stated = memory(devices);
                let all: u64 = stated.devices.bytes().iter().sum();
                let found = match recommended(&model, devices, trains) {
                    Ok(found) => found,
                    Err(RecommendError::NothingFits { least, tried }) => {
                        assert!(tried > 3, "{of}: only {tried} were tried");
                        // Streamed, a quarter of the weights has to be on the host.
                        assert!(halves / 4 > HOST || trains, "{of}: {least}");
                        table.push(format!(
                            "| {shape} | {devices} | {what} | nothing fits | | | | | | {least} |"
                        ));
                        continue;
                    }
                    Err(error) => panic!("{of}: {error}"),
                };
                let plan = anew(&found, devices, trains);
                assert_eq!(plan.lacking(), [], "{of}");
                if !trains {
                    assert_eq!(plan.devices, found.plan.devices, "{of}");
                }
                // A recommended run of small batches accumulates, and has gradients twice; the run of a plan is one batch.
                for (planned, promised) in plan.devices.iter().zip(&found.plan.devices) {
                    assert!(planned.peak_bytes <= promised.peak_bytes, "{of}");
                    assert_eq!(planned.layers, promised.layers, "{of}");
                }
                for device in &plan.devices {
                    assert!(
                        device.peak_bytes <= stated.devices.bytes()[device.index],
                        "{of}"
                    );
                }
                let (method, bits) = (value(&found, "method"), value(&found, "bits"));
                let bits: f64 = bits.parse().expect("a number");
                match method {
                    "none" => assert!(halves < all, "{of}: weights in 16 bits do not fit"),
                    // Not packed without need: 16 bits, a tenth for everything else, and the context of the driver.
                    _ => assert!(
                        halves + halves / 10 + stated.devices.bytes().len() as u64 * GIB
                            > all / 10 * 9
                            || trains,
                        "{of}: {method} where 16 bits fit"
                    ),
                }
                // More memory, or as much in two parts, never means fewer bits: but two halves are less than a whole.
                let is_resident = value(&found, "strategy") != "streaming";
                if devices != "2x24GiB" && is_resident {
                    assert!(
                        bits >= bits_before,
                        "{of}: {bits} bits, {bits_before} with less memory"
                    );
                    bits_before = bits;
                }
                for setting in [
                    "method",
                    "bits",
                    "strategy",
                    "workers",
                    "dtype",
                    "placement",
                ] {
                    let mut choices = found.choices.iter();
                    let choice = choices.find(|choice| choice.setting == setting);
                    let choice = choice.unwrap_or_else(|| panic!("{of}: no {setting}"));
                    assert!(!choice.reason.is_empty(), "{of}: no reason for {setting}");
                }
                let reason = |setting: &str| {
                    let mut choices = found.choices.iter();
                    choices
                        .find(|choice| choice.setting == setting)
                        .map_or("", |choice| &choice.reason)
                };
                let why = match value(&found, "strategy") {
                    "streaming" => reason("strategy"),
                    _ => reason("method"),
                };
                let peak = plan.devices.iter().map(|device| device.peak_bytes).max();
                table.push(format!(
                    "| {shape} | {devices} | {what} | `{method}` | {bits:.2} | {}{} | {} | {} × {} | {} | {why} |",
                    value(&found, "strategy"),
                    if trains && value(&found, "recompute") == "true" { ", recompute" } else { "" },
                    plan.devices.len(),
                    found.size.batch,
                    found.size.length,
                    Bytes(peak.unwrap_or(0)),
                ));
            }
        }
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/docs/planning.md");
    let text = fs::read_to_string(&page).expect("the page on planning");
    let (begin, end) = ("<!-- recommended -->\n", "<!-- end -->\n");
    let from = text.find(begin).expect("the table begins") + begin.len();
    let to = from + text[from..].find(end).expect("the table ends");
    let table = table.join("\n") + "\n";
    if env::var_os("FIREBOX_WRITE_TABLES").is_some() {
        let text = [&text[..from], &table, &text[to..]].concat();
        fs::write(page, text).expect("writable");
        return;
    }
    let lines = text[from..to].lines().zip(table.lines());
    for (line, expected) in lines {
        assert_eq!(line, expected, "FIREBOX_WRITE_TABLES=1 writes the table");
    }
    assert_eq!(text[from..to].lines().count(), table.lines().count());
}

/// Would catch a task that cannot be, and one that is planned as another.
#[test]
fn impossible_tasks_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = checkpoint(folder.path(), "7B");
    let config = LoadConfig::new(model.to_str().expect("UTF-8"));
    let planner = Planner::new(config, KnownTarget::Cuda, &memory("24GiB")).expect("a checkpoint");
    for (task, parts) in [
        (Task::new().length(0), ["the length is 0", "4096"]),
        (Task::new().length(4097), ["the length is 4097", "4096"]),
        (Task::new().batch(0), ["the batch is 0", "1 at least"]),
        (task(true).length(1), ["the length is 1", "2 to"]),
    ] {
        let error = recommend(&planner, &task)
            .expect_err("no such task")
            .to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}
