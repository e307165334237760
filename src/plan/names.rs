//! Names that the model wants and the files do not have, and the other way round: what they tell.

use super::{Plan, PlanError, guess::guess};
use crate::model::Role;

/// As many names are listed.
const FEW: usize = 3;

/// Parts of names that peft gives: to the tensors of adapters, and to those of the base beside them.
const OF_ADAPTERS: [&str; 7] = [
    ".lora_",
    ".modules_to_save.",
    ".hada_",
    ".lokr_",
    ".ia3_",
    ".oft_",
    ".vera_lambda_",
];
const OF_BASES: [&str; 3] = [".base_layer.", ".original_module.", "base_model.model."];

impl Plan {
    /// The tensors that nothing wants and nothing explains, in words: how many, and the first of them.
    pub(crate) fn unexpected(&self) -> Option<String> {
        let names = self.unexpected.iter().map(String::as_str);
        let count = names.len();
        (count > 0).then(|| format!("{count}, {}", few(names)))
    }
}

/// Refuses a plan whose checkpoint is incomplete, has more layers than the model, or has an adapter in it.
pub(super) fn check(plan: &Plan) -> Result<(), PlanError> {
    let model = plan.model.clone();
    let strangers = || plan.unexpected.iter().map(String::as_str);
    let of = |parts: &[&str]| {
        let found = parts
            .iter()
            .find_map(|part| strangers().find(|name| name.contains(part)));
        found.map(str::to_owned)
    };
    if let Some(adapter) = of(&OF_ADAPTERS) {
        let base = of(&OF_BASES).filter(|base| *base != adapter);
        return Err(PlanError::Adapter {
            model,
            adapter,
            base,
        });
    }
    if let Some(error) = layers(plan) {
        return Err(error);
    }
    if plan.missing.is_empty() {
        return Ok(());
    }
    let others: Vec<&str> = strangers()
        .chain(plan.unused.iter().map(String::as_str))
        .collect();
    let advice = match &plan.missing[..] {
        [head] if guess(head, &[1, 1]) == Role::Head => {
            "by config.json the head is a matrix of its own (`tie_word_embeddings` is false or absent): set the field to true if \
             the embedding is the head; a model without a head makes no text"
        }
        _ if plan.steps.is_empty() && !others.is_empty() => {
            "the names are of another architecture, or have another beginning: compare both with `model_type` in config.json"
        }
        _ => {
            "the checkpoint is incomplete (is every shard there?), or config.json is of another model"
        }
    };
    Err(PlanError::Missing {
        model,
        count: plan.missing.len(),
        wanted: plan.steps.len() + plan.missing.len(),
        missing: few(plan.missing.iter().map(String::as_str)).into(),
        others: match others.len() {
            0 => "".into(),
            count => format!("; nobody wants {count}: {}", few(others.into_iter())).into(),
        },
        advice: advice.into(),
    })
}

/// The error of a checkpoint whose layers are more or fewer than those of the model, and otherwise right.
fn layers(plan: &Plan) -> Option<PlanError> {
    let planned = plan.steps.iter().filter_map(|step| layer(&step.slot.name));
    let (path, last) = planned.max_by_key(|(_, nth)| *nth)?;
    let is_beyond = |name: &&String| layer(name).is_some_and(|(of, nth)| of == path && nth > last);
    let has = |names: &[String]| {
        let beyond = names.iter().filter(is_beyond);
        let beyond = beyond.filter_map(|name| Some((layer(name)?.1, name)));
        let first = beyond.clone().min_by_key(|(nth, _)| *nth)?.1.clone();
        let last = beyond.map(|(nth, _)| nth).max()?;
        Some((first, last + 1))
    };
    let (first, found, expected) = if plan.missing.is_empty() {
        let (first, found) = has(&plan.unexpected)?;
        (first, found, last + 1)
    } else {
        let (first, expected) = has(&plan.missing)?;
        plan.missing
            .iter()
            .all(|name| is_beyond(&name))
            .then_some((first, last + 1, expected))?
    };
    Some(PlanError::Layers {
        model: plan.model.clone(),
        found,
        expected,
        // GPT-2 has words of its own.
        field: if path.ends_with("h.") {
            "n_layer"
        } else {
            "num_hidden_layers"
        },
        first,
    })
}

/// The number of the layer that a tensor is of, and what its name has before it.
fn layer(name: &str) -> Option<(&str, usize)> {
    let mut start = 0;
    for part in name.split('.') {
        if let Ok(nth) = part.parse() {
            return Some((&name[..start], nth));
        }
        start += part.len() + 1;
    }
    None
}

/// The first names of a list.
fn few<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut names = names.peekable();
    let first: Vec<&str> = names.by_ref().take(FEW).collect();
    let more = if names.peek().is_some() { ", …" } else { "" };
    first.join(", ") + more
}
