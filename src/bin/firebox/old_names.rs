//! Flags of the Python FP8 loader, each of which stands for one of ours: `migration.md` has the table.

use clap::Args;
use firebox::{DType, LoadConfig, Strategy, config::Parallel, ranks::started};

const HEADING: &str = "Flags of the Python FP8 loader";

/// Flags under their old names.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct OldNames {
    /// Short for --devices, with blanks: MODEL --device-ids 0 1
    #[arg(long, value_name = "INDEX", num_args = 1.., conflicts_with_all = ["devices", "device"], help_heading = HEADING)]
    device_ids: Vec<usize>,

    /// Short for --read-shard, in units of 10^9 bytes
    #[arg(long, value_name = "GB", value_parser = gigabytes, conflicts_with = "read_shard", help_heading = HEADING)]
    shard_size_gb: Option<u64>,

    /// Short for --strategy low-memory
    #[arg(long, conflicts_with = "strategy", help_heading = HEADING)]
    memory_efficient: bool,

    /// Short for --dtype bf16
    #[arg(long, conflicts_with = "dtype", help_heading = HEADING)]
    mixed_precision: bool,

    /// Short for --parallel replicate where a launcher has started several processes; nothing where it has not
    #[arg(long, conflicts_with = "parallel", help_heading = HEADING)]
    use_ddp: bool,
}

impl OldNames {
    pub(crate) fn in_config(&self, mut config: LoadConfig) -> LoadConfig {
        if !self.device_ids.is_empty() {
            config = config.devices(self.device_ids.iter().copied());
        }
        if let Some(bytes) = self.shard_size_gb {
            config = config.shard_bytes(bytes);
        }
        if self.memory_efficient {
            config = config.strategy(Strategy::LowMemory);
        }
        if self.mixed_precision {
            config = config.dtype(DType::Bf16);
        }
        // What is wrong with the variables of a launcher is said by the load.
        if self.use_ddp && started().unwrap_or(2) > 1 {
            config = config.parallel(Parallel::Replicate);
        }
        config
    }
}

/// Bytes of so many gigabytes of 10^9 bytes, one at least.
fn gigabytes(text: &str) -> Result<u64, &'static str> {
    match text.parse::<f64>().map(|gigabytes| gigabytes * 1e9) {
        Ok(bytes) if (1.0..u64::MAX as f64).contains(&bytes) => Ok(bytes as u64),
        _ => Err("write a number above 0, such as 4 or 0.5"),
    }
}
