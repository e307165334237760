//! Stated memory: what a plan makes of it, against numbers that are worked out here.

use firebox::{
    LoadConfig, Planner, Strategy,
    config::StatedMemory,
    model::{CausalLm, PassSize},
    plan::MemoryPlan,
    recommend::{self, Task},
    target::KnownTarget,
};

use super::fixtures::{checkpoint, parameters};

const GIB: u64 = 1 << 30;

fn planned(
    shape: &str,
    target: KnownTarget,
    devices: &str,
    quant: &str,
    length: usize,
) -> MemoryPlan {
    let folder = tempfile::tempdir().expect("a folder");
    let path = checkpoint(folder.path(), shape);
    let memory = StatedMemory::new(devices.parse().expect("memories")).host(256 * GIB);
    let count = memory.devices.bytes().len();
    let config = LoadConfig::new(path.to_str().expect("UTF-8"))
        .quant(quant.parse().expect("a spec"))
        .devices(0..count)
        .strategy(Strategy::LowMemory);
    let planner = Planner::new(config, target, &memory).expect("a checkpoint");
    let plan = planner.plan::<CausalLm>().expect("a plan");
    let size = PassSize { batch: 1, length };
    planner
        .memory::<CausalLm>(&plan, Some(size), None)
        .expect("its memory")
}

/// Would catch bytes of weights that are not those of the shape: two for each published parameter.
#[test]
fn weights_in_16_bits_take_two_bytes_a_parameter() {
    for shape in ["7B", "13B", "70B", "8x7B"] {
        let memory = planned(shape, KnownTarget::Cuda, "8x80GiB", "none", 1);
        assert_eq!(memory.bytes_packed, 2 * parameters(shape), "{shape}");
        let on_devices: u64 = memory.devices.iter().map(|device| device.weights).sum();
        assert_eq!(on_devices, memory.bytes_packed, "{shape}");
    }
}

/// Would catch a cache that counts query heads, and one that counts all layers on each device. Llama 2 7B: 2 · 32 layers · 4096
/// features · 2 bytes a token; 70B has 8 of 64 heads: 2 · 80 · 1024 · 2.
#[test]
fn caches_count_key_heads_on_the_devices_of_their_layers() {
    for (shape, devices, layers, features) in
        [("7B", "2x24GiB", 32, 4096), ("70B", "4x80GiB", 80, 1024)]
    {
        let memory = planned(shape, KnownTarget::Cuda, devices, "none", 4096);
        let cache: u64 = memory.devices.iter().map(|device| device.cache).sum();
        assert_eq!(cache, 4096 * 2 * layers * features * 2, "{shape}");
        for device in &memory.devices {
            let own = device.layers.len() as u64;
            assert_eq!(
                device.cache,
                4096 * 2 * own * features * 2,
                "{shape}, {}",
                device.place()
            );
        }
        let all: usize = memory
            .devices
            .iter()
            .map(|device| device.layers.len())
            .sum();
        assert_eq!(all as u64, layers, "{shape}");
    }
}

/// Would catch a model that fits because the devices are added up, and one that does not because only the first is looked at.
#[test]
fn each_device_has_to_hold_its_own_part() {
    let lacks = |devices: &str, quant: &str| {
        planned("7B", KnownTarget::Cuda, devices, quant, 512).lacking()
    };
    // 12.6 GiB of weights.
    assert!(!lacks("8GiB", "none").is_empty());
    assert!(
        lacks("2x8GiB", "none").is_empty(),
        "{:?}",
        lacks("2x8GiB", "none")
    );
    assert!(lacks("8GiB", "nf4").is_empty());
    let lacking = lacks("2GiB", "nf4");
    assert_eq!(
        (lacking[0].place.as_str(), lacking[0].memory),
        ("cuda 0", 2 * GIB)
    );
    assert!(lacking[0].needed > 3 * GIB, "{lacking:?}");
}

/// Would catch a type that the device has not: bf16 is computed in f32 on Vulkan, and its matrices stay halves.
#[test]
fn activations_are_as_wide_as_the_device_computes() {
    let activations = |target| {
        let memory = planned("7B", target, "80GiB", "none", 1024);
        (memory.bytes_packed, memory.devices[0].cache)
    };
    let (cuda, vulkan) = (
        activations(KnownTarget::Cuda),
        activations(KnownTarget::Vulkan),
    );
    assert_eq!(vulkan.1, 2 * cuda.1);
    // Norms are wider: two a layer and one after the last.
    assert_eq!(vulkan.0 - cuda.0, 65 * 4096 * 2);
}

/// Would catch logits that are on every device, or on none. For one token of Llama 2 7B two tensors of 32,000 logits are more than a layer
/// has: 3 · 11008 values inside its MLP; each device has the 4096 features that go through besides.
#[test]
fn logits_count_on_the_device_of_the_last_layer() {
    let memory = planned("7B", KnownTarget::Cuda, "2x24GiB", "none", 1);
    let [first, last] = [0, 1].map(|nth| memory.devices[nth].activations);
    assert_eq!(last, (4096 + 2 * 32_000) * 2);
    assert!(first < last, "{first}, {last}");
}

/// Would catch a graph of which only the largest part is counted: devices in host memory have it together.
#[test]
fn a_graph_over_several_devices_of_the_host_counts_as_a_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = checkpoint(folder.path(), "7B");
    let used = |devices: usize| {
        let stated = format!("{devices}x256GiB").parse().expect("memories");
        let config = LoadConfig::new(path.to_str().expect("UTF-8")).devices(0..devices);
        let memory = StatedMemory::new(stated).host(256 * GIB);
        let planner = Planner::new(config, KnownTarget::Cpu, &memory).expect("a checkpoint");
        let adapter = "lora:rank=16".parse().expect("an adapter");
        let task = Task::new().train(adapter).batch(1).length(64);
        let planned = recommend::planned(&planner, &task).expect("a plan");
        planned.memory.host.in_use as f64
    };
    let [one, two] = [1, 2].map(used);
    assert!((two / one - 1.0).abs() < 1e-3, "{one}, {two}");
}
