//! Memory and speed of training an adapter on a model in four bits, and of Burn's own `apply_qlora` on the same model loaded dense.
//! One way a process, so that its peak is its own; `tests/peers/train_speed.py` runs them in turns, with peft between them.
//!
//! ```console
//! $ cargo bench --bench train -- MODEL WAY ROWS LENGTH STEPS
//! ```
//!
//! Ways: `whole` (all logits at once, as an ordinary loop has them), `chunked` (`CausalLm::loss`), `recompute` (that, with layers
//! computed again in the backward pass) and `burn`. All train factors of rank 16 on every projection with AdamW, in `f32`, on tokens
//! drawn with one seed. Prints an object of JSON.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::{env, fs, time::Instant};

use burn::{
    module::{Lora, Module, ParamGroup, QLora, Quantizer},
    tensor::{
        Device, Int, Tensor, TensorData,
        activation::log_softmax,
        quantization::{Calibration, QuantValue},
    },
};
use burn_optim::{AdamWConfig, GradientsParams};
use firebox::{
    Cpu, DType, LoadConfig, Loader, Target,
    adapter::LoraConfig,
    model::{CausalLm, decoder::LossConfig, layers::Documents},
};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

const RANK: usize = 16;
const ALPHA: f64 = 32.0;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [model, way, rows, length, steps] = args.as_slice() else {
        // `cargo bench` without arguments asks every benchmark for something.
        println!("train: name a model, a way, rows, their length and steps");
        return Ok(());
    };
    let shape = [rows.parse()?, length.parse()?];
    let steps: usize = steps.parse()?;
    let mut model = match way.as_str() {
        "burn" => burn_model(model)?,
        "whole" | "chunked" | "recompute" => packed_model(model)?,
        _ => return Err(format!("{way} is no way to train").into()),
    };
    let loaded = status("VmHWM")?;
    let resident = status("VmRSS")?;
    // The peak from here on is that of training.
    fs::write("/proc/self/clear_refs", "5")?;

    let vocabulary = model.embedding.table.shape()[0];
    let ids = drawn(shape[0] * (shape[1] + 1), vocabulary);
    let mut optimizer = AdamWConfig::new().init();
    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        let started = Instant::now();
        let loss = match way.as_str() {
            "whole" | "burn" => whole(&model, &ids, shape),
            way => chunked(&model, &ids, shape, way == "recompute")?,
        };
        losses.push(loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-3, model, gradients);
        seconds.push(started.elapsed().as_secs_f64());
    }
    let peak = status("VmHWM")?;
    println!(
        "{}",
        json!({
            "way": way, "loaded": loaded, "resident": resident, "peak": peak,
            "seconds": seconds, "losses": losses,
        })
    );
    Ok(())
}

/// A model in NF4 with factors beside it.
fn packed_model(model: &str) -> Result<CausalLm, Failure> {
    let config = LoadConfig::new(model)
        .quant("nf4".parse()?)
        .dtype(DType::F32)
        .adapter(LoraConfig::new(RANK, ALPHA));
    let loader = Loader::<Cpu>::new(config)?;
    Ok(loader.load::<CausalLm>()?.model)
}

/// A dense model, whose projections Burn packs in 8 bits and gives factors.
fn burn_model(model: &str) -> Result<CausalLm, Failure> {
    let device = Cpu::device(0)?.autodiff();
    let config = LoadConfig::new(model).dtype(DType::F32);
    let loader = Loader::<Cpu>::on(config, device.clone())?;
    let model = loader.load::<CausalLm>()?.model;
    let projections = || ParamGroup::from_predicate("_proj");
    let scheme = device.settings().quantization.scheme;
    let mut quantizer = Quantizer::new(Calibration::MinMax, scheme.with_value(QuantValue::Q8S));
    quantizer.set_param_group(projections());
    let lora = Lora::new(RANK, ALPHA).set_param_group(projections());
    // Loaded parameters are on a device without gradients; `train` brings the factors to one that has them.
    Ok(model.apply_qlora(QLora::new(lora, quantizer))?.train())
}

/// The mean loss of all tokens, from logits that are there at once.
fn whole(model: &CausalLm, ids: &[u32], [rows, length]: [usize; 2]) -> Tensor<1> {
    let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
    let ids = TensorData::new(ids, [rows, length + 1]);
    let ids = Tensor::<2, Int>::from_data(ids, &Device::flex());
    let logits = model.forward(ids.clone().narrow(1, 0, length));
    let next = ids.narrow(1, 1, length).unsqueeze_dim(2);
    log_softmax(logits, 2).gather(2, next).mean().neg()
}

/// The same from some logits at a time.
fn chunked(
    model: &CausalLm,
    ids: &[u32],
    shape @ [_, length]: [usize; 2],
    recompute: bool,
) -> Result<Tensor<1>, Failure> {
    let rows = || ids.chunks_exact(length + 1);
    let inputs: Vec<u32> = rows().flat_map(|row| &row[..length]).copied().collect();
    let labels: Vec<Option<u32>> = rows()
        .flat_map(|row| &row[1..])
        .map(|id| Some(*id))
        .collect();
    let mut config = LossConfig::new(Documents::whole(shape));
    config.recompute = recompute;
    Ok(model.loss(&inputs, &labels, &config)? / labels.len() as f32)
}

/// Tokens of a linear congruential generator: the same in `train_speed.py`.
fn drawn(count: usize, vocabulary: usize) -> Vec<u32> {
    let mut state = 1_u64;
    let tokens = (0..count).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 33) % vocabulary as u64) as u32
    });
    tokens.collect()
}

/// Bytes of this process that the system counts.
fn status(field: &str) -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .ok_or(field)?;
    Ok(kib.parse::<u64>()? << 10)
}
