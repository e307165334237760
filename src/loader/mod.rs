//! The whole road in one file: open, plan, run, build.

mod budget;
mod cached;
mod choose;
mod open;
mod request;
mod room;
mod save;
mod start;
mod strategy;
mod together;
mod verify;

pub use request::LoadRequest;
pub use start::{Loading, Running, Saving};

use room::{Room, cores};

use core::marker::PhantomData;
use std::sync::Arc;

use burn::tensor::Device;

use crate::{
    config::{Auto, LoadConfig, Pattern, SaveConfig, To},
    dialect::{self, Dialect},
    error::Error,
    model::{Architecture, Role, Slot, Weights},
    observe::{Event, Observer, Observers, tell},
    pipeline::{self, PipelineError, Settings, Sink, Timing},
    place::{ModuleSink, Shared, VerifyError},
    plan::{Plan, Request, Step},
    prepare,
    quant::QuantSpec,
    report::{LoadReport, Means, Recording, Saved},
    source::{Checkpoint, CheckpointError, SourceError, SourceExt},
    target::{Capabilities, DTypeChoice, Memory, Target, TargetError},
    text::{Tokenizer, TokenizerFiles},
};

/// Loads one checkpoint to one target.
///
/// ```no_run
/// use firebox::{Cpu, LoadConfig, Loader, model::CausalLm};
///
/// let loader = Loader::<Cpu>::new(LoadConfig::new("assets/tinyrust").quant("nf4".parse()?))?;
/// println!("{}", loader.plan::<CausalLm>()?);
/// let loaded = loader.load::<CausalLm>()?;
/// # Ok::<(), firebox::Error>(())
/// ```
#[derive(Debug)]
pub struct Loader<T: Target> {
    config: LoadConfig,
    shared: Option<Shared>,
    observers: Observers,
    checkpoint: Checkpoint,
    dialect: Option<Arc<dyn Dialect>>,
    device: Device,
    capabilities: Capabilities,
    dtype: DTypeChoice,
    target: PhantomData<T>,
}

/// A module and how it came about.
#[derive(Debug)]
pub struct Loaded<A> {
    /// The module, on the target's device.
    pub model: A,
    /// Bytes, seconds, memory, tensor by tensor.
    pub report: LoadReport,
}

impl<T: Target> Loader<T> {
    /// Opens the device and the checkpoint. Reads configuration and headers, no weights.
    ///
    /// # Errors
    ///
    /// [`Error::Target`] for the device, [`Error::Source`], [`Error::Checkpoint`] and [`Error::Dialect`] for the
    /// files.
    pub fn new(request: impl Into<LoadRequest>) -> Result<Self, Error> {
        let request = request.into();
        let device = T::device(request.config.place.device)?;
        Self::on(request, device)
    }

    /// Opens the checkpoint for a device that the caller has opened, which may record gradients.
    ///
    /// # Errors
    ///
    /// [`TargetError::Foreign`] when the device is of another target, else as [`new`](Self::new).
    pub fn on(request: impl Into<LoadRequest>, device: Device) -> Result<Self, Error> {
        let mut request = request.into();
        if !T::owns(&device) {
            let found = format!("{:?}", device.as_dispatch());
            let target = T::NAME;
            return Err(TargetError::Foreign { target, found }.into());
        }
        let mut capabilities = T::capabilities(&device);
        if T::MEMORY == Memory::Device {
            let limits = [
                capabilities.largest_allocation,
                request.config.place.allocation_max,
            ];
            capabilities.largest_allocation = limits.into_iter().flatten().min();
        }
        request.observers = request.observers.apart();
        let checkpoint = request.open()?;
        let LoadRequest {
            config,
            shared,
            observers,
            ..
        } = request;
        let dialect = dialect::detect(checkpoint.config(), checkpoint.catalog())?;
        let dtype = capabilities.dtype(config.pack.dtype, checkpoint.catalog().float_dtype());
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
            checkpoint,
            dialect,
            device,
            capabilities,
            dtype,
            target: PhantomData,
        })
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The dialect that its weights are packed in, `None` where they are plain numbers.
    pub fn dialect(&self) -> Option<&dyn Dialect> {
        self.dialect.as_deref()
    }

    /// Where the model goes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What happens to every tensor, without reading one, unless [`QuantSpec::Auto`] asks for measuring. A plan may name missing tensors; only
    /// [`load`](Self::load) refuses it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] and [`Error::Plan`].
    pub fn plan<A: Architecture>(&self) -> Result<Plan, Error> {
        let config = A::config(self.checkpoint.config())?;
        self.plan_for::<A>(&config)
    }

    fn plan_for<A: Architecture>(&self, config: &A::Config) -> Result<Plan, Error> {
        let mut plan = self.bind_for::<A>(config)?;
        self.decide(&mut plan, None)?;
        let kept = plan.totals().bytes_kept;
        self.place(&mut plan, kept);
        Ok(plan)
    }

    /// Chooses for the weights that are left open, if any are.
    fn decide(&self, plan: &mut Plan, to: Option<To>) -> Result<(), Error> {
        let policy = &self.config.pack.policy;
        let QuantSpec::Auto(limit) = policy.linear else {
            return Ok(());
        };
        // It cannot be loaded, and is shown as it is.
        if !plan.missing.is_empty() {
            return Ok(());
        }
        let limit = match limit {
            Auto::Fitting => Auto::Size(self.fitting()?),
            told => told,
        };
        let candidates = match &self.config.pack.candidates[..] {
            [] => prepare::candidates(to),
            named => named.to_vec(),
        };
        let open = |step: &Step| matches!(step.slot.quant(policy), QuantSpec::Auto(_));
        let source = &**self.checkpoint.source();
        let observers = &self.observers;
        let settings = self.settings(observers);
        let decided = prepare::decide(plan, open, limit, &candidates, source, &settings);
        decided.map_err(|error| explain(observers, error.into()))
    }

    fn bind_for<A: Architecture>(&self, config: &A::Config) -> Result<Plan, Error> {
        let slots = A::slots(config);
        let mut plan = Plan::bind(&self.request(), &slots, |tensor| {
            A::leaves_out(config, tensor)
        })?;
        if self.config.pack.presinq {
            plan.link(A::links(config), &slots)?;
        }
        Ok(plan)
    }

    fn request(&self) -> Request<'_> {
        Request {
            model: self.checkpoint.source().describe(),
            catalog: self.checkpoint.catalog(),
            dialect: self.dialect.as_deref(),
            dequantize: self.config.pack.dequantize,
            policy: &self.config.pack.policy,
            devices: self.devices(),
            dtype: self.dtype,
        }
    }

    /// Loads the model.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; on a failure or a cancel nothing of the model stays in memory.
    pub fn load<A: Architecture>(&self) -> Result<Loaded<A>, Error> {
        let config = A::config(self.checkpoint.config())?;
        if self.config.pack.cache.is_some() && self.config.pack.verify.is_some() {
            return Err(VerifyError::Cached.into());
        }
        if let Some(folder) = &self.config.pack.cache
            && let Some(cached) = self.cached::<A>(&config, folder)?
        {
            return cached.load_as(&config, None);
        }
        self.load_as(&config, None)
    }

    /// Loads the model as `plan` says, which [`plan`](Self::plan) made earlier and [`Plan::from_json`] may have read back.
    /// Nothing is chosen or measured again; the cache of packed weights is not used.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); [`Error::Plan`] where the plan is of another checkpoint, model or target.
    pub fn load_plan<A: Architecture>(&self, mut plan: Plan) -> Result<Loaded<A>, Error> {
        let config = A::config(self.checkpoint.config())?;
        let stream = &self.config.place.stream_from;
        plan.take_over(&self.request(), &A::slots(&config), stream)?;
        self.load_as(&config, Some(plan))
    }

    fn load_as<A: Architecture>(
        &self,
        config: &A::Config,
        plan: Option<Plan>,
    ) -> Result<Loaded<A>, Error> {
        let recording = self.record();
        let mut plan = match plan {
            Some(plan) => plan,
            None => self.plan_for::<A>(config)?,
        };
        let room = self.checked(&plan)?;
        let observers = recording.among(&self.observers);
        let place = self.settings_for(room, &observers);
        let settings = Settings {
            device: place.device.filter(|_| plan.packs_on_devices()),
            ..place.clone()
        };
        let mut module = ModuleSink {
            weights: Weights::new(self.device.clone(), plan.dtype),
            devices: core::slice::from_ref(&self.device),
            settings: &place,
            shared: self.shared.as_ref(),
            stream: self.stream(&plan)?,
        };
        let (timings, verified) = match &self.config.pack.verify {
            None => (self.run(&mut plan, &mut module, &settings)?, None),
            Some(config) => {
                let (timings, report) =
                    self.run_verified(&mut plan, &mut module, config, &settings)?;
                (timings, Some(report))
            }
        };
        let mut weights = module.weights;
        let model = A::build(config, &mut weights)?;
        weights.finish()?;
        // On a device that works by itself, what failed there is only told now.
        self.device.sync().map_err(|error| TargetError::Device {
            target: T::NAME,
            reason: format!("{error:?}"),
        })?;

        let mut report = self.report(&plan, room, &timings, recording);
        report.verified = verified;
        finished(&report, &observers)?;
        tracing::info!(seconds = report.seconds, tensors = report.tensors, "loaded");
        Ok(Loaded { model, report })
    }

    /// Saves the model as a checkpoint, packed on the way. Weights go through one by one: nothing but what is in
    /// flight is in memory.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; [`Error::Save`] for a folder or dialect that will not do, [`Error::Interrupted`] when something was
    /// written: that stays, and a save with [`SaveConfig::resume`] goes on with it.
    pub fn save<A: Architecture>(&self, to: &SaveConfig) -> Result<Saved, Error> {
        let config = A::config(self.checkpoint.config())?;
        self.save_plan(self.bind_for::<A>(&config)?, to)
    }

    /// Saves tensors of no particular model, as [`save`](Self::save): of the matrices those that `include` names,
    /// or all of them if it names none, are quantized, and every other tensor of plain numbers is kept.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save).
    pub fn save_tensors(&self, include: &[Pattern], to: &SaveConfig) -> Result<Saved, Error> {
        self.save_plan(self.plan_tensors(include)?, to)
    }

    fn plan_tensors(&self, include: &[Pattern]) -> Result<Plan, Error> {
        let floats = self.checkpoint.catalog().iter();
        let floats = floats.filter(|tensor| dialect::plain(tensor.dtype).is_some());
        let slots = floats.map(|tensor| {
            let mut slot = Slot::new(&*tensor.name, tensor.shape.clone(), Role::Linear);
            let named = include.is_empty()
                || include
                    .iter()
                    .any(|pattern| pattern.is_match(&slot.name, slot.role));
            if slot.shape.len() != 2 || !named {
                slot.role = Role::Other;
            }
            slot
        });
        let mut plan = Plan::bind(&self.request(), &slots.collect::<Vec<_>>(), |_| false)?;
        if self.config.pack.presinq {
            // Nobody says what makes the input of a tensor of no model.
            plan.link(Vec::new(), &[])?;
        }
        Ok(plan)
    }

    fn record(&self) -> Recording {
        Recording::start((T::MEMORY == Memory::Device).then(|| self.device.clone()))
    }

    fn settings<'a>(&'a self, observer: &'a dyn Observer) -> Settings<'a> {
        self.settings_for(self.asked(self.config.place.strategy), observer)
    }

    fn settings_for<'a>(&'a self, room: Room, observer: &'a dyn Observer) -> Settings<'a> {
        let workers = room.workers;
        Settings {
            readers: cores().min(self.checkpoint.source().concurrency()),
            tile_bytes: room.tile,
            device: (T::MEMORY == Memory::Device).then_some(&self.device),
            allocation_max: self.capabilities.largest_allocation,
            ..match &self.shared {
                None => Settings::new(workers, room.in_flight, observer),
                Some(shared) => Settings::sharing(workers, shared.in_flight(), observer),
            }
        }
    }

    /// Tells of the plan and carries it out.
    fn run(
        &self,
        plan: &mut Plan,
        sink: &mut dyn Sink,
        settings: &Settings<'_>,
    ) -> Result<Vec<Timing>, Error> {
        self.announce(plan, settings)?;
        let source = &**self.checkpoint.source();
        let ran = prepare::balance(plan, source, settings)
            .and_then(|()| pipeline::run(plan, source, sink, settings));
        ran.map_err(|error| explain(&self.observers, error.into()))
    }

    /// Tells of the plan.
    fn announce(&self, plan: &Plan, settings: &Settings<'_>) -> Result<(), Error> {
        if let Some(first) = plan.unexpected.first() {
            let count = plan.unexpected.len();
            tracing::warn!(
                count,
                first,
                "tensors that nothing wants; they are not read"
            );
        }
        let planned = Event::Planned { plan };
        Ok(tell(settings.observer, &planned, 0, plan.steps.len())?)
    }

    fn report(
        &self,
        plan: &Plan,
        room: Room,
        timings: &[Timing],
        recording: Recording,
    ) -> LoadReport {
        let means = Means {
            device: self.capabilities.name.clone(),
            workers: room.workers,
            in_flight_bytes_max: room.in_flight,
            probe: self.checkpoint.source().probe(),
            host_bytes_max: self.host_bytes(),
            device_bytes_max: self.device_bytes(),
        };
        LoadReport::new(plan, means, timings, recording.stop())
    }

    /// The checkpoint's tokenizer.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] when `tokenizer.json` is missing, [`Error::Tokenizer`] when it is not one.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let files = &self.checkpoint;
        let json = files.read_text("tokenizer.json")?;
        let config = files.read_optional("tokenizer_config.json")?;
        let special = files.read_optional("special_tokens_map.json")?;
        let template = files.read_optional("chat_template.jinja")?;
        Ok(Tokenizer::from_bytes(TokenizerFiles {
            at: &files.source().describe(),
            tokenizer_json: json.as_bytes(),
            config: config.as_deref(),
            special_tokens_map: special.as_deref(),
            chat_template_jinja: template.as_deref(),
            generation_config: files.generation_config(),
            model_config: Some(files.config()),
        })?)
    }
}

/// Model and tokenizer in one call.
///
/// # Errors
///
/// Any [`Error`].
pub fn load_model_and_tokenizer<T: Target, A: Architecture>(
    request: impl Into<LoadRequest>,
) -> Result<(A, Tokenizer), Error> {
    let loader = Loader::<T>::new(request)?;
    // First, since it is quick and a missing tokenizer should not cost a load.
    let tokenizer = loader.tokenizer()?;
    Ok((loader.load()?.model, tokenizer))
}

/// An observer that failed during a download stopped that download: the error is then the observer's. Any other error
/// stays as it is.
fn explain(observers: &Observers, error: Error) -> Error {
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

/// Reports the end to the observers.
fn finished(report: &LoadReport, observer: &dyn Observer) -> Result<(), Error> {
    let (totals, done, total) = (report.totals(), report.tensors, report.tensors);
    Ok(tell(observer, &Event::Finished { totals }, done, total)?)
}
