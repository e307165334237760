//! Every method and mode: the parts of two, three and four ranks are the bytes of one process, and the ranks read the file
//! once.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "a list of ranges may have one"
)]

use std::ops::Range;

use firebox::{
    Error,
    config::Parallel,
    pipeline::Finished,
    plan::{RankPart, Step},
    quant::kernels::format::Packed,
    ranks::{RankError, share_of},
};

use super::model::{LAYERS, alone, buffers, llama, part, parts, read};

/// Methods whose scales depend on few values.
const LOCAL: [&str; 10] = [
    "none",
    "nf4",
    "nf4:block=32",
    "fp4",
    "fp8:e4m3,scale=64x32",
    "mlx:bits=4,group=64",
    "mlx:bits=3,group=32",
    "wna16:bits=4,group=32",
    "mxfp4",
    "nvfp4",
];

/// Methods with scales that depend on a whole row, or on the whole weight.
const WHOLE: [&str; 8] = [
    "nf4:block=64,nested",
    "fp8:e4m3,scale=tensor",
    "fp8:e5m2,scale=channel",
    "int8",
    "hqq:bits=4,group=64",
    "wna16:bits=8,scale=channel",
    "wna16:bits=4,scale=tensor",
    "nvfp4:global",
];

fn all() -> impl Iterator<Item = &'static str> {
    LOCAL.into_iter().chain(WHOLE)
}

/// Where every rank finishes the whole weight, one number of ranks shows what three do.
fn worlds(quant: &str) -> &'static [usize] {
    match LOCAL.contains(&quant) {
        true => &[2, 3, 4],
        false => &[3],
    }
}

/// The code of value `k`: all codes are a stream of bits, lowest first.
fn code(packed: &Packed, k: usize) -> u64 {
    let bits = packed.format.code_bits();
    let word = |nth: usize| u64::from(packed.words.get(nth).copied().unwrap_or(0));
    let (at, shift) = (k * bits / 32, k * bits % 32);
    (word(at) | word(at + 1) << 32) >> shift & ((1 << bits) - 1)
}

/// The places in the whole weight of the values of a part.
fn places(part: &RankPart) -> Vec<usize> {
    let width = *part.of.last().expect("a matrix");
    let rows = part.rows.iter().cloned().flatten();
    rows.flat_map(|row| part.cols.clone().map(move |col| row * width + col))
        .collect()
}

/// Asserts that a part has the codes and the values of the whole weight at its places, and returns these.
fn assert_slice(what: &str, step: &Step, found: &Finished, whole: &Finished) -> Vec<usize> {
    let Some(part) = &step.part else {
        assert_eq!(
            buffers(found),
            buffers(whole),
            "{what}: whole on every rank"
        );
        return Vec::new();
    };
    match (found, whole) {
        (Finished::Dense(found), Finished::Dense(whole)) => {
            let places = match part.of[..] {
                [_] => part.rows.iter().cloned().flatten().collect(),
                _ => places(part),
            };
            let size = found.dtype().size();
            let expected = places
                .iter()
                .flat_map(|at| &whole.bytes()[at * size..(at + 1) * size]);
            assert!(found.bytes().iter().eq(expected), "{what}");
            places
        }
        (Finished::Packed(found), Finished::Packed(whole)) => {
            let (places, values) = (places(part), found.dequantize());
            assert_eq!(values.len(), places.len(), "{what}");
            let expected = whole.dequantize();
            for (k, at) in places.iter().enumerate() {
                assert_eq!(code(found, k), code(whole, *at), "{what}: code {k}");
                let [found, expected] = [values[k], expected[*at]].map(f32::to_bits);
                assert_eq!(found, expected, "{what}: value {k}");
            }
            places
        }
        other => panic!("{what}: {other:?}"),
    }
}

/// Heads and inner features. Would catch parts of other rows or columns, scales that were computed of a part alone, ranges
/// that are read although another rank has them, and parts that leave values out.
#[test]
fn slices_are_those_of_the_whole_weight() {
    let source = llama(12, false);
    for quant in all() {
        let whole = alone(&source, quant);
        for ranks in worlds(quant).iter().copied() {
            let parts = parts(&source, quant, Parallel::Tensor, ranks);
            for (name, (_, weight)) in &whole {
                let what = format!("{quant}, {ranks} ranks: {name}");
                let mut seen = Vec::new();
                for part in &parts {
                    let (step, found) = &part.weights[name];
                    seen.extend(assert_slice(&what, step, found, weight));
                }
                seen.sort_unstable();
                let is_cut = !name.contains("norm");
                assert_eq!(is_cut, !seen.is_empty(), "{what}");
                assert!(seen.iter().copied().eq(0..seen.len()), "{what}");
            }
            let read = read(&source, &parts);
            for (name, [fewest, most, _]) in read {
                let (step, _) = &parts[0].weights[&name];
                let shared = step.part.as_ref().is_none_or(|part| part.from_whole);
                let expected = if shared { ranks as u64 } else { 1 };
                assert_eq!(
                    [fewest, most],
                    [expected; 2],
                    "{quant}, {ranks} ranks read {name}"
                );
                let local = LOCAL.contains(&quant) && !name.contains("norm");
                assert!(!(local && shared), "{quant}: {name} is read by all");
            }
        }
    }
}

/// Shares of bytes. Would catch a share by rows in place of bytes, one that is a word too long, and scales of other blocks.
#[test]
fn shares_follow_one_another() {
    let source = llama(12, true);
    // Groups that have values all over the weight can be shared, if not sliced.
    for quant in all().chain(["hqq:bits=4,group=64,axis=0"]) {
        let whole = alone(&source, quant);
        for ranks in worlds(quant).iter().copied() {
            let parts = parts(&source, quant, Parallel::Shard, ranks);
            for (name, (_, weight)) in &whole {
                let what = format!("{quant}, {ranks} ranks: {name}");
                let expected = buffers(weight);
                let mut found = [Vec::new(), Vec::new()];
                for (rank, part) in parts.iter().enumerate() {
                    let (step, share) = &part.weights[name];
                    assert!(matches!(share, Finished::Share(_)), "{what}");
                    let bytes = step.part.as_ref().and_then(|part| part.bytes.clone());
                    let bytes = bytes.expect("a share");
                    for (nth, buffer) in buffers(share).iter().enumerate() {
                        assert_eq!(
                            bytes[nth],
                            share_of(expected[nth].len(), rank, ranks),
                            "{what}"
                        );
                        assert_eq!(
                            bytes[nth].start.min(expected[nth].len()),
                            found[nth].len(),
                            "{what}"
                        );
                        found[nth].extend_from_slice(buffer);
                    }
                }
                assert!(found == expected, "{what}");
            }
            // Seams: a block, a row or a tile that ends in the share of the next rank.
            for (name, [fewest, most, bytes]) in read(&source, &parts) {
                assert!(
                    fewest >= 1,
                    "{quant}, {ranks} ranks: nobody reads all of {name}"
                );
                let (step, _) = &parts[0].weights[&name];
                let part = step.part.as_ref().expect("a part");
                let size: usize = 2 * part.of.iter().product::<usize>();
                if quant == "none" {
                    assert_eq!([most, bytes], [1, size as u64], "{name}");
                }
                if LOCAL.contains(&quant) {
                    let seam = 2 * 64 * part.of.last().expect("a side");
                    let most = size + (ranks - 1) * 2 * seam;
                    assert!(bytes as usize <= most, "{quant}: {bytes} bytes of {name}");
                }
            }
        }
    }
}

/// The formula of the issue, by hand. Would catch a share that cuts a word, and one beyond the end.
#[test]
fn a_share_is_whole_words() {
    let of = |bytes, ranks| -> Vec<Range<usize>> {
        (0..ranks)
            .map(|rank| share_of(bytes, rank, ranks))
            .collect()
    };
    assert_eq!(of(24, 2), [0..12, 12..24]);
    assert_eq!(of(24, 3), [0..8, 8..16, 16..24]);
    // 26 / 3 is 9, rounded up to 12.
    assert_eq!(of(26, 3), [0..12, 12..24, 24..26]);
    assert_eq!(of(8, 4), [0..4, 4..8, 8..8, 8..8]);
    assert_eq!(of(0, 2), [0..0, 0..0]);
}

/// Stages. Would catch a layer in two stages or in none, and an embedding that its other end lacks.
#[test]
fn layers_are_on_one_rank_each() {
    for tied in [false, true] {
        let source = llama(12, tied);
        let whole = alone(&source, "nf4");
        for ranks in [2, 3, 4] {
            let parts = parts(&source, "nf4", Parallel::Layers, ranks);
            for (name, (_, weight)) in &whole {
                let holders = parts.iter().filter_map(|part| part.weights.get(name));
                let holders: Vec<_> = holders.collect();
                let both = tied && name.contains("embed");
                assert_eq!(holders.len(), if both { 2 } else { 1 }, "{name}");
                for (_, found) in holders {
                    assert_eq!(buffers(found), buffers(weight), "{name}");
                }
            }
            let [first, last] = [&parts[0], &parts[ranks - 1]];
            assert!(first.weights.contains_key("model.embed_tokens.weight"));
            let head = if tied {
                "model.embed_tokens.weight"
            } else {
                "lm_head.weight"
            };
            assert!(last.weights.contains_key(head));
            assert!(last.weights.contains_key("model.norm.weight"));
            let mut next = 0;
            for part in &parts {
                let report = part.report.rank.as_ref().expect("a rank");
                let layers = report.layers.clone().expect("its layers");
                assert_eq!(layers.start, next);
                assert!(!layers.is_empty());
                next = layers.end;
            }
            assert_eq!(next, LAYERS);
            for (name, [fewest, most, _]) in read(&source, &parts) {
                let expected = if tied && name.contains("embed") { 2 } else { 1 };
                assert_eq!([fewest, most], [expected; 2], "{name}");
            }
        }
    }
}

/// Fewer key heads than ranks: each rank has the one that its query heads use. Would catch a head of another rank.
#[test]
fn a_key_head_is_on_several_ranks() {
    let source = llama(2, false);
    let whole = alone(&source, "nf4");
    let name = "model.layers.1.self_attn.k_proj.weight";
    let parts = parts(&source, "nf4", Parallel::Tensor, 4);
    for (rank, part) in parts.iter().enumerate() {
        let (step, found) = &part.weights[name];
        let head = rank / 2;
        let rows = &step.part.as_ref().expect("a part").rows;
        assert_eq!(*rows, [head * 64..(head + 1) * 64]);
        assert_slice(name, step, found, &whole[name].1);
    }
    // Three ranks have no key head for each, and no same number of ranks for each.
    let refused = part(&source, "nf4", Parallel::Tensor, [0, 3]).expect_err("2 heads, 3 ranks");
    let Error::Rank(refused) = refused else {
        panic!("{refused}");
    };
    assert!(
        matches!(
            *refused,
            RankError::Heads {
                largest: Some(2),
                ..
            }
        ),
        "{refused}"
    );
}

/// Would catch a digest of names alone, one that depends on the order of the file, and two ranks with the same.
#[test]
fn equal_parts_have_equal_digests() {
    let source = llama(12, false);
    let digest = |quant, mode, place| {
        let report = part(&source, quant, mode, place).expect("loads").report;
        report.rank.expect("a rank").digest
    };
    let replica = digest("nf4", Parallel::Replicate, [0, 2]);
    assert_eq!(replica, digest("nf4", Parallel::Replicate, [1, 2]));
    assert_eq!(replica, digest("nf4", Parallel::Tensor, [0, 1]));
    assert_ne!(replica, digest("fp4", Parallel::Replicate, [0, 2]));
    let first = digest("nf4", Parallel::Tensor, [0, 2]);
    assert_ne!(first, digest("nf4", Parallel::Tensor, [1, 2]));
}
