//! Plans for machines that need not be here.

use super::{
    LoadRequest, Loader,
    devices::OpenDevices,
    engine::{Engine, TargetFacts},
};
use crate::{
    config::{LoadConfig, StatedMemory},
    error::Error,
    model::{Architecture, PassSize},
    plan::{MemoryPlan, Plan, memory::TrainingBytes},
    source::Checkpoint,
    target::{KnownTarget, Target, TargetError, any_device, memory},
};

/// Makes plans from headers and a configuration alone, for a target and a memory that are stated: neither has to be on this
/// machine, nor the target in this build.
///
/// ```
/// use firebox::{LoadConfig, Planner, config::StatedMemory, model::{CausalLm, PassSize}, target::KnownTarget};
///
/// let config = LoadConfig::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tinyrust")).quant("nf4".parse()?);
/// let memory = StatedMemory::new("24GiB".parse()?).host(64 << 30);
/// let planner = Planner::new(config, KnownTarget::Cuda, &memory)?;
/// let plan = planner.plan::<CausalLm>()?;
/// let memory = planner.memory::<CausalLm>(&plan, Some(PassSize { batch: 1, length: 512 }), None)?;
/// println!("{memory}");
/// assert!(memory.lacking().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Planner {
    pub(super) engine: Engine,
    target: KnownTarget,
}

impl Planner {
    /// Opens the checkpoint for a target with this memory. Reads configuration and headers, no weights.
    ///
    /// # Errors
    ///
    /// As [`Loader::new`](crate::Loader::new), but for the device.
    pub fn new(
        request: impl Into<LoadRequest>,
        target: KnownTarget,
        memory: &StatedMemory,
    ) -> Result<Self, Error> {
        let facts = TargetFacts {
            name: target.name(),
            memory: target.memory(),
        };
        let request = request.into();
        let asked = &request.config.place.devices;
        let found = memory.devices.bytes().len();
        if let Some(index) = asked.iter().copied().find(|index| *index >= found) {
            let target = target.name();
            return Err(TargetError::NoDevice {
                target,
                index,
                found,
            }
            .into());
        }
        let devices = stated(target, memory, asked);
        let mut engine = Engine::open(request, facts, devices)?;
        engine.stated = Some(memory.clone());
        engine.check_limits()?;
        Ok(Self { engine, target })
    }

    /// The plans of a loader, for the devices that it has opened.
    pub fn of<T: Target>(loader: &Loader<T>) -> Self {
        Self {
            engine: loader.engine.clone(),
            target: T::NAME
                .parse()
                .expect("every target of this crate is known"),
        }
    }

    /// The same checkpoint with another configuration, for another memory if one is given. Nothing is opened again, so what is
    /// read and how (the model, its revision, its expansion) has to stay.
    pub fn with(
        &self,
        memory: Option<&StatedMemory>,
        change: impl FnOnce(LoadConfig) -> LoadConfig,
    ) -> Self {
        let mut engine = self.engine.varied(change(self.engine.config.clone()));
        if let Some(memory) = memory {
            engine.devices = stated(self.target, memory, &engine.config.place.devices);
            engine.stated = Some(memory.clone());
        }
        Self {
            engine,
            target: self.target,
        }
    }

    /// The target.
    pub fn target(&self) -> KnownTarget {
        self.target
    }

    /// The memory that was stated.
    pub fn stated(&self) -> Option<&StatedMemory> {
        self.engine.stated.as_ref()
    }

    /// How many devices a plan has.
    pub fn devices(&self) -> usize {
        self.engine.devices.each.len()
    }

    /// Whether the checkpoint has packed weights.
    pub fn is_packed(&self) -> bool {
        self.engine.dialect.is_some()
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        self.engine.checkpoint()
    }

    /// The configuration.
    pub fn load_config(&self) -> &LoadConfig {
        &self.engine.config
    }

    /// The configuration of the model.
    ///
    /// # Errors
    ///
    /// [`Error::Config`].
    pub fn config<A: Architecture>(&self) -> Result<A::Config, Error> {
        self.engine.model_config::<A>()
    }

    /// The plan, as [`Loader::plan`](crate::Loader::plan).
    ///
    /// # Errors
    ///
    /// As [`Loader::plan`](crate::Loader::plan).
    pub fn plan<A: Architecture>(&self) -> Result<Plan, Error> {
        let config = self.engine.model_config::<A>()?;
        self.engine.plan::<A>(&config)
    }

    /// Refuses a plan that a machine with the stated memory cannot carry out.
    ///
    /// # Errors
    ///
    /// [`Error::Plan`].
    pub fn check(&self, plan: &Plan) -> Result<(), Error> {
        self.engine.check(plan).map(|_| ())
    }

    /// The memory that the plan takes: of the load and, where they are given, of a pass and of training.
    ///
    /// # Errors
    ///
    /// As [`plan`](Self::plan).
    pub fn memory<A: Architecture>(
        &self,
        plan: &Plan,
        pass: Option<PassSize>,
        training: Option<TrainingBytes>,
    ) -> Result<MemoryPlan, Error> {
        self.engine.memory::<A>(plan, pass, training)
    }
}

/// Devices of a target that have this memory: those that are asked for, or all.
fn stated(target: KnownTarget, memory: &StatedMemory, asked: &[usize]) -> OpenDevices {
    let each = memory.devices.bytes().iter().enumerate();
    let each = each.filter(|(index, _)| asked.is_empty() || asked.contains(index));
    let each = each.map(|(index, bytes)| (index, target.stated(*bytes)));
    OpenDevices::stated(any_device(), each)
}

impl Engine {
    /// The same checkpoint and device with another configuration.
    pub(super) fn varied(&self, config: LoadConfig) -> Self {
        let dtype = self
            .capabilities
            .dtype(config.pack.dtype, self.opened.catalog().float_dtype());
        Self {
            config,
            dtype,
            ..self.clone()
        }
    }

    /// Bytes of the host's memory in all: as stated, or those of this machine.
    pub(super) fn host_memory(&self) -> Option<u64> {
        let stated = self.stated.as_ref().and_then(|stated| stated.host);
        stated.or_else(memory::available)
    }
}
