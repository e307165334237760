//! Writes what a run of `firebox finetune` begins with, so that `torch_training.py` can make the same run: its batches, those that it is
//! evaluated on, and its factors as an adapter of peft.
//!
//! ```console
//! $ cargo run --example same_start -- MODEL TRAIN HELD_OUT ROWS LENGTH STEPS SEED ADAPTER OUT
//! ```

use std::{
    env,
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
};

use firebox::{
    Cpu, LoadConfig, Loader,
    adapter::{self, AdapterConfig},
    model::CausalLm,
    train::{Batch, Batches, Data, DataConfig, DataOrder, DataPosition},
};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [model, train, held_out, rows, length, steps, seed, spec, out] = args.as_slice() else {
        return Err("name MODEL TRAIN HELD_OUT ROWS LENGTH STEPS SEED ADAPTER OUT".into());
    };
    let AdapterConfig::Lora(lora) = spec.parse()? else {
        return Err(format!("{spec} is not new").into());
    };
    let lora = lora.seed(seed.parse()?);
    let out = Path::new(out);
    fs::create_dir_all(out)?;
    let loader = Loader::<Cpu>::new(LoadConfig::new(&**model).adapter(lora.clone()))?;

    let tokenizer = Arc::new(loader.tokenizer()?);
    let data = |file: &str, order| -> Result<Data, Failure> {
        let config = DataConfig {
            length: length.parse()?,
            batch: rows.parse()?,
            order,
            ..DataConfig::new([file])
        };
        Ok(Data::open(config, Arc::clone(&tokenizer))?)
    };
    let order = DataOrder::Shuffled {
        seed: seed.parse()?,
    };
    let batches = data(train, order)?.batches(DataPosition::default())?;
    write(&out.join("train.jsonl"), batches, steps.parse()?)?;
    let batches = data(held_out, DataOrder::AsWritten)?.pass()?;
    write(&out.join("held-out.jsonl"), batches, usize::MAX)?;

    let mut loaded = loader.load::<CausalLm>()?;
    let file = adapter::detach(&mut loaded.model, &loaded.adapters[0], &lora, model)?;
    Ok(file.save(&out.join("adapter"))?)
}

/// A line for each of the first batches.
fn write(path: &Path, batches: Batches, count: usize) -> Result<(), Failure> {
    let mut file = BufWriter::new(File::create(path)?);
    for batch in batches.take(count) {
        let batch: Batch = batch?.0;
        let line = json!({
            "shape": batch.shape(), "ids": batch.ids(),
            "labels": batch.labels(), "starts": batch.starts(),
        });
        writeln!(file, "{line}")?;
    }
    Ok(file.flush()?)
}
