//! A model answers the same wherever its layers are.

use core::ops::ControlFlow;

use firebox::{
    LoadConfig, Loaded, StreamFrom,
    config::{Budget, Destination, DeviceMap, MaxMemory},
    model::{CausalLm, GenerateOptions, generate},
    plan::Home,
};
use tempfile::TempDir;

use crate::{
    common::{Golden, ids, repository},
    formats::{self, bits, load},
    linear,
};

/// Dense ones of every kind of layer: tied and untied heads, keys that layers lend, small embeddings of each layer, experts,
/// latent attention, delta rules, learned positions.
const FAMILIES: [&str; 11] = [
    "llama_bf16_untied",
    "llama_f32_tied",
    "gemma2_bf16",
    "gemma4_ple_bf16",
    "gemma4_moe_bf16",
    "mixtral_bf16",
    "deepseek_v3_bf16",
    "qwen3_next_bf16",
    "gpt2_f32",
    "gpt_oss_bf16",
    "phi3_longrope",
];

fn answers(model: &CausalLm, golden: Golden) -> (Vec<u32>, Vec<u32>) {
    let rows = golden.ids("input_ids");
    let options = GenerateOptions {
        max_new_tokens: 5,
        ..GenerateOptions::default()
    };
    let prompt = &rows[0][..rows[0].len().min(6)];
    let text = generate(model, prompt, &options, |_| ControlFlow::Continue(()));
    (bits(model.forward(ids(&rows))), text.expect("text").ids)
}

fn same(
    golden: Golden,
    config: LoadConfig,
    what: &str,
    change: impl FnOnce(LoadConfig) -> LoadConfig,
) {
    let whole = load(config.clone());
    let Loaded { model, report, .. } = load(change(config));
    assert_eq!(report.bytes_packed, whole.report.bytes_packed);
    let (name, quant) = (golden.0, &report.quant);
    assert!(
        answers(&model, golden) == answers(&whole.model, golden),
        "{name}, {quant}, {what}"
    );
}

/// Would catch a unit that is built of another one's weights, a tensor without a device, and a step that is packed as for another
/// place.
#[test]
fn spread_models_answer_as_whole_ones_do() {
    for name in FAMILIES {
        let golden = Golden(name);
        same(golden, linear(golden, "none"), "two devices", |config| {
            config.devices([0, 1])
        });
        same(golden, linear(golden, "none"), "three devices", |config| {
            config.devices([5, 0, 7])
        });
    }
    let golden = Golden("llama_bf16_untied");
    for quant in [
        "nf4",
        "nf4:nested",
        "mlx:bits=3,group=32",
        "fp8:e4m3,scale=16x64",
        "int8",
    ] {
        for map in [
            DeviceMap::Balanced,
            DeviceMap::BalancedLow0,
            DeviceMap::Sequential,
        ] {
            let what = map.to_string();
            same(golden, formats::config(golden, quant), &what, |config| {
                config.devices([0, 1, 2]).device_map(map)
            });
        }
    }
}

/// Layers on devices, in host memory and in a file, packed and dense, all in one model.
#[test]
fn models_with_layers_elsewhere_answer_as_whole_ones_do() {
    let folder = TempDir::new().expect("a folder");
    for (name, quant) in [
        ("llama_bf16_untied", "nf4"),
        ("llama_f16_tied_bias", "none"),
        ("gpt_oss_bf16", "mlx:bits=4,group=32"),
        ("gemma4_ple_bf16", "fp8:e4m3,scale=channel"),
    ] {
        let golden = Golden(name);
        let map = "*=1,*.layers.0=cpu,*.layers.1.self_attn=disk,*.norm=0";
        let map: DeviceMap = map.parse().expect("a map");
        let change = |config: LoadConfig| {
            let config = config.stream_from(StreamFrom::Disk(folder.path().into()));
            config.device_map(map.clone())
        };
        same(golden, linear(golden, quant), "a map", change);
        let report = load(change(linear(golden, quant))).report;
        let on_devices: u64 = report.devices.iter().map(|device| device.bytes).sum();
        assert!(report.bytes_on_host > 0 && report.devices.iter().all(|device| device.bytes > 0));
        let all = on_devices + report.bytes_on_host + report.bytes_on_disk;
        assert_eq!(all, report.bytes_packed, "{name}");
    }
    let golden = Golden("llama_bf16_untied");
    let report = load(
        formats::config(golden, "nf4")
            .stream_from(StreamFrom::Disk(folder.path().into()))
            .device_map("*=disk".parse().expect("a map")),
    );
    assert!(report.report.bytes_on_disk > report.report.devices[0].bytes);
}

/// Would catch a layer that is torn apart, one that is on no device, a device that is left empty although layers are there for it,
/// and a tied weight that is charged twice.
#[test]
fn every_layer_is_whole_on_one_device() {
    let tinyrust = repository().join("assets/tinyrust");
    let config = LoadConfig::new(tinyrust.to_string_lossy()).devices([2, 0, 1]);
    let loader = firebox::Loader::<firebox::Cpu>::new(config).expect("a checkpoint");
    let plan = loader.plan::<CausalLm>().expect("a plan");
    for layer in 0..4 {
        let prefix = format!("model.layers.{layer}.");
        let of_layer = plan
            .steps
            .iter()
            .filter(|step| step.slot.name.starts_with(&prefix));
        let mut homes: Vec<Home> = of_layer.map(|step| step.home).collect();
        assert_eq!(homes.len(), 9);
        homes.dedup();
        assert_eq!(homes.len(), 1, "layer {layer}");
    }
    let report = loader.load::<CausalLm>().expect("loads").report;
    let indices: Vec<usize> = report.devices.iter().map(|device| device.index).collect();
    assert_eq!(indices, [2, 0, 1]);
    let layers: Vec<usize> = report
        .devices
        .iter()
        .flat_map(|device| device.layers.clone())
        .collect();
    assert_eq!(layers, [0, 1, 2, 3]);
    let bytes: u64 = report.devices.iter().map(|device| device.bytes).sum();
    assert_eq!(bytes, report.bytes_packed);
    assert!(report.devices.iter().all(|device| device.bytes > 0));
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["devices"][0]["index"], 2);
    assert_eq!(
        json["devices"][2]["layers"],
        serde_json::json!(report.devices[2].layers)
    );
}

/// The same words as accelerate: with a limit, devices are filled in order, and the first one is spared on request.
#[test]
fn words_for_maps_mean_what_they_say() {
    let tinyrust = repository().join("assets/tinyrust");
    let layers = |map: DeviceMap, limits: Option<MaxMemory>| {
        let config = LoadConfig::new(tinyrust.to_string_lossy())
            .quant("nf4".parse().expect("a spec"))
            .devices([0, 1])
            .context(1, 16)
            .device_map(map);
        let config = match limits {
            Some(limits) => config.max_memory(limits),
            None => config,
        };
        let devices = load(config).report.devices;
        devices
            .into_iter()
            .map(|device| device.layers)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        layers(DeviceMap::Sequential, None),
        [vec![0, 1, 2, 3], vec![]]
    );
    assert_eq!(
        layers(DeviceMap::BalancedLow0, None),
        [vec![], vec![0, 1, 2, 3]]
    );
    // The embedding takes 1 MiB, a layer 405 KiB and 64 KiB of cache; activations of 16 tokens take less than 180 KiB.
    let limit = |kib: u64| MaxMemory::new().device(0, Budget::Bytes(kib << 10));
    assert_eq!(
        layers(DeviceMap::Sequential, Some(limit(1024 + 3 * 469 + 180))),
        [vec![0, 1, 2], vec![3]]
    );
    assert_eq!(
        layers(DeviceMap::Sequential, Some(limit(1024 + 3 * 469))),
        [vec![0, 1], vec![2, 3]]
    );
    // The second holds three layers and not the embedding.
    let limits = limit(1 << 20).device(1, Budget::Bytes((3 * 469 + 180) << 10));
    assert_eq!(
        layers(DeviceMap::BalancedLow0, Some(limits)),
        [vec![0], vec![1, 2, 3]]
    );
    let said = [
        ("*", Destination::Device(1)),
        ("model.layers.2", Destination::Device(0)),
    ];
    let map = DeviceMap::explicit(said).expect("a map");
    assert_eq!(layers(map, None), [vec![2], vec![0, 1, 3]]);
}

/// A plan that is written down and read back has the same places.
#[test]
fn plans_of_several_devices_are_carried_out_later() {
    let golden = Golden("llama_bf16_untied");
    let config = || {
        formats::config(golden, "nf4")
            .device_map("*=0,lm_head=1,*.layers.1=cpu".parse().expect("a map"))
    };
    let loader = firebox::Loader::<firebox::Cpu>::new(config()).expect("a checkpoint");
    let plan = loader.plan::<CausalLm>().expect("a plan");
    let again = firebox::plan::Plan::from_json(&plan.to_json().expect("JSON")).expect("a plan");
    assert_eq!(again, plan);
    let later = loader.load_plan::<CausalLm>(again).expect("loads");
    let now = load(config());
    assert_eq!(later.report.devices, now.report.devices);
    assert!(answers(&later.model, golden) == answers(&now.model, golden));

    // Of a device that is not there any more.
    let one = firebox::Loader::<firebox::Cpu>::new(formats::config(golden, "nf4"));
    let error = one
        .expect("a checkpoint")
        .load_plan::<CausalLm>(plan)
        .expect_err("one device");
    assert!(error.to_string().contains("cpu, cpu"), "{error}");
}
