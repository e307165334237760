//! Caches that keep keys and values in fewer bits, or have their room from the start.

use std::fs;

use burn::tensor::{DType as BurnDType, Tensor};
use firebox::{
    Cpu, LoadConfig, Loader, Target,
    config::KvCacheDtype,
    model::{
        CausalLm, NextToken,
        layers::{KeptRows, ScaledRows},
    },
    target::DType,
    text::SpecialTokens,
};

use crate::common::{ids, models, repository, rms_difference, values};

const KINDS: [KvCacheDtype; 3] = [KvCacheDtype::F16, KvCacheDtype::Bf16, KvCacheDtype::Int8];

fn load(config: LoadConfig, name: &str) -> CausalLm {
    let loader = Loader::<Cpu>::new(config).expect(name);
    loader.load::<CausalLm>().expect(name).model
}

/// Logits of a prompt, and of tokens after it, one at a time.
fn logits(model: &CausalLm, tokens: &[u32], prompt: usize) -> Vec<f32> {
    let mut cache = model.cache();
    let mut all = Vec::new();
    let (prompt, steps) = tokens.split_at(prompt);
    for piece in [prompt].into_iter().chain(steps.chunks(1)) {
        let found = model.forward_cached(ids(&[piece.to_vec()]), &mut cache);
        all.extend(values(found.expect("room")));
    }
    all
}

/// The divergence of two rows of logits, in nats.
fn divergence(exact: &[f32], other: &[f32]) -> f64 {
    let likely = |logits: &[f32]| -> Vec<f64> {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let all = logits.iter().map(|x| f64::from(x - most));
        let sum = all.clone().map(f64::exp).sum::<f64>().ln();
        all.map(|x| x - sum).collect()
    };
    let (exact, other) = (likely(exact), likely(other));
    let parts = exact.iter().zip(&other).map(|(p, q)| p.exp() * (p - q));
    parts.sum()
}

/// The figures of `src/docs/benchmarks.md`, as bounds. Catches factors of another row, codes cut off and not rounded, and tokens that
/// are kept in `f32` all the same.
#[test]
fn a_trained_model_says_almost_the_same() {
    let folder = repository().join("assets/tinyrust");
    let config = LoadConfig::new(folder.to_string_lossy()).dtype(DType::F32);
    let text = fs::read_to_string(repository().join("assets/tinyrust-sample.txt")).expect("a text");
    let loader = Loader::<Cpu>::new(config.clone()).expect("a model");
    let tokenizer = loader.tokenizer().expect("a tokenizer");
    let tokens = tokenizer.encode(&text[..2000], SpecialTokens::Omit);
    let tokens = &tokens.expect("a text")[..256];

    let exact = logits(&load(config.clone(), "f32"), tokens, 192);
    for (kind, most) in KINDS.into_iter().zip([3e-7, 2e-5, 1e-4]) {
        let model = load(config.clone().kv_cache_dtype(kind), "tinyrust");
        let found = logits(&model, tokens, 192);
        let rows = exact.chunks(2048).zip(found.chunks(2048));
        let mean = rows
            .map(|(exact, found)| divergence(exact, found))
            .sum::<f64>()
            / 256.0;
        assert!(mean < most, "{kind}: {mean:e} nats");
        assert_ne!(exact, found, "{kind}");
    }
}

/// Catches a family whose layers do not read what a cache has kept: small rows of latent attention, keys that are lent, windows. Half of
/// the tokens count, since a router of random weights jumps for some.
#[test]
fn every_family_reads_what_was_kept() {
    for golden in models() {
        let tokens = &golden.ids("input_ids")[0];
        let config = || LoadConfig::new(golden.path("").to_string_lossy()).dtype(DType::F32);
        let prompt = tokens.len() - 3;
        let exact = logits(&load(config(), golden.0), tokens, prompt);
        let kept = config().kv_cache_dtype(KvCacheDtype::Int8);
        let found = logits(&load(kept, golden.0), tokens, prompt);
        let rows = exact.len() / tokens.len();
        let off = exact
            .chunks(rows)
            .zip(found.chunks(rows))
            .map(|(exact, found)| {
                rms_difference(exact, found) / rms_difference(exact, &vec![0.0; rows])
            });
        let mut off: Vec<f64> = off.collect();
        off.sort_by(f64::total_cmp);
        let median = off[off.len() / 2];
        assert!(median < 0.05, "{}: {off:?}", golden.0);
    }
}

/// Catches buffers that are made anew although the length was known, and rooms that do not double.
#[test]
fn room_that_was_asked_for_is_made_once() {
    let folder = repository().join("assets/tinyrust");
    let model = load(LoadConfig::new(folder.to_string_lossy()), "tinyrust");
    let rooms = |mut cache: firebox::model::layers::Cache| -> Vec<usize> {
        let mut rooms = vec![cache.room()];
        for tokens in [70, 1, 57, 1, 200] {
            let tokens = ids(&[vec![5; tokens]]);
            model.forward_cached(tokens, &mut cache).expect("room");
            rooms.push(cache.room());
        }
        rooms
    };
    assert_eq!(rooms(model.cache()), [0, 128, 128, 128, 256, 512]);
    assert_eq!(
        rooms(model.cache().with_room(329)),
        [0, 329, 329, 329, 329, 329]
    );
    // More than was said, and more than there are positions.
    assert_eq!(
        rooms(model.cache().with_room(129)),
        [0, 129, 129, 129, 129, 512]
    );
    let all = rooms(model.cache().with_room(usize::MAX));
    assert_eq!(all, [0, 1024, 1024, 1024, 1024, 1024]);
    let mut cache = model.cache().with_room(300);
    model
        .forward_cached(ids(&[vec![5; 9]]), &mut cache)
        .expect("room");
    cache.clear();
    model
        .forward_cached(ids(&[vec![5; 9]]), &mut cache)
        .expect("room");
    assert_eq!(cache.room(), 300, "forgetting keeps what was asked for");
}

/// Each number is the nearest multiple of its row's factor, whatever the number of features.
#[test]
fn bytes_are_the_nearest_codes() {
    let device = Cpu::device(0).expect("there is always a CPU");
    for features in [1, 4, 6, 7, 128] {
        let shape = [2, 3, 5, features];
        let len = shape.iter().product::<usize>();
        let mut numbers: Vec<f32> = (0..len)
            .map(|k| ((k * 7919) % 1009) as f32 / 504.5 - 1.0)
            .collect();
        numbers[..features].fill(0.0);
        numbers[features..2 * features].fill(-3.5);
        let rows = Tensor::<1>::from_data(numbers.as_slice(), (&device, BurnDType::F32));
        let kept = ScaledRows::new(rows.reshape(shape));
        assert_eq!(kept.words.dims(), [2, 3, 5, features.div_ceil(4)]);
        let scales = values(kept.scales.clone());
        let dense = values(KeptRows::Scaled(kept).dense(BurnDType::F32));
        for (nth, (row, found)) in numbers
            .chunks(features)
            .zip(dense.chunks(features))
            .enumerate()
        {
            let most = row.iter().fold(0_f32, |most, x| most.max(x.abs()));
            assert!(
                (scales[nth] - most / 127.0).abs() <= most * 1e-7,
                "{features}, row {nth}"
            );
            for (x, found) in row.iter().zip(found) {
                let code = match scales[nth] {
                    0.0 => 0.0,
                    scale => (f64::from(*x) / f64::from(scale)).round_ties_even(),
                };
                let exact = code * f64::from(scales[nth]);
                // A quotient next to the middle of two codes may go to either.
                let tie = f64::from(scales[nth]) * 0.5001;
                let off = (f64::from(*found) - exact).abs();
                let far = (f64::from(*found) - f64::from(*x)).abs();
                assert!(
                    off < 1e-7 || far <= tie,
                    "{features}, row {nth}: {x} is kept as {found}"
                );
                assert!(far <= tie, "{features}, row {nth}: {x} is kept as {found}");
            }
        }
    }
}
