//! Records of Burn: a module takes the words of its own formats, and no others.

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use firebox::{
    Cpu, LoadConfig, Loader, Strategy,
    adapter::AdapterConfig,
    model::{Architecture, CausalLm},
};

use crate::common::{Golden, max_abs_difference, values};

const MODEL: Golden = Golden("llama_f32_tied");

fn load(quant: &str, strategy: Strategy) -> CausalLm {
    let config = LoadConfig::new(MODEL.path("").to_string_lossy())
        .quant(quant.parse().expect("a quantization"))
        .strategy(strategy);
    let loader = Loader::<Cpu>::new(config).expect(quant);
    loader.load().expect(quant).model
}

fn logits(model: &CausalLm, device: &Device) -> Vec<f32> {
    let ids = TensorData::new(vec![1, 5, 9, 2, 7, 30, 4, 11], [1, 8]);
    let ids = Tensor::from_data(ids, device);
    let logits = model.forward(ids).into_data();
    logits.try_into_vec().expect("f32")
}

/// Words of one format have the paths and lengths of another's in each of these pairs. Would catch a record that is taken
/// for the words of another format, which computes nonsense without an error.
#[test]
fn a_record_of_another_format_is_refused() {
    for (of, into) in [
        ("nf4", "fp4"),
        ("fp4", "nf4"),
        ("nf4", "nf4:nested"),
        ("nf4", "nf4:block=128"),
        ("fp8:e4m3,scale=channel", "fp8:e5m2,scale=channel"),
        ("fp8:e4m3,scale=channel", "int8"),
        ("int8", "fp8:e4m3,scale=channel"),
        ("mlx:bits=4,group=64", "hqq:bits=4,group=64"),
        ("mlx:bits=4,group=64", "wna16:bits=4,group=64,asymmetric"),
        ("mlx:bits=4,group=32", "mlx:bits=4,group=64"),
        ("mxfp4", "nvfp4"),
        ("nf4", "none"),
        ("none", "nf4"),
    ] {
        let record = load(of, Strategy::Full).into_record();
        let error = load(into, Strategy::Full).try_load_record(record);
        let error = error.expect_err(&format!("a record of {of} in a model of {into}"));
        // The error names a parameter, and its path the format where the model has one.
        let text = error.to_string();
        assert!(text.contains("q_proj.weight"), "{of} into {into}: {text}");
    }
}

/// Would catch a path that two loads of one configuration do not share.
#[test]
fn a_record_of_the_same_format_brings_the_model_back() {
    let device = Device::flex();
    for quant in [
        "none",
        "nf4",
        "nf4:nested",
        "fp8:e5m2,scale=channel",
        "int8",
        "hqq:bits=4,group=64",
        "mlx:bits=3,group=32",
        "mxfp8",
    ] {
        let model = load(quant, Strategy::Full);
        let expected = logits(&model, &device);
        let loaded = load(quant, Strategy::Full).try_load_record(model.into_record());
        let loaded = loaded.unwrap_or_else(|error| panic!("{quant}: {error}"));
        assert_eq!(logits(&loaded, &device), expected, "{quant}");
    }
}

/// Values of a model, whatever its weights are packed in. Would catch words, or nothing, counted in place of values.
#[test]
fn parameters_are_counted_by_values() {
    let dense = load("none", Strategy::Full).num_params();
    let stored: usize = MODEL
        .shapes()
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    assert_eq!(dense, stored);
    for (quant, strategy) in [
        ("nf4", Strategy::Full),
        ("int8", Strategy::Full),
        ("mlx:bits=4,group=64", Strategy::Streaming),
        ("none", Strategy::Streaming),
    ] {
        let model = load(quant, strategy);
        assert_eq!(model.num_params(), dense, "{quant}, {strategy}");
        assert!(
            model.to_string().contains(&format!("params: {dense}")),
            "{model}"
        );
    }
}

/// Burn recomputes cheap operations on a device that asks for it; the base was loaded on one that does not. Would catch a
/// frozen weight that drags the graph of its own device into that of the trained ones.
#[test]
fn a_base_of_any_device_goes_with_activations_of_any_graph() {
    let plain = Device::flex();
    let devices = [
        plain.clone(),
        plain.clone().autodiff(),
        plain.clone().autodiff().gradient_checkpointing(),
    ];
    for quant in ["none", "nf4"] {
        for strategy in [Strategy::Full, Strategy::Streaming] {
            let config = || {
                let config = LoadConfig::new(MODEL.path("").to_string_lossy());
                config
                    .quant(quant.parse().expect("a quantization"))
                    .strategy(strategy)
            };
            let expected = logits(&load(quant, strategy), &plain);
            for base in &devices {
                let loader = Loader::<Cpu>::on(config(), base.clone()).expect(quant);
                let model: CausalLm = loader.load().expect(quant).model;
                for ids in &devices {
                    let found = logits(&model, ids);
                    let error = max_abs_difference(&found, &expected);
                    assert!(
                        error < 1e-4,
                        "{error}: {quant}, {strategy}, {base:?}, {ids:?}"
                    );
                }
            }
        }
    }
}

/// What parameters of an adapter mean is not in their values. Would catch a record that is taken for factors of another scale
/// or kind, which computes another change without an error, and one that does not come back to its own.
#[test]
fn a_record_of_another_adapter_is_refused() {
    let load = |spec: &str| {
        let config = LoadConfig::new(MODEL.path("").to_string_lossy());
        let adapter: AdapterConfig = spec.parse().expect(spec);
        let loader = Loader::<Cpu>::new(config.adapter(adapter)).expect(spec);
        loader.load::<CausalLm>().expect(spec).model
    };
    let of = "lora:rank=4,alpha=8";
    for other in [
        "lora:rank=4,alpha=16",
        "lora:rank=4,alpha=8,rslora",
        "lora:rank=8,alpha=16",
        "lora:rank=4,alpha=8,dora",
    ] {
        for (of, into) in [(of, other), (other, of)] {
            let error = load(into).try_load_record(load(of).into_record());
            let error = error.expect_err(&format!("{of} into {into}")).to_string();
            assert!(
                error.contains("low_rank.") && error.contains("scale="),
                "{of} into {into}: {error}"
            );
        }
    }
    for spec in [of, "lora:rank=4,alpha=8,dora"] {
        let model = load(&format!("{spec},seed=1"));
        let other = load(&format!("{spec},seed=2"));
        let first_a = |model: &CausalLm| {
            let mut model = model.clone();
            let mut places = model.adaptable().into_iter();
            let found = places.find_map(|mut place| place.adapters().first().cloned());
            values(
                found
                    .expect("an adapter")
                    .low_rank
                    .expect("factors")
                    .a
                    .val(),
            )
        };
        assert_ne!(first_a(&model), first_a(&other));
        let expected = first_a(&model);
        let loaded = other.try_load_record(model.into_record()).expect("its own");
        assert_eq!(first_a(&loaded), expected);
        assert!(loaded.to_string().contains("scale: 2"), "{loaded}");
    }
}
