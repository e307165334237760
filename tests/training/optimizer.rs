//! AdamW beside torch's and beside the one of bitsandbytes in 8 bits, the state in a file, clipping.

use std::{fs, path::Path};

use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Tensor, TensorData},
};
use burn_optim::{GradientsParams, ModuleOptimizer};
use firebox::train::optimizer::{
    AdamW, GradientError, GradientSum, MomentForm, Optimizer, OptimizerConfig, OptimizerError, clip,
};
use firebox_kernels::adamw::codes::{SIGNED, UNSIGNED};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::common::{floats, max_abs_difference, repository};

const STEPS: u64 = 10;

/// A module whose parameters are given.
#[derive(Module, Debug)]
struct Layer {
    weight: Param<Tensor<2>>,
    bias: Option<Param<Tensor<1>>>,
}

/// Golden steps, made by `tests/golden/adamw.py`.
struct Steps {
    bytes: Vec<u8>,
    cases: Vec<Value>,
}

impl Steps {
    fn open() -> Self {
        let bytes = fs::read(repository().join("tests/golden/vectors/adamw.safetensors"));
        let bytes = bytes.expect("golden steps");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("golden steps");
        let cases = &header.metadata().as_ref().expect("metadata")["cases"];
        let cases: Vec<Value> = serde_json::from_str(cases).expect("cases");
        assert_eq!(cases.len(), 5);
        Self { bytes, cases }
    }

    fn tensor(&self, name: &str) -> Option<(Dtype, Vec<u8>)> {
        let all = SafeTensors::deserialize(&self.bytes).expect("golden steps");
        let view = all.tensor(name).ok()?;
        Some((view.dtype(), view.data().to_vec()))
    }

    fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let all = SafeTensors::deserialize(&self.bytes).expect("golden steps");
        all.tensor(name).ok().map(|view| floats(&view))
    }
}

/// The values of `values` in `tests/golden/adamw.py`.
fn values(seed: u64, n: usize) -> Vec<f32> {
    let value = |k: u64| {
        let mixed = (k + seed * 1_000_003).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bits = (mixed >> 32) as u32;
        let fraction = ((bits >> 4 & 0xffff) as f32 - 32768.0) / 32768.0;
        fraction * 0.5_f32.powi((bits & 0xf) as i32)
    };
    (0..n as u64).map(value).collect()
}

fn rate(step: u64) -> f64 {
    1e-3 * (step + 1) as f64
}

/// A matrix on `device`; vectors are matrices of one row here, since only their values count.
fn layer(seed: u64, shape: [usize; 2], device: &Device) -> Layer {
    let data = TensorData::new(values(seed, shape[0] * shape[1]), shape);
    let weight = Tensor::from_data(data, (device, DType::F32)).require_grad();
    Layer {
        weight: Param::from_tensor(weight),
        bias: None,
    }
}

fn gradients(model: &Layer, step: u64) -> GradientsParams {
    let mut grads = GradientsParams::new();
    let device = model.weight.val().device().inner();
    let shape = model.weight.val().dims();
    let data = TensorData::new(values(step + 1, shape[0] * shape[1]), shape);
    let grad = Tensor::<2>::from_data(data, (&device, DType::F32));
    grads.register(model.weight.id, grad);
    grads
}

fn weights(model: &Layer) -> Vec<f32> {
    let data = model.weight.val().into_data();
    data.convert_dtype(DType::F32).try_into_vec().expect("f32")
}

/// The tensors of a saved state: name, type, bytes.
fn saved(optimizer: &Optimizer, folder: &Path) -> Vec<(String, Dtype, Vec<u8>)> {
    let file = folder.join("optimizer.safetensors");
    optimizer.save(&file).expect("writable");
    let bytes = fs::read(&file).expect("written");
    let all = SafeTensors::deserialize(&bytes).expect("a file of tensors");
    let mut tensors: Vec<_> = all
        .iter()
        .map(|(name, view)| (name.to_owned(), view.dtype(), view.data().to_vec()))
        .collect();
    tensors.sort();
    tensors
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn config(case: &Value) -> OptimizerConfig {
    let form = match case["name"].as_str() {
        Some(name) if name.starts_with("torch") => MomentForm::Full,
        _ => MomentForm::Blocks,
    };
    let set = |key: &str, default: f64| case[key].as_f64().unwrap_or(default);
    OptimizerConfig {
        beta1: case["beta"][0].as_f64().expect("beta"),
        beta2: case["beta"][1].as_f64().expect("beta"),
        eps: set("eps", 1e-8),
        decay: set("weight_decay", 1e-2),
        ..OptimizerConfig::new(form)
    }
}

/// Would catch another formula, another place of `eps`, another correction or decay than torch's and bitsandbytes', and codes
/// that are not the nearest: parameters within 1e-6 of theirs, codes and absolute maxima equal to the bit after every step.
#[test]
fn steps_are_those_of_torch_and_bitsandbytes() {
    let golden = Steps::open();
    let folder = tempfile::tempdir().expect("a folder");
    let mut compared = 0;
    for case in &golden.cases {
        let name = case["name"].as_str().expect("a name");
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).expect("a shape");
        let shape = [
            shape[..shape.len() - 1].iter().product(),
            shape[shape.len() - 1],
        ];
        let mut model = layer(0, shape, &device());
        let mut optimizer = Optimizer::new(config(case));
        for step in 0..STEPS {
            let grads = gradients(&model, step);
            model = optimizer.step(rate(step), model, grads);
            if let Some(expected) = golden.floats(&format!("{name}/{}/parameter", step + 1)) {
                let found = weights(&model);
                let error = max_abs_difference(&found, &expected);
                assert!(error <= 1e-6, "{name}, step {step}: {error:e}");
                compared += 1;
            }
            for (part, dtype, bytes) in saved(&optimizer, folder.path()) {
                let part = part.rsplit_once('.').expect("a path").1.to_owned();
                let Some(expected) = golden.tensor(&format!("{name}/{}/{part}", step + 1)) else {
                    continue;
                };
                assert_eq!(dtype, expected.0, "{name}, {part}");
                let wrong = bytes
                    .iter()
                    .zip(&expected.1)
                    .filter(|(one, other)| one != other);
                let wrong = wrong.count();
                if dtype == Dtype::U8 || part.starts_with("absmax") {
                    assert_eq!(wrong, 0, "{name}, step {step}, {part}: bytes that differ");
                }
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 20 + 4 + 40 + 1 + 4 + 1 + 1);
}

/// Would catch a value of the unsigned map, which nothing else here compares.
#[test]
fn maps_are_those_of_bitsandbytes() {
    let golden = Steps::open();
    for (codes, name) in [(&SIGNED, "map/signed"), (&UNSIGNED, "map/unsigned")] {
        assert_eq!(golden.floats(name).expect(name), codes.values);
        // The nearest of all by its definition, the lower one of two: at the bounds, beside them, and over all magnitudes.
        let bounds = &codes.bounds[..255];
        let near = bounds
            .iter()
            .flat_map(|bound| [bound.next_down(), *bound, bound.next_up()]);
        let spread = values(3, 20_000)
            .into_iter()
            .map(|value| value * value.abs());
        let mut tried = 0;
        for value in near
            .chain(spread)
            .chain([0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30])
        {
            let expected = bounds.iter().filter(|bound| **bound < value).count();
            assert_eq!(
                usize::from(codes.nearest(value)),
                expected,
                "{name}: {value:e}"
            );
            tried += 1;
        }
        assert!(tried > 20_000);
    }
}

/// Would catch a state that is lost, shared or rounded on its way through a file, steps that are counted anew, and a file whose
/// bytes depend on the run. The module that goes on is another one with other ids.
#[test]
fn a_saved_state_goes_on_to_the_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("optimizer.safetensors");
    for form in [MomentForm::Full, MomentForm::Blocks] {
        for shape in [[3, 5], [33, 131]] {
            let config = OptimizerConfig::new(form);
            let mut whole = layer(0, shape, &device());
            let mut optimizer = Optimizer::new(config);
            let mut halves = None;
            for step in 0..STEPS {
                if step == STEPS / 2 {
                    optimizer.save(&file).expect("writable");
                    let first = fs::read(&file).expect("written");
                    let mut other = layer(0, shape, &device());
                    assert_ne!(other.weight.id, whole.weight.id);
                    let values = whole.weight.val().inner();
                    other.weight = Param::from_tensor(Tensor::from_inner(values).require_grad());
                    let read = Optimizer::load(config, &file, &other).expect("the state");
                    assert_eq!(read.bytes(), optimizer.bytes());
                    read.save(&file).expect("writable");
                    assert!(fs::read(&file).expect("written") == first, "other bytes");
                    halves = Some((other, read));
                }
                let grads = gradients(&whole, step);
                whole = optimizer.step(rate(step), whole, grads);
                if let Some((other, mut read)) = halves.take() {
                    let grads = gradients(&other, step);
                    let other = read.step(rate(step), other, grads);
                    assert_eq!(weights(&other), weights(&whole), "{form:?}, step {step}");
                    halves = Some((other, read));
                }
            }
            let (_, read) = halves.expect("halves");
            assert!(saved(&read, folder.path()) == saved(&optimizer, folder.path()));
        }
    }
}

/// Would catch moments in 8 bits that are kept in more: 2 bytes a value and 8 for each 256, beside 8 bytes a value.
#[test]
fn moments_in_8_bits_are_a_quarter() {
    let bytes = |form, shape| {
        let model = layer(0, shape, &device());
        let mut optimizer = Optimizer::new(OptimizerConfig::new(form));
        let grads = gradients(&model, 0);
        optimizer.step(1e-3, model, grads);
        optimizer.bytes()
    };
    assert_eq!(bytes(MomentForm::Full, [256, 512]), 8 * 131_072);
    assert_eq!(bytes(MomentForm::Blocks, [256, 512]), 2 * 131_072 + 8 * 512);
    // The last block is filled up.
    assert_eq!(bytes(MomentForm::Blocks, [1, 4097]), 17 * (2 * 256 + 8));
    assert_eq!(bytes(MomentForm::Blocks, [1, 4095]), 8 * 4095);
}

/// Would catch a state of another module, form or shape that is taken, or begun anew without a word.
#[test]
fn a_state_of_something_else_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("optimizer.safetensors");
    let full = OptimizerConfig::default();
    let blocks = OptimizerConfig::new(MomentForm::Blocks);
    let save = |config, shape| {
        let model = layer(0, shape, &device());
        let mut optimizer = Optimizer::new(config);
        let grads = gradients(&model, 0);
        let model = optimizer.step(1e-3, model, grads);
        optimizer.save(&file).expect("writable");
        model
    };
    let refused = |config, model: &Layer| {
        let error = Optimizer::load(config, &file, model).expect_err("another state");
        assert!(
            error.to_string().contains(&file.display().to_string()),
            "{error}"
        );
        error
    };
    let with_bias = |shape: [usize; 2]| {
        let bias = Tensor::<1>::zeros([shape[1]], &device()).require_grad();
        Layer {
            bias: Some(Param::from_tensor(bias)),
            ..layer(0, shape, &device())
        }
    };

    let model = save(full, [64, 65]);
    assert!(matches!(
        refused(blocks, &model),
        OptimizerError::Form {
            eight_bits: false,
            ..
        }
    ));
    let other = layer(0, [65, 64], &device());
    let error = refused(full, &other);
    assert!(
        error
            .to_string()
            .contains("[64, 65], and has to be [65, 64]"),
        "{error}"
    );
    let error = refused(full, &with_bias([64, 65]));
    assert!(
        matches!(&error, OptimizerError::Missing { parameter, found: 1, trained: 2, .. } if parameter == "bias"),
        "{error}"
    );

    let model = save(blocks, [64, 65]);
    assert!(matches!(
        refused(full, &model),
        OptimizerError::Form {
            eight_bits: true,
            ..
        }
    ));

    // A parameter that had no gradient is in the file too.
    let model = with_bias([64, 65]);
    let mut optimizer = Optimizer::new(full);
    let grads = gradients(&model, 0);
    let model = optimizer.step(1e-3, model, grads);
    optimizer.save(&file).expect("writable");
    Optimizer::load(full, &file, &model).expect("its own state");
    let error = refused(full, &layer(0, [64, 65], &device()));
    assert!(
        matches!(&error, OptimizerError::Unused { tensor, .. } if tensor == "bias.step"),
        "{error}"
    );

    let bytes = fs::read(&file).expect("written");
    fs::write(&file, &bytes[..bytes.len() - 1]).expect("writable");
    assert!(matches!(
        refused(full, &model),
        OptimizerError::Tensors { .. }
    ));
    fs::remove_file(&file).expect("written");
    assert!(matches!(refused(full, &model), OptimizerError::File { .. }));
}

/// Would catch a parameter in half precision whose moments are halves too, and one that leaves its type.
#[test]
fn moments_of_halves_are_f32() {
    let device = device();
    let mut single = layer(0, [8, 9], &device);
    let mut half = layer(0, [8, 9], &device);
    half.weight = half
        .weight
        .map(|weight| weight.inner().cast(DType::BF16).autodiff().require_grad());
    single.weight = Param::from_tensor(
        half.weight
            .val()
            .inner()
            .cast(DType::F32)
            .autodiff()
            .require_grad(),
    );
    let [mut one, mut other] = [(); 2].map(|()| Optimizer::new(OptimizerConfig::default()));
    let [first, second] = [gradients(&single, 0), gradients(&half, 0)];
    single = one.step(1e-3, single, first);
    half = other.step(1e-3, half, second);
    assert_eq!(half.weight.val().dtype(), DType::BF16);
    assert!(half.weight.val().is_require_grad());
    let folder = tempfile::tempdir().expect("a folder");
    assert!(saved(&one, folder.path()) == saved(&other, folder.path()));
    let rounded: Vec<f32> = weights(&single)
        .into_iter()
        .map(|value| half::bf16::from_f32(value).to_f32())
        .collect();
    assert_eq!(weights(&half), rounded);
}

/// Would catch decay of vectors that should have none, and none of matrices that should.
#[test]
fn vectors_can_be_spared() {
    let config: OptimizerConfig = "adamw:decay=0.5,vector_decay=0".parse().expect("settings");
    let device = device();
    let ones = || Param::from_tensor(Tensor::<1>::ones([4], &device).require_grad());
    let model = Layer {
        weight: Param::from_tensor(Tensor::<2>::ones([2, 2], &device).require_grad()),
        bias: Some(ones()),
    };
    let mut grads = GradientsParams::new();
    let plain = device.clone().inner();
    grads.register(model.weight.id, Tensor::<2>::zeros([2, 2], &plain));
    grads.register(
        model.bias.as_ref().expect("a bias").id,
        Tensor::<1>::zeros([4], &plain),
    );
    let model = Optimizer::new(config).step(0.1, model, grads);
    assert_eq!(weights(&model), [0.95; 4]);
    let bias: Vec<f32> = model
        .bias
        .expect("a bias")
        .val()
        .into_data()
        .try_into_vec()
        .expect("f32");
    assert_eq!(bias, [1.0; 4]);
}

/// Expected values by the formula of `torch.nn.utils.clip_grad_norm_`, computed in f64. Would catch a norm of each tensor
/// instead of all, a scale that does not count in the norm, and gradients that are not finite.
#[test]
fn gradients_are_clipped_by_the_norm_of_all() {
    let device = device();
    let shape = [37, 501];
    let model = Layer {
        bias: Some(Param::from_tensor(
            Tensor::<1>::ones([3], &device).require_grad(),
        )),
        ..layer(0, shape, &device)
    };
    let bias = model.bias.as_ref().expect("a bias").id;
    let with = |values: [f32; 3]| {
        let mut grads = gradients(&model, 0);
        let values = TensorData::new(values.to_vec(), [3]);
        grads.register(
            bias,
            Tensor::<1>::from_data(values, (&device.clone().inner(), DType::F32)),
        );
        grads
    };
    let read = |grads: &GradientsParams| -> Vec<f32> {
        let [one, other] = [
            grads
                .get::<2>(model.weight.id)
                .expect("a gradient")
                .into_data(),
            grads.get::<1>(bias).expect("a gradient").into_data(),
        ];
        one.iter::<f32>().chain(other.iter::<f32>()).collect()
    };
    let extra = [3.0, -4.0, 12.0];
    let before = read(&with(extra));
    let squares: f64 = before.iter().map(|value| f64::from(*value).powi(2)).sum();
    for (scale, largest) in [
        (1.0, None),
        (0.25, None),
        (0.25, Some(1.0)),
        (0.25, Some(100.0)),
        (2.0, Some(0.3)),
    ] {
        let mut grads = with(extra);
        let norm = clip(&model, &mut grads, scale, largest).expect("finite");
        let expected = squares.sqrt() * scale;
        assert!(
            (norm - expected).abs() <= 1e-12 * expected,
            "{norm} {expected}"
        );
        let factor =
            largest.map_or(1.0, |largest: f64| (largest / (expected + 1e-6)).min(1.0)) * scale;
        for (found, before) in read(&grads).iter().zip(&before) {
            let expected = f64::from(*before) * factor;
            assert!(
                (f64::from(*found) - expected).abs() <= 1.2e-7 * expected.abs(),
                "{found} {expected}"
            );
        }
    }
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error =
            clip(&model, &mut with([0.0, wrong, 1.0]), 1.0, Some(1.0)).expect_err("not finite");
        assert!(
            matches!(&error, GradientError::NotFinite { parameter, .. } if parameter == "bias"),
            "{error}"
        );
    }
    let none = clip(&model, &mut GradientsParams::new(), 1.0, None);
    assert_eq!(none, Err(GradientError::None));
}

/// Would catch sums in half precision, and batches that are lost or added twice.
#[test]
fn gradients_of_batches_are_summed_in_f32() {
    let model = layer(0, [6, 7], &device());
    let mut sum = GradientSum::default();
    let mut expected = vec![0.0_f32; 42];
    for batch in 0..5 {
        let mut grads = gradients(&model, batch);
        let grad = grads
            .remove::<2>(model.weight.id)
            .expect("a gradient")
            .cast(DType::BF16);
        let values = grad
            .clone()
            .into_data()
            .convert_dtype(DType::F32)
            .try_into_vec::<f32>()
            .expect("f32");
        expected
            .iter_mut()
            .zip(values)
            .for_each(|(sum, value)| *sum += value);
        grads.register(model.weight.id, grad);
        sum.add(&model, grads);
    }
    let found = sum
        .take()
        .remove::<2>(model.weight.id)
        .expect("a sum")
        .into_data();
    assert_eq!(found.try_into_vec::<f32>().expect("f32"), expected);
    assert!(sum.take().is_empty());
}

/// Would catch a state that Burn's own optimizer loses or changes in its record: codes that come back as other integers.
#[test]
fn burns_own_optimizer_keeps_the_state() {
    for form in [MomentForm::Full, MomentForm::Blocks] {
        let adamw = AdamW::new(OptimizerConfig::new(form));
        let mut model = layer(0, [33, 131], &device());
        let mut optimizer = ModuleOptimizer::from(adamw);
        let grads = gradients(&model, 0);
        model = optimizer.step(rate(0), model, grads);
        let bytes = optimizer.into_bytes().expect("a record");
        let mut read = ModuleOptimizer::from(adamw)
            .from_bytes(bytes)
            .expect("a record");
        let [one, other] = [&mut optimizer, &mut read].map(|optimizer| {
            let grads = gradients(&model, 1);
            weights(&optimizer.step(rate(1), model.clone(), grads))
        });
        assert_eq!(one, other, "{form:?}");
        let mut own = Optimizer::new(OptimizerConfig::new(form));
        let mut model = layer(0, [33, 131], &device());
        for step in 0..2 {
            let grads = gradients(&model, step);
            model = own.step(rate(step), model, grads);
        }
        assert_eq!(weights(&model), one, "{form:?}");
    }
}

/// Would catch a word that is not understood, one that is ignored, and values that no step can be made with.
#[test]
fn optimizers_are_written_in_words() {
    let all = "adamw8bit:beta1=0.8,beta2=0.95,eps=0.00001,decay=0.1,vector_decay=0";
    let config: OptimizerConfig = all.parse().expect("settings");
    assert_eq!(config.to_string(), all);
    assert_eq!(
        (config.moments, config.beta1, config.beta2),
        (MomentForm::Blocks, 0.8, 0.95)
    );
    assert_eq!(
        (config.eps, config.decay, config.vector_decay),
        (1e-5, 0.1, Some(0.0))
    );
    assert_eq!("adamw".parse(), Ok(OptimizerConfig::default()));
    let json = serde_json::to_string(&config).expect("JSON");
    assert_eq!(
        serde_json::from_str::<OptimizerConfig>(&json).expect("JSON"),
        config
    );
    for (text, part) in [
        ("adam", "adamw8bit"),
        ("adamw:lr=1", "`lr=1` is no setting"),
        (
            "adamw:beta1=1",
            "beta1 is 1, and has to be at least 0 and below 1",
        ),
        ("adamw:beta2=NaN", "beta2 is NaN"),
        ("adamw:eps=0", "eps is 0, and has to be a number above 0"),
        ("adamw:decay=-1", "decay is -1"),
        ("adamw:decay", "decay is ``, and has to be a number"),
        ("adamw8bit:vector_decay=inf", "vector_decay is inf"),
    ] {
        let error = text.parse::<OptimizerConfig>().expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}
