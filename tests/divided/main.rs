//! Models that are divided among ranks: what they compute together is what one process computes.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;

use std::{sync::Arc, thread, time::Duration};

use burn::tensor::{DType, Int, Tensor, TensorData};
use common::{Golden, models};
use firebox::{
    Cpu, Error, LoadConfig, Loader,
    collective::{Collective, CollectiveError, ThreadRanks},
    config::Parallel,
    model::{CacheError, CausalLm, NextToken},
};

const DEADLINE: Duration = Duration::from_secs(60);
const IDS: [i32; 7] = [1, 5, 7, 9, 2, 30, 11];

fn config(model: Golden, quant: &str) -> LoadConfig {
    LoadConfig::new(model.path("").to_string_lossy()).quant(quant.parse().expect("a format"))
}

/// Logits of a prompt, and of two tokens after it from the cache.
fn logits(model: &CausalLm) -> Result<Vec<f32>, CacheError> {
    let device = model.device();
    let mut cache = model.cache();
    let mut all = Vec::new();
    for ids in [&IDS[..5], &IDS[5..6], &IDS[6..]] {
        let ids = TensorData::new(ids.to_vec(), [1, ids.len()]);
        let ids = Tensor::<2, Int>::from_data(ids, (&device, DType::I32));
        let logits = model.forward_cached(ids, &mut cache)?;
        all.extend(logits.into_data().iter::<f32>());
    }
    Ok(all)
}

/// What each rank computes, one thread each.
fn together<V: Send>(
    config: &LoadConfig,
    parallel: Parallel,
    size: usize,
    run: impl Fn(usize, Result<CausalLm, Error>) -> V + Sync,
) -> Vec<V> {
    let run = &run;
    thread::scope(|scope| {
        let members = ThreadRanks::new(size, DEADLINE).into_iter();
        let threads = members.map(|member| {
            scope.spawn(move || {
                let rank = member.rank();
                let request = config
                    .clone()
                    .rank(rank)
                    .world_size(size)
                    .parallel(parallel)
                    .ranks(Arc::new(member));
                let loaded = Loader::<Cpu>::new(request).and_then(|loader| loader.load());
                run(rank, loaded.map(|loaded| loaded.model))
            })
        });
        let threads: Vec<_> = threads.collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.map(|ended| ended.expect("no panic")).collect()
    })
}

/// Whether so many ranks can have the model; the reason is a sentence of its own test.
fn compare(model: Golden, quant: &str, parallel: Parallel, size: usize) -> bool {
    let config = config(model, quant);
    let Ok(loader) = Loader::<Cpu>::new(config.clone()) else {
        return false;
    };
    let Ok(whole) = loader.load::<CausalLm>() else {
        // Some formats cannot pack some models, whatever the ranks.
        return false;
    };
    let expected = logits(&whole.model).expect("a short text");
    let of_ranks = together(&config, parallel, size, |_, loaded| match loaded {
        Ok(model) => Ok(logits(&model).expect("all ranks came")),
        Err(error) => Err(error),
    });
    let name = format!("{} {quant} {parallel} {size}", model.0);
    let mut compared = false;
    for found in of_ranks {
        let found = match found {
            Ok(found) => found,
            Err(Error::Rank(_)) => continue,
            Err(error) => panic!("{name}: {error}"),
        };
        compared = true;
        assert_eq!(found.len(), expected.len(), "{name}");
        if parallel != Parallel::Tensor {
            assert!(found == expected, "{name}: other bits");
            continue;
        }
        // Sums in another order.
        let largest = expected
            .iter()
            .fold(1_f32, |most, logit| most.max(logit.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 1e-5 * largest,
                "{name}: {found} {expected}"
            );
        }
    }
    compared
}

/// Every family. Would catch heads, groups or experts of another rank, a bias that is added twice, a norm over a part of its features,
/// rows of another part of the vocabulary, layers that are left out, keys that are lent to no layer of another rank.
#[test]
fn every_family_computes_what_one_process_does() {
    let mut compared = [0; 3];
    for model in models() {
        for (count, parallel) in compared.iter_mut().zip(MODES) {
            *count += usize::from(compare(model, "none", parallel, 2));
        }
    }
    assert!(compared.iter().all(|count| *count >= 38), "{compared:?}");
}

const MODES: [Parallel; 3] = [Parallel::Tensor, Parallel::Layers, Parallel::Shard];

/// Would catch scales of another part, and buffers that are put together in another order or one word short.
#[test]
fn packed_weights_compute_what_they_do_in_one_process() {
    let formats = [
        "nf4",
        "nf4:block=64,nested",
        "fp4",
        "mlx:bits=4,group=32",
        "fp8:e4m3,scale=tensor",
        "fp8:e4m3,scale=channel",
        "fp8:e4m3,scale=block",
        "int8",
        "hqq:bits=4,group=64",
        "mxfp4",
        "nvfp4",
    ];
    for quant in formats {
        for parallel in MODES {
            let done = compare(Golden("llama_bf16_untied"), quant, parallel, 2);
            // Tiles of 128 rows do not divide 384.
            let uneven = parallel == Parallel::Tensor && quant == "fp8:e4m3,scale=block";
            assert_ne!(done, uneven, "{quant} {parallel}");
        }
    }
    for quant in ["int8", "fp8:e4m3,scale=channel"] {
        assert!(compare(
            Golden("qwen3_moe_bf16"),
            quant,
            Parallel::Tensor,
            2
        ));
    }
    assert!(compare(Golden("qwen3_moe_bf16"), "nf4", Parallel::Shard, 2));
}

/// Three and four ranks, of which two have the same key head. Would catch a middle stage that waits for the wrong rank.
#[test]
fn more_ranks_than_key_heads() {
    for (model, parallel, ranks) in [
        ("llama_f32_tied", Parallel::Tensor, 4),
        ("olmo2_bf16", Parallel::Tensor, 4),
        ("gemma4_ple_bf16", Parallel::Tensor, 4),
        ("gemma4_ple_bf16", Parallel::Layers, 3),
        ("llama_bf16_untied", Parallel::Layers, 4),
        ("llama_bf16_untied", Parallel::Shard, 3),
    ] {
        assert!(
            compare(Golden(model), "none", parallel, ranks),
            "{model} {parallel}"
        );
    }
}

/// Would catch products that give zeros for an answer, and ranks that compute with weights of another model.
#[test]
fn a_rank_that_ends_or_differs_is_an_error() {
    let golden = Golden("llama_bf16_untied");
    for parallel in MODES {
        let ended = together(&config(golden, "none"), parallel, 2, |rank, loaded| {
            let model = loaded.expect("all ranks came");
            match rank {
                // Ends with its model.
                1 => None,
                _ => Some(logits(&model)),
            }
        });
        let Some(Err(CacheError::Ranks(CollectiveError::Gone { peer: 1, .. }))) = ended[0] else {
            panic!("{parallel}: {:?}", ended[0]);
        };
    }

    let differing = [config(golden, "nf4"), config(golden, "int8")];
    let members = ThreadRanks::new(2, DEADLINE);
    thread::scope(|scope| {
        for member in members {
            let config = differing[member.rank()].clone();
            scope.spawn(move || {
                let rank = member.rank();
                let request = config.rank(rank).world_size(2).parallel(Parallel::Shard);
                let loader = Loader::<Cpu>::new(request.ranks(Arc::new(member)));
                let error = loader
                    .and_then(|loader| loader.load::<CausalLm>().map(drop))
                    .expect_err("they differ")
                    .to_string();
                assert!(error.contains("nf4") && error.contains("int8"), "{error}");
            });
        }
    });

    let config = config(golden, "none")
        .rank(0)
        .world_size(2)
        .parallel(Parallel::Tensor);
    let alone = Loader::<Cpu>::new(config).and_then(|loader| loader.load::<CausalLm>());
    let error = alone.expect_err("nobody is there").to_string();
    assert!(
        error.contains("mpirun") && error.contains("feature `mpi`"),
        "{error}"
    );
}
