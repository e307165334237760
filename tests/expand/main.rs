//! New blocks: models that compute what they computed before, their folders, and training of the new blocks alone.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;

mod folders;
mod models;
mod names;
mod trained;

use std::path::Path;

use firebox::{
    Cpu, Error, LoadConfig, Loaded, Loader,
    config::{Expand, SaveConfig},
    model::{CausalLm, decoder::Spec},
};

use tempfile::TempDir;

use crate::common::{Golden, ids, values};

/// A checkpoint with these options.
fn config(folder: &Path, quant: &str) -> LoadConfig {
    LoadConfig::new(folder.to_string_lossy()).quant(quant.parse().expect(quant))
}

fn load(config: LoadConfig) -> Result<Loaded<CausalLm>, Error> {
    Loader::<Cpu>::new(config)?.load()
}

/// The same with so many new blocks.
fn expanded(config: LoadConfig, blocks: usize) -> LoadConfig {
    config.expand(Expand::blocks(blocks))
}

/// Formats that a checkpoint may have, in several dialects.
const PACKED: [&str; 7] = [
    "nf4",
    "nf4:block=64,nested",
    "int8",
    "mlx:bits=4,group=64",
    "hqq:bits=4,group=64",
    "wna16:bits=4,group=32",
    "fp8:e4m3,scale=channel",
];

/// A checkpoint that has its weights packed.
fn packed(quant: &str) -> TempDir {
    packed_of(Golden("llama_bf16_untied"), quant)
}

fn packed_of(golden: Golden, quant: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let base = config(&golden.path(""), quant);
    let loader = Loader::<Cpu>::new(base).expect(quant);
    let saved = loader.save::<CausalLm>(&SaveConfig::new(folder.path()));
    saved.unwrap_or_else(|error| panic!("{quant}: {error}"));
    folder
}

/// Logits of a text of 24 tokens.
fn logits(model: &CausalLm) -> Vec<f32> {
    let Spec { vocabulary, .. } = model.spec;
    let text = (0..24).map(|nth| (nth * 37 + 5) % vocabulary as u32);
    values(model.forward(ids(&[text.collect()])))
}
