//! Every family with packed weights, with gradients and in half types.

use std::ops::ControlFlow;

use burn::{
    module::Param,
    tensor::{Int, Tensor},
};
use firebox::{
    DType, LoadConfig, Loader,
    model::{
        Architecture, CausalLm, GenerateOptions, Linear, Matrix, Role, Weight, decoder::Block,
        generate,
    },
    quant::ops,
    target::{Cpu, ToBurn},
};
use firebox::{Target, model::layers::FeedForward};

use super::common::{Golden, ids, max_abs_difference, models, rms_difference, values};

fn config(golden: Golden) -> LoadConfig {
    LoadConfig::new(golden.path("").to_string_lossy())
}

fn load(config: LoadConfig, name: &str) -> CausalLm {
    let loader = Loader::<Cpu>::new(config).expect(name);
    loader.load().expect(name).model
}

/// The root of the mean square.
fn rms(values: &[f32]) -> f64 {
    rms_difference(values, &vec![0.0; values.len()])
}

/// Every matrix that layers multiply, in the order of the slots.
fn linears(model: &CausalLm) -> Vec<&Linear> {
    let small = model.per_layer.iter().map(|small| &small.projection);
    small
        .chain(model.blocks.iter().flat_map(Block::linears))
        .collect()
}

/// A model with packed weights answers as one with the values that its words mean, and gives tokens. Catches a matrix
/// that is multiplied transposed or by parts when it is packed, one that is read without its product, a tensor of a mixer that is packed
/// and must not be, and matrices that are listed in another order than that of the slots.
#[test]
fn packed_models_of_every_family_answer_as_the_values_of_their_words_do() {
    for golden in models() {
        let quant = "nf4:block=64".parse().expect("a quantization");
        let packed = load(config(golden).dtype(DType::F32).quant(quant), golden.0);
        let spec = golden.spec();
        let roles = [Role::Linear, Role::Expert, Role::Router];
        let slots = CausalLm::slots(&spec).into_iter();
        let slots = slots.filter(|slot| roles.contains(&slot.role));
        let mut weights = golden.weights(DType::F32);
        let mut count = 0;
        for (slot, linear) in slots.zip(linears(&packed)) {
            if let Matrix::Packed(words) = &linear.weight {
                count += 1;
                let values = ops::dequantize(words, DType::F32.burn());
                assert_eq!(values.dims().to_vec(), slot.shape, "{}", slot.name);
                let weight = Weight::Dense(vec![values.flatten(0, 1)], slot.shape.clone());
                weights.take(&slot.name).expect("a slot");
                weights.insert(slot.name, weight);
            }
        }
        assert!(count > 0, "{}", golden.0);
        let dense = CausalLm::build(&spec, &mut weights).expect(golden.0);
        let prompt = golden.ids("input_ids");

        let logits = values(packed.forward(ids(&prompt)));

        let expected = values(dense.forward(ids(&prompt)));
        let error = max_abs_difference(&logits, &expected);
        assert!(error < golden.tolerance(), "{}: {error}", golden.0);
        let options = GenerateOptions {
            max_new_tokens: 4,
            ..GenerateOptions::default()
        };
        let next = |_| ControlFlow::Continue(());
        let [found, expected] = [&packed, &dense].map(|model| {
            generate(model, &prompt[0], &options, next)
                .expect(golden.0)
                .ids
        });
        assert_eq!(found, expected, "{}", golden.0);
    }
}

/// Catches a float table, mask or state that drags activations to f32, an overflow, and a sum in a half type where the
/// family has one in f32.
#[test]
fn every_family_answers_in_half_types() {
    for golden in models() {
        let (expected, _) = golden.floats("logits_f32");
        for (dtype, near) in [(DType::Bf16, 0.25), (DType::F16, 0.025)] {
            let model = load(config(golden).dtype(dtype), golden.0);

            let logits = model.forward(ids(&golden.ids("input_ids")));

            assert_eq!(logits.dtype(), dtype.burn().into(), "{}", golden.0);
            let error = rms_difference(&values(logits), &expected) / rms(&expected);
            assert!(error < near, "{} {dtype}: {error}", golden.0);
        }
    }
}

/// The scale of the first norm that a token meets.
fn first_norm(model: &mut CausalLm) -> &mut Param<Tensor<1>> {
    let block = &mut model.blocks[0];
    let norms = [&mut block.attention_norm, &mut block.attention_norm_after];
    let norm = norms.into_iter().flatten().next();
    &mut norm.expect("a norm beside attention").scale
}

/// The gradient that reaches the first norm of a model with packed weights, through every layer, against a step along it
/// where no router jumps. Catches an operation without a backward pass, and a tensor that is read back on the way.
#[test]
fn gradients_flow_through_every_family() {
    for golden in models() {
        let device = Cpu::device(0).expect("a CPU").autodiff();
        let config = config(golden)
            .dtype(DType::F32)
            .quant("nf4".parse().expect("a quantization"));
        let loader = Loader::<Cpu>::on(config, device).expect(golden.0);
        let mut model: CausalLm = loader.load().expect(golden.0).model;
        let scale = first_norm(&mut model).val().detach();
        let ids = ids(&golden.ids("input_ids")).into_data();
        let ids = Tensor::<2, Int>::from_data(ids, &model.device());
        let loss = |model: &CausalLm| {
            let logits = model.forward(ids.clone());
            (logits.clone() * logits).mean()
        };
        *first_norm(&mut model) = Param::from_tensor(scale.clone());
        let leaf = first_norm(&mut model).val();

        let gradients = loss(&model).backward();

        let gradient = leaf.grad(&gradients).expect(golden.0);
        let gradient = values(gradient);
        let square: f32 = gradient.iter().map(|x| x * x).sum();
        assert!(square.is_finite() && square > 0.0, "{}: {square}", golden.0);
        let plain = |block: &Block| matches!(block.feed_forward, FeedForward::Mlp(_));
        if !model.blocks.iter().all(plain) {
            continue;
        }
        let mut along = |step: f32| {
            let step = gradient.iter().map(|x| x * step / square.sqrt());
            let step: Vec<f32> = step.collect();
            let step = Tensor::<1>::from_data(step.as_slice(), &model.device());
            *first_norm(&mut model) = Param::from_tensor(scale.clone() + step);
            values(loss(&model))[0]
        };
        let step = 1e-3;
        let slope = (along(step) - along(-step)) / (2.0 * step);
        let error = (slope - square.sqrt()).abs() / square.sqrt();
        assert!(error < 0.05, "{}: {slope} for {}", golden.0, square.sqrt());
    }
}
