//! What loads and products take of their device's memory. These tests run alone, since all use one device.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use burn::{module::Module, tensor::Device};
use firebox::{
    DType, Error, LoadConfig, Loader, Strategy, Target,
    config::Budget,
    model::{Architecture, BuildError, ConfigError, Linear, Slot, Weights},
    observe::{Event, Flow},
    plan::PlanError,
    source::Memory as Files,
    target::MemoryKind,
};
use half::bf16;
use safetensors::{Dtype, tensor::TensorView};

use crate::weights;
use {
    crate::operations::{matrix, read},
    firebox::quant::{PackedWeight, ops},
};

const MIB: u64 = 1 << 20;
const SHAPE: [usize; 2] = [4096, 2048];
const NAMES: [&str; 3] = ["first", "second", "third"];

/// Three large matrices.
#[derive(Module, Debug)]
struct Wide {
    layers: Vec<Linear>,
}

impl Architecture for Wide {
    type Config = ();
    fn config(_: &serde_json::Value) -> Result<(), ConfigError> {
        Ok(())
    }
    fn slots((): &()) -> Vec<Slot> {
        let [o, i] = SHAPE;
        NAMES
            .map(|name| Slot::linear(format!("{name}.weight"), o, i))
            .into()
    }
    fn build((): &(), weights: &mut Weights) -> Result<Self, BuildError> {
        let layers = NAMES.iter().map(|name| weights.linear(name));
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(Self { layers })
    }
}

fn files() -> Files {
    let values = weights::numbers(SHAPE[0] * SHAPE[1], 3);
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| bf16::from_f32(*value).to_le_bytes())
        .collect();
    let views = NAMES.map(|name| {
        let view = TensorView::new(Dtype::BF16, SHAPE.into(), &bytes);
        (
            format!("{name}.weight"),
            view.expect("as many bytes as the shape says"),
        )
    });
    let file = safetensors::serialize(views, None).expect("a file");
    Files::new()
        .with("config.json", "{}")
        .with("model.safetensors", file)
}

/// Bytes that `device` has given to tensors.
fn in_use(device: &Device) -> u64 {
    device.sync().expect("a device that works");
    let usage = device.memory_pool_usage();
    usage.expect("a device counts its memory").bytes_in_use
}

/// Beside the weights there is at most one tile and what becomes of it, and one packed weight twice while its tiles are
/// joined. Catches tiles that stay after they are packed, weights that are uploaded whole or kept twice, and a budget
/// that binds nothing.
pub(crate) fn a_load_keeps_to_the_memory_of_its_device<T: Target>() {
    // `tests/budget.rs` counts every allocation on the host.
    if T::MEMORY == MemoryKind::Host {
        return;
    }
    let device = T::device(0).expect("a device");
    let source = Arc::new(files());
    for quant in ["none", "nf4", "fp8:scale=tensor", "mlx:bits=4"] {
        let config = LoadConfig::default()
            .quant(quant.parse().expect("a spec"))
            .dtype(DType::F32)
            .strategy(Strategy::Full)
            .in_flight_bytes_max(32 * MIB);
        let loader =
            Loader::<T>::on(config.clone().source(source.clone()), device.clone()).expect("opens");
        let plan = loader.plan::<Wide>().expect("a plan");
        let kept = plan.totals().bytes_finished;
        let one = plan.steps[0].bytes_finished();

        let most = Arc::new(AtomicU64::new(0));
        let (watched, highest) = (device.clone(), Arc::clone(&most));
        let config = config
            .device_budget(Budget::Bytes(kept + 32 * MIB))
            .source(source.clone())
            .observer(move |_: &Event<'_>| {
                highest.fetch_max(in_use(&watched), Ordering::Relaxed);
                Flow::Continue
            });
        let before = in_use(&device);
        let loader = Loader::<T>::on(config.clone(), device.clone()).expect("opens");
        let loaded = loader.load::<Wide>().expect("fits");
        let peak = most.load(Ordering::Relaxed).saturating_sub(before);
        let allowed = kept + one + 12 * MIB;
        // What tests before this one had may be given back meanwhile.
        let enough = peak + MIB >= kept;
        assert!(
            enough && peak <= allowed,
            "{quant}: {peak} bytes of {kept} to {allowed}"
        );
        assert_eq!(loaded.report.device_bytes_max, Some(kept + 32 * MIB));
        drop(loaded);

        let config = config.with(|config| config.device_budget(Budget::Bytes(kept + 8 * MIB)));
        let loader = Loader::<T>::on(config, device.clone()).expect("opens");
        match loader.load::<Wide>() {
            Err(Error::Plan(PlanError::DoesNotFit { needed, memory, .. })) => {
                assert_eq!((needed, memory), (kept, kept + 8 * MIB), "{quant}");
            }
            other => panic!("{quant}: {other:?}"),
        }
    }
}

/// Memory in use between forward and backward: the inputs, the outputs and the packed words, and not the
/// dense weight, which here is much larger than all of them. On the host nothing counts a backend's
/// memory; `tests/memory.rs` counts every allocation there.
pub(crate) fn no_dense_weight_waits_for_the_backward_pass<T: Target>() {
    if T::MEMORY == MemoryKind::Host {
        return;
    }
    let device = T::device(0).expect("a device");
    let shape @ [o, i] = [4096, 2048];
    let dense_bytes = (o * i * size_of::<f32>()) as u64;
    let packing = weights::every_packing()[0];
    let packed = {
        let dense = matrix::<T>(weights::numbers(o * i, 5), shape);
        PackedWeight::quantize(dense, packing).expect("a shape of whole blocks")
    };
    device.sync().expect("a device that works");
    device.memory_cleanup();
    let before = in_use(&device);
    let x = matrix::<T>(weights::numbers(16 * i, 8), [16, i]);
    let x = x.autodiff().require_grad();
    let y = ops::linear(x.clone(), &packed);
    let y = ops::linear(y.slice([0..16, 0..i]), &packed);
    let between = in_use(&device) - before;
    assert!(
        between < dense_bytes / 8,
        "{between} bytes between forward and backward, a dense weight is {dense_bytes}"
    );
    let gradients = y.sum().backward();
    assert_eq!(read(x.grad(&gradients).expect("a gradient")).len(), 16 * i);
}
