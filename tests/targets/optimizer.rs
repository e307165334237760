//! Steps of optimizers and the clipping of gradients, against the steps of the host.

use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Tensor, TensorData},
};
use burn_optim::GradientsParams;
use firebox::{
    Target,
    train::optimizer::{MomentForm, Optimizer, OptimizerConfig, clip},
};
use firebox_kernels::adamw::{self, AdamwSettings, AdamwStep, CodedMoments, codes::BLOCK};
use safetensors::SafeTensors;

use crate::{common::values, weights::numbers};

const STEPS: u64 = 5;
const RATE: f64 = 1e-2;

#[derive(Module, Debug)]
struct One {
    weight: Param<Tensor<2>>,
}

fn on<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

fn model<T: Target>(shape: [usize; 2]) -> One {
    let device = T::device(0).expect("a device").autodiff();
    let weight = on(numbers(shape[0] * shape[1], 5), shape, &device);
    One {
        weight: Param::from_tensor(weight.require_grad()),
    }
}

/// Gradients of many magnitudes.
fn gradient(step: u64, n: usize) -> Vec<f32> {
    let numbers = numbers(n, 10 + step);
    numbers.into_iter().map(|value| value.powi(5)).collect()
}

fn register<T: Target>(model: &One, step: u64) -> GradientsParams {
    let shape = model.weight.val().dims();
    let device = T::device(0).expect("a device");
    let mut grads = GradientsParams::new();
    let grad = on(gradient(step, shape[0] * shape[1]), shape, &device);
    grads.register(model.weight.id, grad);
    grads
}

/// Devices may round products and sums in other places, so a few codes may be the next ones.
pub(crate) fn steps_are_those_of_the_host<T: Target>() {
    for form in [MomentForm::Full, MomentForm::Blocks] {
        // The last block is not full, and neither is the last word.
        let shape: [usize; 2] = [65, 67];
        let n = shape[0] * shape[1];
        let blocks = n.div_ceil(BLOCK);
        let config = OptimizerConfig::new(form);
        let (mut model, mut optimizer) = (model::<T>(shape), Optimizer::new(config));
        let mut p = numbers(n, 5);
        let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
        let mut codes = [vec![0_u8; n], vec![0_u8; n]];
        let mut absmax = [vec![0.0; blocks], vec![0.0; blocks]];
        for step in 0..STEPS {
            let grads = register::<T>(&model, step);
            model = optimizer.step(RATE, model, grads);
            let settings = AdamwSettings {
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                decay: 0.01,
            };
            let (once, g) = (AdamwStep::new(settings, RATE, step + 1), gradient(step, n));
            match form {
                MomentForm::Full => adamw::step(once, &mut p, &g, &mut m, &mut v),
                MomentForm::Blocks => {
                    let [(m, m_absmax), (v, v_absmax)] = {
                        let [m, v] = codes.each_mut();
                        let [m_absmax, v_absmax] = absmax.each_mut();
                        [(m, m_absmax), (v, v_absmax)]
                    };
                    let moments = |codes, absmax| CodedMoments { codes, absmax };
                    adamw::step_blocks(
                        once,
                        &mut p,
                        &g,
                        moments(m, m_absmax),
                        moments(v, v_absmax),
                    );
                }
            }
            let found = values(model.weight.val().inner());
            for (k, (found, expected)) in found.iter().zip(&p).enumerate() {
                let error = (found - expected).abs();
                // A moment that is encoded as its neighbour moves a parameter by a part of a step.
                let limit = if form == MomentForm::Full {
                    1e-6
                } else {
                    RATE as f32 / 5.0
                };
                assert!(
                    error <= limit,
                    "{form:?}, step {step}, value {k}: {found} for {expected}"
                );
            }
            let near = found
                .iter()
                .zip(&p)
                .filter(|(found, p)| (*found - *p).abs() <= 1e-6);
            assert!(near.count() * 1000 >= n * 999, "{form:?}, step {step}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("optimizer");
        optimizer.save(&file).expect("writable");
        if form == MomentForm::Blocks {
            let bytes = std::fs::read(&file).expect("written");
            let all = SafeTensors::deserialize(&bytes).expect("tensors");
            for (name, codes) in ["weight.state1", "weight.state2"].into_iter().zip(&codes) {
                let found = all.tensor(name).expect(name);
                let apart = found
                    .data()
                    .iter()
                    .zip(codes)
                    .map(|(one, other)| one.abs_diff(*other));
                let (apart, most) = (
                    apart.clone().filter(|apart| *apart > 0).count(),
                    apart.max(),
                );
                assert!(
                    apart * 1000 <= n && most <= Some(1),
                    "{name}: {apart} codes differ, by {most:?}"
                );
            }
        }
        // It goes on from the file as without it.
        let mut read = Optimizer::load(config, &file, &model).expect("its state");
        let [one, other] = [&mut optimizer, &mut read].map(|optimizer| {
            let grads = register::<T>(&model, STEPS);
            values(
                optimizer
                    .step(RATE, model.clone(), grads)
                    .weight
                    .val()
                    .inner(),
            )
        });
        assert_eq!(one, other, "{form:?}");
    }
}

/// The norm and the factor by their formula in f64.
pub(crate) fn gradients_are_clipped_by_their_norm<T: Target>() {
    let model = model::<T>([65, 67]);
    let before = gradient(0, 65 * 67);
    let squares: f64 = before.iter().map(|value| f64::from(*value).powi(2)).sum();
    let expected = squares.sqrt() * 0.5;
    let mut grads = register::<T>(&model, 0);
    let norm = clip(&model, &mut grads, 0.5, Some(expected / 3.0)).expect("finite");
    assert!(
        (norm - expected).abs() <= 1e-5 * expected,
        "{norm} for {expected}"
    );
    let factor = 0.5 * expected / 3.0 / (expected + 1e-6);
    let after = values(grads.get::<2>(model.weight.id).expect("a gradient"));
    for (found, before) in after.iter().zip(&before) {
        let expected = f64::from(*before) * factor;
        let error = (f64::from(*found) - expected).abs();
        assert!(
            error <= 1e-5 * expected.abs() + 1e-37,
            "{found} for {expected}"
        );
    }
    let mut broken = gradient(0, 65 * 67);
    broken[70] = f32::NAN;
    let mut grads = GradientsParams::new();
    let device = T::device(0).expect("a device");
    grads.register(model.weight.id, on(broken, [65, 67], &device));
    let error = clip(&model, &mut grads, 1.0, None).expect_err("not finite");
    assert!(error.to_string().contains("`weight`"), "{error}");
}
