//! The loss that models are trained on, and its gradients: with layers and logits computed once or twice, and packed or alone.

use burn::{
    module::Module,
    tensor::{Int, Tensor, TensorData, activation::log_softmax},
};
use firebox::{
    Cpu, LoadConfig, Loader, Strategy, Target,
    model::{Architecture, CausalLm, Documents, LossConfig, PassError},
    target::DType,
};

use crate::{
    common::{Golden, ids, models, values},
    graphs::{Packed, Shake, adapted, difference, gradients, step},
};

const BASE: Golden = Golden("llama_f16_tied_bias");

/// `Σ ln Σ exp(logits) - logits[label]` in `f64`.
fn reference(logits: &[f32], labels: &[Option<u32>]) -> f64 {
    let rows = logits.chunks(logits.len() / labels.len()).zip(labels);
    let losses = rows.filter_map(|(row, label)| {
        let row: Vec<f64> = row.iter().map(|logit| f64::from(*logit)).collect();
        let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
        Some(sum.ln() - row[(*label)? as usize])
    });
    losses.sum()
}

/// The same loss of documents one by one, from all their logits.
fn plainly(model: &CausalLm, packed: &Packed) -> Tensor<1> {
    let documents = packed.documents.ranges().map(|range| {
        let logits = model.forward(ids(&[packed.ids[range.clone()].to_vec()]));
        let [_, t, _] = logits.dims();
        let labels = &packed.labels[range];
        let next: Vec<i32> = labels
            .iter()
            .map(|label| label.unwrap_or(0) as i32)
            .collect();
        let asked = labels
            .iter()
            .map(|label| f32::from(u8::from(label.is_some())));
        let device = logits.device().without_autodiff();
        let next = TensorData::new(next, [1, t, 1]);
        let next = Tensor::<3, Int>::from_data(next, &device);
        let asked = TensorData::new(asked.collect::<Vec<f32>>(), [1, t, 1]);
        let asked = Tensor::<3>::from_data(asked, &device);
        (log_softmax(logits, 2).gather(2, next) * asked).sum().neg()
    });
    documents.reduce(|sum, loss| sum + loss).expect("documents")
}

/// Would catch a soft cap, a multiplier or a bias that the loss leaves out, labels of other rows, and a mean.
#[test]
fn losses_of_every_family_are_the_sums_over_labelled_tokens() {
    let packed = Packed::new();
    for golden in models() {
        let model = golden.load(DType::F32);
        let [rows, tokens] = packed.documents.shape();
        let whole = Documents::whole([rows, tokens]);
        let inputs: Vec<Vec<u32>> = packed.ids.chunks(tokens).map(<[u32]>::to_vec).collect();
        let logits = values(model.forward(ids(&inputs)));
        let expected = reference(&logits, &packed.labels);
        for rows in [1, 7, 1000] {
            let config = LossConfig {
                rows: rows.try_into().expect("some rows"),
                ..LossConfig::new(whole.clone())
            };
            let loss = model.loss(&packed.ids, &packed.labels, &config);
            let loss = f64::from(loss.expect(golden.0).into_scalar::<f32>());
            let error = (loss - expected).abs() / expected;
            assert!(error < 1e-5, "{}, {rows}: {loss} for {expected}", golden.0);
        }
    }
}

/// Tokens as a tensor, as Burn's learner has them. Would catch labels of the tokens themselves, and a sum or a mean over other tokens.
#[test]
fn losses_of_next_tokens_are_means_with_their_gradients() {
    let model = adapted(BASE, "nf4", Strategy::Full, "lora:rank=4,alpha=8");
    let rows: Vec<Vec<u32>> = (0..2_u32)
        .map(|row| (0..9).map(|nth| (row * 31 + nth * 7 + 3) % 61).collect())
        .collect();
    let (loss, logits, next) = model.next_tokens(ids(&rows));
    let labels: Vec<Option<u32>> = rows
        .iter()
        .flat_map(|row| &row[1..])
        .copied()
        .map(Some)
        .collect();
    let found: Vec<i32> = next.try_into_vec_as().expect("tokens");
    let expected: Vec<i32> = labels.iter().flatten().map(|id| id.cast_signed()).collect();
    assert_eq!(found, expected);
    let expected = reference(&values(logits), &labels) / labels.len() as f64;
    let value = f64::from(loss.clone().into_scalar::<f32>());
    assert!(
        (value - expected).abs() < 1e-6 * expected,
        "{value} for {expected}"
    );

    let [inputs, next] = [0, 1].map(|first| {
        let rows = rows.iter().map(|row| row[first..][..8].to_vec());
        ids(&rows.collect::<Vec<_>>())
    });
    let likely = log_softmax(model.forward(inputs), 2).gather(2, next.unsqueeze_dim(2));
    let expected = gradients(&model, &likely.mean().neg().backward());
    let error = difference(&gradients(&model, &loss.backward()), &expected);
    assert!(error < 2e-5, "{error}");
}

/// On bases of several kinds, adapters of several kinds. Would catch a part of the model whose gradient is lost, counted twice or taken
/// from other values when layers are computed twice, a chunk that is left out, and documents that see each other.
#[test]
fn gradients_are_those_of_an_ordinary_graph() {
    let packed = Packed::new();
    for (quant, strategy) in [
        ("none", Strategy::Full),
        ("nf4", Strategy::Full),
        ("nf4", Strategy::Streaming),
    ] {
        for spec in [
            "lora:rank=4,alpha=8",
            "lora:rank=4,alpha=8,dora,bias=all",
            "lora:rank=4,alpha=8,targets=*.v_proj+model.embed_tokens,whole=lm_head",
        ] {
            let model = adapted(BASE, quant, strategy, spec);
            let expected = plainly(&model, &packed);
            let value = expected.clone().into_scalar::<f32>();
            let expected = gradients(&model, &expected.backward());
            assert!(expected.iter().all(Option::is_some));
            for (recompute, rows) in [(false, 1000), (true, 1000), (false, 1), (true, 7)] {
                let name = format!("{quant}, {strategy}, {spec}, {recompute}, {rows}");
                let (loss, found) = step(
                    &model,
                    &packed.ids,
                    &packed.labels,
                    &packed.config(recompute, rows),
                );
                assert!(
                    (loss - value).abs() / value < 1e-6,
                    "{name}: {loss} for {value}"
                );
                let error = difference(&found, &expected);
                assert!(error < 2e-5, "{name}: {error}");
            }
        }
    }
}

/// Would catch keys, small embeddings, states, sinks, routers or experts whose gradient is lost where layers are computed twice.
#[test]
fn layers_of_every_family_can_be_computed_twice() {
    let packed = Packed::new();
    for golden in models() {
        let spec = "lora:rank=2,alpha=4,targets=linear";
        let model = adapted(golden, "none", Strategy::Full, spec);
        let [once, twice] = [false, true].map(|recompute| {
            let config = packed.config(recompute, 256);
            step(&model, &packed.ids, &packed.labels, &config)
        });
        let apart = (once.0 - twice.0).abs() / once.0;
        assert!(apart < 1e-6, "{}: {} and {}", golden.0, once.0, twice.0);
        let error = difference(&twice.1, &once.1);
        // Gradients of what all layers share are summed in another order.
        assert!(error < golden.tolerance(), "{}: {error}", golden.0);
        let some = once.1.iter().flatten().flatten().any(|x| x.abs() > 1e-3);
        assert!(some, "{}: no gradient", golden.0);
    }
}

/// Would catch a second run that draws other masks, and masks that are counted twice.
#[test]
fn dropout_draws_the_same_masks_in_both_runs() {
    let packed = Packed::new();
    let run = |recompute| {
        let spec = "lora:rank=4,alpha=8,dropout=0.3,seed=3";
        let mut model = adapted(BASE, "nf4", Strategy::Full, spec);
        let config = packed.config(recompute, 256);
        let steps = [(); 2].map(|()| step(&model, &packed.ids, &packed.labels, &config));
        let places = model.adaptable().into_iter();
        let mut calls = places.flat_map(|mut place| place.adapters().drain(..).collect::<Vec<_>>());
        let calls = calls.find_map(|adapter| Some(adapter.low_rank?.dropout?.calls()));
        (steps, calls.expect("dropout"))
    };
    let (once, calls) = run(false);
    assert_ne!(once[0].0, once[1].0);
    assert_eq!(calls, 2);
    let (twice, calls) = run(true);
    assert_eq!(calls, 2);
    for (once, twice) in once.iter().zip(&twice) {
        assert_eq!(once.0, twice.0);
        let error = difference(&twice.1, &once.1);
        assert!(error < 1e-5, "{error}");
    }
}

/// The whole model is trained, with a head that is the embedding. Would catch a gradient of the table that has one of its two parts.
#[test]
fn everything_is_trained_where_everything_asks_for_it() {
    let packed = Packed::new();
    for name in ["llama_f16_tied_bias", "gemma4_ple_bf16", "gpt2_f32"] {
        let golden = Golden(name);
        let device = Cpu::device(0).expect("a CPU").autodiff();
        let config = LoadConfig::new(golden.path("").to_string_lossy()).dtype(DType::F32);
        let loader = Loader::<Cpu>::on(config, device).expect(name);
        let model: CausalLm = loader.load().expect(name).model;
        let model = model.unfreeze().map(&mut Shake(5));
        let expected = plainly(&model, &packed);
        let expected = gradients(&model, &expected.backward());
        for recompute in [false, true] {
            let config = packed.config(recompute, 7);
            let (_, found) = step(&model, &packed.ids, &packed.labels, &config);
            let error = difference(&found, &expected);
            assert!(error < 1e-4, "{name}, {recompute}: {error}");
        }
    }
}

/// Eight rows of unequal lengths at once, and four times two. Would catch a mean over a batch, and filling that is trained on.
#[test]
fn batches_in_parts_have_the_gradients_of_the_whole() {
    let model = adapted(BASE, "nf4", Strategy::Full, "lora:rank=4,alpha=8,dora");
    let rows: Vec<Vec<u32>> = (0..8)
        .map(|row: u32| {
            (0..5 + row * row % 11)
                .map(|nth| (nth * 37 + row * 101) % 500)
                .collect()
        })
        .collect();
    let batch = |rows: &[Vec<u32>]| {
        let tokens = rows.iter().map(Vec::len).max().expect("rows");
        let (mut ids, mut labels, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            for nth in 0..tokens {
                ids.push(row.get(nth).copied().unwrap_or(0));
                labels.push(row.get(nth + 1).copied());
                starts.push(if nth < row.len() { 0 } else { nth as u32 });
            }
        }
        let documents = Documents::new(&starts, [rows.len(), tokens]).expect("documents");
        (ids, labels, LossConfig::new(documents))
    };
    let (ids, labels, config) = batch(&rows);
    let count = labels.iter().flatten().count() as f32;
    let mean = |ids: &[u32], labels: &[Option<u32>], config: &LossConfig| {
        model.loss(ids, labels, config).expect("a loss") / count
    };
    let whole = mean(&ids, &labels, &config);
    let value = whole.clone().into_scalar::<f32>();
    let whole = gradients(&model, &whole.backward());

    let mut sum = 0.0;
    let mut sums: Option<Vec<Option<Vec<f32>>>> = None;
    for rows in rows.chunks(2) {
        let (ids, labels, config) = batch(rows);
        let loss = mean(&ids, &labels, &config);
        sum += loss.clone().into_scalar::<f32>();
        let part = gradients(&model, &loss.backward());
        sums = Some(match sums {
            None => part,
            Some(sums) => {
                let both = sums.into_iter().zip(part);
                both.map(|(a, b)| Some(a?.iter().zip(b?).map(|(a, b)| a + b).collect()))
                    .collect()
            }
        });
    }
    assert!((sum - value).abs() < 1e-5, "{sum} for {value}");
    let error = difference(&sums.expect("parts"), &whole);
    assert!(error < 2e-5, "{error}");
}

/// The gradient of a head that is trained whole, in `f64`: `(softmax(logits) - label)ᵀ x`. Would catch a sign, a soft cap that is not
/// differentiated, and rows of other labels.
#[test]
fn the_gradient_of_a_head_is_that_of_the_formula() {
    let packed = Packed::new();
    let golden = Golden("gemma2_bf16");
    let model = adapted(
        golden,
        "none",
        Strategy::Full,
        "lora:rank=2,targets=*.q_proj,whole=lm_head",
    );
    let cap = model.spec.head.soft_cap.expect("Gemma 2 caps its logits");
    let head = model.head.as_ref().expect("a head of its own");
    let whole = head.adapters[0]
        .whole
        .as_ref()
        .expect("it is trained whole");
    let weight: Vec<f32> = values(whole.val());
    let x = model
        .hidden(&packed.ids, &packed.documents, false)
        .expect("hidden states");
    let x = values(model.norm.forward(x));
    let [v, f] = whole.val().dims();
    let mut expected = vec![0f64; v * f];
    for (x, label) in x.chunks(f).zip(&packed.labels) {
        let Some(label) = label else { continue };
        let products = weight.chunks(f).map(|row| -> f64 {
            row.iter()
                .zip(x)
                .map(|(w, x)| f64::from(*w) * f64::from(*x))
                .sum()
        });
        let bent: Vec<f64> = products.map(|product| (product / cap).tanh()).collect();
        let sum: f64 = bent.iter().map(|bent| (bent * cap).exp()).sum();
        for (token, bent) in bent.iter().enumerate() {
            let label = f64::from(u8::from(token == *label as usize));
            let slope = ((bent * cap).exp() / sum - label) * (1.0 - bent * bent);
            for (nth, x) in x.iter().enumerate() {
                expected[token * f + nth] += slope * f64::from(*x);
            }
        }
    }

    let loss = model.loss(&packed.ids, &packed.labels, &packed.config(true, 5));
    let gradients = loss.expect("a loss").backward();

    let found = values(whole.val().grad(&gradients).expect("it is trained"));
    let most = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        let error = (f64::from(*found) - expected).abs() / most;
        assert!(error < 1e-5, "{found} for {expected}");
    }
}

/// Would catch a loss of nothing, which is 0, and labels that are looked up beyond the logits.
#[test]
fn labels_that_cannot_be_are_refused() {
    let model = BASE.load(DType::F32);
    let config = LossConfig::new(Documents::whole([1, 3]));
    let loss = |labels: &[Option<u32>]| model.loss(&[1, 2, 3], labels, &config).map(|_| ());
    assert_eq!(loss(&[None, Some(4), None]), Ok(()));
    assert_eq!(
        loss(&[None; 3]),
        Err(PassError::NoLabel { rows: 1, tokens: 3 })
    );
    let vocabulary = model.spec.vocabulary;
    let unknown = PassError::Vocabulary {
        what: "label",
        row: 0,
        token: 2,
        id: vocabulary as u32,
        vocabulary,
    };
    assert_eq!(loss(&[None, None, Some(vocabulary as u32)]), Err(unknown));
    let few = PassError::Count {
        what: "labels",
        found: 2,
        rows: 1,
        tokens: 3,
    };
    assert_eq!(loss(&[None, Some(1)]), Err(few));
}

/// Where nothing is trained there is no graph, and nothing is dropped. Would catch an evaluation that drops values.
#[test]
fn evaluation_has_no_graph() {
    let packed = Packed::new();
    let model = adapted(
        BASE,
        "nf4",
        Strategy::Full,
        "lora:rank=4,alpha=8,dropout=0.5",
    );
    let config = packed.config(true, 256);
    let loss = |model: &CausalLm| {
        model
            .loss(&packed.ids, &packed.labels, &config)
            .expect("a loss")
    };
    let valid = model.valid();
    let [first, second] = [loss(&valid), loss(&valid)];
    assert!(!first.is_tracked() && !first.is_autodiff());
    let expected = reference_of(&valid, &packed);
    for loss in [first, second] {
        let loss = f64::from(loss.into_scalar::<f32>());
        assert!(
            (loss - expected).abs() / expected < 1e-5,
            "{loss} for {expected}"
        );
    }
}

fn reference_of(model: &CausalLm, packed: &Packed) -> f64 {
    let documents = packed.documents.ranges();
    let losses = documents.map(|range| {
        let logits = values(model.forward(ids(&[packed.ids[range.clone()].to_vec()])));
        reference(&logits, &packed.labels[range])
    });
    losses.sum()
}
