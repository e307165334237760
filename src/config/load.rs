//! What to load and how.

use std::{collections::BTreeSet, path::PathBuf};

use firebox_kernels::{arith::float::DType, linear::Compute};
use serde::{Deserialize, Serialize};

use super::quant::QuantSpec;
use super::{
    AdapterConfig, Budget, DeviceMap, Expand, HubConfig, KvCacheDtype, MaxMemory, Parallel,
    Pattern, Policy, RankConfig, Reading, Rule, Strategy, StreamFrom, VerifyConfig, Workers,
    hub::Secret,
};

/// What to load and how: plain data, which can be written to a file and read again.
///
/// A source of the caller's, observers and memory that several loads share are no data:
/// [`source`](Self::source), [`observer`](Self::observer) and [`share`](Self::share) make a
/// [`LoadRequest`](crate::LoadRequest), which holds both.
///
/// ```no_run
/// use firebox::{Cpu, LoadConfig, Loader, model::CausalLm};
///
/// let config = LoadConfig::new("assets/tinyrust")
///     .quant("nf4:block=64,nested".parse()?)
///     .skip("model.layers.0".parse()?);
/// let loaded = Loader::<Cpu>::new(config)?.load::<CausalLm>()?;
/// println!("{}", loaded.report);
/// # Ok::<(), firebox::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadConfig {
    pub(crate) model: String,
    /// Whether there is no `config.json`.
    pub(crate) bare: bool,
    /// The folder of the weights, where that is not the model's.
    pub(crate) weights: Option<PathBuf>,
    pub(crate) hub: HubConfig,
    pub(crate) pack: PackConfig,
    pub(crate) place: PlaceConfig,
    pub(crate) read: ReadConfig,
    pub(crate) adapters: Vec<AdapterConfig>,
    pub(crate) expand: Option<Expand>,
    pub(crate) ranks: RankConfig,
}

/// What becomes of the weights. The plan reads it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PackConfig {
    pub(crate) dtype: Option<DType>,
    pub(crate) policy: Policy,
    pub(crate) candidates: Vec<QuantSpec>,
    pub(crate) dequantize: bool,
    pub(crate) requantize: bool,
    pub(crate) presinq: bool,
    pub(crate) compute: Compute,
    pub(crate) verify: Option<VerifyConfig>,
    /// Folder of the cache of packed weights.
    pub(crate) cache: Option<PathBuf>,
}

/// Where finished weights live, and the memory that they may take.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PlaceConfig {
    /// Indices of the devices; none where nothing is said of them.
    pub(crate) devices: Vec<usize>,
    pub(crate) max_memory: Option<MaxMemory>,
    pub(crate) device_map: Option<DeviceMap>,
    /// Sequences at once, and tokens of each, that cache and activations need room for.
    pub(crate) context: Option<[usize; 2]>,
    /// The type of keys and values in a cache.
    pub(crate) kv_cache_dtype: Option<KvCacheDtype>,
    pub(crate) strategy: Strategy,
    pub(crate) stream_from: StreamFrom,
    pub(crate) host_budget: Option<Budget>,
    pub(crate) device_budget: Option<Budget>,
    pub(crate) allocation_max: Option<u64>,
}

impl PlaceConfig {
    /// The indices of the devices: those that were said, else those that have a limit or a part of the map, else the first.
    pub(crate) fn resolved_devices(&self) -> Vec<usize> {
        if !self.devices.is_empty() {
            return self.devices.clone();
        }
        let limited = self.max_memory.iter().flat_map(|limits| &limits.devices);
        let limited = limited.map(|(index, _)| *index);
        let mapped = self.device_map.iter().flat_map(DeviceMap::indices);
        let all: BTreeSet<usize> = limited.chain(mapped).collect();
        match all.is_empty() {
            true => vec![0],
            false => all.into_iter().collect(),
        }
    }

    /// Whether weights are spread by a map, and not by the strategy alone.
    pub(crate) fn is_mapped(&self) -> bool {
        self.devices.len() > 1 || self.max_memory.is_some() || self.device_map.is_some()
    }
}

/// How weights are read and converted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ReadConfig {
    pub(crate) reading: Reading,
    pub(crate) workers: Workers,
    pub(crate) in_flight_bytes_max: Option<u64>,
    pub(crate) shard_bytes: Option<u64>,
    pub(crate) prefetch: Option<usize>,
}

/// Two are enough for one to be used while the next arrives; more only help where sizes differ much.
const PREFETCH: usize = 2;

impl ReadConfig {
    /// Weights or shards that are fetched ahead of the one in use.
    pub(crate) fn resolved_prefetch(&self) -> usize {
        self.prefetch.unwrap_or(PREFETCH)
    }

    /// Bytes in flight, where the strategy is `strategy`.
    pub(crate) fn resolved_in_flight_bytes_max(&self, strategy: Strategy) -> u64 {
        let shards = |shard: u64| shard.saturating_mul(self.resolved_prefetch() as u64 + 1);
        let limits = [self.shard_bytes.map(shards), self.in_flight_bytes_max];
        let asked = limits.into_iter().flatten().min();
        asked.unwrap_or(strategy.in_flight_bytes_max())
    }
}

impl LoadConfig {
    /// A model: a folder, a `.safetensors` or `.gguf` file, a model id of the hub such as `meta-llama/Llama-3.2-1B`, or an address:
    /// `s3://bucket/folder`, `gs://…`, `az://…`, `https://host/folder`, `hf://org/name@revision` ([Sources](crate::_docs::sources)). What
    /// exists on disk wins over an id.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            ..Self::default()
        }
    }

    /// Takes tensors that belong to no particular model, without a `config.json`. They can be
    /// [saved](crate::Loader::save_tensors), not built into a module. At an address, a `config.json` that is there is read all the same.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Type of dense weights and activations; the target's own choice if not given. A target that computes in `f32` keeps
    /// matrices of halves as they are stored, unless `f32` is given here.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.pack.dtype = Some(dtype);
        self
    }

    /// Quantization of linear weights that no rule names. Dense if not given.
    pub fn quant(mut self, quant: QuantSpec) -> Self {
        self.pack.policy.linear = quant;
        self
    }

    /// The quantization of linear weights that no rule names.
    pub fn linear_quant(&self) -> &QuantSpec {
        &self.pack.policy.linear
    }

    /// The strategy that is asked for.
    pub fn asked_strategy(&self) -> Strategy {
        self.place.strategy
    }

    /// Adds a rule. The first rule that matches a tensor wins, before [`quant`](Self::quant); rules
    /// reach heads and embeddings too, which `quant` leaves alone.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.pack.policy.rules.push(rule);
        self
    }

    /// Leaves the tensors that `pattern` names dense, before any rule.
    pub fn skip(mut self, pattern: Pattern) -> Self {
        self.pack.policy.skip.push(pattern);
        self
    }

    /// Whether the packed weights of a quantized checkpoint are dequantized. They stay packed if not given.
    pub fn dequantize(mut self, dequantize: bool) -> Self {
        self.pack.dequantize = dequantize;
        self
    }

    /// Whether packed weights are taken as the source of another quantization, as if the checkpoint had their values in
    /// `f32`: they are unpacked some rows at a time and packed as asked, and those that nothing is asked for become dense.
    /// The result is that of a dequantized checkpoint in `f32`, quantized, to the byte, without that checkpoint. Loses what
    /// both quantizations lose; without it a packed weight for which another quantization is asked is refused.
    pub fn requantize(mut self, requantize: bool) -> Self {
        self.pack.requantize = requantize;
        self
    }

    /// Adds a candidate for [`QuantSpec::Auto`] to choose from. If none is given they are NF4, MLX's codes of 2 to 8
    /// bits, INT8, FP8 with a scale for each row and `none`; of these, when saving, those that the dialect holds side
    /// by side, and MLX's where no dialect is named.
    pub fn candidate(mut self, quant: QuantSpec) -> Self {
        self.pack.candidates.push(quant);
        self
    }

    /// Whether the columns of linear weights are balanced before they are packed (Pre-SINQ, the form of SINQ that costs
    /// nothing later): the layer before a matrix takes up the factors. The model computes the same but for rounding, and
    /// most formats of 4 bits and fewer lose less. Not if not given.
    ///
    /// Which layer comes before a matrix is said by the [links](crate::model::Architecture::links) of the architecture.
    pub fn presinq(mut self, presinq: bool) -> Self {
        self.pack.presinq = presinq;
        self
    }

    /// The arithmetic of products with packed weights, on a host target; [`Compute::F32`] if not given, which is exact but for
    /// the order of sums. The weights are the same in each. A weight that `compute` does not suit is multiplied in `f32`: the
    /// plan and the report say which are. A device has an arithmetic of its own, and takes no other.
    pub fn compute(mut self, compute: Compute) -> Self {
        self.pack.compute = compute;
        self
    }

    /// The arithmetic that is asked for.
    pub fn asked_compute(&self) -> Compute {
        self.pack.compute
    }

    /// Caches packed weights in `folder`: the next load with the same source and configuration reads them instead of
    /// packing again, and makes the same module to the bit. Not if not given.
    ///
    /// Each source and configuration has its own folder there, an ordinary quantized checkpoint that all targets
    /// share. A load resumes a folder that is not finished, and waits for one that another process writes. Nothing is
    /// ever removed: to make room, remove folders of `folder`, or all of it. A load that packs nothing does
    /// not use the cache, and weights that no dialect can hold in one checkpoint are refused
    /// ([`SaveError::NotCacheable`](crate::place::SaveError::NotCacheable)). A custom method is recognised by its `Debug` text.
    pub fn cache_packed(mut self, folder: impl Into<PathBuf>) -> Self {
        self.pack.cache = Some(folder.into());
        self
    }

    /// Where finished weights live. Chosen by sizes and memories if not given.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.place.strategy = strategy;
        self
    }

    /// Where [`Strategy::Streaming`] keeps weights; [`StreamFrom::Host`] if not given.
    pub fn stream_from(mut self, from: StreamFrom) -> Self {
        self.place.stream_from = from;
        self
    }

    /// How many weights or shards are fetched ahead of the one in use, 2 if not given: weights of
    /// [`Strategy::Streaming`], before the product that needs them, and shards of a load that has a
    /// [`shard_bytes`](Self::shard_bytes). With 0 nothing is fetched ahead.
    pub fn prefetch(mut self, ahead: usize) -> Self {
        self.read.prefetch = Some(ahead);
        self
    }

    /// Reads shards of about `bytes` bytes (rows are not cut), [`prefetch`](Self::prefetch) of them ahead of the one
    /// that is converted. Bytes in flight are then `bytes * (prefetch + 1)`, unless
    /// [`in_flight_bytes_max`](Self::in_flight_bytes_max) is less. If not given, reads tiles of 4 MiB, as many as the
    /// strategy has in flight.
    pub fn shard_bytes(mut self, bytes: u64) -> Self {
        self.read.shard_bytes = Some(bytes);
        self
    }

    /// How much host memory the load may take.
    pub fn host_budget(mut self, budget: Budget) -> Self {
        self.place.host_budget = Some(budget);
        self
    }

    /// How much of the device's memory the load may take. A target that computes in the host's memory keeps within both
    /// budgets.
    pub fn device_budget(mut self, budget: Budget) -> Self {
        self.place.device_budget = Some(budget);
        self
    }

    /// Bytes of source weights in host memory at once, instead of the number that the strategy has. A tile that
    /// cannot be split any further passes alone, however large.
    pub fn in_flight_bytes_max(mut self, bytes: u64) -> Self {
        self.read.in_flight_bytes_max = Some(bytes);
        self
    }

    /// Threads that convert weights. [`Workers::Auto`] if not given.
    pub fn workers(mut self, workers: Workers) -> Self {
        self.read.workers = workers;
        self
    }

    /// How weights on disk are read. [`Reading::Auto`] if not given. Custom sources ignore it.
    pub fn reading(mut self, reading: Reading) -> Self {
        self.read.reading = reading;
        self
    }

    /// Device index of the target, 0 if not given.
    pub fn device(self, index: usize) -> Self {
        self.devices([index])
    }

    /// Device indices of the target, over which layers are spread. If not given: those of [`max_memory`](Self::max_memory) and of an
    /// explicit [map](Self::device_map), or 0.
    ///
    /// ```
    /// use firebox::{Cpu, LoadConfig, Loader, model::CausalLm};
    ///
    /// let config = LoadConfig::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tinyrust")).devices([0, 1]);
    /// let report = Loader::<Cpu>::new(config)?.load::<CausalLm>()?.report;
    /// assert_eq!(report.devices[0].layers, [0, 1]);
    /// assert_eq!(report.devices[1].layers, [2, 3]);
    /// # Ok::<(), firebox::Error>(())
    /// ```
    pub fn devices(mut self, indices: impl IntoIterator<Item = usize>) -> Self {
        self.place.devices = indices.into_iter().collect();
        self
    }

    /// How much of each memory the model may take, cache and activations included. If not given, devices have what they have
    /// ([`device_budget`](Self::device_budget) limits each), and the rest goes to host memory, then to the folder of
    /// [`StreamFrom::Disk`] if there is one.
    pub fn max_memory(mut self, limits: MaxMemory) -> Self {
        self.place.max_memory = Some(limits);
        self
    }

    /// Which part of the model goes to which device; [`DeviceMap::Balanced`] if not given and there are several.
    pub fn device_map(mut self, map: DeviceMap) -> Self {
        self.place.device_map = Some(map);
        self
    }

    /// Sequences at once, and tokens of each, for whose cache and activations a [map](Self::device_map) leaves room: one sequence
    /// of 4096 tokens, or as many as the model has positions, if not given.
    pub fn context(mut self, sequences: usize, tokens: usize) -> Self {
        self.place.context = Some([sequences, tokens]);
        self
    }

    /// The type that caches of the model keep keys and values in; that of activations if not given. [`KvCacheDtype::Int8`] takes a
    /// quarter of `f32`, and rounds each head of each token by itself.
    pub fn kv_cache_dtype(mut self, dtype: KvCacheDtype) -> Self {
        self.place.kv_cache_dtype = Some(dtype);
        self
    }

    /// Bytes of the largest allocation on a device, where that should be less than the device's own limit:
    /// larger weights are placed in parts. Host targets have no limit.
    pub fn allocation_max(mut self, bytes: u64) -> Self {
        self.place.allocation_max = Some(bytes);
        self
    }

    /// Compares every packed weight with its source before the module gets it. A weight that is beyond the limits is
    /// packed as the first fallback that is within them; without one the load ends. The source is read once more. Not
    /// if not given.
    pub fn verify(mut self, verify: VerifyConfig) -> Self {
        self.pack.verify = Some(verify);
        self
    }

    /// Adds an adapter: new factors, or those of a folder. A load puts it beside the weights ([`adapter`](crate::adapter)), and
    /// new factors are trained, on the device with gradients. A save and a comparison merge the adapters of folders into
    /// the weights, before these are packed: dense ones as peft merges into their type, unpacked ones in `f32`.
    pub fn adapter(mut self, adapter: impl Into<AdapterConfig>) -> Self {
        self.adapters.push(adapter.into());
        self
    }

    /// New blocks (LLaMA-Pro): copies of some layers, in which the matrices that end the halves of a layer are zero, so that the
    /// model computes what it computed before. The loader, its plan and its saves see the expanded model.
    ///
    /// New blocks are packed like the others unless [`dense`](Expand::dense) is asked for, which training needs
    /// ([`train_blocks`](crate::adapter::train_blocks)). Where the checkpoint has its weights packed, the zeros are dense.
    ///
    /// ```
    /// use firebox::{Cpu, LoadConfig, Loader, config::Expand, model::CausalLm};
    ///
    /// let config = LoadConfig::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tinyrust"))
    ///     .quant("nf4".parse()?)
    ///     .expand(Expand::blocks(2).dense());
    /// let loaded = Loader::<Cpu>::new(config)?.load::<CausalLm>()?;
    /// assert_eq!(loaded.new_blocks, [2, 5]);
    /// # Ok::<(), firebox::Error>(())
    /// ```
    pub fn expand(mut self, expand: Expand) -> Self {
        self.expand = Some(expand);
        self
    }

    /// Takes the weights, the `.safetensors` files and their index, from another folder, and everything else from the model:
    /// for an expanded folder without a `config.json`, as the scripts of LLaMA-Pro write it beside a model. Where the folder has
    /// more layers than the model, its new blocks are found by its name, `…_blk_exp-32-40`, or by the two numbers of layers.
    pub fn weights(mut self, folder: impl Into<PathBuf>) -> Self {
        self.weights = Some(folder.into());
        self
    }

    /// The number of this process among several that hold the model together, from 0; together with
    /// [`world_size`](Self::world_size). With [`parallel`](Self::parallel) alone, both come from the environment of the
    /// launcher ([`ranks`](crate::ranks) lists whose).
    pub fn rank(mut self, rank: usize) -> Self {
        self.ranks.rank = Some(rank);
        self
    }

    /// How many processes hold the model together.
    pub fn world_size(mut self, ranks: usize) -> Self {
        self.ranks.world_size = Some(ranks);
        self
    }

    /// What each of several processes holds; [`Parallel::Replicate`] if only their number is given. Without any of the three
    /// the process is alone, whatever the environment says.
    pub fn parallel(mut self, parallel: Parallel) -> Self {
        self.ranks.parallel = Some(parallel);
        self
    }

    /// A folder that all ranks see. There they agree about model, configuration and version before a weight is read, and
    /// learn of a rank that failed or is gone. If not given, nothing compares them.
    pub fn rendezvous(mut self, folder: impl Into<PathBuf>) -> Self {
        self.ranks.rendezvous = Some(folder.into());
        self
    }

    /// Seconds after which a silent rank is lost: one that does not come to the [`rendezvous`](Self::rendezvous), and one
    /// that writes the shared [cache](Self::cache_packed) and makes no progress. 60 if not given.
    pub fn rank_deadline(mut self, seconds: u64) -> Self {
        self.ranks.deadline_seconds = Some(seconds);
        self
    }

    /// Branch, tag or commit of a model of the hub, `main` if not given.
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.hub.revision = Some(revision.into());
        self
    }

    /// Access token for the hub, from the usual places if not given. It is not written with the configuration.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.hub.token = Some(Secret(token.into()));
        self
    }

    /// Bytes of the cache of parts of files, for models that are read where they are: those at an address, and with a limit models of
    /// the hub too. 16 GiB if not given. Needs a [`cache`](Self::cache).
    pub fn cache_limit(mut self, bytes: u64) -> Self {
        self.hub.cache_limit = Some(bytes);
        self
    }

    /// Cache folder: for a model id of the hub the one that Python uses, if not given; for a model at an address a folder for parts of
    /// its files, of which nothing is kept if not given.
    pub fn cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.hub.cache = Some(folder.into());
        self
    }

    /// Whether a model of the hub is read where it is, and nothing of it is kept in the cache; as `hf://org/name` is. Kept if not given.
    pub fn uncached(mut self, uncached: bool) -> Self {
        self.hub.uncached = uncached;
        self
    }

    /// Whether to stay off the network and use the hub's cache only, `HF_HUB_OFFLINE` if not given.
    pub fn offline(mut self, offline: bool) -> Self {
        self.hub.offline = Some(offline);
        self
    }
}
