//! Layers to ranks: consecutive layers, divided so that the rank with most bytes has as few as possible.

use core::ops::Range;
use std::collections::{HashMap, HashSet};

use super::RankError;
use crate::{
    config::Ranks,
    model::Slot,
    plan::{Plan, Step, layer_of},
};

/// Leaves the plan the layers of one rank; `slots` are those of the model, in the order in which a token meets them, and
/// `tied` names the embedding where it is the head too. Returns the layers, and the bytes of the checkpoint that other
/// ranks read too.
pub(crate) fn keep_stage(
    plan: &mut Plan,
    slots: &[Slot],
    tied: Option<&str>,
    ranks: Ranks,
) -> Result<(Range<usize>, u64), RankError> {
    let Ranks {
        rank, world_size, ..
    } = ranks;
    let layers = 1 + slots
        .iter()
        .filter_map(|slot| layer_of(&slot.name))
        .max()
        .unwrap_or(0);
    let first_layer = slots.iter().position(|slot| layer_of(&slot.name).is_some());
    let before: HashSet<&str> = slots[..first_layer.unwrap_or(0)]
        .iter()
        .map(|slot| &*slot.name)
        .collect();
    // Where a weight is: in a layer, before the first, or after the last.
    let place = |name: &str| match layer_of(name) {
        Some(layer) => layer,
        None if before.contains(name) => 0,
        None => layers - 1,
    };
    let mut bytes = vec![0; layers];
    for step in &plan.steps {
        bytes[place(&step.slot.name)] += step.bytes_finished();
        if tied == Some(&step.slot.name) {
            bytes[layers - 1] += step.bytes_finished();
        }
    }
    let stages = stages(&bytes, world_size).ok_or(RankError::Layers {
        layers,
        ranks: world_size,
    })?;
    let stage = stages[rank].clone();
    let is_shared = |name: &str| tied == Some(name) && world_size > 1;
    let on_both_ends = stage.contains(&0) || stage.contains(&(layers - 1));
    plan.steps.retain(|step| {
        let name = &*step.slot.name;
        stage.contains(&place(name)) || (is_shared(name) && on_both_ends)
    });
    let shared = plan.steps.iter().filter(|step| is_shared(&step.slot.name));
    let shared = shared.map(Step::bytes_source).sum();
    Ok((stage, shared))
}

/// `ranks` ranges of layers, none of them empty, of which the largest has as few bytes as possible; `None` where there are
/// fewer layers.
fn stages(bytes: &[u64], ranks: usize) -> Option<Vec<Range<usize>>> {
    let layers = bytes.len();
    if ranks == 0 || ranks > layers {
        return None;
    }
    // The least largest stage of the layers from `first` on in `left` stages, and where its first stage ends.
    let mut best: HashMap<(usize, usize), (u64, usize)> = HashMap::new();
    for left in 1..=ranks {
        for first in 0..=layers - left {
            let ends = if left == 1 {
                layers..=layers
            } else {
                first + 1..=layers - left + 1
            };
            let mut found = (u64::MAX, layers);
            for end in ends {
                let here: u64 = bytes[first..end].iter().sum();
                let after = if left == 1 {
                    0
                } else {
                    best[&(end, left - 1)].0
                };
                let largest = here.max(after);
                if largest < found.0 {
                    found = (largest, end);
                }
            }
            best.insert((first, left), found);
        }
    }
    let mut first = 0;
    let stages = (1..=ranks).rev().map(|left| {
        let (_, end) = best[&(first, left)];
        let stage = first..end;
        first = end;
        stage
    });
    Some(stages.collect())
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "a list of ranges may have one"
)]
mod tests {
    use super::*;

    /// Divisions found by hand. Would catch stages by number of layers, an empty stage, and layers that are left out.
    #[test]
    fn the_largest_stage_has_as_few_bytes_as_possible() {
        let of = |bytes: &[u64], ranks| stages(bytes, ranks);
        assert_eq!(of(&[9, 1, 1, 1, 1, 9], 2), Some(vec![0..3, 3..6]));
        assert_eq!(of(&[9, 1, 1, 1, 1, 9], 3), Some(vec![0..1, 1..5, 5..6]));
        assert_eq!(of(&[1, 1, 1, 9], 2), Some(vec![0..3, 3..4]));
        assert_eq!(of(&[0, 0, 0], 3), Some(vec![0..1, 1..2, 2..3]));
        assert_eq!(of(&[5], 1), Some(vec![0..1]));
        assert_eq!(of(&[5], 2), None);
    }
}
