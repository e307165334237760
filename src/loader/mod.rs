//! The road from a configuration to a module, file by file:
//!
//! | step | file |
//! |---|---|
//! | a configuration, a source, observers | `request.rs` |
//! | open: checkpoint and devices | `open.rs`, `devices.rs`, `engine.rs`, `tied.rs` |
//! | plan: bind, choose quantizations, choose a strategy or follow a map | `plan.rs`, `choose.rs`, `map.rs` |
//! | check: memory, and how much is read ahead | `budget.rs`, `allowance.rs` |
//! | foretell the memory, also of machines that are not here | `memory.rs`, `planner.rs` |
//! | run and build | `load.rs` |
//! | run into a folder, a comparison, a sink of the caller's | `save.rs`, `verify.rs`, `sink.rs` |
//! | a module into a folder | `module.rs`, its tensors in `module_layout.rs`, their bytes in `module_source.rs` |
//! | again, from packed weights | `cached.rs` |
//! | one of several ranks | `divide.rs` |
//! | tensors for modules of Burn, and into a file of Burn | `store.rs`, `burnpack.rs` |
//! | on a thread; several at once | `start.rs`, `together.rs` |
//!
//! [`Loader`] is the face of all of it: it knows the target as a type, and `Engine` as a value.

mod request;

mod open;

mod adapters;
mod allowance;

mod engine;
mod gguf;

mod choose;

mod devices;

mod map;

mod budget;

mod plan;

mod divide;
mod joined;

mod load;

mod memory;
mod planner;
mod rate;

mod save;

mod module_source;

mod module_layout;

mod module;

mod verify;

mod sink;

mod cached;

mod start;

#[cfg(feature = "store")]
mod store;

#[cfg(feature = "store")]
mod burnpack;

mod tied;
mod together;
mod tokenizer;

#[cfg(feature = "store")]
pub use burnpack::SavedBurnpack;
pub(crate) use devices::device_indices;
pub use divide::LoadedPart;
pub use planner::Planner;
pub use rate::ReadRate;
pub use request::LoadRequest;
pub use start::{Loading, Running, Saving};
#[cfg(feature = "store")]
pub use store::{Store, StoreError};

use core::marker::PhantomData;

use burn::{module::Module, tensor::Device};

use devices::OpenDevices;
use engine::{Engine, TargetFacts};

#[cfg(doc)]
use crate::{config::Strategy, place::VerifyError, quant::QuantSpec};
use crate::{
    config::{Limits, Pattern, Ranks, Rule, SaveConfig, VerifyConfig},
    dialect::Dialect,
    error::Error,
    model::{Architecture, layers::AdapterSwitch},
    pipeline::Sink,
    plan::{Order, Plan},
    ranks::launched,
    report::{LoadReport, Saved, VerifyReport},
    source::{Checkpoint, address::without_secrets},
    target::{Target, TargetError},
    text::Tokenizer,
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
    engine: Engine,
    target: PhantomData<T>,
}

/// A module and how it came about.
#[derive(Debug)]
pub struct Loaded<A> {
    /// The module, on the target's device.
    pub model: A,
    /// The adapters that the configuration asks for, in its order.
    pub adapters: Vec<AdapterSwitch>,
    /// The layers that are new, by number: those that [`train_blocks`](crate::adapter::train_blocks) trains. None unless the
    /// model was [expanded](crate::LoadConfig::expand).
    pub new_blocks: Vec<usize>,
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
        let mut request = request.into();
        let place = &request.config.place;
        let local = launched(&request.config.ranks)?.and_then(|launched| launched.local);
        let is_plain = !place.is_mapped() && place.devices.is_empty();
        if let Some(local) = local.filter(|_| is_plain) {
            request.config.place.devices = vec![among::<T>(local)?];
        }
        let devices = OpenDevices::open::<T>(&request.config.place)?;
        Self::with_devices(request, devices)
    }

    /// Opens the checkpoint for a device that the caller has opened, which may record gradients. It takes the place of the first one
    /// that the configuration asks for; the others are opened here.
    ///
    /// # Errors
    ///
    /// [`TargetError::Foreign`] when the device is of another target, else as [`new`](Self::new).
    pub fn on(request: impl Into<LoadRequest>, device: Device) -> Result<Self, Error> {
        if !T::owns(&device) {
            let found = format!("{:?}", device.as_dispatch());
            let target = T::NAME;
            return Err(TargetError::Foreign { target, found }.into());
        }
        let request = request.into();
        let devices = OpenDevices::beside::<T>(device, &request.config.place)?;
        Self::with_devices(request, devices)
    }

    fn with_devices(request: LoadRequest, devices: OpenDevices) -> Result<Self, Error> {
        let engine = Engine::open(request, TargetFacts::of::<T>(), devices)?;
        engine.check_limits()?;
        Ok(Self {
            engine,
            target: PhantomData,
        })
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        self.engine.checkpoint()
    }

    /// The dialect that its weights are packed in, `None` where they are dense.
    pub fn dialect(&self) -> Option<&dyn Dialect> {
        self.engine.dialect.as_deref()
    }

    /// The layers that are new, by number, as in [`Loaded::new_blocks`].
    pub fn new_blocks(&self) -> &[usize] {
        &self.engine.new_blocks
    }

    /// The device that the model goes to, the first one where there are several.
    pub fn device(&self) -> &Device {
        &self.engine.devices.all[0]
    }

    /// The devices that the model goes to.
    pub fn devices(&self) -> &[Device] {
        &self.engine.devices.all
    }

    /// The plan: what happens to every tensor. Reads no weight, unless [`QuantSpec::Auto`] asks for measuring. A plan may
    /// name missing tensors; only [`load`](Self::load) refuses it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] and [`Error::Plan`].
    pub fn plan<A: Architecture>(&self) -> Result<Plan, Error> {
        let config = self.engine.model_config::<A>()?;
        self.engine.plan::<A>(&config)
    }

    /// Refuses a plan that this loader cannot carry out: tensors are missing, or it does not fit.
    ///
    /// # Errors
    ///
    /// [`Error::Plan`].
    pub fn check(&self, plan: &Plan) -> Result<(), Error> {
        self.engine.check(plan).map(|_| ())
    }

    /// Loads the model.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; on a failure or a cancel nothing of the model stays in memory.
    pub fn load<A: Architecture>(&self) -> Result<Loaded<A>, Error> {
        self.engine.load()
    }

    /// Loads the model as `plan` says, which [`plan`](Self::plan) made earlier and [`Plan::from_json`] may have read back.
    /// Nothing is chosen or measured again; the cache of packed weights is not used.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); [`Error::Plan`] where the plan is of another checkpoint, model or target.
    pub fn load_plan<A: Architecture>(&self, plan: Plan) -> Result<Loaded<A>, Error> {
        self.engine.load_plan(plan)
    }

    /// Hands every finished weight of the model to a custom sink, in a custom order; of one of several ranks, what it keeps. Of the strategy only the place where
    /// weights are packed matters here: the host with [`Strategy::UnifiedMemory`] and [`Strategy::Streaming`], else a
    /// device that can pack.
    ///
    /// # Errors
    ///
    /// Any [`Error`].
    pub fn run_with<A: Architecture>(
        &self,
        order: &Order,
        sink: &mut dyn Sink,
    ) -> Result<LoadReport, Error> {
        self.engine.run_with::<A>(order, sink)
    }

    /// Loads what this rank keeps of the model, without a module: all weights for a process that is alone and under
    /// [`Parallel::Replicate`](crate::config::Parallel::Replicate), some of them, slices or shares of their bytes under the
    /// other modes ([ranks](crate::ranks)). Weights are packed as by [`run_with`](Self::run_with).
    ///
    /// # Errors
    ///
    /// Any [`Error`]; [`Error::Rank`] for a model that cannot be divided, and for other ranks that differ, fail or are gone.
    pub fn load_part<A: Architecture>(&self) -> Result<LoadedPart, Error> {
        self.engine.load_part::<A>()
    }

    /// Which of several ranks this process is; `None` where it is alone.
    pub fn ranks(&self) -> Option<Ranks> {
        self.engine.ranks()
    }

    /// Saves the model as a checkpoint, packed on the way. Weights pass one by one: only the bytes in flight are in
    /// memory.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; [`Error::Save`] for a folder or dialect that cannot take the model, [`Error::Interrupted`] when
    /// weights were written: they stay, and a save with [`SaveConfig::resume`] continues with them.
    pub fn save<A: Architecture>(&self, to: &SaveConfig) -> Result<Saved, Error> {
        let config = self.engine.model_config::<A>()?;
        let plan = self.engine.bind_to_save::<A>(&config)?;
        let stacks = self.engine.stacks::<A>()?;
        let module_of = |path: &str| A::module_of(&config, path);
        self.engine.save_plan(plan, to, stacks, &module_of)
    }

    /// Saves a module of this checkpoint's model as a checkpoint: trained, merged, loaded from a record, as it is now. The loader
    /// gives names, types and shapes of the tensors, `config.json`, tokenizer, and tensors that the module has not; it had better
    /// be the one that loaded the module, or one of the same configuration.
    ///
    /// | values of the module | are written |
    /// |---|---|
    /// | dense | in the type of the checkpoint's tensor, or in [`LoadConfig::dtype`](crate::LoadConfig::dtype); packed where the configuration asks for it |
    /// | packed | as they are, in the dialect of their format; dense with [`dequantize`](crate::LoadConfig::dequantize), packed anew with [`requantize`](crate::LoadConfig::requantize) |
    /// | changed by adapters that are on (weight not 0) | merged: computed in `f32` and rounded once |
    /// | packed and changed by adapters | decoded, merged in `f32`, packed as the configuration asks; refused where it asks for nothing |
    ///
    /// A head that is tied to the embedding gets a tensor of its own, and `config.json` says so, where the module computes with
    /// two matrices: a head that was trained, or an embedding whose rows adapters change. Weights are written one by one, and a
    /// save that was interrupted is resumed as one of [`save`](Self::save), with the same module.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save); [`SaveError::NotInModule`](crate::place::SaveError::NotInModule) and
    /// [`SaveError::OtherModule`](crate::place::SaveError::OtherModule) for a module of another checkpoint,
    /// [`AdapterError::Packed`](crate::adapter::AdapterError::Packed) for a packed matrix that adapters change and the configuration says nothing of.
    pub fn save_module<A: Architecture + Module>(
        &self,
        model: &A,
        to: &SaveConfig,
    ) -> Result<Saved, Error> {
        self.engine.save_module(model, to)
    }

    /// What happens to every tensor of a checkpoint of no particular architecture: of the matrices, those that `include`
    /// names are quantized, or those that look like linear layers if it names none. [`plan`](crate::plan) lists the rules.
    ///
    /// # Errors
    ///
    /// As [`plan`](Self::plan).
    pub fn plan_tensors(&self, include: &[Pattern]) -> Result<Plan, Error> {
        self.engine.plan_tensors(include)
    }

    /// Saves a checkpoint of no particular architecture, quantized as [`plan_tensors`](Self::plan_tensors) says. Every
    /// other tensor is written unchanged, to the byte, whatever its type.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save).
    pub fn save_tensors(&self, include: &[Pattern], to: &SaveConfig) -> Result<Saved, Error> {
        let plan = self.engine.bind_tensors(include)?;
        self.engine.save_plan(plan, to, None, &str::to_owned)
    }

    /// The tensors of the files as a store of `burn-store`, for any module of Burn.
    ///
    /// # Errors
    ///
    /// [`StoreError::Checkpoint`] for files that contradict each other, [`StoreError::Asked`] for a quantization or an adapter in the
    /// configuration.
    #[cfg(feature = "store")]
    pub fn store(self) -> Result<Store, StoreError> {
        Store::new(self.engine)
    }

    /// Packs every weight that a load would pack, one by one, and compares it with its source. A weight that is beyond
    /// the limits gets the first fallback that is within them.
    ///
    /// ```no_run
    /// use firebox::{
    ///     Cpu, LoadConfig, Loader,
    ///     model::CausalLm,
    ///     config::Limits, VerifyConfig,
    /// };
    ///
    /// let loader = Loader::<Cpu>::new(LoadConfig::new("assets/tinyrust").quant("nf4".parse()?))?;
    /// let config = VerifyConfig::new(Limits::default().min_sqnr(20.0))
    ///     .fallback("fp8:e4m3,scale=channel".parse()?)
    ///     .fallback("none".parse()?);
    /// let report = loader.verify::<CausalLm>(&config)?;
    /// println!("{report}");
    /// let loaded = loader.with_rules(report.rules()).load::<CausalLm>()?;
    /// # Ok::<(), firebox::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Any [`Error`]; [`VerifyError::AlreadyPacked`] where the checkpoint has weights packed,
    /// [`VerifyError::NothingPacked`] where nothing is to be packed. A weight beyond the limits is no error.
    pub fn verify<A: Architecture>(&self, config: &VerifyConfig) -> Result<VerifyReport, Error> {
        let model = self.engine.model_config::<A>()?;
        let plan = self.engine.plan_merged::<A>(&model)?;
        let module_of = |path: &str| A::module_of(&model, path);
        self.engine.verify_plan(plan, config, &module_of)
    }

    /// [`verify`](Self::verify) of the weights that [`save`](Self::save) writes: where the checkpoint has the matrices of all
    /// experts in one tensor, they are one weight.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify).
    pub fn verify_save<A: Architecture>(
        &self,
        config: &VerifyConfig,
    ) -> Result<VerifyReport, Error> {
        let model = self.engine.model_config::<A>()?;
        let plan = self.engine.bind_to_save::<A>(&model)?;
        let module_of = |path: &str| A::module_of(&model, path);
        self.engine.verify_plan(plan, config, &module_of)
    }

    /// [`verify`](Self::verify) of tensors of no particular model, as [`save_tensors`](Self::save_tensors) packs them.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify).
    pub fn verify_tensors(
        &self,
        include: &[Pattern],
        config: &VerifyConfig,
    ) -> Result<VerifyReport, Error> {
        let plan = self.engine.bind_tensors(include)?;
        self.engine.verify_plan(plan, config, &str::to_owned)
    }

    /// Compares the dequantized weights of this checkpoint with the tensors of the checkpoint `dense` that it was made
    /// from, and dense weights too: where those differ, it was made from another.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; [`VerifyError`] where `dense` lacks a tensor, or has it in another shape or packed.
    pub fn verify_against<A: Architecture>(
        &self,
        dense: &Checkpoint,
        limits: &Limits,
    ) -> Result<VerifyReport, Error> {
        self.engine.verify_against(self.plan::<A>()?, dense, limits)
    }

    /// [`verify_against`](Self::verify_against) for a checkpoint of no particular architecture.
    ///
    /// # Errors
    ///
    /// As [`verify_against`](Self::verify_against).
    pub fn verify_tensors_against(
        &self,
        dense: &Checkpoint,
        limits: &Limits,
    ) -> Result<VerifyReport, Error> {
        let plan = self.engine.plan_tensors(&[])?;
        self.engine.verify_against(plan, dense, limits)
    }

    /// Adds rules, before the others.
    #[must_use]
    pub fn with_rules(mut self, rules: Vec<Rule>) -> Self {
        let policy = &mut self.engine.config.pack.policy;
        policy.rules.splice(0..0, rules);
        self
    }

    /// The name of the model as it was asked for, without what is secret in an address.
    pub(crate) fn name(&self) -> String {
        without_secrets(&self.engine.config.model)
    }

    /// The configuration of the model.
    pub(crate) fn config<A: Architecture>(&self) -> Result<A::Config, Error> {
        self.engine.model_config::<A>()
    }

    /// What a run that is continued has to have the same: the files of the checkpoint, and what becomes of its weights. Each is
    /// read in parts only.
    pub(crate) fn identity<A: Architecture>(&self) -> Result<serde_json::Value, Error> {
        self.engine.identity::<A>()
    }

    /// The checkpoint's tokenizer.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] when no file of a tokenizer is there, or one is not what its name says.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        self.engine.tokenizer()
    }
}

/// The index of the device of a process with this number on its machine: several share one where there are fewer devices.
fn among<T: Target>(local: usize) -> Result<usize, TargetError> {
    match T::device(local) {
        Ok(_) => Ok(local),
        Err(TargetError::NoDevice { found, .. }) if found > 0 => Ok(local % found),
        Err(error) => Err(error),
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
