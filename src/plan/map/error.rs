//! Maps that cannot be followed.

use crate::config::Bytes;

/// A model that cannot be spread as it is asked for. Nothing was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A device that is there twice.
    #[error("device {index} is named twice; name each device once")]
    DeviceTwice {
        /// Its index.
        index: usize,
    },
    /// A device that is not among those of the load.
    #[error(
        "{by} names device {index}, and the devices are {}; add it to them, or take it out",
        listed(indices)
    )]
    Unlisted {
        /// What names it.
        by: &'static str,
        /// Its index.
        index: usize,
        /// The devices of the load.
        indices: Vec<usize>,
    },
    /// A share of a memory of unknown size.
    #[error(
        "{share} of device {index}: {target} does not tell how much memory it has; give a size such as 8GiB"
    )]
    UnknownMemory {
        /// The share.
        share: String,
        /// The index of the device.
        index: usize,
        /// [`Target::NAME`](crate::Target::NAME).
        target: String,
    },
    /// More than a memory has.
    #[error("{memory} is allowed {}, and has {}; allow no more than it has", Bytes(*limit), Bytes(*has))]
    Beyond {
        /// The memory.
        memory: String,
        /// Bytes that are allowed.
        limit: u64,
        /// Bytes that there are.
        has: u64,
    },
    /// A pattern of the map that names no tensor.
    #[error("`{pattern}` of the device map names no tensor of {model}; correct it, or take it out")]
    Idle {
        /// The pattern.
        pattern: String,
        /// The checkpoint.
        model: String,
    },
    /// Tensors that the map sends nowhere.
    #[error(
        "the device map names no device for {tensor}{}; add its module, or *=0 for the rest",
        match count {
            1 => String::new(),
            count => format!(" and {} more tensors", count - 1),
        }
    )]
    Uncovered {
        /// The first of them.
        tensor: String,
        /// How many there are.
        count: usize,
    },
    /// A layer on two devices.
    #[error(
        "{unit} stays together on one device, and the device map sends {first} and {second} apart; send both to one of them"
    )]
    Apart {
        /// The layer, or what is before or after all layers.
        unit: String,
        /// A tensor, and its device.
        first: String,
        /// Another one, and its device.
        second: String,
    },
    /// A head on another device than the embedding that it is.
    #[error(
        "{head} is {table}, one weight, and the device map sends it to {to} and the other elsewhere; send both to one device"
    )]
    Tied {
        /// The tensor of the embedding.
        table: String,
        /// The tensor that the head would have.
        head: String,
        /// Where the map sends the head.
        to: String,
    },
    /// A model whose parts are not known.
    #[error(
        "this architecture does not say which of its tensors stay together (`Architecture::units`), so it goes to one device without a map"
    )]
    NoUnits,
    /// Weights are to stay on disk, and no folder is named.
    #[error(
        "weights may go to disk, and no folder is named for them; add --spill FOLDER (`LoadConfig::stream_from`)"
    )]
    NoFolder,
    /// A strategy that leaves nothing on devices.
    #[error(
        "the strategy streaming keeps no matrix on a device, so there is nothing to map; leave the strategy out, and matrices that do not fit the \
         devices are streamed"
    )]
    Streaming,
    /// A layer that is larger than any device.
    #[error(
        "{unit} takes {}, and the most that a device may have is {} (device {index}){}; allow more, quantize to fewer bits, or let host memory \
         have what does not fit (cpu=SIZE)",
        Bytes(*needed), Bytes(*limit), beside(*cache, *activations)
    )]
    Layer {
        /// The layer, or what is before or after all layers.
        unit: String,
        /// Bytes that it takes with its cache and activations.
        needed: u64,
        /// Of these, its cache.
        cache: u64,
        /// Of these, activations.
        activations: u64,
        /// The index of the device that has most.
        index: usize,
        /// Bytes that it may have.
        limit: u64,
    },
    /// A map that sends more to a device than it may have.
    #[error("the device map sends {} to device {index}, which may have {}{}; send less there, or allow more", Bytes(*needed), Bytes(*limit), beside(*cache, *activations))]
    Full {
        /// The index of the device.
        index: usize,
        /// Bytes that it would have, with the largest weight that streams to it, cache and activations.
        needed: u64,
        /// Of these, caches.
        cache: u64,
        /// Of these, activations.
        activations: u64,
        /// Bytes that it may have.
        limit: u64,
    },
    /// A device that is too small even for what comes and goes.
    #[error(
        "device {index} may have {} and needs {} for weights that come and go, the largest of which is {tensor}, and for what stays beside them{}; \
         allow more, or quantize to fewer bits",
        Bytes(*limit), Bytes(*needed), beside(*cache, *activations)
    )]
    Passing {
        /// The index of the device.
        index: usize,
        /// Bytes that it may have.
        limit: u64,
        /// Bytes that it needs at least.
        needed: u64,
        /// Of these, caches.
        cache: u64,
        /// Of these, activations.
        activations: u64,
        /// The largest weight that comes and goes.
        tensor: String,
    },
    /// More weights than all memories hold.
    #[error("{} of weights do not fit: {} are left over from {unit} on, and {held}; {advice}", Bytes(*weights), Bytes(*left))]
    NoRoom {
        /// Bytes of all weights.
        weights: u64,
        /// Bytes that no memory has room for.
        left: u64,
        /// The first layer of them.
        unit: String,
        /// What each memory may have.
        held: String,
        /// What to do.
        advice: &'static str,
    },
}

fn listed(indices: &[usize]) -> String {
    let indices: Vec<String> = indices.iter().map(usize::to_string).collect();
    indices.join(", ")
}

fn beside(cache: u64, activations: u64) -> String {
    match cache + activations {
        0 => String::new(),
        _ => {
            let [cache, activations] = [cache, activations].map(Bytes);
            format!(", with {cache} of cache and {activations} of activations")
        }
    }
}
