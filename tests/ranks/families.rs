//! Every family: the slots of a cut model have the shapes of the parts that are cut for it.

use std::collections::BTreeMap;

use firebox::{
    Cpu, LoadConfig, Loader,
    config::Parallel,
    model::{Architecture, CausalLm, CutError},
    pipeline::Finished,
};

use super::common::models;

/// Would catch a word of a specification that is cut and its tensors are not, or the other way round.
#[test]
fn parts_have_the_shapes_of_the_cut_model() {
    let mut cut = 0;
    for golden in models() {
        let spec = golden.spec();
        let whole: BTreeMap<_, _> = CausalLm::slots(&spec)
            .into_iter()
            .map(|slot| (slot.name.clone(), slot))
            .collect();
        for ranks in [1, 2, 4] {
            for rank in 0..ranks {
                let (part, cuts) = match CausalLm::of_rank(&spec, rank, ranks) {
                    Ok(part) => part,
                    Err(CutError::Uneven { .. } | CutError::KeyHeads { .. }) if ranks > 2 => {
                        continue;
                    }
                    Err(error) => panic!("{}: {error}", golden.0),
                };
                cut += 1;
                let mut expected: BTreeMap<String, Vec<usize>> = whole
                    .iter()
                    .map(|(name, slot)| (name.clone(), slot.shape.clone()))
                    .collect();
                for cut in cuts {
                    let slot = &whole[&cut.name];
                    let shape = expected.get_mut(&cut.name).expect("a slot");
                    let rows: usize = cut.rows.iter().map(ExactSizeIterator::len).sum();
                    let each: usize = match slot.shape[..] {
                        [_, ref middle @ .., _] => middle.iter().product(),
                        _ => 1,
                    };
                    shape[0] = rows / each;
                    if let Some(cols) = cut.cols {
                        *shape.last_mut().expect("a matrix") = cols.len();
                    }
                }
                let found: BTreeMap<String, Vec<usize>> = CausalLm::slots(&part)
                    .into_iter()
                    .map(|slot| (slot.name, slot.shape))
                    .collect();
                assert_eq!(found, expected, "{}, rank {rank} of {ranks}", golden.0);
            }
        }
    }
    assert!(cut > 100, "{cut} parts");
}

/// Would catch pieces of stacks, of transposed and of fused matrices that are cut along the wrong axis: their ranks have all
/// values together, once each.
#[test]
fn parts_of_every_family_have_all_values() {
    for golden in models() {
        let load = |rank: usize, ranks: usize| {
            let path = golden.path("").to_string_lossy().into_owned();
            let config = LoadConfig::new(path).rank(rank).world_size(ranks);
            let loader = Loader::<Cpu>::new(config.parallel(Parallel::Tensor)).expect(golden.0);
            loader.load_part::<CausalLm>().expect(golden.0)
        };
        let whole = load(0, 1);
        let parts = [load(0, 2), load(1, 2)];
        for (name, (_, weight)) in &whole.weights {
            let Finished::Dense(weight) = weight else {
                panic!("{name} is packed");
            };
            let size = weight.dtype().size();
            let mut sum = vec![0_u8; weight.bytes().len()];
            let mut seen = vec![0_u8; weight.bytes().len() / size];
            for part in &parts {
                let (step, found) = &part.weights[name];
                let Finished::Dense(found) = found else {
                    panic!("{name} is packed");
                };
                let places: Vec<usize> = match &step.part {
                    None => (0..seen.len()).collect(),
                    Some(part) => {
                        let width = if part.of.len() > 1 {
                            part.of[part.of.len() - 1]
                        } else {
                            1
                        };
                        let rows = part.rows.iter().cloned().flatten();
                        let cols = part.cols.clone();
                        rows.flat_map(|row| cols.clone().map(move |col| row * width + col))
                            .collect()
                    }
                };
                assert_eq!(
                    places.len() * size,
                    found.bytes().len(),
                    "{}: {name}",
                    golden.0
                );
                for (place, value) in places.iter().zip(found.bytes().chunks(size)) {
                    seen[*place] += 1;
                    sum[place * size..(place + 1) * size].copy_from_slice(value);
                }
            }
            assert!(
                sum == weight.bytes(),
                "{}: {name} has other values",
                golden.0
            );
            let first = seen[0];
            assert!(
                first >= 1 && seen.iter().all(|seen| *seen == first),
                "{name}"
            );
            // Of a single key head both ranks have all.
            let is_key = name.contains("k_proj") || name.contains("v_proj");
            let is_cut = parts[0].weights[name].0.part.is_some();
            assert_eq!(
                first == 1,
                is_cut && !(is_key && first == 2),
                "{}: {name}",
                golden.0
            );
        }
    }
}
