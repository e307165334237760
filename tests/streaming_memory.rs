//! What streaming keeps in memory, on the host: every allocation of this program is counted. Weights come from a file
//! here, so that each one on its "device" is memory of its own.

#![cfg(feature = "cpu")]

#[path = "common/counting.rs"]
mod counting;

use std::sync::Arc;

use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use counting::COUNTING;
use firebox::{
    Cpu, LoadConfig, Loader, Strategy, StreamFrom, Target,
    model::{Architecture, BuildError, ConfigError, Linear, Matrix, Slot, Weights},
    source::Memory,
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

const SIDE: usize = 1024;
const LAYERS: usize = 12;
const AHEAD: usize = 2;
/// Half a byte a weight, and 4 for each 64 of them.
const PACKED: u64 = (SIDE * SIDE / 2 + SIDE * SIDE / 64 * 4) as u64;

#[derive(Module, Debug)]
struct Deep {
    layers: Vec<Linear>,
}

impl Architecture for Deep {
    type Config = ();

    fn config(_json: &Value) -> Result<(), ConfigError> {
        Ok(())
    }

    fn slots((): &()) -> Vec<Slot> {
        let slot = |layer| Slot::linear(format!("{layer}.weight"), SIDE, SIDE);
        (0..LAYERS).map(slot).collect()
    }

    fn build((): &(), weights: &mut Weights) -> Result<Self, BuildError> {
        let layers = (0..LAYERS).map(|layer| weights.linear(&layer.to_string()));
        Ok(Self {
            layers: layers.collect::<Result<_, _>>()?,
        })
    }
}

/// The layers share their bytes, which does not matter here.
fn checkpoint() -> Memory {
    let values = (0..SIDE * SIDE).map(|k| half::bf16::from_f32((k % 97) as f32 / 64.0 - 0.75));
    let bytes: Vec<u8> = values.flat_map(half::bf16::to_le_bytes).collect();
    let views = (0..LAYERS).map(|layer| {
        let view = TensorView::new(Dtype::BF16, vec![SIDE, SIDE], &bytes);
        (format!("{layer}.weight"), view.expect("two bytes a weight"))
    });
    let file = safetensors::serialize(views, None).expect("views are sound");
    Memory::new()
        .with("config.json", b"{}")
        .with("model.safetensors", file)
}

/// Would catch packed weights that stay in memory after the load, copies that wait for the way back, copies that are
/// not freed after use, and a reader that fetches further ahead than it may.
#[test]
fn only_the_ring_is_in_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = Arc::new(checkpoint());
    let config = LoadConfig::default()
        .quant("nf4".parse().expect("a spec"))
        .strategy(Strategy::Streaming)
        .prefetch(AHEAD)
        .stream_from(StreamFrom::Disk(folder.path().to_owned()))
        .source(source);
    let device = Cpu::device(0).expect("there is always a CPU").autodiff();
    let loader = Loader::<Cpu>::on(config, device).expect("a checkpoint");
    let before = COUNTING.live();
    let model = loader.load::<Deep>().expect("a model").model;
    // Before the ring holds anything.
    let base = COUNTING.live();
    let kept = base.saturating_sub(before);
    assert!(
        kept < PACKED,
        "{kept} bytes of {LAYERS} x {PACKED} stayed in memory"
    );

    let step = || {
        let ones = TensorData::new(vec![1e-2_f32; SIDE], [1, SIDE]);
        let x = Tensor::<2>::from_data(ones, &Cpu::device(0).expect("a CPU"));
        let x = x.autodiff().require_grad();
        let layers = &model.layers;
        let (y, most) =
            COUNTING.most(|| layers.iter().fold(x.clone(), |y, layer| layer.forward(y)));
        let forward = most.saturating_sub(base);
        let between = COUNTING.live().saturating_sub(base);
        let gradients = y.sum().backward();
        assert_eq!(x.grad(&gradients).expect("x has one").dims(), [1, SIDE]);
        (forward, between)
    };
    // The first one starts what runs for as long as the program, and learns the order.
    step();
    for _ in 0..3 {
        let (forward, between) = step();
        // Beside them inputs, outputs and scratch of one row each.
        let most = (AHEAD as u64 + 1) * PACKED + PACKED / 2;
        assert!(forward <= most, "{forward} bytes at once, {most} allowed");
        assert!(
            between <= most - PACKED,
            "{between} bytes wait for the way back"
        );
    }
    let Matrix::Streamed(weight) = &model.layers[0].weight else {
        panic!("{:?}", model.layers[0].weight);
    };
    assert_eq!(weight.bytes(), PACKED);
    let stats = weight.ring().stats();
    assert!(stats.weights_peak <= AHEAD + 1, "{stats:?}");
    // Each layer forward and back, four times.
    let lent = stats.ahead + stats.waited + stats.missed;
    assert_eq!(lent, 8 * LAYERS as u64);
}
