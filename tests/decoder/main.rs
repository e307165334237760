//! Every family against transformers: logits, hidden states and tokens of small models with random
//! weights, all computed in `f32`.

#[path = "../common/mod.rs"]
mod common;
mod config;
mod defaults;
mod documents;
mod everywhere;
mod expert_fields;
mod experts;
mod families;
mod file;
mod host;
mod kept;
mod mixers;
mod names;
mod rotary;
mod spec;
mod transposed;

use std::{
    collections::BTreeMap,
    ops::{ControlFlow, Range},
};

use burn::tensor::Tensor;
use common::{Golden, ids, max_abs_difference, models, rms_difference, values};
use firebox::{
    model::{
        Architecture, BuildError, CacheError, CausalLm, GenerateOptions, RopeScaling, StopReason,
        generate, layers::NoMemory,
    },
    target::{DType, ToBurn},
};

// ---------------------------------------------------------------------------------------- numbers

/// Catches nearly everything: rotary pairs taken interleaved, a causal or sliding mask off by one, a
/// missing bias, query norm or frequency scaling, heads grouped the wrong way round, a norm without its
/// epsilon. As they are stored, matrices that a layer takes for tensors.
#[test]
fn logits_are_those_of_transformers() {
    for golden in models() {
        let (expected, shape) = golden.floats("logits_f32");
        for (how, model) in [
            ("f32", golden.load(DType::F32)),
            ("as stored", golden.load_as_stored()),
        ] {
            let logits = model.forward(ids(&golden.ids("input_ids")));

            assert_eq!(logits.dims().to_vec(), shape, "{}", golden.0);
            let error = max_abs_difference(&values(logits), &expected);
            assert!(
                error < golden.tolerance(),
                "{}, {how}: largest error {error}",
                golden.0
            );
        }
    }
}

/// Catches the same as the logits do, and says in which layer it begins.
#[test]
fn hidden_states_are_those_of_transformers_layer_by_layer() {
    for golden in models() {
        let model = golden.load(DType::F32);
        let prefix = golden.ids("input_ids")[0][..12].to_vec();
        let check = |layer: usize, x: &Tensor<3>| {
            let (expected, shape) = golden.floats(&format!("hidden.{layer}"));
            assert_eq!(x.dims().to_vec(), shape, "{} layer {layer}", golden.0);
            let error = max_abs_difference(&values(x.clone()), &expected);
            assert!(
                error < golden.tolerance(),
                "{} layer {layer}: {error}",
                golden.0
            );
        };

        let (mut x, mut passage) = model.enter(ids(&[prefix]), 0);
        for (layer, block) in model.blocks.iter().enumerate() {
            check(layer, &x);
            x = block.forward(x, &mut passage, &mut NoMemory);
        }
        check(model.blocks.len(), &model.norm.forward(x));
    }
}

/// What stretches the frequencies of the first layer.
fn scaling(model: &CausalLm) -> Option<&RopeScaling> {
    let rotary = model.spec.layers[0].attention()?.rotary.as_ref()?;
    Some(&rotary.scaling)
}

/// Where frequencies depend on the length of the text, a short one has others. Catches frequencies of the longest text
/// for all of them, and lengths that are remembered from one pass to the next.
#[test]
fn a_short_text_has_its_own_frequencies() {
    let names = ["llama_rope_dynamic", "phi3_longrope"];
    for golden in names.map(Golden) {
        let model = golden.load(DType::F32);
        model.forward(ids(&golden.ids("input_ids")));
        let (expected, _) = golden.floats("logits_f32_short");

        let logits = model.forward(ids(&golden.ids("input_ids_short")));

        let error = max_abs_difference(&values(logits), &expected);
        assert!(error < golden.tolerance(), "{}: {error}", golden.0);
    }
}

/// Catches a cache that forgets or misplaces a token, and positions that start at zero again in each
/// step: none of it shows in a full forward pass. Where transformers answers otherwise with a cache, its answers with one
/// are expected: keys of a base that grows with the text stay as they were turned.
#[test]
fn tokens_of_a_greedy_continuation_are_those_of_transformers() {
    for golden in models() {
        let model = golden.load(DType::F32);
        let options = GenerateOptions {
            max_new_tokens: 16,
            ..GenerateOptions::default()
        };
        let cached = golden.ids_if_there("greedy_cached");
        for expected in cached.unwrap_or_else(|| golden.ids("greedy")) {
            let (prompt, continuation) = expected.split_at(8);

            let generated = generate(&model, prompt, &options, |_| ControlFlow::Continue(()))
                .expect("a valid prompt");

            assert_eq!(generated.ids, continuation, "{}", golden.0);
            assert_eq!(generated.stop, StopReason::MaxNewTokens);
        }
    }
}

/// Token by token, in uneven pieces and whole: the same logits. Catches a window that is cut off the
/// cache one token early (pieces longer than one token see past it) and a batch whose rows are mixed
/// up. Where a longer text has other frequencies (LongRoPE), they are those of the text so far; where they change with
/// every token (dynamic NTK), a cache does change logits.
#[test]
fn a_cache_changes_no_logit_however_the_tokens_are_cut() {
    for golden in models() {
        let model = golden.load(DType::F32);
        let rows = golden.ids("input_ids");
        let whole = model.forward(ids(&rows));
        let tokens = rows[0].len();
        let by_length = match scaling(&model) {
            Some(RopeScaling::Dynamic { .. }) => continue,
            Some(RopeScaling::LongRope { .. }) => true,
            _ => false,
        };

        for cut in [vec![1; tokens], vec![5, 1, 12, tokens - 18], vec![tokens]] {
            let mut cache = firebox::model::NextToken::cache(&model);
            let mut start = 0;
            for piece in cut {
                let part = |tokens: Range<usize>| {
                    let parts = rows.iter().map(|row| row[tokens.clone()].to_vec());
                    ids(&parts.collect::<Vec<_>>())
                };
                let logits = model
                    .forward_cached(part(start..start + piece), &mut cache)
                    .expect("room for all tokens");
                let so_far = match by_length {
                    true => model.forward(part(0..start + piece)),
                    false => whole.clone(),
                };
                let expected = so_far.narrow(1, start, piece);
                let error = max_abs_difference(&values(logits), &values(expected));
                assert!(
                    error < golden.tolerance() / 2.0,
                    "{} from {start}: {error}",
                    golden.0
                );
                start += piece;
            }
            assert_eq!(cache.len(), tokens);
        }
    }
}

/// 200 tokens make the buffers grow twice. Catches old tokens lost, or moved, when they do; latent rows that are folded
/// otherwise than they are unfolded, and a state that differs after whole chunks and after parts of them.
#[test]
fn a_cache_that_grew_gives_the_same_logits() {
    let kinds = [
        "qwen3_bf16",
        "deepseek_v3_bf16",
        "qwen3_5_bf16",
        "gemma4_ple_bf16",
    ];
    for golden in kinds.map(Golden) {
        let model = golden.load(DType::F32);
        let row: Vec<u32> = (0..200).map(|i| (i * 37 + 11) % 320).collect();
        let whole = model.forward(ids(std::slice::from_ref(&row)));

        let mut cache = firebox::model::NextToken::cache(&model);
        let mut start = 0;
        for piece in row.chunk_by(|a, b| a % 7 < b % 7) {
            let logits = model.forward_cached(ids(&[piece.to_vec()]), &mut cache);
            let logits = logits.expect("room for 200 of 256 tokens");
            let expected = whole.clone().narrow(1, start, piece.len());
            let error = max_abs_difference(&values(logits), &values(expected));
            assert!(
                error < golden.tolerance(),
                "{} from {start}: {error}",
                golden.0
            );
            start += piece.len();
        }
        assert_eq!(start, 200);
    }
}

/// A model in a half type answers nearly as in `f32` and stays in that type. Catches an `f32` table or
/// mask that drags the activations with it, which is an error on devices that do not mix types. What is
/// rounded where does not show in the logits of so small a model; norms have a test of their own.
#[test]
fn half_types_are_kept_and_close() {
    for (dtype, near) in [(DType::Bf16, 0.035), (DType::F16, 0.0045)] {
        let golden = Golden("llama_bf16_untied");
        let model = golden.load(dtype);
        let (expected, _) = golden.floats("logits_f32");

        let logits = model.forward(ids(&golden.ids("input_ids")));

        assert_eq!(logits.dtype(), dtype.burn().into());
        let error = rms_difference(&values(logits), &expected);
        assert!(error < near, "{dtype}: {error}");
    }
}

// ----------------------------------------------------------------------------------------- the cache

/// Catches a cache that grows past the model's positions: those logits would be noise, without a
/// complaint.
#[test]
fn tokens_beyond_the_last_position_are_refused_with_both_numbers() {
    let model = Golden("mistral_bf16").load(DType::F32);
    let mut cache = firebox::model::NextToken::cache(&model);
    let some = |n: usize| ids(&[vec![7; n]]);
    model
        .forward_cached(some(250), &mut cache)
        .expect("250 of 256");

    let error = model.forward_cached(some(7), &mut cache).unwrap_err();

    let full = CacheError::Full {
        held: 250,
        asked: 7,
        limit: 256,
    };
    assert_eq!(error, full);
    assert_eq!(cache.len(), 250, "as before");
    model
        .forward_cached(some(6), &mut cache)
        .expect("256 of 256");
}

/// Catches keys of one sequence read by another.
#[test]
fn a_cache_of_another_batch_is_refused() {
    let model = Golden("mistral_bf16").load(DType::F32);
    let mut cache = firebox::model::NextToken::cache(&model);
    model
        .forward_cached(ids(&[vec![7; 4]]), &mut cache)
        .expect("empty");

    let error = model
        .forward_cached(ids(&[vec![7; 4], vec![8; 4]]), &mut cache)
        .unwrap_err();

    assert_eq!(error, CacheError::Batch { held: 1, asked: 2 });
    cache.clear();
    model
        .forward_cached(ids(&[vec![7; 4], vec![8; 4]]), &mut cache)
        .expect("cleared");
}

// ------------------------------------------------------------------------------------ names and shapes

/// Catches a tensor that is in the file and has no slot, or the reverse, any wrong shape, and rows of a stack that two
/// slots take, or none.
#[test]
fn slots_are_the_tensors_of_the_checkpoint() {
    for golden in models() {
        let config = golden.spec();
        let mut tensors = golden.shapes();
        tensors.retain(|(name, _)| !CausalLm::leaves_out(&config, name));
        // Slots of some rows make up a tensor together.
        let mut taken: BTreeMap<String, (Vec<usize>, usize)> = BTreeMap::new();
        for slot in CausalLm::slots(&config) {
            for origin in slot.from {
                let (name, values) = (origin.tensor, slot.shape.iter().product::<usize>());
                let found = tensors.iter().find(|(tensor, _)| *tensor == name);
                let (_, shape) = found.unwrap_or_else(|| panic!("{}: no {name}", golden.0));
                let cols = *shape.last().expect("a dimension");
                match origin.rows {
                    None => {
                        let mut stored = slot.shape.clone();
                        if origin.transposed {
                            stored.reverse();
                        }
                        assert_eq!(*shape, stored, "{name}");
                        assert!(taken.insert(name, (stored, values)).is_none());
                    }
                    Some(rows) => {
                        let expected = if origin.transposed {
                            [cols, rows.len()]
                        } else {
                            [rows.len(), cols]
                        };
                        let vector = [slot.shape[0], 1];
                        let of_slot = if slot.shape.len() == 1 {
                            &vector[..]
                        } else {
                            &slot.shape
                        };
                        assert_eq!(of_slot, expected, "{name}");
                        let (_, before) = taken.entry(name.clone()).or_insert((shape.clone(), 0));
                        assert_eq!(rows.start * cols, *before, "{name}: {rows:?}");
                        *before += values;
                    }
                }
            }
        }
        let mut taken: Vec<(String, Vec<usize>)> = taken
            .into_iter()
            .map(|(name, (shape, values))| {
                assert_eq!(shape.iter().product::<usize>(), values, "{name}");
                (name, shape)
            })
            .collect();
        taken.sort();
        tensors.sort();
        assert_eq!(taken, tensors, "{}", golden.0);
    }
}

/// Catches a tied model that calls the copy of its head foreign, and an untied one that would lose its
/// head.
#[test]
fn only_computed_tables_and_the_copy_of_a_tied_head_are_left_out() {
    let config = |name| CausalLm::config(&Golden(name).json("config.json")).expect(name);
    let (tied, untied) = (config("llama_f32_tied"), config("llama_bf16_untied"));

    assert!(CausalLm::leaves_out(&tied, "lm_head.weight"));
    assert!(!CausalLm::leaves_out(&untied, "lm_head.weight"));
    let table = "model.layers.3.self_attn.rotary_emb.inv_freq";
    assert!(CausalLm::leaves_out(&tied, table) && CausalLm::leaves_out(&untied, table));
    assert!(!CausalLm::leaves_out(&tied, "model.norm.weight"));
}

/// Catches a panic where a weight is not there.
#[test]
fn a_missing_weight_is_an_error_with_its_name() {
    let golden = Golden("qwen3_bf16");
    let config = CausalLm::config(&golden.json("config.json")).expect("valid");
    let mut weights = golden.weights(DType::F32);
    let name = "model.layers.1.self_attn.k_norm.weight";
    weights.take(name).expect("a weight of Qwen 3");

    let error = CausalLm::build(&config, &mut weights).unwrap_err();

    let missing = BuildError::Missing {
        name: name.to_owned(),
    };
    assert_eq!(error, missing);
}
