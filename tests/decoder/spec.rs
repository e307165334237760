//! What follows from a [`Spec`]: slots, links and the module in one order, and a refusal of every word that the forward
//! pass does not compute yet.

use burn::tensor::Tensor;
use firebox::{
    model::{
        Architecture, BuildError, CausalLm, Link, Slot, Weight, Weights,
        decoder::{AttentionSpec, Projections, QueryKeyNormSpec, Spec, slots},
        layers::{NormOver, NormSpec},
    },
    target::{Cpu, DType, Target},
};

use super::common::{Golden, ids, max_abs_difference, models, values};

// ------------------------------------------------------------------------------------------- one order

/// The first `count` of `slots`, all zeros.
fn zeros(slots: &[Slot], count: usize) -> Weights {
    let device = Cpu::device(0).expect("there is always a CPU");
    let mut weights = Weights::new(device.clone(), DType::F32);
    for slot in &slots[..count] {
        let values = Tensor::zeros([slot.shape.iter().product::<usize>()], &device);
        weights.insert(
            slot.name.clone(),
            Weight::Dense(vec![values], slot.shape.clone()),
        );
    }
    weights
}

/// The module takes its weights in the order in which slots are listed, and all of them: with the first `k` weights, the
/// first that it misses is slot `k`. Catches a module that is built by another walk than the slots.
#[test]
fn a_module_takes_its_weights_in_the_order_of_the_slots() {
    for golden in models() {
        let spec = golden.spec();
        let slots = CausalLm::slots(&spec);
        for (count, slot) in slots.iter().enumerate() {
            let error = CausalLm::build(&spec, &mut zeros(&slots, count)).unwrap_err();
            let name = slot.name.clone();
            assert_eq!(error, BuildError::Missing { name }, "{}", golden.0);
        }
        let mut all = zeros(&slots, slots.len());
        CausalLm::build(&spec, &mut all).expect(golden.0);
        all.finish().expect(golden.0);
    }
}

// ----------------------------------------------------------------------------------------------- links

/// Numbers without a pattern, exact in every float type.
fn factor(feature: usize) -> f32 {
    [0.5, 1.0, 2.0, 4.0, 0.25][feature * 7 % 5]
}

/// Multiplies each value of a weight by `by(row, column)`; a vector has one column.
fn scale(weights: &mut Weights, name: &str, by: impl Fn(usize, usize) -> f32) {
    let Weight::Dense(parts, shape) = weights.take(name).expect("a slot") else {
        panic!("{name} is dense");
    };
    let columns = if shape.len() == 2 { shape[1] } else { 1 };
    let device = parts[0].device();
    let all = parts.into_iter().flat_map(values).enumerate();
    let scaled: Vec<f32> = all
        .map(|(at, value)| value * by(at / columns, at % columns))
        .collect();
    let scaled = Tensor::<1>::from_data(scaled.as_slice(), &device);
    weights.insert(name.to_owned(), Weight::Dense(vec![scaled], shape));
}

/// The feature that a column of the matrices of `link` multiplies: runs are repeated, then the next one follows.
fn feature(link: &Link, column: usize) -> usize {
    let run = column / link.run / link.times;
    run * link.run + column % link.run
}

/// Features multiplied where they are made and divided where they are used: the same logits. Catches a link to a matrix
/// that does not read these features, a bias that is left out, and heads that are paired wrongly.
#[test]
fn features_scaled_along_every_link_change_no_logit() {
    for golden in models() {
        let spec = golden.spec();
        let mut weights = golden.weights(DType::F32);
        let links = CausalLm::links(&spec);
        assert!(!links.is_empty(), "{}", golden.0);
        for link in &links {
            for name in &link.from {
                scale(&mut weights, name, |row, _| factor(row));
            }
            for name in &link.to {
                scale(&mut weights, name, |_, column| {
                    factor(feature(link, column)).recip()
                });
            }
        }
        let ids = ids(&golden.ids("input_ids"));

        let scaled = CausalLm::build(&spec, &mut weights).expect(golden.0);

        let expected = values(golden.load(DType::F32).forward(ids.clone()));
        let error = max_abs_difference(&values(scaled.forward(ids)), &expected);
        assert!(error < 1e-4, "{}: {error}", golden.0);
    }
}

// -------------------------------------------------------------------------------------------- refusals

/// Refused when the configuration is read and when a module is built, before any weight is looked at. Catches a word
/// that is read and then ignored: the model would answer, and wrongly.
fn refused(word: &str, change: impl FnOnce(&mut Spec)) {
    let mut spec = Golden("qwen3_bf16").spec();
    change(&mut spec);

    let error = slots(&spec).expect_err(word);

    assert_eq!(error.word, word);
    let mut none = zeros(&[], 0);
    let built = CausalLm::build(&spec, &mut none).unwrap_err();
    assert_eq!(built, BuildError::Unsupported(error));
}

fn attention(spec: &mut Spec) -> &mut AttentionSpec {
    let mut attentions = spec.attentions_mut().skip(1);
    attentions.next().expect("a second layer").1
}

#[test]
fn words_around_the_layers_that_are_not_computed_are_refused_by_name() {
    refused("head.bias", |spec| spec.head.bias = true);
}

#[test]
fn words_of_attention_that_are_not_computed_are_refused_by_name() {
    let norm = NormSpec::rms(1e-6);
    let set = |word: &str, change: fn(&mut AttentionSpec)| {
        refused(&format!("layers.1.attention.{word}"), |spec| {
            change(attention(spec));
        });
    };
    set("gate", |attention| {
        attention.gate = true;
        attention.projections = Projections::Blocks;
    });
    set("values_are_keys", |attention| {
        attention.values_are_keys = true;
        attention.projections = Projections::Blocks;
    });
    // Of no layer before it; of one with other heads; in one matrix with its own.
    set("keys_of", |attention| attention.keys_of = Some(1));
    set("keys_of", |attention| {
        attention.keys_of = Some(0);
        attention.key_value_heads *= 2;
    });
    set("keys_of", |attention| {
        attention.keys_of = Some(0);
        attention.projections = Projections::Blocks;
    });
    let query_key_norm = QueryKeyNormSpec::new(norm, NormOver::Head);
    refused("layers.1.attention.query_key_norm.after_rotary", |spec| {
        attention(spec).query_key_norm = Some(QueryKeyNormSpec {
            after_rotary: true,
            ..query_key_norm
        });
    });
    refused("layers.1.attention.query_key_norm.scaled", |spec| {
        attention(spec).query_key_norm = Some(QueryKeyNormSpec {
            scaled: false,
            ..query_key_norm
        });
    });
}
