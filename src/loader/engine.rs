//! One load: its configuration, checkpoint and device. It knows targets as values, so that its code is compiled once for
//! all of them.

use std::sync::{Arc, OnceLock};

use super::{
    LoadRequest,
    allowance::{Allowance, cores},
    devices::OpenDevices,
};
use crate::{
    collective::Collective,
    config::{Expand, KvCacheDtype, LoadConfig, PackConfig, Pattern, StatedMemory, Workers},
    container::{self, ContainerError},
    dialect::{self, Dialect},
    error::Error,
    expand,
    model::{Architecture, CausalLm, PassMeans, Stacks},
    observe::{Event, Observer, Observers, tell},
    pipeline::{self, PipelineError, Settings, Sink, Timing},
    place::Shared,
    plan::{NameReading, Plan, is_inside, read_names},
    prepare,
    quant::{Mixture, QuantSpec},
    ranks::{Launched, launched},
    report::{LoadReport, Recording, RunFacts},
    source::{Checkpoint, CheckpointError, Source, SourceError, SourceExt},
    target::{Capabilities, DType, DTypeChoice, KnownTarget, MemoryKind, Target, TargetError},
};

/// One load.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    pub(super) config: LoadConfig,
    pub(super) shared: Option<Shared>,
    pub(super) observers: Observers,
    /// The checkpoint under the names of the files.
    pub(super) opened: Checkpoint,
    /// The checkpoint under the names of the model, where the first model that was asked for has others.
    pub(super) named: OnceLock<Option<Checkpoint>>,
    pub(super) dialect: Option<Arc<dyn Dialect>>,
    pub(super) target: TargetFacts,
    pub(super) devices: OpenDevices,
    /// What all devices can do.
    pub(super) capabilities: Capabilities,
    pub(super) dtype: DTypeChoice,
    /// The files that the tokenizer was made from, once it was.
    pub(super) tokenizer: OnceLock<String>,
    /// The layers that are new.
    pub(super) new_blocks: Vec<usize>,
    /// The weights that become dense although the checkpoint has them packed.
    pub(super) dense: Vec<Pattern>,
    /// A tensor of a head that differs from the embedding although the configuration ties them, once they were compared.
    pub(super) untied: OnceLock<Option<String>>,
    /// Whether the checkpoint is a module, whose words stay as they are where the policy asks for their format.
    pub(super) is_module: bool,
    /// The memory of a machine that need not be this one, for plans alone.
    pub(super) stated: Option<StatedMemory>,
    /// Which of several ranks this process is.
    pub(super) launched: Option<Launched>,
    /// The other ranks, where there are messages between them.
    pub(super) messages: Option<Arc<dyn Collective>>,
}

/// A [`Target`] as a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct TargetFacts {
    /// [`Target::NAME`].
    pub(super) name: &'static str,
    /// [`Target::MEMORY`].
    pub(super) memory: MemoryKind,
}

/// Replaces a mixture of block types by those of the layers of the model.
fn mix(pack: &mut PackConfig, checkpoint: &Checkpoint) -> Result<(), ContainerError> {
    let mixed = pack.candidates.iter().find_map(|quant| match quant {
        QuantSpec::Mixture(mixture) => Some((*mixture, "a candidate is one quantization")),
        _ => None,
    });
    let unknown = |mixture: Mixture, reason: String| ContainerError::Mixture {
        mixture: mixture.to_string(),
        reason,
    };
    if let Some((mixture, reason)) = mixed {
        return Err(unknown(mixture, reason.to_owned()));
    }
    let QuantSpec::Mixture(mixture) = pack.policy.linear else {
        return Ok(());
    };
    let spec = CausalLm::config(checkpoint.config());
    let spec = spec.map_err(|error| unknown(mixture, error.to_string()))?;
    let has = |name: &str| checkpoint.catalog().get(name).is_some();
    let spec = CausalLm::named(spec, &has);
    container::mix(&mut pack.policy, mixture, &spec)
}

impl TargetFacts {
    pub(super) fn of<T: Target>() -> Self {
        Self {
            name: T::NAME,
            memory: T::MEMORY,
        }
    }
}

impl Engine {
    /// Opens the checkpoint for devices that are open.
    pub(super) fn open(
        mut request: LoadRequest,
        target: TargetFacts,
        devices: OpenDevices,
    ) -> Result<Self, Error> {
        let mut capabilities = devices.common();
        if target.memory == MemoryKind::Device {
            let limits = [
                capabilities.largest_allocation,
                request.config.place.allocation_max,
            ];
            capabilities.largest_allocation = limits.into_iter().flatten().min();
        }
        let launched = launched(&request.config.ranks)?;
        request.observers = request.observers.apart();
        let checkpoint = request.open()?;
        let LoadRequest {
            mut config,
            shared,
            observers,
            ranks,
            ..
        } = request;
        let new_blocks = expand::new_blocks(checkpoint.config())?;
        let dense = match config.expand {
            Some(Expand { dense: true, .. }) => expand::patterns(&checkpoint)?,
            _ => Vec::new(),
        };
        config.pack.policy.skip.extend(dense.iter().cloned());
        mix(&mut config.pack, &checkpoint)?;
        let dialect = dialect::detect(checkpoint.config(), checkpoint.catalog())?;
        let dtype = capabilities.dtype(config.pack.dtype, checkpoint.catalog().float_dtype());
        let kept = config.place.kv_cache_dtype.and_then(KvCacheDtype::float);
        if let Some(dtype) = kept.filter(|dtype| !capabilities.dtypes.contains(dtype)) {
            let target = target.name;
            return Err(TargetError::KvCacheDtype { target, dtype }.into());
        }
        tracing::debug!(
            model = checkpoint.source().describe(),
            files = checkpoint.files().len(),
            tensors = checkpoint.catalog().len(),
            bytes = checkpoint.total_bytes(),
            "opened"
        );
        Ok(Self {
            config,
            shared,
            observers,
            opened: checkpoint,
            named: OnceLock::new(),
            dialect,
            target,
            devices,
            capabilities,
            dtype,
            tokenizer: OnceLock::new(),
            new_blocks,
            dense,
            untied: OnceLock::new(),
            is_module: false,
            stated: None,
            launched,
            messages: ranks,
        })
    }

    /// What a pass computes in.
    pub(super) fn pass_means(&self) -> PassMeans {
        let dtype = self.dtype.dtype;
        let in_tiles = self.target.name == KnownTarget::Cpu.name() && dtype == DType::F32;
        PassMeans {
            width: dtype.size(),
            kv_cache: self.config.place.kv_cache_dtype.unwrap_or(dtype.into()),
            tiles: in_tiles.then(rayon::current_num_threads),
        }
    }

    /// The configuration of the model, named as the checkpoint names its tensors.
    /// It has a head of its own where the checkpoint has one that differs from the embedding.
    pub(super) fn model_config<A: Architecture>(&self) -> Result<A::Config, Error> {
        let config = A::config(self.opened.config())?;
        let NameReading {
            config,
            catalog,
            note,
        } = read_names::<A>(config, &self.request(), is_inside(&self.opened))?;
        self.named
            .get_or_init(|| Some(self.opened.with_names(catalog, note?)));
        match A::tied(&config) {
            Some(pair) if self.differ(&pair)? => Ok(A::untied(config)),
            _ => Ok(config),
        }
    }

    /// The checkpoint.
    pub(super) fn checkpoint(&self) -> &Checkpoint {
        let named = self.named.get().and_then(Option::as_ref);
        named.unwrap_or(&self.opened)
    }

    /// How dense files of the model have its experts in stacks, whatever this checkpoint has.
    pub(super) fn stacks<A: Architecture>(&self) -> Result<Option<Stacks>, Error> {
        Ok(A::stacks(&A::config(self.checkpoint().config())?))
    }

    pub(super) fn record(&self) -> Recording {
        Recording::start(match self.target.memory {
            MemoryKind::Device => self.devices.all.clone(),
            MemoryKind::Host => Vec::new(),
        })
    }

    pub(super) fn settings<'a>(&'a self, observer: &'a dyn Observer) -> Settings<'a> {
        self.settings_for(self.asked(self.config.place.strategy), observer)
    }

    pub(super) fn settings_for<'a>(
        &'a self,
        allowance: Allowance,
        observer: &'a dyn Observer,
    ) -> Settings<'a> {
        let workers = allowance.workers;
        Settings {
            workers_least: match self.config.read.workers {
                Workers::Auto => 1,
                Workers::Count(count) => count.get(),
            },
            readers: self.readers(),
            tile_bytes: allowance.tile,
            devices: match self.target.memory {
                MemoryKind::Device => &self.devices.all,
                MemoryKind::Host => &[],
            },
            allocation_max: self.capabilities.largest_allocation,
            ..match &self.shared {
                None => Settings::new(workers, allowance.in_flight, observer),
                Some(shared) => Settings::sharing(workers, shared.in_flight(), observer),
            }
        }
    }

    /// Threads that share each read. A read that is a request is not shared.
    fn readers(&self) -> usize {
        let source = self.checkpoint().source();
        match source.request_bytes() {
            Some(_) => 1,
            None => cores().min(source.concurrency()),
        }
    }

    /// Reports the plan to the observers and carries it out.
    pub(super) fn run(
        &self,
        plan: &mut Plan,
        sink: &mut dyn Sink,
        settings: &Settings<'_>,
    ) -> Result<Vec<Timing>, Error> {
        self.run_from(&**self.checkpoint().source(), plan, sink, settings)
    }

    /// The same, from a source that has the files of the checkpoint.
    pub(super) fn run_from(
        &self,
        source: &dyn Source,
        plan: &mut Plan,
        sink: &mut dyn Sink,
        settings: &Settings<'_>,
    ) -> Result<Vec<Timing>, Error> {
        self.announce(plan, settings)?;
        let ran = prepare::balance(plan, source, settings)
            .and_then(|()| pipeline::run(plan, source, sink, settings));
        let ran = ran.map_err(|error| explain(&self.observers, error.into()))?;
        source.unchanged()?;
        Ok(ran)
    }

    /// Reports the plan to the observers.
    pub(super) fn announce(&self, plan: &Plan, settings: &Settings<'_>) -> Result<(), Error> {
        if let Some(names) = plan.unexpected() {
            tracing::warn!("tensors that no slot of the model takes are not read: {names}");
        }
        for warning in plan.warnings() {
            tracing::warn!("{warning}");
        }
        let planned = Event::Planned { plan };
        Ok(tell(settings.observer, &planned, 0, plan.steps.len())?)
    }

    pub(super) fn report(
        &self,
        plan: &Plan,
        allowance: Allowance,
        timings: &[Timing],
        recording: Recording,
    ) -> LoadReport {
        let facts = RunFacts {
            device: self.capabilities.name.clone(),
            workers: allowance.workers,
            in_flight_bytes_max: allowance.in_flight,
            probe: self.checkpoint().source().probe(),
            fetched: self.checkpoint().source().fetched(),
            tokenizer: self.tokenizer.get().cloned(),
            host_bytes_max: self.host_bytes(),
            device_bytes_max: self.device_bytes(),
        };
        LoadReport::new(plan, facts, timings, recording.stop())
    }
}

/// An observer that failed during a download stopped that download: the error is then the observer's. Any other error
/// stays as it is.
pub(super) fn explain(observers: &Observers, error: Error) -> Error {
    let stopped = match &error {
        Error::Source(source)
        | Error::Checkpoint(CheckpointError::Source(source))
        | Error::Pipeline(PipelineError::Read { source, .. }) => source,
        _ => return error,
    };
    if !matches!(stopped, SourceError::Cancelled { .. }) {
        return error;
    }
    match observers.take_failure() {
        Some(failure) => PipelineError::from(failure).into(),
        None => error,
    }
}

/// Reports the end of a run to the observers.
pub(super) fn finish(report: &LoadReport, observer: &dyn Observer) -> Result<(), Error> {
    let (totals, done, total) = (report.totals(), report.tensors, report.tensors);
    Ok(tell(observer, &Event::Finished { totals }, done, total)?)
}
