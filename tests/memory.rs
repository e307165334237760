//! What stays in memory between the forward and the backward pass of a packed product, on the host: every
//! allocation of this program is counted. On devices, `tests/targets` asks their memory pools.

#![cfg(feature = "cpu")]

#[path = "common/counting.rs"]
mod counting;

use burn::tensor::{DType, Tensor, TensorData};
use counting::COUNTING;
use firebox::{
    Cpu, Target,
    quant::{
        PackedWeight,
        kernels::{format::Blocks, packing::Packing},
        ops,
    },
};

const SHAPE: [usize; 2] = [2048, 4096];
const DENSE: u64 = (SHAPE[0] * SHAPE[1] * size_of::<f32>()) as u64;

/// Catches a product that keeps its unpacked weight for the backward pass, and a forward pass that unpacks
/// the whole weight in the first place.
#[test]
fn no_dense_weight_waits_for_the_backward_pass() {
    let device = Cpu::device(0).expect("there is always a CPU").autodiff();
    let packing = Packing::Nf4(Blocks::new("nf4", 64, false).expect("a block size"));
    let packed = {
        let values = (0..SHAPE[0] * SHAPE[1]).map(|k| (k % 97) as f32 - 48.0);
        let data = TensorData::new(values.collect::<Vec<f32>>(), SHAPE);
        let dense = Tensor::<2>::from_data(data, (&device.clone().inner(), DType::F32));
        PackedWeight::quantize(dense, packing).expect("rows of whole blocks")
    };
    let ones = TensorData::new(vec![1.0_f32; SHAPE[1]], [1, SHAPE[1]]);
    let x = Tensor::<2>::from_data(ones, (&device, DType::F32)).require_grad();

    let before = COUNTING.live();
    let (y, peak) = COUNTING.peak(|| ops::linear(x.clone(), &packed));
    let between = COUNTING.live().saturating_sub(before);
    assert!(
        between < DENSE / 64,
        "{between} bytes wait, a dense weight is {DENSE}"
    );
    assert!(
        peak < DENSE / 8,
        "{peak} bytes were used, a dense weight is {DENSE}"
    );

    let gradients = y.sum().backward();
    assert_eq!(x.grad(&gradients).expect("x has one").dims(), [1, SHAPE[1]]);
}
