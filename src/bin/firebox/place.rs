//! Which devices a model goes to, and how much of each memory it may take.

use std::{num::NonZeroUsize, path::Path};

use clap::Args;
use firebox::{
    LoadConfig,
    config::{DeviceMap, MaxMemory},
};

/// Which devices, and what goes where.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlaceArgs {
    /// Device index of the target; 0 if not given
    #[arg(long, value_name = "INDEX", conflicts_with = "devices")]
    device: Option<usize>,

    /// Device indices of the target, over which layers are spread: 0,1. For finetune with --parallel replicate or shard: a rank each, with
    /// rows of its own
    #[arg(long, value_name = "INDICES", value_delimiter = ',')]
    devices: Vec<usize>,

    /// How much of each memory the model may take, cache and activations included: 0=20GiB,1=80%,cpu=60GiB,disk. Matrices that no
    /// device holds go to host memory (cpu) and then to the folder of --spill (disk), and come to a device when they are needed. If not
    /// given, devices have what they have, and host memory has the rest
    #[arg(long, value_name = "LIMITS")]
    max_memory: Option<MaxMemory>,

    /// What goes to which device: auto or balanced, balanced-low-0 (the first gets what the others do not hold), sequential,
    /// PATTERN=0,PATTERN=cpu,… (the longest pattern that names a tensor wins), or a JSON file of names and devices, as
    /// accelerate's device_map
    #[arg(long, value_name = "MAP", value_parser = device_map)]
    device_map: Option<DeviceMap>,

    /// Leave room on the devices for cache and activations of so many tokens, or of several sequences: 8192, 4x8192; 4096 if not
    /// given. Counts where layers are spread or memory is limited by --max-memory
    #[arg(id = "context-room", long = "context-room", value_name = "TOKENS", value_parser = context)]
    context: Option<[usize; 2]>,
}

impl PlaceArgs {
    pub(crate) fn in_config(&self, config: LoadConfig) -> LoadConfig {
        let mut config = match (self.device, &self.devices[..]) {
            (Some(index), _) => config.device(index),
            (None, []) => config,
            (None, devices) => config.devices(devices.iter().copied()),
        };
        if let Some(limits) = &self.max_memory {
            config = config.max_memory(limits.clone());
        }
        if let Some(map) = &self.device_map {
            config = config.device_map(map.clone());
        }
        if let Some([sequences, tokens]) = self.context {
            config = config.context(sequences, tokens);
        }
        config
    }

    /// Whether any device is asked for.
    pub(crate) fn is_given(&self) -> bool {
        self.device.is_some()
            || !self.devices.is_empty()
            || self.max_memory.is_some()
            || self.device_map.is_some()
    }

    /// Whether room is asked for.
    pub(crate) fn has_context(&self) -> bool {
        self.context.is_some()
    }
}

/// A map, or a file that has one.
fn device_map(text: &str) -> Result<DeviceMap, String> {
    let parsed = text.parse::<DeviceMap>();
    if parsed.is_err() && Path::new(text).is_file() {
        let read = std::fs::read_to_string(text);
        let json = read.map_err(|error| format!("could not be read: {error}"))?;
        return json.parse::<DeviceMap>().map_err(|error| error.to_string());
    }
    parsed.map_err(|error| error.to_string())
}

/// `8192` or `4x8192`.
fn context(text: &str) -> Result<[usize; 2], &'static str> {
    let (sequences, tokens) = text.split_once('x').unwrap_or(("1", text));
    let [sequences, tokens] = [sequences, tokens].map(|number| number.parse::<NonZeroUsize>());
    match (sequences, tokens) {
        (Ok(sequences), Ok(tokens)) if tokens.get() <= 1 << 32 && sequences.get() <= 1 << 16 => {
            Ok([sequences.get(), tokens.get()])
        }
        _ => Err("write a number of tokens, or sequences and tokens: 8192, 4x8192"),
    }
}
