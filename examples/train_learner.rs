//! Trains an adapter with Burn's `Learner`: its loop, metrics, and checkpoints that hold the adapter alone.
//!
//! ```console
//! $ cargo run --release --example train_learner
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use burn::{
    data::{
        dataloader::{DataLoaderBuilder, batcher::Batcher},
        dataset::InMemDataset,
    },
    module::Module,
    tensor::{Device, Int, Tensor, TensorData, activation::log_softmax},
};
use burn_optim::AdamWConfig;
use burn_train::{
    InferenceStep, Learner, SequenceOutput, SupervisedTraining, TrainOutput, TrainStep,
    metric::LossMetric,
};
use firebox::{
    Cpu, LoadConfig, Loader,
    adapter::{LoraConfig, Trained},
    model::CausalLm,
    text::SpecialTokens,
};

/// What the `Learner` trains. Only the trained values of the model are in its records.
#[derive(Module, Debug)]
struct Tuner {
    model: Trained<CausalLm>,
}

impl TrainStep for Tuner {
    type Input = Tensor<2, Int>;
    type Output = SequenceOutput;

    fn step(&self, ids: Tensor<2, Int>) -> TrainOutput<SequenceOutput> {
        let output = InferenceStep::step(self, ids);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Tuner {
    type Input = Tensor<2, Int>;
    type Output = SequenceOutput;

    fn step(&self, ids: Tensor<2, Int>) -> SequenceOutput {
        let length = ids.dims()[1] - 1;
        let logits = self.model.forward(ids.clone().narrow(1, 0, length));
        let next = ids.narrow(1, 1, length);
        let likely = log_softmax(logits.clone(), 2).gather(2, next.clone().unsqueeze_dim(2));
        SequenceOutput::new(likely.mean().neg(), logits, None, next)
    }
}

/// Stacks rows of equally many tokens.
struct Stack;

impl Batcher<Vec<i32>, Tensor<2, Int>> for Stack {
    fn batch(&self, rows: Vec<Vec<i32>>, device: &Device) -> Tensor<2, Int> {
        let shape = [rows.len(), rows[0].len()];
        Tensor::from_data(TensorData::new(rows.concat(), shape), device)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = LoadConfig::new("assets/tinyrust")
        .quant("nf4".parse()?)
        .adapter(LoraConfig::new(8, 16.0));
    let loader = Loader::<Cpu>::new(config)?;
    let text = include_str!("own_module.rs");
    let ids = loader.tokenizer()?.encode(text, SpecialTokens::Omit)?;
    let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
    let rows: Vec<Vec<i32>> = ids.chunks_exact(33).map(<[i32]>::to_vec).collect();
    let batches = |rows: &[Vec<i32>]| {
        let loader = DataLoaderBuilder::new(Stack).batch_size(2).shuffle(1);
        loader.build(InMemDataset::new(rows.to_vec()))
    };
    let (train, valid) = rows.split_at(8);

    let folder = tempfile::tempdir()?;
    let training = SupervisedTraining::new(folder.path(), batches(train), batches(&valid[..2]))
        .metrics((LossMetric::new(),))
        .with_default_checkpointers()
        .with_application_logger(None)
        .num_epochs(2);
    let model = Trained::new(loader.load::<CausalLm>()?.model);
    let learner = Learner::new(Tuner { model }, AdamWConfig::new().init(), 1e-3);
    let result = training.launch(learner);
    println!("{} values were trained", result.model.num_params());
    let checkpoint = folder.path().join("checkpoint/model-2.bpk");
    println!("a checkpoint: {} bytes", checkpoint.metadata()?.len());
    Ok(())
}
