//! Each choice of a recommendation, with its reason in plain words.

use serde::Serialize;

use super::{Task, trial::Tried};
use crate::{
    config::{Bytes, Strategy},
    loader::Planner,
    model::PassSize,
    plan::{Lacking, Plan, Step},
    target::MemoryKind,
};

/// One choice of a recommendation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReasonedChoice {
    /// Of what: `method`, `bits`, `strategy`, `workers`, `dtype`, `placement`, `batch`, `length`, `recompute`.
    pub setting: &'static str,
    /// What was chosen.
    pub value: String,
    /// Why.
    pub reason: String,
}

/// All choices of `chosen`; `passed` are the trials before it, none of which fits, and `asked` is the size that was begun with.
pub(super) fn choices(
    planner: &Planner,
    task: &Task,
    asked: PassSize,
    passed: &[Tried],
    chosen: &Tried,
) -> Vec<ReasonedChoice> {
    let choice = |setting, value: String, reason: String| ReasonedChoice {
        setting,
        value,
        reason,
    };
    let trial = &chosen.trial;
    let mut choices = vec![
        choice(
            "method",
            trial.quant.to_string(),
            method(planner, task, passed, chosen),
        ),
        choice(
            "bits",
            format!("{:.2}", chosen.bits),
            format!(
                "bits of a linear weight, scales included: {} of weights in all",
                Bytes(chosen.memory.bytes_packed)
            ),
        ),
        choice(
            "strategy",
            chosen.plan.strategy.to_string(),
            match trial.strategy {
                Strategy::Streaming => format!(
                    "the weights do not fit on the devices; {} of them wait in host memory and come when they are needed, which is slow",
                    Bytes(waiting(&chosen.plan))
                ),
                _ => chosen.plan.strategy_reason.clone(),
            },
        ),
        choice("workers", "auto".to_owned(), workers(planner, chosen)),
        choice("dtype", chosen.plan.dtype.to_string(), dtype(chosen)),
        choice(
            "placement",
            placement_value(chosen),
            placement(planner, passed, chosen),
        ),
        choice(
            "batch",
            trial.size.batch.to_string(),
            batch(task, asked, passed, chosen),
        ),
        choice(
            "length",
            trial.size.length.to_string(),
            length(task, asked, passed, chosen),
        ),
    ];
    if task.train.is_some() {
        let reason = match (trial.recompute, task.recompute) {
            (_, Some(_)) => "asked for".to_owned(),
            (false, None) => "the activations of all layers fit".to_owned(),
            (true, None) => match before(passed, chosen, |tried| !tried.trial.recompute) {
                Some(why) => format!("the activations of all layers do not fit: {why}"),
                None => "it saves the memory of activations".to_owned(),
            },
        };
        choices.push(choice("recompute", trial.recompute.to_string(), reason));
    }
    choices
}

/// Bytes of the weights that come to a device when they are needed.
fn waiting(plan: &Plan) -> u64 {
    let streamed = plan.steps.iter().filter(|step| step.streams());
    streamed.map(Step::bytes_kept).sum()
}

/// What the last trial before `chosen` that `is_like` says lacked.
fn before(passed: &[Tried], chosen: &Tried, is_like: impl Fn(&Tried) -> bool) -> Option<String> {
    let mut passed = passed.iter().rev();
    let other =
        passed.find(|tried| is_like(tried) && tried.trial.devices >= chosen.trial.devices)?;
    lacked(other)
}

/// What a trial lacks, in words.
fn lacked(tried: &Tried) -> Option<String> {
    let lacking = tried.lacking().into_iter().max_by_key(Lacking::short);
    match lacking {
        Some(lacking) => Some(format!(
            "{} needed on {}, which has {}",
            Bytes(lacking.needed),
            lacking.place,
            Bytes(lacking.memory)
        )),
        None => tried.refused.clone(),
    }
}

fn method(planner: &Planner, task: &Task, passed: &[Tried], chosen: &Tried) -> String {
    if task.quant.is_some() {
        return "asked for".to_owned();
    }
    if planner.is_packed() {
        return "the checkpoint is quantized, and its weights stay as they are".to_owned();
    }
    let quant = chosen.trial.quant.to_string();
    let other = before(passed, chosen, |tried| {
        tried.trial.quant.to_string() != quant
    });
    let better = passed
        .iter()
        .rev()
        .find(|tried| tried.trial.quant.to_string() != quant);
    match (better, other) {
        (Some(better), Some(why)) => format!(
            "the fewest bits that are needed: with {} ({:.2} bits) it does not fit, {why}",
            better.trial.quant, better.bits
        ),
        _ if chosen.trial.quant.method().is_some() => {
            "the most bits that fit: with more, the layers cannot be spread over the devices"
                .to_owned()
        }
        _ => "the weights fit as they are, so nothing is lost".to_owned(),
    }
}

fn workers(planner: &Planner, chosen: &Tried) -> String {
    let packs = chosen.trial.quant.method().is_some();
    match (planner.target().memory(), packs) {
        (MemoryKind::Device, true) if chosen.plan.strategy != Strategy::Streaming => {
            "the device packs, and the host's threads only read".to_owned()
        }
        (_, true) => "all cores pack, as far as a tile has work for them".to_owned(),
        (_, false) => "nothing is packed, so that reading is all there is to do".to_owned(),
    }
}

fn dtype(chosen: &Tried) -> String {
    let (dtype, wanted) = (chosen.plan.dtype, chosen.plan.dtype_wanted);
    match dtype == wanted {
        true => format!("the device computes in {dtype}"),
        false => {
            format!("the device does not compute in {wanted}, and f32 holds all of its values")
        }
    }
}

fn placement_value(chosen: &Tried) -> String {
    let devices = chosen.memory.devices.iter();
    let places = devices.map(
        |device| match (device.layers.first(), device.layers.last()) {
            (Some(first), Some(last)) => format!("{}: layers {first}-{last}", device.place()),
            _ => format!("{}: no layer", device.place()),
        },
    );
    places.collect::<Vec<_>>().join(", ")
}

fn placement(planner: &Planner, passed: &[Tried], chosen: &Tried) -> String {
    let (used, all) = (chosen.trial.devices, planner.devices());
    if chosen.trial.strategy == Strategy::Streaming {
        return "matrices are streamed to one device".to_owned();
    }
    let fewer = passed.iter().rev().find(|tried| {
        tried.trial.devices < used
            && tried.trial.quant.to_string() == chosen.trial.quant.to_string()
            && tried.trial.size == chosen.trial.size
            && tried.trial.recompute == chosen.trial.recompute
    });
    match (used, all, fewer.and_then(lacked)) {
        (1, 1, _) => "there is one device".to_owned(),
        (1, _, _) => format!(
            "one of {all} devices holds it; layers run one after another, so that more would not be faster"
        ),
        (_, _, Some(why)) => {
            format!("whole layers on {used} of {all} devices; fewer do not hold it: {why}")
        }
        _ => format!("whole layers on {used} of {all} devices"),
    }
}

fn batch(task: &Task, asked: PassSize, passed: &[Tried], chosen: &Tried) -> String {
    let batch = chosen.trial.size.batch;
    match task.batch {
        Some(_) => "asked for".to_owned(),
        None if batch == asked.batch && task.train.is_none() => "one sequence at a time".to_owned(),
        None if batch == asked.batch => "the usual number of rows".to_owned(),
        None => match before(passed, chosen, |tried| tried.trial.size.batch > batch) {
            Some(why) => format!(
                "more rows at once do not fit: {why}; gradients of several passes are added up"
            ),
            None => "fewer rows at once take less memory; gradients of several passes are added up"
                .to_owned(),
        },
    }
}

fn length(task: &Task, asked: PassSize, passed: &[Tried], chosen: &Tried) -> String {
    let length = chosen.trial.size.length;
    match task.length {
        Some(_) => "asked for".to_owned(),
        None if length == asked.length => "the usual length, or that of the model".to_owned(),
        None => match before(passed, chosen, |tried| tried.trial.size.length > length) {
            Some(why) => format!("{} tokens do not fit: {why}", asked.length),
            None => format!("{} tokens do not fit", asked.length),
        },
    }
}
