//! `--rank`, `--world-size`, `--parallel`: which of several processes this is, and what each holds.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use firebox::{LoadConfig, config::Parallel};

/// Which of several processes this is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RankArgs {
    /// The number of this process among several that hold the model together, from 0. From the variables of the launcher
    /// (torchrun, mpirun, srun) if not given
    #[arg(long, value_name = "RANK")]
    rank: Option<usize>,

    /// How many processes hold the model together; from the launcher if not given
    #[arg(long, value_name = "N")]
    world_size: Option<usize>,

    /// What each process holds: replicate (all), layers (some layers), tensor (some heads and some inner features of each
    /// layer) or shard (an equal share of the bytes of each weight). Without this and the two options before it the
    /// process is alone
    #[arg(long, value_name = "MODE")]
    parallel: Option<Parallel>,

    /// A folder that all processes see: there they agree about model and configuration before a weight is read, and learn of
    /// one that failed or is gone
    #[arg(long, value_name = "DIR")]
    rendezvous: Option<PathBuf>,

    /// Seconds after which a silent process is lost, at a rendezvous and in messages between processes; 60 if not given
    #[arg(long, value_name = "SECONDS")]
    rank_deadline: Option<u64>,
}

impl RankArgs {
    /// Whether each process has a part of the model, and computes with the others.
    pub(crate) fn divides(&self) -> bool {
        let parallel = self.parallel.unwrap_or_default();
        parallel != Parallel::Replicate
    }

    /// How long other processes are waited for, where it is said.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.rank_deadline.map(Duration::from_secs)
    }

    pub(crate) fn in_config(&self, mut config: LoadConfig) -> LoadConfig {
        if let Some(rank) = self.rank {
            config = config.rank(rank);
        }
        if let Some(ranks) = self.world_size {
            config = config.world_size(ranks);
        }
        if let Some(parallel) = self.parallel {
            config = config.parallel(parallel);
        }
        if let Some(folder) = &self.rendezvous {
            config = config.rendezvous(folder);
        }
        if let Some(seconds) = self.rank_deadline {
            config = config.rank_deadline(seconds);
        }
        config
    }
}
