//! What may be written on the command line, and the part that most commands share.

use std::{
    ffi::{OsStr, OsString},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use clap::{
    Args,
    builder::{PathBufValueParser, TypedValueParser},
};
use firebox::{
    DType, LoadConfig, LoadRequest, Rule, Strategy, StreamFrom, Workers,
    adapter::AdapterConfig,
    collective::Collective,
    config::{Budget, Bytes, Expand, KvCacheDtype, Pattern, Reading},
    model::{Architecture, CausalLm, ConfigError},
    observe::JsonLines,
    quant::{QuantSpec, kernels::linear::Compute},
    source::Local,
};

use serde_json::Value;

use crate::{
    Failure, messages,
    old_names::OldNames,
    output::Usage,
    place::PlaceArgs,
    ranks::RankArgs,
    settings::SettingsArgs,
    target::{TargetName, TargetParser},
};

/// A folder of this machine: an address would make a folder of that name.
pub(crate) fn folder_here() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.to_string_lossy().contains("://") {
        true => Err("this is written to a folder of this machine; name one"),
        false => Ok(path),
    })
}

/// Which checkpoint.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// A folder, a .safetensors or .gguf file, a model id of the hub such as meta-llama/Llama-3.2-1B, or an address: s3://bucket/folder,
    /// gs://, az://, https://host/folder, hf://org/model@revision
    pub(crate) model: OsString,

    /// Branch, tag or commit of a model of the hub
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,

    /// Never go to the network: the hub's cache has to have the model
    #[arg(long)]
    offline: bool,

    /// Read a model of the hub where it is, and keep nothing of it on disk; hf:// does the same
    #[arg(long, conflicts_with = "offline")]
    no_cache: bool,

    /// Keep what is read of a model at an address in DIR, for the next time. For a model id of the hub, DIR is the hub's cache
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    cache: Option<PathBuf>,

    /// Bytes of --cache at most, 16GiB if not given: what was not used for the longest time makes room. With it, a model id of the hub is
    /// read like an address
    #[arg(long, value_name = "SIZE", requires = "cache")]
    cache_limit: Option<Bytes>,

    /// New blocks (LLaMA-Pro): blocks=8 makes 8 copies of layers, which change nothing until they are trained;
    /// blocks=8,dense leaves them dense, whatever becomes of the others; dense leaves those dense that the model has
    #[arg(long, value_name = "OPTIONS")]
    pub(crate) expand: Option<Expand>,

    /// Take the weights from DIR and everything else from MODEL: for an expanded folder (LLaMA-Pro) without a config.json,
    /// such as MODEL_blk_exp-32-40
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,

    /// How weights are read from disk: auto, buffered, mapped or direct
    #[arg(long, value_name = "MODE", default_value = "auto")]
    reading: Reading,
}

impl ModelArgs {
    pub(crate) fn config(&self) -> LoadConfig {
        let config = self.another(&self.model);
        let config = match self.expand {
            Some(expand) => config.expand(expand),
            None => config,
        };
        let config = match &self.weights {
            Some(folder) => config.weights(folder),
            None => config,
        };
        match &self.revision {
            Some(revision) => config.revision(revision),
            None => config,
        }
    }

    /// Another model, from the same places.
    pub(crate) fn another(&self, model: &OsStr) -> LoadConfig {
        let config = LoadConfig::new(model.to_string_lossy())
            .reading(self.reading)
            .uncached(self.no_cache);
        let config = match &self.cache {
            Some(folder) => config.cache(folder),
            None => config,
        };
        let config = match self.cache_limit {
            Some(Bytes(limit)) => config.cache_limit(limit),
            None => config,
        };
        // Without the flag the environment decides.
        if self.offline {
            config.offline(true)
        } else {
            config
        }
    }

    /// A request for `model`, whose name need not be UTF-8: then it is a path, and opened here.
    pub(crate) fn request(
        &self,
        config: LoadConfig,
        model: &OsStr,
    ) -> Result<LoadRequest, Failure> {
        match model.to_str() {
            Some(_) => Ok(config.into()),
            None => {
                let source = Local::open(model)?.reading(self.reading);
                Ok(config.source(Arc::new(source)))
            }
        }
    }

    /// The same for a command that needs no configuration.
    pub(crate) fn any(config: LoadConfig, model: &OsStr) -> LoadConfig {
        if Self::is_bare(model) {
            config.bare()
        } else {
            config
        }
    }

    /// Whether a model is a file of tensors, or a folder of such files, without a configuration.
    fn is_bare(model: &OsStr) -> bool {
        if model.to_string_lossy().contains("://") {
            // The library looks whether it has one.
            return true;
        }
        let path = Path::new(model);
        if path.is_file() {
            // A file of llama.cpp has its configuration in it.
            let has_own = path.extension().is_some_and(|end| end == "gguf");
            return !has_own && !path.with_file_name("config.json").exists();
        }
        let weights = [
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "model.bpk",
        ];
        let has = |file: &&str| path.join(file).exists();
        !has(&"config.json") && weights.iter().any(has)
    }
}

/// Which matrices are quantized, whatever the architecture.
#[derive(Debug, Default, Args)]
pub(crate) struct IncludeArgs {
    /// Quantize the matrices that PATTERN names, whatever the architecture, and keep all other tensors. Without this option,
    /// a checkpoint of an unknown architecture has those matrices quantized that look like linear layers
    #[arg(id = "include", long = "include", value_name = "PATTERN")]
    pub(crate) patterns: Vec<Pattern>,
}

impl IncludeArgs {
    /// Whether the files decide about the tensors of a checkpoint with this `config.json`, and no architecture does.
    pub(crate) fn by_files(&self, config: &Value) -> Result<bool, Failure> {
        Ok(!self.patterns.is_empty() || is_unknown(config)?)
    }
}

/// Whether no architecture is known for a checkpoint with this `config.json`. A wrong configuration of a known architecture
/// is an error.
fn is_unknown(config: &Value) -> Result<bool, Failure> {
    match CausalLm::config(config) {
        Ok(_) => Ok(false),
        Err(
            ConfigError::Architecture { .. }
            | ConfigError::Purpose { .. }
            | ConfigError::Unsupported { .. },
        ) => Ok(true),
        Err(ConfigError::Missing { field }) if field == "model_type" => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Which checkpoint, where to, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Where the model goes
    #[arg(long, value_parser = TargetParser, default_value_t)]
    pub(crate) target: TargetName,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,

    /// Type of dense weights and activations: f32, f16 or bf16; the target's own choice if not given. A target that
    /// computes in f32 keeps matrices of halves as they are stored, unless f32 is given
    #[arg(long)]
    dtype: Option<DType>,

    /// Type that the cache keeps keys and values in: f32, f16, bf16 or int8; that of activations if not given. int8 has a factor for
    /// each head of each token
    #[arg(long, alias = "cache-dtype", value_name = "TYPE")]
    kv_cache_dtype: Option<KvCacheDtype>,

    /// What becomes of weights that PATTERN names: a glob over tensor names, a module path, or
    /// role:linear, role:expert, role:router, role:head, role:embedding. The first match wins
    #[arg(long = "rule", value_name = "PATTERN=SPEC")]
    rules: Vec<Rule>,

    /// Leave weights that PATTERN names dense, before any rule
    #[arg(long, value_name = "PATTERN")]
    skip: Vec<Pattern>,

    /// Turn the packed weights of a quantized checkpoint into plain numbers
    #[arg(long)]
    dequantize: bool,

    /// Take packed weights as the source of another quantization, as if the checkpoint had their values in f32: unpacked
    /// some rows at a time and packed as asked, or dense where nothing is asked. Loses what both quantizations lose
    #[arg(long)]
    requantize: bool,

    /// With --quant auto, what to choose from; may be given several times
    #[arg(long = "candidate", value_name = "SPEC")]
    candidates: Vec<QuantSpec>,

    /// An adapter: the folder that peft or this program wrote, DIR=0.7 for a part of its change; may be given several times.
    /// Commands that run a model add it to the products, commands that write or compare weights merge it into them, and finetune
    /// trains it further, or new factors: lora:rank=16,alpha=32,targets=linear
    #[arg(long = "adapter", value_name = "DIR")]
    pub(crate) adapters: Vec<AdapterConfig>,

    /// The arithmetic of products with packed weights on the CPU: f32, bf16 (more than four inputs at once), or int8 (codes as
    /// whole numbers, inputs rounded to bytes in blocks). The weights are the same in each; those that it does not suit are
    /// multiplied in f32, which the plan says
    #[arg(long, value_name = "NAME", default_value_t)]
    pub(crate) compute: Compute,

    /// Balance the columns of linear weights before they are packed (Pre-SINQ): same model, less lost at few bits
    #[arg(long)]
    presinq: bool,

    /// Where finished weights live, and how far ahead the reader may be:
    /// auto (one of the next, chosen by sizes and memories; the plan says which and why),
    /// full (on the device, 256 MiB read ahead), low-memory (on the device, 32 MiB read ahead),
    /// unified-memory (in the memory that host and device share: the host packs, and hands over each weight once), or
    /// streaming (matrices stay packed on the host or in a file, and reach the device when they are needed)
    #[arg(long, value_name = "STRATEGY", default_value = "auto")]
    strategy: Strategy,

    /// How many are fetched ahead of the one in use, 64 at most; 2 if not given: weights with --strategy streaming, and
    /// shards with --read-shard
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=64))]
    prefetch: Option<u8>,

    /// Read shards of about so many bytes, and --prefetch of them ahead: 64MiB. Tiles of 4 MiB if not given
    #[arg(long, value_name = "SIZE")]
    read_shard: Option<Bytes>,

    /// Stream weights from a file in FOLDER instead of host memory; it is gone with the model
    #[arg(long, value_name = "FOLDER")]
    spill: Option<PathBuf>,

    #[command(flatten)]
    ranks: RankArgs,

    /// Host memory that the load may take: 8GiB, 80%; what there is if not given
    #[arg(long, value_name = "BUDGET")]
    host_budget: Option<Budget>,

    /// Memory of the device that the model may take: 8GiB, 80%; what there is if not given. On a CPU, that is host memory
    #[arg(long, value_name = "BUDGET")]
    device_budget: Option<Budget>,

    /// Bytes of source weights in memory at once, instead of the strategy's: 64MiB
    #[arg(long, value_name = "SIZE")]
    in_flight: Option<Bytes>,

    /// Threads that convert weights, 1024 at most; as many as there are cores and work for them if not given
    #[arg(long, value_name = "N", value_parser = workers)]
    workers: Option<NonZeroUsize>,

    /// Write everything that happens to FILE, a JSON object a line
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,

    #[command(flatten)]
    old: OldNames,

    /// That file, once it is there: a command may load several times.
    #[arg(skip)]
    events_file: OnceLock<Arc<JsonLines>>,
}

impl LoadArgs {
    /// Refuses an arithmetic where nothing is multiplied.
    pub(crate) fn refuse_compute(&self, what: &str) -> Result<(), Usage> {
        match self.compute {
            Compute::F32 => Ok(()),
            compute => Err(Usage(format!(
                "--compute {compute} is for commands that run the model, and {what}; leave it out"
            ))),
        }
    }

    pub(crate) fn config(&self, quant: QuantSpec) -> LoadConfig {
        let mut config = self
            .model
            .config()
            .quant(quant)
            .dequantize(self.dequantize)
            .requantize(self.requantize)
            .presinq(self.presinq)
            .compute(self.compute)
            .strategy(self.strategy)
            .workers(self.workers.map_or(Workers::Auto, Workers::Count));
        if let Some(dtype) = self.dtype {
            config = config.dtype(dtype);
        }
        if let Some(dtype) = self.kv_cache_dtype {
            config = config.kv_cache_dtype(dtype);
        }
        if let Some(ahead) = self.prefetch {
            config = config.prefetch(ahead.into());
        }
        if let Some(Bytes(bytes)) = self.read_shard {
            config = config.shard_bytes(bytes);
        }
        if let Some(folder) = &self.spill {
            config = config.stream_from(StreamFrom::Disk(folder.clone()));
        }
        if let Some(budget) = self.host_budget {
            config = config.host_budget(budget);
        }
        if let Some(budget) = self.device_budget {
            config = config.device_budget(budget);
        }
        if let Some(Bytes(bytes)) = self.in_flight {
            config = config.in_flight_bytes_max(bytes);
        }
        for candidate in &self.candidates {
            config = config.candidate(candidate.clone());
        }
        for pattern in &self.skip {
            config = config.skip(pattern.clone());
        }
        for adapter in &self.adapters {
            config = config.adapter(adapter.clone());
        }
        for rule in &self.rules {
            config = config.rule(rule.clone());
        }
        let config = self.place.in_config(config);
        self.old.in_config(self.ranks.in_config(config))
    }

    /// The configuration, observed by the file of events if one was asked for.
    pub(crate) fn request(&self, config: LoadConfig) -> Result<LoadRequest, Failure> {
        let request = self.model.request(config, &self.model.model)?;
        Ok(match &self.events {
            Some(path) => request.observer(self.events_file(path)?),
            None => request,
        })
    }

    /// A request of which products are made: where the model is divided among several processes, with messages between them.
    pub(crate) fn joined(&self, request: LoadRequest) -> Result<LoadRequest, Failure> {
        let ranks = match self.ranks.divides() {
            true => self.messages("computing with a model that is divided")?,
            false => None,
        };
        Ok(match ranks {
            Some(ranks) => request.ranks(ranks),
            None => request,
        })
    }

    /// Messages between the processes that a launcher has started. `needs` is what needs them.
    pub(crate) fn messages(&self, needs: &str) -> Result<Option<Arc<dyn Collective>>, Failure> {
        messages::join(needs, self.ranks.deadline())
    }

    /// Whether several processes hold the model together.
    pub(crate) fn divides(&self) -> bool {
        self.ranks.divides()
    }

    fn events_file(&self, path: &Path) -> Result<Arc<JsonLines>, Failure> {
        if let Some(file) = self.events_file.get() {
            return Ok(Arc::clone(file));
        }
        let file = JsonLines::create(path)
            .map_err(|error| format!("{}: could not be written: {error}", path.display()))?;
        Ok(Arc::clone(self.events_file.get_or_init(|| Arc::new(file))))
    }
}

/// Starting more threads than any machine has cores takes longer than a load.
fn workers(text: &str) -> Result<NonZeroUsize, &'static str> {
    match text.parse() {
        Ok(count) if NonZeroUsize::get(count) <= 1024 => Ok(count),
        _ => Err("write a whole number from 1 to 1024"),
    }
}

/// What becomes of linear weights.
#[derive(Debug, Clone, Args)]
pub(crate) struct QuantArgs {
    /// What becomes of linear weights: none, nf4, fp4, nf4:block=64,nested, fp8:e4m3,scale=tensor,
    /// fp8:e5m2,scale=channel, fp8:e4m3,scale=block, mlx:bits=4,group=64,
    /// hqq:bits=4,group=64, wna16:bits=4,group=128, mxfp4, mxfp8, nvfp4, int8
    #[arg(long, value_name = "SPEC", default_value = "none")]
    pub(crate) quant: QuantSpec,
}

/// Where packed weights are cached.
#[derive(Debug, Clone, Args)]
pub(crate) struct CacheArgs {
    /// Cache packed weights in DIR, in one folder for each model and configuration: the next load of the same model
    /// and configuration reads them instead of packing again
    #[arg(long, value_name = "DIR")]
    cache_packed: Option<PathBuf>,
}

impl CacheArgs {
    pub(crate) fn in_config(&self, config: LoadConfig) -> LoadConfig {
        match &self.cache_packed {
            Some(folder) => config.cache_packed(folder),
            None => config,
        }
    }
}

/// Everything that says how one model is loaded and run.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    cache: CacheArgs,

    #[command(flatten)]
    quant: QuantArgs,
}

impl RunArgs {
    /// The same for a command that computes with the model.
    pub(crate) fn joined(&self) -> Result<LoadRequest, Failure> {
        self.load.joined(self.request()?)
    }

    /// The request for the quantization that is asked for.
    pub(crate) fn request(&self) -> Result<LoadRequest, Failure> {
        let config = self.load.config(self.quant.quant.clone());
        self.load.request(self.cache.in_config(config))
    }
}
