//! Burn's own ways to train, on models that are loaded here.

use burn::{
    module::{Lora, ParamGroup, QLora, Quantizer},
    tensor::{
        Device, Int, Tensor,
        activation::log_softmax,
        quantization::{Calibration, QuantScheme},
    },
};
use burn_optim::{AdamWConfig, GradientsParams};
use firebox::{
    Cpu, LoadConfig, Loader, Strategy,
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
        assert!(gradients.len() > 0);
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
