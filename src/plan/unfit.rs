//! Weights that the method cannot pack: all of them at once, and what packs them all.

use std::collections::BTreeMap;

use firebox_kernels::{arith::float::DType, format::FormatError};

use super::{PlanError, Step};
use crate::{config::Policy, model::Slot, quant::QuantSpec};

/// Groups that methods with a choice have, from what takes least memory.
const GROUPS: [&str; 5] = ["128", "64", "32", "16", "8"];
/// Packs rows of any length.
const ANY_LENGTH: &str = "nf4";

/// The steps of all slots, or an error that has every weight that its method cannot pack.
pub(super) fn all<'s>(
    steps: impl Iterator<Item = (&'s Slot, Result<Step, PlanError>)>,
    policy: &Policy,
) -> Result<Vec<Step>, PlanError> {
    let (mut planned, mut unfit) = (Vec::new(), Vec::new());
    for (slot, step) in steps {
        match step {
            Ok(step) => planned.push(step),
            Err(PlanError::Format { source, .. }) => unfit.push((slot, source)),
            Err(error) => return Err(error),
        }
    }
    let Some((first, _)) = unfit.first() else {
        return Ok(planned);
    };
    // Each method has an answer of its own; the others come when this one is given.
    let quant = first.quant(policy);
    unfit.retain(|(slot, _)| slot.quant(policy) == quant);
    let fit = planned.iter().map(|step| &step.slot);
    let fit = fit.filter(|slot| slot.quant(policy) == quant);
    let slots: Vec<&Slot> = fit.chain(unfit.iter().map(|(slot, _)| *slot)).collect();
    let patterns = patterns(
        unfit
            .iter()
            .map(|(slot, error)| (&*slot.name, reason(error))),
    );
    let skips = patterns.iter().map(|(pattern, _, _)| {
        let module = pattern.strip_suffix(".weight").unwrap_or(pattern);
        format!("--skip '{module}'")
    });
    let skips = skips.collect::<Vec<_>>().join(" ");
    let weights = patterns.iter().map(|(pattern, reason, count)| match count {
        1 => format!("{pattern} ({reason})"),
        _ => format!("{count} of {pattern} ({reason})"),
    });
    Err(PlanError::Unfit {
        count: unfit.len(),
        of: slots.len(),
        weights: weights.collect::<Vec<_>>().join(", "),
        advice: match fits_all(&quant, &slots) {
            Some(other) => format!("`{other}` packs all, and `{skips}` leaves these dense"),
            None => format!("`{skips}` leaves these dense"),
        },
        quant: quant.to_string().into(),
    })
}

/// The quantization nearest to `quant` that packs every slot.
fn fits_all(quant: &QuantSpec, slots: &[&Slot]) -> Option<QuantSpec> {
    let said = quant.to_string();
    let group = said.split_once("group=").map(|(before, after)| {
        let end = after.find(',').unwrap_or(after.len());
        (before, &after[end..])
    });
    let of_groups = GROUPS.iter().filter_map(|size| {
        let (before, after) = group?;
        format!("{before}group={size}{after}").parse().ok()
    });
    let mut others = of_groups.chain(ANY_LENGTH.parse().ok());
    let fits = |other: &QuantSpec| {
        let method = other.method();
        let packs = |slot: &&Slot| match slot.shape[..] {
            [ref outer @ .., cols] => method.is_some_and(|method| {
                let matrix = [outer.iter().product(), cols];
                method.format(matrix, DType::F32).is_ok()
            }),
            [] => false,
        };
        slots.iter().all(packs)
    };
    others.find(fits)
}

/// Names with a star for the number of the layer, each once with its reason and how often it was there.
fn patterns<'n>(names: impl Iterator<Item = (&'n str, String)>) -> Vec<(String, String, usize)> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (name, reason) in names {
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let parts = name.split('.');
        let parts = parts.map(|part| if is_number(part) { "*" } else { part });
        let pattern = parts.collect::<Vec<_>>().join(".");
        *counts.entry((pattern, reason)).or_default() += 1;
    }
    let counts = counts.into_iter();
    let counts = counts.map(|((pattern, reason), count)| (pattern, reason, count));
    counts.collect()
}

/// Both numbers, without advice about one weight.
fn reason(error: &FormatError) -> String {
    match error {
        FormatError::Columns { cols, group } => format!("rows of {cols}, groups of {group}"),
        other => other.to_string(),
    }
}

/// Names as patterns, with a star for the number of the layer.
pub(crate) fn listed(names: &[String]) -> String {
    let patterns = patterns(names.iter().map(|name| (&**name, String::new())));
    let patterns = patterns.into_iter().map(|(pattern, _, _)| pattern);
    patterns.collect::<Vec<_>>().join(", ")
}
