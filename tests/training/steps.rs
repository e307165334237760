//! Steps of an optimizer of Burn.

use burn::{
    module::{Lora, Module, ParamGroup, QLora, Quantizer},
    tensor::{
        Device, Int, Tensor, TensorData,
        activation::log_softmax,
        quantization::{Calibration, QuantValue},
    },
};
use burn_optim::{AdamWConfig, GradientsParams};
use firebox::{
    Cpu, DType, LoadConfig, Loader, Strategy,
    adapter::{self, AdapterConfig, AdapterFile, LoraConfig},
    model::{CausalLm, Matrix},
};

use crate::common::{Golden, linears, max_abs_difference};

const BASE: Golden = Golden("llama_f16_tied_bias");

pub(crate) fn load(quant: &str, strategy: Strategy, adapter: Option<AdapterConfig>) -> CausalLm {
    let mut config = LoadConfig::new(BASE.path("").to_string_lossy())
        .quant(quant.parse().expect(quant))
        .strategy(strategy);
    if let Some(adapter) = adapter {
        config = config.adapter(adapter);
    }
    let loader = Loader::<Cpu>::new(config).expect(BASE.0);
    loader.load().expect(BASE.0).model
}

fn ids() -> Tensor<2, Int> {
    let ids: Vec<i32> = (0..33).map(|nth| (nth * 37 + 5) % 500).collect();
    Tensor::from_data(TensorData::new(ids, [1, 33]), &Device::flex())
}

pub(crate) fn loss(model: &CausalLm) -> Tensor<1> {
    let logits = model.forward(ids().narrow(1, 0, 32));
    let next = ids().narrow(1, 1, 32).unsqueeze_dim(2);
    log_softmax(logits, 2).gather(2, next).mean().neg()
}

pub(crate) fn logits(model: &CausalLm) -> Vec<f32> {
    model
        .forward(ids())
        .into_data()
        .try_into_vec()
        .expect("f32")
}

/// Words of every packed matrix.
fn words(model: &CausalLm) -> Vec<Vec<u32>> {
    let packed = model
        .blocks
        .iter()
        .flat_map(linears)
        .filter_map(|linear| match &linear.weight {
            Matrix::Packed(packed) => Some(packed.to_host().words),
            _ => None,
        });
    packed.collect()
}

/// On bases of several kinds, adapters of several kinds. Would catch factors that get no gradient, an optimizer that changes the
/// base, and files that do not bring the trained adapter back.
#[test]
fn three_steps_train_adapters_and_nothing_else() {
    for (quant, strategy) in [
        ("none", Strategy::Full),
        ("nf4", Strategy::Full),
        ("hqq:bits=4,group=64", Strategy::Full),
        ("nf4", Strategy::Streaming),
    ] {
        for spec in [
            "lora:rank=4,alpha=8",
            "lora:rank=4,alpha=8,dora,bias=adapted",
            "lora:rank=4,alpha=8,rslora,dropout=0.1,targets=*.{q,v}_proj+model.embed_tokens,whole=lm_head",
        ] {
            let name = format!("{quant}, {strategy}, {spec}");
            let AdapterConfig::Lora(config) = spec.parse().expect(spec) else {
                panic!("{spec} is new");
            };
            let mut model = load(quant, strategy, Some(config.clone().into()));
            let (trained, before) = (adapter::trainable_params(&model), words(&model));
            let first = loss(&model).into_scalar::<f32>();
            let mut optimizer = AdamWConfig::new().init();
            for _ in 0..3 {
                let gradients = loss(&model).backward();
                let gradients = GradientsParams::from_grads(gradients, &model);
                model = optimizer.step(1e-2, model, gradients);
            }
            let last = loss(&model).into_scalar::<f32>();
            assert!(last < first - 0.05, "{name}: {first}, then {last}");
            assert_eq!(adapter::trainable_params(&model), trained, "{name}");
            assert!(words(&model) == before, "{name}: the base changed");

            let folder = tempfile::tempdir().expect("a folder");
            let switch = adapter::adapters(&mut model).remove(0);
            let base = BASE.path("");
            let file = adapter::detach(&mut model, &switch, &config, &base.to_string_lossy());
            file.expect(&name).save(folder.path()).expect(&name);
            let file =
                AdapterFile::open(folder.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(file.config.base(), base.to_str());
            let again = load(quant, strategy, Some(AdapterConfig::folder(folder.path())));
            switch.set_weight(1.0);
            let evaluated = model.valid();
            let error = max_abs_difference(&logits(&again), &logits(&evaluated));
            assert!(error <= 1e-4, "{name}: {error}");
        }
    }
}

/// Would catch masks that a resumed run draws anew, or that every call draws the same.
#[test]
fn dropout_goes_on_where_it_was() {
    let config = LoraConfig::new(4, 8.0).dropout(0.3).seed(7);
    let losses = |calls: u64| {
        let mut model = load("none", Strategy::Full, Some(config.clone().into()));
        for mut place in firebox::model::Architecture::adaptable(&mut model) {
            for adapter in place.adapters() {
                let factors = adapter.low_rank.as_mut().expect("factors");
                // B is not zero, so that a dropped value shows.
                let b = factors.b.val();
                let ones = b.clone().without_autodiff().ones_like() * 0.05;
                factors.b = burn::module::Param::from_tensor(Tensor::from_inner(ones));
                factors.dropout.as_ref().expect("dropout").set_calls(calls);
            }
        }
        [loss(&model), loss(&model)].map(|loss| loss.into_scalar::<f32>())
    };
    let [first, second] = losses(0);
    assert_ne!(first, second);
    assert_eq!(losses(0), [first, second]);
    assert_eq!(losses(1)[0], second);
}

/// Would catch factors of Burn whose gradients a frozen base swallows.
#[test]
fn factors_of_burn_train_a_dense_model() {
    let projections = || ParamGroup::from_predicate("_proj.weight");
    let lora = || Lora::new(4, 8.0).set_param_group(projections());
    // In `f32` matrices are parameters of Burn; halves are words.
    let model = || {
        let config = LoadConfig::new(BASE.path("").to_string_lossy()).dtype(DType::F32);
        let loader = Loader::<Cpu>::new(config).expect(BASE.0);
        loader.load::<CausalLm>().expect(BASE.0).model
    };
    let scheme = Device::flex().settings().quantization.scheme;
    let mut quantizer = Quantizer::new(Calibration::MinMax, scheme.with_value(QuantValue::Q8S));
    quantizer.set_param_group(projections());
    for (name, mut model) in [
        (
            "apply_lora",
            model().apply_lora(lora()).expect("a dense model").train(),
        ),
        (
            "apply_qlora",
            model()
                .apply_qlora(QLora::new(lora(), quantizer))
                .expect("a dense model")
                .train(),
        ),
    ] {
        let first = loss(&model).into_scalar::<f32>();
        let mut optimizer = AdamWConfig::new().init();
        for _ in 0..3 {
            let gradients = GradientsParams::from_grads(loss(&model).backward(), &model);
            assert_eq!(gradients.len(), model.blocks.len() * 7 * 2, "{name}");
            model = optimizer.step(1e-2, model, gradients);
        }
        let last = loss(&model).into_scalar::<f32>();
        assert!(last < first - 0.05, "{name}: {first}, then {last}");
    }
}
