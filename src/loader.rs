//! The whole road in one file: open, plan, run, build.

mod strategy;
mod verify;

use core::marker::PhantomData;
use std::{io, sync::Arc, time::Instant};

use burn::tensor::Device;

use crate::{
    auto,
    config::{LoadConfig, Pattern, Strategy},
    dialect::{self, Dialect, To},
    error::Error,
    model::{Architecture, Role, Slot, Weight, Weights},
    pipeline::{
        self, Event, Finished, Flow, Observers, PipelineError, Settings, Sink, SinkError, Timing,
    },
    plan::{Plan, Request, Step},
    presinq,
    quant::{PackedWeight, QuantSpec},
    report::{LoadReport, MemoryWatch},
    save::{self, FolderSink, SaveConfig, Saved},
    source::Checkpoint,
    stream::Stream,
    target::{Capabilities, DTypeChoice, Memory, Target, TargetError},
    tokenizer::{Tokenizer, TokenizerFiles},
};

/// Loads one checkpoint to one target.
///
/// ```no_run
/// use firebox::{Cpu, LoadConfig, Loader, model::llama::Llama};
///
/// let loader = Loader::<Cpu>::new(LoadConfig::new("assets/tinyrust").quant("nf4".parse()?))?;
/// println!("{}", loader.plan::<Llama>()?);
/// let loaded = loader.load::<Llama>()?;
/// # Ok::<(), firebox::Error>(())
/// ```
#[derive(Debug)]
pub struct Loader<T: Target> {
    config: LoadConfig,
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
    pub fn new(config: LoadConfig) -> Result<Self, Error> {
        let device = T::device(config.device)?;
        Self::on(config, device)
    }

    /// Opens the checkpoint for a device of one's own, which may record gradients.
    ///
    /// # Errors
    ///
    /// [`TargetError::Foreign`] when the device is of another target, else as [`new`](Self::new).
    pub fn on(config: LoadConfig, device: Device) -> Result<Self, Error> {
        if !T::owns(&device) {
            let found = format!("{:?}", device.as_dispatch());
            let target = T::NAME;
            return Err(TargetError::Foreign { target, found }.into());
        }
        let mut capabilities = T::capabilities(&device);
        if T::MEMORY == Memory::Device {
            let limits = [capabilities.largest_allocation, config.allocation_max];
            capabilities.largest_allocation = limits.into_iter().flatten().min();
        }
        let checkpoint = config.open()?;
        let dialect = dialect::detect(checkpoint.config(), checkpoint.catalog())?;
        let dtype = capabilities.dtype(config.dtype, checkpoint.catalog().float_dtype());
        tracing::debug!(
            model = checkpoint.source().describe(),
            files = checkpoint.files().len(),
            tensors = checkpoint.catalog().len(),
            bytes = checkpoint.total_bytes(),
            "opened"
        );
        Ok(Self {
            config,
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

    /// Refuses a plan that this loader cannot carry out: tensors are missing, or it does not fit.
    ///
    /// # Errors
    ///
    /// [`Error::Plan`].
    pub fn check(&self, plan: &Plan) -> Result<(), Error> {
        let in_flight = self.config.resolved_in_flight_bytes_max(plan.strategy);
        Ok(plan.check(&self.capabilities, in_flight)?)
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
        let policy = &self.config.policy;
        let QuantSpec::Auto(limit) = policy.linear else {
            return Ok(());
        };
        // It cannot be loaded, and is shown as it is.
        if !plan.missing.is_empty() {
            return Ok(());
        }
        let candidates = match &self.config.candidates[..] {
            [] => auto::candidates(to),
            named => named.to_vec(),
        };
        let open = |step: &Step| matches!(policy.choose(&step.slot), QuantSpec::Auto(_));
        let source = &**self.checkpoint.source();
        let observers = Observers(self.config.observers.clone());
        let settings = self.settings(&observers);
        auto::decide(plan, open, limit, &candidates, source, &settings)
    }

    fn bind_for<A: Architecture>(&self, config: &A::Config) -> Result<Plan, Error> {
        let mut plan = Plan::bind(&self.request(), A::slots(config), |tensor| {
            A::leaves_out(config, tensor)
        })?;
        if self.config.presinq {
            plan.link(A::links(config))?;
        }
        Ok(plan)
    }

    fn request(&self) -> Request<'_> {
        Request {
            model: self.checkpoint.source().describe(),
            catalog: self.checkpoint.catalog(),
            dialect: self.dialect.as_deref(),
            dequantize: self.config.dequantize,
            policy: &self.config.policy,
            target: T::NAME,
            dtype: self.dtype,
        }
    }

    /// Loads the model.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; on a failure or a cancel nothing of the model stays in memory.
    pub fn load<A: Architecture>(&self) -> Result<Loaded<A>, Error> {
        let memory = MemoryWatch::start();
        let started = Instant::now();
        let config = A::config(self.checkpoint.config())?;
        let mut plan = self.plan_for::<A>(&config)?;
        self.check(&plan)?;
        let observers = Observers(self.config.observers.clone());
        let settings = self.settings_for(plan.strategy, &observers);
        // Where weights go, wherever they are packed.
        let place = Settings {
            device: (T::MEMORY == Memory::Device).then_some(&self.device),
            ..settings
        };
        let mut module = ModuleSink {
            weights: Weights::new(self.device.clone(), self.dtype.dtype),
            settings: &place,
            stream: self.stream(&plan)?,
        };
        let timings = self.run(&mut plan, &mut module, &settings)?;
        let mut weights = module.weights;
        let model = A::build(&config, &mut weights)?;
        weights.finish()?;
        // On a device that works by itself, what failed there is only told now.
        self.device.sync().map_err(|error| TargetError::Device {
            target: T::NAME,
            reason: format!("{error:?}"),
        })?;

        let report = self.report(&plan, &timings, started, memory);
        tracing::info!(seconds = report.seconds, tensors = report.tensors, "loaded");
        Ok(Loaded { model, report })
    }

    /// Saves the model as a checkpoint, packed on the way. Weights go through one by one: nothing but what is in
    /// flight is in memory.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; [`Error::Save`] for the folder and the files. What was written before stays.
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
            let named = include.is_empty() || include.iter().any(|pattern| pattern.is_match(&slot));
            if slot.shape.len() != 2 || !named {
                slot.role = Role::Other;
            }
            slot
        });
        let mut plan = Plan::bind(&self.request(), slots.collect(), |_| false)?;
        if self.config.presinq {
            // Nobody says what makes the input of a tensor of no model.
            plan.link(Vec::new())?;
        }
        Ok(plan)
    }

    fn save_plan(&self, mut plan: Plan, to: &SaveConfig) -> Result<Saved, Error> {
        let memory = MemoryWatch::start();
        let started = Instant::now();
        save::adapt(&mut plan, to);
        if self.config.dtype.is_none() {
            // What is given back has the type that config.json goes on to name.
            plan.give_back(self.checkpoint.float_dtype());
        }
        plan.check_complete()?;
        self.decide(&mut plan, Some(to.named().unwrap_or(To::Mlx)))?;
        // One weight at a time is kept.
        let kept = plan.steps.iter().map(Step::bytes_kept).max();
        self.place(&mut plan, kept.unwrap_or(0));
        let mut folder = FolderSink::new(to, &plan, self.checkpoint.float_dtype().bits())?;
        let observers = Observers(self.config.observers.clone());
        let settings = Settings {
            allocation_max: None,
            ..self.settings_for(plan.strategy, &observers)
        };
        let timings = self.run(&mut plan, &mut folder, &settings)?;
        let report = self.report(&plan, &timings, started, memory);
        Ok(folder.finish(&self.checkpoint, report)?)
    }

    fn settings<'a>(&'a self, observer: &'a Observers) -> Settings<'a> {
        self.settings_for(self.config.strategy, observer)
    }

    fn settings_for<'a>(&'a self, strategy: Strategy, observer: &'a Observers) -> Settings<'a> {
        Settings {
            workers: self.config.workers.count(),
            in_flight_bytes_max: self.config.resolved_in_flight_bytes_max(strategy),
            device: (T::MEMORY == Memory::Device && !strategy.packs_on_host())
                .then_some(&self.device),
            allocation_max: self.capabilities.largest_allocation,
            observer,
        }
    }

    /// Tells of the plan and carries it out.
    fn run(
        &self,
        plan: &mut Plan,
        sink: &mut dyn Sink,
        settings: &Settings<'_>,
    ) -> Result<Vec<Timing>, Error> {
        if let Some(first) = plan.unexpected.first() {
            let count = plan.unexpected.len();
            tracing::warn!(
                count,
                first,
                "tensors that nothing wants; they are not read"
            );
        }
        let planned = Event::Planned { plan };
        if settings.observer.observe(&planned) == Flow::Cancel {
            return Err(PipelineError::cancelled(&planned, 0, plan).into());
        }
        let source = &**self.checkpoint.source();
        presinq::balance(plan, source, settings)?;
        Ok(pipeline::run(plan, source, sink, settings)?)
    }

    fn report(
        &self,
        plan: &Plan,
        timings: &[Timing],
        started: Instant,
        memory: MemoryWatch,
    ) -> LoadReport {
        let device = self.capabilities.name.clone();
        LoadReport::new(plan, device, timings, started.elapsed(), memory.stop())
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
    config: LoadConfig,
) -> Result<(A, Tokenizer), Error> {
    let loader = Loader::<T>::new(config)?;
    // First, since it is quick and a missing tokenizer should not cost a load.
    let tokenizer = loader.tokenizer()?;
    Ok((loader.load()?.model, tokenizer))
}

/// Finished weights become tensors on the device, to be built into a module, or are kept to be streamed there.
struct ModuleSink<'a> {
    weights: Weights,
    settings: &'a Settings<'a>,
    stream: Option<Stream>,
}

impl Sink for ModuleSink<'_> {
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        let device = self.weights.device();
        let (name, cut) = (&step.slot.name, self.settings.allocation_max);
        let stream = self.stream.as_ref().filter(|_| step.streams());
        let kept = |weight: io::Result<Weight>| {
            weight.map_err(|error| SinkError {
                tensor: name.clone(),
                reason: error.into(),
            })
        };
        let weight = match weight {
            Finished::Packed(packed) if let Some(stream) = stream => {
                kept(stream.packed(name, packed, cut))?
            }
            Finished::Dense(dense) if let Some(stream) = stream => {
                kept(stream.dense(name, dense, step.matrix(), cut))?
            }
            Finished::Placed(parts) => Weight::Packed(parts),
            Finished::Packed(packed) => {
                let cut = cut.and_then(|largest| packed.format.cut(packed.shape, largest));
                Weight::Packed(match cut {
                    Some(parts) if parts.len() > 1 => parts
                        .into_iter()
                        .map(|rows| PackedWeight::from_host(packed.part(rows), device))
                        .collect(),
                    _ => vec![PackedWeight::from_host(packed, device)],
                })
            }
            Finished::Dense(dense) => {
                let parts = pipeline::upload(step, dense, device, self.settings);
                let parts = parts.map_err(|error| SinkError {
                    tensor: step.slot.name.clone(),
                    reason: error.into(),
                })?;
                Weight::Dense(parts, step.slot.shape.clone())
            }
        };
        self.weights.insert(step.slot.name.clone(), weight);
        Ok(())
    }
}
