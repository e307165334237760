//! Trains an adapter on a model in four bits, in an ordinary loop of Burn, and saves it as peft reads it.
//!
//! The base stays packed, on a device without gradients. The factors are on the device with gradients, and nothing else is
//! trained.
//!
//! ```console
//! $ cargo run --release --example train
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::sync::Arc;

use burn_optim::{AdamWConfig, GradientsParams};
use firebox::{
    Cpu, LoadConfig, Loader,
    adapter::{self, LoraConfig},
    model::{CausalLm, decoder::LossConfig, layers::Documents},
    train::{Data, DataConfig, DataPosition},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lora = LoraConfig::new(8, 16.0).target("*.{q,v}_proj".parse()?);
    let config = LoadConfig::new("assets/tinyrust")
        .quant("nf4".parse()?)
        .adapter(lora.clone());
    let loader = Loader::<Cpu>::new(config)?;
    let data = DataConfig {
        batch: 2,
        length: 64,
        ..DataConfig::new(["assets/burn-book/train.txt"])
    };
    let data = Data::open(data, Arc::new(loader.tokenizer()?))?;
    let loaded = loader.load::<CausalLm>()?;
    let mut model = loaded.model;
    println!("{} values are trained", adapter::trainable_params(&model));

    let mut optimizer = AdamWConfig::new().init();
    let batches = data.batches(DataPosition::default())?;
    for (step, batch) in batches.take(8).enumerate() {
        let (batch, _) = batch?;
        let documents = Documents::new(batch.starts(), batch.shape())?;
        // The sum over all tokens that have a label.
        let loss = model.loss(batch.ids(), batch.labels(), &LossConfig::new(documents))?;
        let loss = loss / batch.trained() as f32;
        println!("step {step}: loss {:.4}", loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(5e-3, model, gradients);
    }
    let folder = std::env::temp_dir().join("firebox-adapter");
    adapter::detach(&mut model, &loaded.adapters[0], &lora, "assets/tinyrust")?.save(&folder)?;
    println!("{}", folder.display());
    Ok(())
}
