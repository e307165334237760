//! Burn's own ways to train, on models that are loaded here.

use burn::{
    data::{
        dataloader::{DataLoaderBuilder, batcher::Batcher},
        dataset::InMemDataset,
    },
    module::{Lora, Module, ParamGroup, QLora, Quantizer},
    tensor::{
        Device, Int, Tensor, TensorData,
        activation::log_softmax,
        quantization::{Calibration, QuantScheme},
    },
};
use burn_optim::{AdamWConfig, GradientsParams};
use burn_train::{
    InferenceStep, Learner, SequenceOutput, SupervisedTraining, TrainOutput, TrainStep,
};
use firebox::{
    Cpu, LoadConfig, Loader, Strategy,
    adapter::{self, LoraConfig},
    model::{CausalLm, Matrix, decoder::NotDense},
    target::DType,
};

use crate::common::{Golden, ids, values};

const MODEL: Golden = Golden("llama_f16_tied_bias");

fn load(quant: &str, ask: impl FnOnce(LoadConfig) -> LoadConfig) -> CausalLm {
    let config = LoadConfig::new(MODEL.path("").to_string_lossy());
    let config = config.quant(quant.parse().expect(quant));
    let device = Device::flex().autodiff();
    let loader = Loader::<Cpu>::on(ask(config), device).expect(quant);
    loader.load().expect(quant).model
}

fn loss(model: &CausalLm) -> Tensor<1> {
    let text: Vec<u32> = (0..33).map(|nth| (nth * 37 + 5) % 500).collect();
    let logits = model.forward(ids(&[text[..32].to_vec()]));
    let next: Tensor<3, Int> = ids(&[text[1..].to_vec()]).unsqueeze_dim(2);
    log_softmax(logits, 2).gather(2, next).mean().neg()
}

/// Would catch factors of Burn that take no part in the graph.
#[test]
fn burns_lora_trains_a_dense_model() {
    let mut model = load("none", |config| config.dtype(DType::F32));
    let before = values(model.forward(ids(&[vec![1, 5, 9]])));
    let group = ParamGroup::from_regex("_proj").expect("a pattern");
    model = model
        .apply_lora(Lora::new(4, 8.0).set_param_group(group))
        .expect("a dense model");
    let same = values(model.forward(ids(&[vec![1, 5, 9]])));
    assert!(crate::common::max_abs_difference(&before, &same) < 1e-5);
    let first = loss(&model).into_scalar::<f32>();
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..3 {
        let gradients = GradientsParams::from_grads(loss(&model).backward(), &model);
        assert!(!gradients.is_empty());
        model = optimizer.step(1e-2, model, gradients);
    }
    let last = loss(&model).into_scalar::<f32>();
    assert!(last < first - 0.05, "{first}, then {last}");
}

/// Would catch a model that Burn adapts nowhere, or in its embedding alone, without a word.
#[test]
fn burns_lora_is_refused_where_it_would_adapt_nothing() {
    let refused = |error: NotDense, word: &str| {
        assert!(error.module.starts_with("model.layers.0"), "{error}");
        let error = error.to_string();
        assert!(
            error.contains(word) && error.contains("adapter::add"),
            "{error}"
        );
    };
    let lora = || Lora::new(4, 8.0);
    let packed = load("nf4", |config| config);
    assert!(matches!(
        packed.blocks[0].linears()[0].weight,
        Matrix::Packed(_)
    ));
    refused(
        packed.clone().apply_lora(lora()).expect_err("packed"),
        "nf4",
    );
    let qlora = QLora::new(
        lora(),
        Quantizer::new(Calibration::MinMax, QuantScheme::default()),
    );
    refused(packed.apply_qlora(qlora).expect_err("packed"), "nf4");
    let streamed = load("none", |config| {
        config.strategy(Strategy::Streaming).dtype(DType::F32)
    });
    refused(
        streamed.apply_lora(lora()).expect_err("streamed"),
        "streamed",
    );
    // The checkpoint has halves, which this target keeps.
    let halves = load("none", |config| config);
    refused(halves.apply_lora(lora()).expect_err("halves"), "dtype");
}

#[derive(Module, Debug)]
struct Tuner {
    model: CausalLm,
}

impl TrainStep for Tuner {
    type Input = Tensor<2, Int>;
    type Output = SequenceOutput;

    fn step(&self, ids: Tensor<2, Int>) -> TrainOutput<SequenceOutput> {
        let output = InferenceStep::step(self, ids);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Tuner {
    type Input = Tensor<2, Int>;
    type Output = SequenceOutput;

    fn step(&self, ids: Tensor<2, Int>) -> SequenceOutput {
        let length = ids.dims()[1] - 1;
        let logits = self.model.forward(ids.clone().narrow(1, 0, length));
        // Burn wants one strategy in an operation, and the learner's device has another than the model's.
        let next = ids.narrow(1, 1, length).without_autodiff();
        let likely = log_softmax(logits.clone(), 2).gather(2, next.clone().unsqueeze_dim(2));
        SequenceOutput::new(likely.mean().neg(), logits, None, next)
    }
}

struct Stack;

impl Batcher<Vec<i32>, Tensor<2, Int>> for Stack {
    fn batch(&self, rows: Vec<Vec<i32>>, device: &Device) -> Tensor<2, Int> {
        let shape = [rows.len(), rows[0].len()];
        Tensor::from_data(TensorData::new(rows.concat(), shape), device)
    }
}

/// Burn's checkpointing asks for another strategy than the device of a loaded model has. Would catch a panic of Burn where two
/// strategies meet, and a learner that trains nothing.
#[test]
fn burns_learner_checkpoints_gradients_of_models_of_any_device() {
    let plain = Device::flex();
    for (quant, of_base) in [
        ("none", plain.clone()),
        ("nf4", plain.clone()),
        ("none", plain.clone().autodiff()),
        ("nf4", plain.clone().autodiff()),
        ("nf4", plain.clone().autodiff().gradient_checkpointing()),
    ] {
        for whole in [false, true] {
            let config = LoadConfig::new(MODEL.path("").to_string_lossy());
            let mut config = config.quant(quant.parse().expect(quant));
            if !whole {
                config = config.adapter(LoraConfig::new(4, 8.0));
            }
            let loader = Loader::<Cpu>::on(config, of_base.clone()).expect(quant);
            let mut model: CausalLm = loader.load().expect(quant).model;
            if whole {
                if quant != "none" {
                    continue;
                }
                adapter::train_all(&mut model, &plain.clone().autodiff()).expect(quant);
            }
            let name = format!("{quant}, {of_base:?}, {whole}");
            let before = loss(&model).into_scalar::<f32>();
            let row: Vec<i32> = (0..33).map(|nth| (nth * 37 + 5) % 500).collect();
            let rows = || InMemDataset::new(vec![row.clone(); 4]);
            let batches = || DataLoaderBuilder::new(Stack).batch_size(1).build(rows());
            let folder = tempfile::tempdir().expect("a folder");
            let training = SupervisedTraining::new(folder.path(), batches(), batches())
                .with_application_logger(None)
                .gradient_checkpointing()
                .num_epochs(1);
            let learner = Learner::new(Tuner { model }, AdamWConfig::new().init(), 1e-2);
            let result = training.launch(learner);
            let after = loss(&result.model.model).into_scalar::<f32>();
            assert!(after < before - 0.05, "{name}: {before}, then {after}");
        }
    }
}
