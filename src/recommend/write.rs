//! A recommendation as TOML: the names of the program's flags, with the reasons as comments.

use super::{ReasonedChoice, Task, trial::Tried};
use crate::{config::Strategy, target::KnownTarget};

/// A key of the file, its value as TOML has it, and the choice that it comes from.
pub(super) struct Setting {
    key: &'static str,
    value: String,
    choice: &'static str,
}

/// The settings of a recommendation.
pub(super) fn settings(target: KnownTarget, task: &Task, chosen: &Tried) -> Vec<Setting> {
    let trial = &chosen.trial;
    let setting = |key, value: String, choice| Setting { key, value, choice };
    let mut settings = vec![
        setting("target", text(target.name()), "placement"),
        setting("quant", text(&trial.quant.to_string()), "method"),
        setting(
            "strategy",
            text(&chosen.plan.strategy.to_string()),
            "strategy",
        ),
        setting("dtype", text(&chosen.plan.dtype.to_string()), "dtype"),
    ];
    // A device that computes in f32 keeps halves only if nothing is said of a type.
    if chosen.plan.keeps_halves {
        settings.pop();
    }
    if trial.devices > 1 {
        let devices: Vec<String> = (0..trial.devices).map(|index| index.to_string()).collect();
        settings.push(setting("devices", text(&devices.join(",")), "placement"));
        settings.push(setting("device-map", text("balanced"), "placement"));
    }
    if trial.strategy == Strategy::Streaming {
        settings.push(setting("prefetch", "2".to_owned(), "strategy"));
    }
    let Some(finetune) = &chosen.finetune else {
        return settings;
    };
    let adapter = task
        .train
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    settings.extend([
        setting("adapter", text(&adapter), "method"),
        setting("batch", finetune.batch.to_string(), "batch"),
        setting("accumulation", finetune.accumulation.to_string(), "batch"),
        setting("length", trial.size.length.to_string(), "length"),
        setting("recompute", finetune.recompute.to_string(), "recompute"),
    ]);
    settings
}

/// The file.
pub(super) fn toml(settings: &[Setting], choices: &[ReasonedChoice], model: &str) -> String {
    let mut file = format!("# For {}\n", one_line(model));
    let mut said: Vec<&str> = Vec::new();
    for Setting { key, value, choice } in settings {
        let reason = choices.iter().find(|given| given.setting == *choice);
        if let Some(given) = reason.filter(|_| !said.contains(choice)) {
            let (of, reason) = (given.setting, one_line(&given.reason));
            file.push_str(&format!("\n# {of}: {reason}\n"));
            said.push(choice);
        }
        file.push_str(&format!("{key} = {value}\n"));
    }
    file
}

/// A text as TOML has it: as JSON does.
fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
