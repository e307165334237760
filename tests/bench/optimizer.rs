//! Steps of AdamW on the CPU, with moments in `f32` and in 8 bits.
//!
//! ```console
//! $ cargo bench --bench optimizer           # 10 million values in matrices of 2048 x 1024
//! $ cargo bench --bench optimizer -- 40     # 40 million
//! ```
//!
//! `tests/peers/optimizer_speed.py` measures PyTorch and bitsandbytes on the same shapes. Times are those of the fastest step
//! of 15, since other work on the machine makes steps slower and never faster; they are only printed.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::{env, time::Instant};

use burn::{
    module::{Module, Param},
    tensor::{Device, Distribution, Tensor, TensorData},
};
use burn_optim::GradientsParams;
use firebox::train::Optimizer;

const SHAPE: [usize; 2] = [2048, 1024];
const ROUNDS: usize = 15;

#[derive(Module, Debug)]
struct Matrices {
    all: Vec<Param<Tensor<2>>>,
}

fn main() {
    let millions = env::args().find_map(|arg| arg.parse().ok()).unwrap_or(10);
    let count = (millions * 1_000_000_usize).div_ceil(SHAPE[0] * SHAPE[1]);
    println!("{} values in {count} matrices", count * SHAPE[0] * SHAPE[1]);
    let device = Device::flex();
    let random =
        || Tensor::<2>::random(SHAPE, Distribution::Normal(0.0, 0.01), &device).into_data();
    let (values, gradient) = (random(), random());
    // Memory of its own each time, as after a backward pass.
    let tensor = |data: &TensorData| Tensor::<2>::from_data(data.clone(), &device);
    for spec in ["adamw", "adamw8bit"] {
        let param = |_| Param::from_tensor(tensor(&values).autodiff().require_grad());
        let mut model = Matrices {
            all: (0..count).map(param).collect(),
        };
        let mut optimizer = Optimizer::new(spec.parse().expect(spec));
        let mut fastest = f64::INFINITY;
        for _ in 0..ROUNDS {
            let mut grads = GradientsParams::new();
            for param in &model.all {
                grads.register(param.id, tensor(&gradient));
            }
            let started = Instant::now();
            model = optimizer.step(1e-4, model, grads);
            fastest = fastest.min(started.elapsed().as_secs_f64());
        }
        println!(
            "{spec}: {:.1} ms, {} bytes",
            fastest * 1e3,
            optimizer.bytes()
        );
    }
}
