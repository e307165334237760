//! Rows and columns to ranks: the weights of a plan, cut as an architecture says.

use std::collections::HashMap;

use super::RankError;
use crate::{
    model::{Architecture, WeightCut},
    plan::{Plan, Step, UncutStep},
};

/// More ranks than any model has heads: what would work is looked for below.
const TRIED_MAX: usize = 1024;

/// Leaves the plan what the part of rank `rank` of `ranks` takes, and returns the bytes of the checkpoint that other ranks
/// read too.
pub(crate) fn keep_slices<A: Architecture>(
    config: &A::Config,
    plan: &mut Plan,
    rank: usize,
    ranks: usize,
) -> Result<u64, RankError> {
    let fewer = |plan: &Plan| {
        let fits = |ranks: &usize| {
            let cuts = A::of_rank(config, 0, *ranks);
            cuts.is_ok_and(|(_, cuts)| sliced(plan, &cuts).is_ok())
        };
        (1..ranks.min(TRIED_MAX)).rev().find(fits)
    };
    let (_, cuts) = A::of_rank(config, rank, ranks).map_err(|source| RankError::Heads {
        source,
        largest: fewer(plan),
    })?;
    let steps = sliced(plan, &cuts).map_err(|uncut| RankError::Groups {
        tensor: uncut.tensor,
        format: uncut.format.into(),
        axis: uncut.axis,
        unit: uncut.unit,
        size: uncut.size,
        ranks,
        largest: fewer(plan),
    })?;
    plan.steps = steps;
    let shared = plan.steps.iter().filter(|step| is_shared(step, ranks));
    Ok(shared.map(Step::bytes_source).sum())
}

/// The steps that make the parts of a rank.
fn sliced(plan: &Plan, cuts: &[WeightCut]) -> Result<Vec<Step>, UncutStep> {
    let cuts: HashMap<&str, &WeightCut> = cuts.iter().map(|cut| (&*cut.name, cut)).collect();
    let steps = plan.steps.iter().map(|step| {
        let Some(cut) = cuts.get(&*step.slot.name) else {
            return Ok(step.clone());
        };
        let [_, all] = step.matrix();
        step.sliced(cut.rows.clone(), cut.cols.clone().unwrap_or(0..all))
    });
    steps.collect()
}

/// Whether several ranks read the same bytes of a weight.
pub(super) fn is_shared(step: &Step, ranks: usize) -> bool {
    let Some(part) = &step.part else {
        return ranks > 1;
    };
    let values = part.shape().iter().product::<usize>();
    part.from_whole || values * ranks > part.of.iter().product()
}
