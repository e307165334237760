//! Steps of AdamW on the CPU, with moments in `f32` and in 8 bits.
//!
//! ```console
//! $ cargo bench --bench optimizer           # 10 million values in matrices of 2048 x 1024
//! $ cargo bench --bench optimizer -- 40     # 40 million
//! ```
//!
//! `tests/peers/optimizer_speed.py` measures PyTorch and bitsandbytes on the same shapes. Times are those of the fastest step of 15, since
//! other work on the machine makes steps slower and never faster; they are only printed.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::{env, time::Instant};

use burn::{
    module::{Module, Param},
    tensor::{Device, Distribution, Tensor},
};
use burn_optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use firebox::train::{Optimizer, optimizer::clip};

const SHAPE: [usize; 2] = [2048, 1024];
const ROUNDS: usize = 15;

#[derive(Module, Debug)]
struct Matrices {
    all: Vec<Param<Tensor<2>>>,
}

fn main() {
    let millions = env::args().find_map(|arg| arg.parse().ok()).unwrap_or(10);
    let device = Device::flex();
    let random = || Tensor::<2>::random(SHAPE, Distribution::Normal(0.0, 0.01), &device);
    let count = (millions * 1_000_000_usize).div_ceil(SHAPE[0] * SHAPE[1]);
    let values: Vec<_> = (0..count).map(|_| random()).collect();
    let gradients: Vec<_> = (0..count).map(|_| random()).collect();
    let module = || Matrices {
        all: values
            .iter()
            // A copy of its own, as after a backward pass.
            .map(|values| Param::from_tensor((values.clone() + 0.0).autodiff().require_grad()))
            .collect(),
    };
    let grads = |model: &Matrices| {
        let mut grads = GradientsParams::new();
        for (param, grad) in model.all.iter().zip(&gradients) {
            grads.register(param.id, grad.clone() + 0.0);
        }
        grads
    };
    println!("{} values in {count} matrices", count * SHAPE[0] * SHAPE[1]);
    for spec in ["adamw", "adamw8bit"] {
        let mut optimizer = Optimizer::new(spec.parse().expect(spec));
        let seconds = steps(module(), grads, |model, grads| {
            optimizer.step(1e-4, model, grads)
        });
        println!(
            "{spec}: {:.1} ms, {} bytes",
            seconds * 1e3,
            optimizer.bytes()
        );
    }
    let mut optimizer: ModuleOptimizer = AdamWConfig::new().init();
    let seconds = steps(module(), grads, |model, grads| {
        optimizer.step(1e-4, model, grads)
    });
    println!("AdamW of burn-optim: {:.1} ms", seconds * 1e3);
    let seconds = steps(module(), grads, |model, mut grads| {
        clip(&model, &mut grads, 0.5, Some(1.0)).expect("finite");
        model
    });
    println!("clip: {:.1} ms", seconds * 1e3);
}

/// The seconds of the fastest step.
fn steps(
    mut model: Matrices,
    grads: impl Fn(&Matrices) -> GradientsParams,
    mut step: impl FnMut(Matrices, GradientsParams) -> Matrices,
) -> f64 {
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        let grads = grads(&model);
        let started = Instant::now();
        model = step(model, grads);
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.into_iter().fold(f64::INFINITY, f64::min)
}
