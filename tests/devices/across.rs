//! Devices whose tensors do not mix: two backends. A tensor that is left on the wrong one panics.

use core::ops::ControlFlow;

use burn::{module::Module, tensor::Device};
use firebox::{
    Loaded, NdArray, Target,
    adapter::{self, LoraConfig},
    model::{CausalLm, Documents, GenerateOptions, LossConfig, generate},
};

use crate::{
    common::{Golden, ids, max_abs_difference, values},
    formats::load,
    linear,
};

const FAMILIES: [(&str, &str); 8] = [
    ("llama_bf16_untied", "nf4"),
    ("llama_f32_tied", "none"),
    ("gemma4_ple_bf16", "none"),
    ("gemma4_moe_bf16", "none"),
    ("mixtral_bf16", "nf4"),
    ("deepseek_v3_bf16", "none"),
    ("qwen3_next_bf16", "none"),
    ("gpt2_f32", "none"),
];

/// The model with its layers from the second one on, and its last norm and head, on another backend.
fn spread(mut model: CausalLm) -> CausalLm {
    let other = NdArray::device(0).expect("there is always a CPU");
    let far = |nth: usize| nth > 0;
    let blocks = model.blocks.drain(..).enumerate();
    let blocks = blocks.map(|(nth, block)| {
        if far(nth) {
            block.to_device(&other)
        } else {
            block
        }
    });
    model.blocks = blocks.collect();
    model.norm = model.norm.to_device(&other);
    model.head = model.head.map(|head| head.to_device(&other));
    model
}

/// Would catch activations, rotations, masks, small embeddings, lent keys and caches that stay behind.
#[test]
fn activations_move_by_themselves() {
    for (name, quant) in FAMILIES {
        let golden = Golden(name);
        let model = load(linear(golden, quant)).model;
        let rows = golden.ids("input_ids");
        let options = GenerateOptions {
            max_new_tokens: 5,
            ..GenerateOptions::default()
        };
        let answers = |model: &CausalLm| {
            let text = generate(
                model,
                &rows[0][..4],
                &options,
                |_| ControlFlow::Continue(()),
            );
            (values(model.forward(ids(&rows))), text.expect("text").ids)
        };
        let (expected, text) = answers(&model);
        let (found, spread_text) = answers(&spread(model));
        let error = max_abs_difference(&found, &expected);
        assert!(error <= golden.tolerance().max(1e-3), "{name}: {error}");
        assert_eq!(spread_text, text, "{name}");
    }
}

/// Factors are with their layers, and their gradients come back there. Would catch a loss that is computed on the wrong device,
/// with a tied head too, and layers that are run twice beside their factors.
#[test]
fn gradients_move_by_themselves() {
    for (name, quant, recompute) in [
        ("llama_bf16_untied", "nf4", false),
        ("llama_f32_tied", "none", true),
        ("gemma4_ple_bf16", "none", true),
    ] {
        let golden = Golden(name);
        let Loaded { model, .. } = load(linear(golden, quant));
        let tokens: Vec<u32> = (0..24).map(|nth| (nth * 37 + 5) % 300).collect();
        let labels: Vec<Option<u32>> = tokens
            .iter()
            .skip(1)
            .map(|id| Some(*id))
            .chain([None])
            .collect();
        let gradients = |mut model: CausalLm| {
            let device = Device::flex().autodiff();
            adapter::add(&mut model, &LoraConfig::new(2, 4.0), &device).expect("factors");
            let config = LossConfig {
                recompute,
                ..LossConfig::new(Documents::whole([2, 12]))
            };
            let loss = model.loss(&tokens, &labels, &config).expect("a loss");
            let all = loss.backward();
            let mut found = values(loss.without_autodiff());
            for block in &model.blocks {
                for linear in block.linears() {
                    // A of new factors has none: B is 0.
                    let factors = linear.adapters[0].low_rank.as_ref().expect("factors");
                    let b = factors.b.val();
                    assert!(b.device().without_autodiff() == block.device(), "{name}");
                    found.extend(values(b.grad(&all).expect("a gradient")));
                }
            }
            found
        };
        let expected = gradients(model.clone());
        let found = gradients(spread(model));
        let error = max_abs_difference(&found, &expected);
        assert!(error <= 1e-3, "{name}: {error}");
    }
}
