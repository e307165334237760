//! What the caller asks for: which model, how to quantize it, how much memory to read ahead.

mod auto;
mod budget;
mod open;
mod policy;
mod role;
mod save;
mod size;
mod strategy;
mod verify;

pub use auto::Auto;
pub use budget::{Budget, BudgetError};
pub use policy::{Pattern, Policy, Rule, RuleError};
pub use role::Role;
pub use save::SaveConfig;
pub use size::{Bytes, SizeError};
pub use strategy::{Facts, Keep, Strategy};
pub use verify::{Beyond, Limit, Limits, VerifyConfig};

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use crate::{
    observe::{Observer, Observers},
    place::Shared,
    quant::QuantSpec,
    source::{Reading, Secret, Source},
    target::DType,
};

/// What to load and how.
///
/// ```no_run
/// use firebox::{Cpu, LoadConfig, Loader, model::llama::Llama};
///
/// let config = LoadConfig::new("assets/tinyrust")
///     .quant("nf4:block=64,nested".parse()?)
///     .skip("model.layers.0".parse()?);
/// let loaded = Loader::<Cpu>::new(config)?.load::<Llama>()?;
/// println!("{}", loaded.report);
/// # Ok::<(), firebox::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct LoadConfig {
    pub(crate) model: Model,
    pub(crate) hub: HubOptions,
    pub(crate) dtype: Option<DType>,
    pub(crate) policy: Policy,
    pub(crate) strategy: Strategy,
    pub(crate) keep: Keep,
    pub(crate) prefetch: Option<usize>,
    pub(crate) shard_bytes: Option<u64>,
    pub(crate) host_budget: Option<Budget>,
    pub(crate) device_budget: Option<Budget>,
    pub(crate) workers: Workers,
    pub(crate) in_flight_bytes_max: Option<u64>,
    pub(crate) reading: Reading,
    pub(crate) device: usize,
    pub(crate) allocation_max: Option<u64>,
    pub(crate) bare: bool,
    pub(crate) dequantize: bool,
    pub(crate) presinq: bool,
    pub(crate) candidates: Vec<QuantSpec>,
    pub(crate) verify: Option<VerifyConfig>,
    pub(crate) shared: Option<Shared>,
    pub(crate) observers: Observers,
    pub(crate) cache_packed: Option<PathBuf>,
}

/// Two are enough for one to be used while the next arrives; more only help where sizes differ much.
const PREFETCH: usize = 2;

/// Bytes of a tile that a worker gets at least: below, waking it costs more than its work.
const WORKER_BYTES: u64 = 64 << 10;

/// Where a model is.
#[derive(Debug, Clone)]
pub(crate) enum Model {
    /// A folder or file, or else a model id of the hub.
    Named(String),
    /// Files wherever the caller keeps them.
    Source(Arc<dyn Source>),
}

/// How a model id of the hub is resolved. Ignored for local models.
#[derive(Debug, Clone, Default)]
pub(crate) struct HubOptions {
    pub(crate) revision: Option<String>,
    pub(crate) token: Option<Secret>,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) offline: Option<bool>,
}

/// How many threads convert weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Workers {
    /// As many as the process may run on and the load has work for: one where nothing is converted, or a device converts
    /// everything, and less where a small budget leaves tiles that are too small to share.
    #[default]
    Auto,
    /// This many.
    Count(NonZeroUsize),
}

impl Workers {
    /// Threads that share tiles of `tile` bytes, where the host `converts` at all.
    pub(crate) fn count(self, tile: u64, converts: bool) -> usize {
        let useful = if converts { tile / WORKER_BYTES } else { 1 };
        match self {
            Self::Auto => usize::try_from(useful)
                .unwrap_or(usize::MAX)
                .clamp(1, cores()),
            Self::Count(count) => count.get(),
        }
    }
}

/// Threads that the process may run at once.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

impl LoadConfig {
    /// A model: a folder, a `.safetensors` file, or a model id of the hub such as
    /// `meta-llama/Llama-3.2-1B`. What exists on disk wins.
    pub fn new(model: impl Into<String>) -> Self {
        Self::of(Model::Named(model.into()))
    }

    /// A model in files that the caller keeps wherever it likes.
    pub fn from_source(source: Arc<dyn Source>) -> Self {
        Self::of(Model::Source(source))
    }

    fn of(model: Model) -> Self {
        Self {
            model,
            hub: HubOptions::default(),
            dtype: None,
            policy: Policy::default(),
            strategy: Strategy::default(),
            keep: Keep::default(),
            prefetch: None,
            shard_bytes: None,
            host_budget: None,
            device_budget: None,
            workers: Workers::default(),
            in_flight_bytes_max: None,
            reading: Reading::default(),
            device: 0,
            allocation_max: None,
            bare: false,
            dequantize: false,
            presinq: false,
            candidates: Vec::new(),
            cache_packed: None,
            verify: None,
            shared: None,
            observers: Observers::default(),
        }
    }

    /// Takes weights of no particular model: no `config.json` is looked for. They can be
    /// [saved](crate::Loader::save_tensors), not built into a module.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Type of dense weights and activations; the target's own choice if not given.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// What becomes of linear weights that no rule names. Dense if not given.
    pub fn quant(mut self, quant: QuantSpec) -> Self {
        self.policy.linear = quant;
        self
    }

    /// Adds a rule. The first rule that matches a tensor wins, before [`quant`](Self::quant); rules
    /// reach heads and embeddings too, which `quant` leaves alone.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.policy.rules.push(rule);
        self
    }

    /// Leaves what `pattern` names dense, before any rule.
    pub fn skip(mut self, pattern: Pattern) -> Self {
        self.policy.skip.push(pattern);
        self
    }

    /// Whether the packed weights of a quantized checkpoint become plain numbers again. They are kept packed if
    /// not given.
    pub fn dequantize(mut self, dequantize: bool) -> Self {
        self.dequantize = dequantize;
        self
    }

    /// Adds a candidate for [`QuantSpec::Auto`] to choose from. If none is given they are NF4, MLX's codes of 2 to 8
    /// bits, INT8, FP8 with a scale for each row and `none`; of these, when saving, those that the dialect holds side
    /// by side, and MLX's where no dialect is named.
    pub fn candidate(mut self, quant: QuantSpec) -> Self {
        self.candidates.push(quant);
        self
    }

    /// Whether the columns of linear weights are balanced before they are packed, and what makes their input takes
    /// up the factors: Pre-SINQ, the form of SINQ that costs nothing later. The model computes what it did, but for
    /// rounding, and most formats of 4 bits and fewer lose less. Not if not given.
    ///
    /// Goes by what the architecture says of its [links](crate::model::Architecture::links).
    pub fn presinq(mut self, presinq: bool) -> Self {
        self.presinq = presinq;
        self
    }

    /// Keeps packed weights in `folder`, so that the next load of the same reads them instead of packing again; the module
    /// is the same to the bit. Not if not given.
    ///
    /// Each source and configuration has a folder of its own there, an ordinary quantized checkpoint, which all targets
    /// share. One that is not finished is gone on with, and one that another process writes is waited for. Nothing is
    /// ever removed: to make room, remove folders of `folder`, or all of it. A load without anything to pack does
    /// not use it, and weights that no dialect holds side by side are refused
    /// ([`SaveError::NotKept`](crate::place::SaveError::NotKept)). A method of one's own is known by what `Debug`
    /// prints of it.
    pub fn cache_packed(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache_packed = Some(folder.into());
        self
    }

    /// Where finished weights live. Chosen by sizes and memories if not given.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Where [`Strategy::Streaming`] keeps weights; [`Keep::Host`] if not given.
    pub fn keep(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// How many are fetched ahead of the one in use, 2 if not given: weights of [`Strategy::Streaming`], before the product
    /// that needs them, and shards of a load that has a [`shard_bytes`](Self::shard_bytes). With 0, each is waited for.
    pub fn prefetch(mut self, ahead: usize) -> Self {
        self.prefetch = Some(ahead);
        self
    }

    /// Reads shards of about so many bytes (rows are not cut), and [`prefetch`](Self::prefetch) of them ahead of the one
    /// that is converted, which is what is in flight unless [`in_flight_bytes_max`](Self::in_flight_bytes_max) says less.
    /// If not given, tiles of 4 MiB, as many as the strategy has in flight.
    pub fn shard_bytes(mut self, bytes: u64) -> Self {
        self.shard_bytes = Some(bytes);
        self
    }

    /// How much host memory the load may take.
    pub fn host_budget(mut self, budget: Budget) -> Self {
        self.host_budget = Some(budget);
        self
    }

    /// How much of the device's memory the load may take.
    pub fn device_budget(mut self, budget: Budget) -> Self {
        self.device_budget = Some(budget);
        self
    }

    /// Bytes of source weights in host memory at once, instead of what the strategy says. A tile that
    /// cannot be split any further is let through alone, however large.
    pub fn in_flight_bytes_max(mut self, bytes: u64) -> Self {
        self.in_flight_bytes_max = Some(bytes);
        self
    }

    /// Threads that convert weights. [`Workers::Auto`] if not given.
    pub fn workers(mut self, workers: Workers) -> Self {
        self.workers = workers;
        self
    }

    /// How weights on disk are read. [`Reading::Auto`] if not given. Means nothing to a source of the caller's own.
    pub fn reading(mut self, reading: Reading) -> Self {
        self.reading = reading;
        self
    }

    /// Device index of the target, 0 if not given.
    pub fn device(mut self, index: usize) -> Self {
        self.device = index;
        self
    }

    /// Bytes of the largest allocation on a device, where that should be less than what the device allows:
    /// larger weights are placed in parts. Host targets have no limit.
    pub fn allocation_max(mut self, bytes: u64) -> Self {
        self.allocation_max = Some(bytes);
        self
    }

    /// Compares every packed weight with its source before the module gets it: one that is beyond the limits is packed
    /// as the first fallback that is within them, or ends the load. The source is read once more. Not if not given.
    pub fn verify(mut self, verify: VerifyConfig) -> Self {
        self.verify = Some(verify);
        self
    }

    /// Loads together with others: bytes in flight are counted for all of them, by the bound of `shared`, and weights
    /// that are equal are held once.
    pub fn share(mut self, shared: &Shared) -> Self {
        self.shared = Some(shared.clone());
        self
    }

    /// Adds somebody who is told of every event and may cancel.
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Branch, tag or commit of a model of the hub, `main` if not given.
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.hub.revision = Some(revision.into());
        self
    }

    /// Access token for the hub, from the usual places if not given.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.hub.token = Some(Secret(token.into()));
        self
    }

    /// Cache folder for the hub, the one Python uses if not given.
    pub fn cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.hub.cache = Some(folder.into());
        self
    }

    /// Whether the hub may be asked at all, `HF_HUB_OFFLINE` if not given.
    pub fn offline(mut self, offline: bool) -> Self {
        self.hub.offline = Some(offline);
        self
    }

    /// What is fetched ahead of what is in use.
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
