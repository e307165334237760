//! What stays in memory between the forward and the backward pass of a packed product, on the host: every
//! allocation of this program is counted, and what is there while a long prompt is compared with itself. On devices, `tests/targets` asks their memory pools.

#![cfg(feature = "cpu")]

#[path = "common/counting.rs"]
mod counting;

use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Tensor, TensorData};
use counting::COUNTING;
use firebox::{
    Cpu, Target,
    model::layers::{Documents, Scores, Sees, Sight, attend},
    quant::{
        PackedWeight,
        kernels::{format::Blocks, packing::Packing},
        ops,
    },
};

/// Counts are those of one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

const SHAPE: [usize; 2] = [2048, 4096];
const DENSE: u64 = (SHAPE[0] * SHAPE[1] * size_of::<f32>()) as u64;

/// Catches a product that keeps its unpacked weight for the backward pass, and a forward pass that unpacks
/// the whole weight in the first place.
#[test]
fn no_dense_weight_waits_for_the_backward_pass() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Catches scores of all queries with all keys, a mask of that shape, and keys that are repeated for each query head.
#[test]
fn memory_of_a_long_prompt_grows_with_its_length() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Cpu::device(0).expect("there is always a CPU");
    let (heads, features) = (8, 16);
    let rows = |n: usize, t: usize| Tensor::<4>::ones([1, n, t, features], (&device, DType::F32));
    let documents = |t: usize| {
        let starts: Vec<u32> = (0..t).map(|k| (k / 1000 * 1000) as u32).collect();
        Sight::new(&Documents::new(&starts, [1, t]).expect("documents"))
    };
    for (sees, packed, soft_cap) in [
        (Sees::All, false, None),
        (Sees::Window(1500), false, Some(30.0)),
        (Sees::Chunk(1024), false, None),
        (Sees::All, true, None),
    ] {
        let scores = Scores {
            scale: 0.25,
            soft_cap,
            sees,
            growth: None,
        };
        let peak = |t| {
            let (q, k, v) = (rows(heads, t), rows(1, t), rows(1, t));
            let sight = if packed {
                documents(t)
            } else {
                Sight::default()
            };
            let (read, peak) = COUNTING.peak(|| attend(q, [k, v], scores, None, &sight));
            assert_eq!(read.dims(), [1, heads, t, features]);
            peak
        };
        // Threads make their scratch once.
        peak(512);
        let [short, long] = [2048, 4096].map(peak);
        let answers = (heads * 4096 * features * size_of::<f32>()) as u64;
        assert!(
            long < 2 * short + short / 10,
            "{scores:?}: {short}, then {long}"
        );
        assert!(
            long < 2 * answers + (4 << 20),
            "{scores:?}: {long}, answers take {answers}"
        );
    }
}
