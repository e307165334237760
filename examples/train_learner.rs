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
    tensor::{Device, Int, Tensor},
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

/// The module that is trained. Its records hold the trained values of the model and nothing else.
#[derive(Module, Debug)]
struct Tuner {
    model: Trained<CausalLm>,
}

impl InferenceStep for Tuner {
    type Input = Tensor<2, Int>;
    type Output = SequenceOutput;

    fn step(&self, ids: Tensor<2, Int>) -> SequenceOutput {
        let (loss, logits, next) = self.model.next_tokens(ids);
        SequenceOutput::new(loss, logits, None, next)
    }
}

impl TrainStep for Tuner {
    type Input = Tensor<2, Int>;
    type Output = SequenceOutput;

    fn step(&self, ids: Tensor<2, Int>) -> TrainOutput<SequenceOutput> {
        let output = InferenceStep::step(self, ids);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

struct Stack;

impl Batcher<Tensor<1, Int>, Tensor<2, Int>> for Stack {
    fn batch(&self, rows: Vec<Tensor<1, Int>>, _: &Device) -> Tensor<2, Int> {
        Tensor::stack(rows, 0)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = LoadConfig::new("assets/tinyrust").quant("nf4".parse()?);
    let loader = Loader::<Cpu>::new(config.adapter(LoraConfig::new(8, 16.0)))?;
    let text = include_str!("../assets/burn-book/held-out.txt");
    let ids = loader.tokenizer()?.encode(text, SpecialTokens::Omit)?;
    let rows = |ids: &[u32]| {
        let rows = ids.chunks_exact(65);
        let rows = rows.map(|row| Tensor::from_data(row, loader.device()));
        let batches = DataLoaderBuilder::new(Stack).batch_size(2).shuffle(1);
        batches.build(InMemDataset::new(rows.collect()))
    };
    let training =
        SupervisedTraining::new("target/learner", rows(&ids[..520]), rows(&ids[520..650]))
            .metrics((LossMetric::new(),))
            .with_default_checkpointers()
            .with_application_logger(None)
            .num_epochs(2);
    let model = Trained::new(loader.load::<CausalLm>()?.model);
    let learner = Learner::new(Tuner { model }, AdamWConfig::new().init(), 1e-3);
    let trained = training.launch(learner).model;
    println!("{} values were trained", trained.num_params());
    Ok(())
}
