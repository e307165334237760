//! `firebox inspect`: what a checkpoint is made of.

use std::collections::BTreeMap;

use clap::Args;
use firebox::{
    config::Bytes,
    dialect,
    model::CausalLm,
    plan,
    source::{Checkpoint, SourceExt},
};
use serde_json::{Value, json};

use crate::{Failure, args::ModelArgs, output};

#[derive(Debug, Args)]
pub(crate) struct InspectCommand {
    #[command(flatten)]
    model: ModelArgs,

    /// List every tensor
    #[arg(long)]
    tensors: bool,

    /// Print JSON, every tensor included
    #[arg(long)]
    json: bool,
}

impl InspectCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let config = ModelArgs::any(self.model.config(), &self.model.model);
        let checkpoint = self.model.request(config, &self.model.model)?.open()?;
        if self.json {
            let answer = value(&checkpoint);
            let fetched = checkpoint.source().fetched();
            output::json(&output::WithFetched { answer, fetched })
        } else {
            self.print(&checkpoint)?;
            output::fetched(checkpoint.source().fetched())
        }
    }

    fn print(&self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let text = |field: &str| match &checkpoint.config()[field] {
            Value::Null => "unknown".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let catalog = checkpoint.catalog();
        output::line(checkpoint.source().describe())?;
        output::line(format_args!(
            "{}, {} tensors, {} in {} files",
            text("model_type"),
            catalog.len(),
            Bytes(checkpoint.total_bytes()),
            checkpoint.files().len()
        ))?;
        for field in [
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
        ] {
            output::line(format_args!("  {field}: {}", text(field)))?;
        }
        match dialect::detect(checkpoint.config(), catalog) {
            Ok(None) => {}
            Ok(Some(dialect)) => output::line(format_args!("  quantized by: {}", dialect.name()))?,
            // What is shown is there all the same.
            Err(error) => output::line(format_args!("  quantized, but not readable: {error}"))?,
        }
        for note in notes(checkpoint) {
            output::line(format_args!("  note: {note}"))?;
        }
        let types = by_type(checkpoint).into_iter();
        let rows = types.map(|(dtype, (tensors, bytes))| {
            vec![dtype, tensors.to_string(), Bytes(bytes).to_string()]
        });
        output::line(output::table(&["type", "tensors", "bytes"], &[1, 2], rows))?;
        if self.tensors {
            let rows = catalog.iter().map(|tensor| {
                vec![
                    tensor.name.to_string(),
                    tensor.dtype.to_string(),
                    format!("{:?}", tensor.shape),
                    tensor.file.to_string(),
                    Bytes(tensor.bytes()).to_string(),
                ]
            });
            output::line(output::table(
                &["tensor", "type", "shape", "file", "bytes"],
                &[4],
                rows,
            ))?;
        }
        Ok(())
    }
}

/// Tensors and bytes of every type.
fn by_type(checkpoint: &Checkpoint) -> BTreeMap<String, (usize, u64)> {
    let mut types = BTreeMap::new();
    for tensor in checkpoint.catalog() {
        let (tensors, bytes) = types.entry(tensor.dtype.to_string()).or_insert((0, 0));
        *tensors += 1;
        *bytes += tensor.bytes();
    }
    types
}

/// Oddities of the files, a sentence each.
fn notes(checkpoint: &Checkpoint) -> Vec<String> {
    let names = plan::names_note::<CausalLm>(checkpoint);
    checkpoint.notes().into_iter().chain(names).collect()
}

fn value(checkpoint: &Checkpoint) -> Value {
    let files: Vec<Value> = checkpoint
        .files()
        .iter()
        .map(|file| json!({ "name": &*file.name, "bytes": file.bytes, "metadata": file.metadata }))
        .collect();
    let tensors: Vec<Value> = checkpoint
        .catalog()
        .iter()
        .map(|tensor| {
            json!({
                "name": &*tensor.name,
                "dtype": tensor.dtype.to_string(),
                "shape": tensor.shape,
                "file": &*tensor.file,
                "offset": tensor.range.start,
                "bytes": tensor.bytes(),
            })
        })
        .collect();
    json!({
        "model": checkpoint.source().describe(),
        "bytes": checkpoint.total_bytes(),
        "config": checkpoint.config_to_show(),
        "files": files,
        "notes": notes(checkpoint),
        "tensors": tensors,
    })
}
