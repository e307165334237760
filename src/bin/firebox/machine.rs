//! The machine that a plan is made for: this one, or one that is stated; and what the model is to do there.

use clap::Args;
use firebox::{
    adapter::AdapterConfig,
    config::{Bytes, DeviceMemories, StatedMemory},
    quant::QuantSpec,
    recommend::Task,
    target::{KnownTarget, MemoryKind, Target},
};

use crate::Failure;

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

/// What the model is to do beside being loaded.
#[derive(Debug, Clone, Args)]
pub(crate) struct TaskArgs {
    /// Count the memory of so many sequences at once; 1 if not given, with --train 4
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: Option<u32>,

    /// Count the memory of a pass of so many tokens, prompt and cache
    #[arg(long, value_name = "L", value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    length: Option<u64>,

    /// Count the memory of training an adapter: lora:rank=16, or the folder of one that is trained further
    #[arg(long, value_name = "ADAPTER")]
    train: Option<AdapterConfig>,

    /// With --train: layers are computed again for their gradients
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", requires = "train")]
    recompute: Option<bool>,
}

impl MachineArgs {
    pub(crate) fn stated(&self, target: KnownTarget) -> Option<StatedMemory> {
        let devices = self.device_memory.clone()?;
        let memory = StatedMemory::new(devices);
        Some(match (self.host_memory, target.memory()) {
            (Some(Bytes(bytes)), _) => memory.host(bytes),
            // Its devices are the host.
            (None, MemoryKind::Host) => {
                let bytes = memory.devices.bytes().iter().sum();
                memory.host(bytes)
            }
            (None, MemoryKind::Device) => memory,
        })
    }
}

impl TaskArgs {
    /// Sequences and tokens, where they are said.
    pub(crate) fn size(&self) -> Option<[usize; 2]> {
        let length = usize::try_from(self.length?).unwrap_or(usize::MAX);
        Some([self.batch.unwrap_or(1) as usize, length])
    }

    pub(crate) fn task(&self, quant: Option<QuantSpec>) -> Result<Task, Failure> {
        let mut task = Task::new();
        if let Some(batch) = self.batch {
            if self.length.is_none() && self.train.is_none() && quant.is_none() {
                return Err(
                    "--batch counts with --length or --train: say how many tokens a sequence has"
                        .into(),
                );
            }
            task = task.batch(batch as usize);
        }
        if let Some(length) = self.length {
            task = task.length(usize::try_from(length)?);
        }
        if let Some(adapter) = &self.train {
            task = task.train(adapter.clone());
        }
        if let Some(quant) = quant {
            task = task.quant(quant);
        }
        if let Some(recompute) = self.recompute {
            task = task.recompute(recompute);
        }
        Ok(task)
    }
}

/// The memory of the devices of this machine.
pub(crate) fn of_this_machine<T: Target>() -> Result<StatedMemory, Failure> {
    let looked = firebox::target::MemoryTracker::<T>::all()?.look();
    let devices = looked.iter().filter(|reading| reading.index.is_some());
    let bytes = devices.map(|reading| {
        reading.total.ok_or_else(|| {
            format!(
                "the driver of {} does not tell its memory; state it, as in --device-memory 24GiB",
                T::NAME
            )
        })
    });
    let devices = DeviceMemories::new(bytes.collect::<Result<_, _>>()?)?;
    Ok(StatedMemory::new(devices))
}

fn some_bytes(text: &str) -> Result<Bytes, String> {
    match text.parse() {
        Ok(Bytes(0)) => Err("a machine has some memory".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}
