//! The machine that a plan is made for: this one, or one that is stated; and how much the model is to do there.

use clap::Args;
use firebox::{
    config::{Bytes, DeviceMemories, StatedMemory},
    model::PassSize,
};

/// The memory of a machine that need not be this one.
#[derive(Debug, Clone, Args)]
pub(crate) struct MachineArgs {
    /// Plan for devices with this memory, whatever this machine has: 24GiB,24GiB or 8x80GiB. Targets that this build lacks can
    /// be planned for too
    #[arg(long, value_name = "SIZES")]
    pub(crate) device_memory: Option<DeviceMemories>,

    /// Plan for a host with this memory; that of this machine if not given
    #[arg(long, value_name = "SIZE", value_parser = some_bytes, requires = "device_memory")]
    host_memory: Option<Bytes>,
}

/// How much goes through the model at once.
#[derive(Debug, Clone, Args)]
pub(crate) struct PassArgs {
    /// Count the memory of a pass of so many sequences; 1 if --length is given alone
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=65536), requires = "length")]
    batch: Option<u32>,

    /// Count the memory of a pass of so many tokens, prompt and cache
    #[arg(long, value_name = "L", value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    length: Option<u64>,
}

impl MachineArgs {
    pub(crate) fn stated(&self) -> Option<StatedMemory> {
        let devices = self.device_memory.clone()?;
        let memory = StatedMemory::new(devices);
        Some(match self.host_memory {
            Some(Bytes(bytes)) => memory.host(bytes),
            None => memory,
        })
    }
}

impl PassArgs {
    pub(crate) fn size(&self) -> Option<PassSize> {
        Some(PassSize {
            batch: self.batch.unwrap_or(1) as usize,
            length: usize::try_from(self.length?).unwrap_or(usize::MAX),
        })
    }
}

fn some_bytes(text: &str) -> Result<Bytes, String> {
    match text.parse() {
        Ok(Bytes(0)) => Err("a machine has some memory".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}
