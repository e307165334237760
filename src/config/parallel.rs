//! Several processes that hold one model together: how many there are, which one this is, and what each holds.

use core::{fmt, str::FromStr, time::Duration};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What each of several processes (ranks) holds of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Parallel {
    /// All of it.
    #[default]
    Replicate,
    /// Some layers, one after another: a stage of a pipeline.
    Layers,
    /// Some heads and some inner features of every layer: columns and rows of its matrices.
    Tensor,
    /// An equal share of the bytes of every finished weight, which are gathered layer by layer.
    Shard,
}

impl Parallel {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Replicate, "replicate"),
        (Self::Layers, "layers"),
        (Self::Tensor, "tensor"),
        (Self::Shard, "shard"),
    ];
}

impl fmt::Display for Parallel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(mode, _)| mode == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Parallel {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found
            .map(|(mode, _)| *mode)
            .ok_or("write replicate, layers, tensor or shard")
    }
}

/// One of several processes that hold a model together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranks {
    /// The number of this process, from 0.
    pub rank: usize,
    /// How many there are.
    pub world_size: usize,
    /// What each holds.
    pub parallel: Parallel,
}

/// What the caller says about ranks. What is left open comes from the environment of the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RankConfig {
    pub(crate) rank: Option<usize>,
    pub(crate) world_size: Option<usize>,
    pub(crate) parallel: Option<Parallel>,
    /// The folder where ranks meet.
    pub(crate) rendezvous: Option<PathBuf>,
    pub(crate) deadline_seconds: Option<u64>,
}

/// A rank that is silent for so long is lost.
const DEADLINE_SECONDS: u64 = 60;

impl RankConfig {
    /// How long other ranks are waited for.
    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_seconds.unwrap_or(DEADLINE_SECONDS))
    }
}
