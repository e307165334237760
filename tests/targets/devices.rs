//! Models that are spread over devices, and models that are larger than theirs.

use core::ops::ControlFlow;

use burn::{module::Module, tensor::Device};
use firebox::{
    LoadConfig, Loaded, Loader, Target,
    config::{Budget, MaxMemory},
    model::{CausalLm, GenerateOptions, generate},
    target::TargetError,
};

use crate::common::{Golden, ids, max_abs_difference, repository, values};

/// A device of another target than this one, whose tensors do not mix with its own.
fn other<T: Target>() -> Option<Device> {
    let devices: Vec<Result<Device, TargetError>> = vec![
        #[cfg(feature = "cpu")]
        firebox::Cpu::device(0),
        #[cfg(feature = "ndarray")]
        firebox::NdArray::device(0),
    ];
    let devices = devices.into_iter();
    let mut devices = devices.map(|device| device.expect("there is always a CPU"));
    devices.find(|device| !T::owns(device))
}

fn load<T: Target>(config: LoadConfig) -> Loaded<CausalLm> {
    let loader = Loader::<T>::new(config).unwrap_or_else(|error| panic!("{error}"));
    loader.load().unwrap_or_else(|error| panic!("{error}"))
}

fn text(model: &CausalLm, prompt: &[u32]) -> Vec<u32> {
    let options = GenerateOptions {
        max_new_tokens: 6,
        ..GenerateOptions::default()
    };
    let text = generate(model, prompt, &options, |_| ControlFlow::Continue(()));
    text.expect("text").ids
}

/// The layers after the first one, the last norm and the head are elsewhere. Would catch activations, rotations, masks, small embeddings, lent
/// keys and caches that stay behind: two backends do not multiply each other's tensors.
pub(crate) fn spread_models_answer_as_loaded_ones_do<T: Target>() {
    for (name, quant) in [
        ("llama_bf16_untied", "nf4"),
        ("llama_f32_tied", "none"),
        ("gemma4_ple_bf16", "none"),
    ] {
        let golden = Golden(name);
        let config = || {
            let config = LoadConfig::new(golden.path("").to_string_lossy());
            config.quant(quant.parse().expect("a spec"))
        };
        let whole = load::<T>(config()).model;
        let moved = other::<T>().map(|other| {
            let mut model = whole.clone();
            let blocks = model.blocks.into_iter();
            let blocks = blocks.map(|block| match block.nth {
                0 => block,
                _ => block.to_device(&other),
            });
            model.blocks = blocks.collect();
            model.norm = model.norm.to_device(&other);
            model.head = model.head.map(|head| head.to_device(&other));
            model
        });
        let second = T::device(1).is_ok();
        let spread = second.then(|| load::<T>(config().devices([0, 1])).model);
        assert!(moved.is_some() || second, "one device");
        let rows = golden.ids("input_ids");
        let expected = values(whole.forward(ids(&rows)));
        for spread in moved.into_iter().chain(spread) {
            let found = values(spread.forward(ids(&rows)));
            let error = max_abs_difference(&found, &expected);
            assert!(error <= golden.tolerance().max(2e-3), "{name}: {error}");
            assert_eq!(
                text(&spread, &rows[0][..4]),
                text(&whole, &rows[0][..4]),
                "{name}"
            );
        }
    }
}

/// Of a model in INT8, a third fits the device with its cache and activations. Would catch weights that stay on the device, and a ring that
/// fetches more than there is room for.
pub(crate) fn a_model_three_times_as_large_as_its_device_makes_text<T: Target>() {
    let config = || {
        LoadConfig::new(repository().join("assets/tinyrust").to_string_lossy())
            .quant("int8".parse().expect("a spec"))
            .rule("role:embedding=int8".parse().expect("a rule"))
            .context(1, 16)
            // Tiles are packed on the device, beside what it keeps.
            .in_flight_bytes_max(256 << 10)
    };
    let prompt = [303, 327, 294];
    let whole = load::<T>(config());
    let expected = text(&whole.model, &prompt);
    let limit = whole.report.bytes_packed / 3;
    drop(whole);
    let limits = MaxMemory::new().device(0, Budget::Bytes(limit));
    let Loaded { model, report, .. } =
        load::<T>(config().max_memory(limits.host(Budget::Bytes(1 << 30))));
    assert_eq!(text(&model, &prompt), expected);
    let stats = report.stream_stats().expect("it streams");
    let device = &report.devices[0];
    assert_eq!(device.memory, Some(limit));
    assert_eq!(device.bytes + report.bytes_on_host, report.bytes_packed);
    // Cache of 64 tokens, twice 128 features of two bytes at least in each of 4 layers.
    let cache = 4 * 64 * 2 * 128 * 2;
    assert!(
        device.bytes + stats.bytes_peak + cache <= limit,
        "{stats:?}"
    );
    assert!(stats.bytes_moved >= 6 * report.bytes_on_host, "{stats:?}");
    assert!(stats.ahead_rate().is_some(), "{stats:?}");
}
