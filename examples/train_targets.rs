//! Trains the same adapter on every target that is compiled in: the target is a type.
//!
//! ```console
//! $ cargo run --release --example train_targets --features vulkan
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use burn::tensor::{Int, Tensor, TensorData, activation::log_softmax};
use burn_optim::{AdamWConfig, GradientsParams};
use firebox::{
    LoadConfig, Loader, Target, adapter::LoraConfig, model::CausalLm, text::SpecialTokens,
};

type Failure = Box<dyn std::error::Error>;

const SENTENCE: &str = "The Burn Book describes how a model is trained on every device there is.";

fn main() -> Result<(), Failure> {
    train::<firebox::Cpu>()?;
    #[cfg(feature = "vulkan")]
    train::<firebox::Vulkan>()?;
    Ok(())
}

fn train<T: Target>() -> Result<(), Failure> {
    let config = LoadConfig::new("assets/tinyrust")
        .quant("nf4".parse()?)
        .adapter(LoraConfig::new(4, 8.0));
    let loader = Loader::<T>::new(config)?;
    let ids = loader.tokenizer()?;
    let ids = ids.encode(SENTENCE, SpecialTokens::Omit)?;
    let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
    let next = ids.len() - 1;
    let ids = TensorData::new(ids, [1, next + 1]);
    let ids = Tensor::<2, Int>::from_data(ids, loader.device());
    let mut model = loader.load::<CausalLm>()?.model;
    let mut optimizer = AdamWConfig::new().init();
    for step in 0..5 {
        let logits = model.forward(ids.clone().narrow(1, 0, next));
        let next = ids.clone().narrow(1, 1, next).unsqueeze_dim(2);
        let loss = log_softmax(logits, 2).gather(2, next).mean().neg();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(5e-3, model, gradients);
        println!(
            "{} step {step}: loss {:.4}",
            T::NAME,
            loss.into_scalar::<f32>()
        );
    }
    Ok(())
}
