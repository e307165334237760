//! `firebox synth`: write a synthetic checkpoint.

use std::path::PathBuf;

use clap::Args;
use firebox::{
    config::Bytes,
    synth::{Like, Options, write},
};

use crate::{Failure, args::folder_here, output, progress::Bar};

#[derive(Debug, Args)]
pub(crate) struct SynthCommand {
    /// The model whose shapes to take: llama-3-8b, llama-3.2-1b, qwen2.5-7b, mistral-7b, qwen3-30b-a3b,
    /// tinyrust
    #[arg(long, value_name = "MODEL", default_value = "llama-3-8b")]
    like: Like,

    /// Bytes of the whole checkpoint: as many layers as fit
    #[arg(long, value_name = "SIZE")]
    size: Bytes,

    /// Bytes of a shard
    #[arg(long, value_name = "SIZE", default_value_t = Bytes(Options::DEFAULT_SHARD_BYTES))]
    shard_size: Bytes,

    /// Another seed, other numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// A folder that is empty or not there yet
    #[arg(long, value_parser = folder_here(), value_name = "DIR")]
    out: PathBuf,
}

impl SynthCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let options = Options {
            shard_bytes: self.shard_size.0,
            seed: self.seed,
            ..Options::new(self.like, self.size.0, &self.out)
        };
        let bar = Bar::new();
        let written = write(&options, &mut |done, total| bar.at(done, total));
        bar.clear();
        let summary = written?;
        output::line(format_args!(
            "{}: {} layers, vocabulary {}, {} tensors, {} in {} shards",
            self.out.display(),
            summary.layers,
            summary.vocab,
            summary.tensors,
            Bytes(summary.total_bytes),
            summary.shards
        ))
    }
}
