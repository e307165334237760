//! Training of new blocks alone.

use burn::tensor::{Gradients, Tensor, activation::log_softmax};
use burn_optim::{AdamWConfig, GradientsParams};
use firebox::{
    Cpu, DType, Loader, Target,
    adapter::{self, AdapterError},
    config::{Expand, SaveConfig},
    model::{CausalLm, Matrix, decoder::Block},
};

use super::{config, load, logits, packed};
use crate::common::{Golden, ids, linears, max_abs_difference, values};

fn text() -> Vec<u32> {
    (0..33).map(|nth| (nth * 37 + 5) % 120).collect()
}

fn loss(model: &CausalLm) -> Tensor<1> {
    let (text, next) = (&text()[..32], &text()[1..]);
    let logits = model.forward(ids(&[text.to_vec()]));
    let next = ids(&[next.to_vec()]).unsqueeze_dim(2);
    log_softmax(logits, 2).gather(2, next).mean().neg()
}

/// Every value of some layers, and the words of packed ones.
fn state(model: &CausalLm, new: &[usize], of_new: bool) -> Vec<Vec<u32>> {
    let blocks = model.blocks.iter().enumerate();
    let blocks = blocks.filter(|(nth, _)| new.contains(nth) == of_new);
    let linears = blocks.flat_map(|(_, block)| linears(block));
    let matrix = |matrix: &Matrix| match matrix {
        Matrix::Dense(dense) => values(dense.val()).into_iter().map(f32::to_bits).collect(),
        Matrix::Packed(packed) => packed.to_host().words,
        other => panic!("{other:?}"),
    };
    linears.map(|linear| matrix(&linear.weight)).collect()
}

/// Behind a matrix of zeros nothing has an influence yet, so that the matrix alone has a gradient.
fn only_ends(block: &Block, gradients: &Gradients, name: &str) {
    let mut ends = 0;
    for linear in linears(block) {
        let Matrix::Dense(weight) = &linear.weight else {
            panic!("{name}: {:?}", linear.weight)
        };
        let is_zero = |values: Vec<f32>| values.iter().all(|value| *value == 0.0);
        let gradient = weight.val().grad(gradients).map(values);
        // An expert that no token chose has none.
        let moves = gradient.is_some_and(|gradient| !is_zero(gradient));
        assert!(
            !moves || is_zero(values(weight.val())),
            "{name}: a gradient behind zeros"
        );
        ends += usize::from(moves);
    }
    assert!(ends >= 2, "{name}: {ends} matrices have gradients");
}

/// Of dense, packed and adopted bases. Would catch a frozen new block, gradients in old ones, and parameters that share an
/// optimizer's state with those that they were copied from.
#[test]
fn three_steps_train_the_new_blocks_and_nothing_else() {
    let packed = packed("hqq:bits=4,group=64");
    for (folder, quant, dense) in [
        (Golden("llama_f32_tied").path(""), "none", false),
        (Golden("llama_bf16_untied").path(""), "nf4", true),
        (
            Golden("llama_bf16_untied").path(""),
            "hqq:bits=4,group=64",
            true,
        ),
        // Packed new blocks are unpacked when they are trained.
        (Golden("llama_bf16_untied").path(""), "nf4", false),
        (Golden("qwen3_5_bf16").path(""), "nf4", true),
        (Golden("mixtral_bf16").path(""), "nf4", true),
        (packed.path().to_owned(), "none", true),
    ] {
        let name = format!("{}, {quant}", folder.display());
        let expand = Expand::blocks(1);
        let expand = if dense { expand.dense() } else { expand };
        let loaded = load(config(&folder, quant).expand(expand)).expect(&name);
        let (mut model, new) = (loaded.model, loaded.new_blocks);
        assert_eq!(adapter::trainable_params(&model), 0, "{name}");
        let untrained = loss(&model).into_scalar::<f32>();

        let device = Cpu::device(0).expect("a CPU").autodiff();
        adapter::train_blocks(&mut model, &new, &device).expect(&name);
        let block = &model.blocks[new[0]];
        let of_block = burn::module::Module::num_params(block) as u64;
        assert_eq!(adapter::trainable_params(&model), of_block, "{name}");
        assert_eq!(adapter::trainable_params(block), of_block, "{name}");
        assert!(of_block > 0, "{name}");
        let first = loss(&model).into_scalar::<f32>();
        assert!(
            (first - untrained).abs() <= 1e-5,
            "{name}: {first} {untrained}"
        );

        let before = [false, true].map(|of_new| state(&model, &new, of_new));
        let mut optimizer = AdamWConfig::new().init();
        for step in 0..3 {
            let gradients = loss(&model).backward();
            if step == 0 {
                only_ends(&model.blocks[new[0]], &gradients, &name);
            }
            let gradients = GradientsParams::from_grads(gradients, &model);
            assert!(!gradients.is_empty(), "{name}");
            model = optimizer.step(1e-2, model, gradients);
        }
        let last = loss(&model).into_scalar::<f32>();
        assert!(last < first - 0.02, "{name}: {first}, then {last}");
        let after = [false, true].map(|of_new| state(&model, &new, of_new));
        assert!(after[0] == before[0], "{name}: an old layer changed");
        assert!(after[1] != before[1], "{name}: the new layer did not");
    }
}

/// Losses before each of four steps, against those of torch 2.15 in f64 on the same folder as `firebox convert --expand blocks=2`
/// writes it (for NF4, `quantize --expand blocks=2,dense`, then `convert --dequantize`): all of layers 2 and 5 in `torch.optim.AdamW`
/// with Burn's defaults (`lr=1e-3, eps=1e-5, weight_decay=1e-4`), nothing else. Would catch a gradient that is scaled, cut off or of
/// another layer.
#[test]
fn losses_are_those_of_torch() {
    for (golden, quant, expected) in [
        (
            Golden("llama_f32_tied"),
            "none",
            [7.206_852, 6.455_014, 5.741_221, 5.075_635],
        ),
        (
            Golden("llama_bf16_untied"),
            "nf4",
            [7.533_449, 5.785_613, 4.053_948, 2.517_635],
        ),
    ] {
        let name = golden.0;
        let expand = Expand::blocks(2).dense();
        let loaded = load(config(&golden.path(""), quant).expand(expand)).expect(name);
        let (mut model, new) = (loaded.model, loaded.new_blocks);
        let device = Cpu::device(0).expect("a CPU").autodiff();
        adapter::train_blocks(&mut model, &new, &device).expect(name);
        let mut optimizer = AdamWConfig::new().init();
        for (step, expected) in expected.into_iter().enumerate() {
            let loss = loss(&model);
            let found = loss.clone().into_scalar::<f32>();
            let error = (found - expected).abs();
            assert!(error <= 2e-4, "{name}, {step}: {found}, not {expected}");
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(1e-3, model, gradients);
        }
    }
}

#[test]
fn layers_that_are_not_there_are_refused() {
    let folder = Golden("llama_f32_tied").path("");
    let mut model = load(config(&folder, "none")).expect("a model").model;
    let device = Cpu::device(0).expect("a CPU").autodiff();
    for (blocks, block) in [(&[][..], None), (&[1, 4], Some(4))] {
        let error = adapter::train_blocks(&mut model, blocks, &device).expect_err("no such layer");
        let AdapterError::NoBlock {
            block: found,
            layers,
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!((*found, *layers), (block, 4));
        assert_eq!(adapter::trainable_params(&model), 0);
    }

    let plain = Cpu::device(0).expect("a CPU");
    let error = adapter::train_blocks(&mut model, &[1], &plain).expect_err("no gradients");
    assert!(matches!(error, AdapterError::NoGradients { .. }), "{error}");
}

/// A trained module becomes a checkpoint that knows its new blocks.
#[test]
fn trained_models_are_saved() {
    let base = config(&Golden("llama_bf16_untied").path(""), "nf4");
    let loader = Loader::<Cpu>::new(base.expand(Expand::blocks(2).dense())).expect("a loader");
    let mut model = loader.load::<CausalLm>().expect("a model").model;
    let untrained = logits(&model);
    let device = Cpu::device(0).expect("a CPU").autodiff();
    adapter::train_blocks(&mut model, loader.new_blocks(), &device).expect("blocks");
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..2 {
        let gradients = GradientsParams::from_grads(loss(&model).backward(), &model);
        model = optimizer.step(1e-3, model, gradients);
    }
    let trained = logits(&model);
    assert!(max_abs_difference(&trained, &untrained) > 0.1);
    let out = tempfile::tempdir().expect("a folder");
    let saved = loader.save_module(&model, &SaveConfig::new(out.path()));
    saved.expect("saved");
    let again = load(config(out.path(), "none").dtype(DType::F32)).expect("the saved folder");
    assert_eq!(again.new_blocks, [2, 5]);
    // New blocks are written in the type of the checkpoint.
    let error = max_abs_difference(&logits(&again.model), &trained);
    assert!(error <= 0.05, "{error}");
}
