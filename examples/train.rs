//! Trains an adapter on a model in four bits, in an ordinary loop of Burn, and saves it as peft reads it.
//!
//! The base stays packed, on a device without gradients. The factors are on the device with gradients, and nothing else is
//! trained.
//!
//! ```console
//! $ cargo run --release --example train
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use burn::tensor::{Int, Tensor, TensorData, activation::log_softmax};
use burn_optim::{AdamWConfig, GradientsParams};
use firebox::{
    Cpu, LoadConfig, Loader, Target,
    adapter::{self, LoraConfig},
    model::CausalLm,
    text::SpecialTokens,
};

const STEPS: usize = 8;
const LENGTH: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    train::<Cpu>()
}

fn train<T: Target>() -> Result<(), Box<dyn std::error::Error>> {
    let lora = LoraConfig::new(8, 16.0).target("*.{q,v}_proj".parse()?);
    let config = LoadConfig::new("assets/tinyrust")
        .quant("nf4".parse()?)
        .adapter(lora.clone());
    let loader = Loader::<T>::new(config)?;
    let ids = loader
        .tokenizer()?
        .encode(include_str!("own_module.rs"), SpecialTokens::Include)?;
    let loaded = loader.load::<CausalLm>()?;
    let mut model = loaded.model;
    println!("{} values are trained", adapter::trainable_params(&model));

    let mut optimizer = AdamWConfig::new().init();
    // The same two again and again, so that the loss falls within seconds.
    let texts = ids.chunks_exact(LENGTH + 1).take(2).cycle();
    for (step, ids) in texts.take(STEPS).enumerate() {
        let loss = loss(&model, ids, loader.device());
        println!("step {step}: loss {:.4}", loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-3, model, gradients);
    }
    let folder = std::env::temp_dir().join("firebox-adapter");
    adapter::detach(&mut model, &loaded.adapters[0], &lora, "assets/tinyrust")?.save(&folder)?;
    println!("{}", folder.display());
    Ok(())
}

/// The mean of minus the logarithm of the probability of each next token.
fn loss(model: &CausalLm, ids: &[u32], device: &burn::tensor::Device) -> Tensor<1> {
    let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, LENGTH + 1]), device);
    let logits = model.forward(ids.clone().narrow(1, 0, LENGTH));
    let next = ids.narrow(1, 1, LENGTH).unsqueeze_dim(2);
    log_softmax(logits, 2).gather(2, next).mean().neg()
}
