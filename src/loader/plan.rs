//! Making the plan: slots are bound to tensors, open choices are made, a strategy is chosen.

use super::engine::{Engine, explain};
use crate::{
    config::{Auto, Pattern, To},
    dialect::Files,
    error::Error,
    model::{Architecture, Slot},
    plan::{Plan, PlanError, Request, Step, whole_stacks},
    prepare::{self, SizeLimit},
    quant::QuantSpec,
    source::TensorInfo,
    target::MemoryKind,
};

/// Bytes of a tensor that describes another, at most: a shape, or a few words of JSON.
const DESCRIPTION_MAX: u64 = 64 << 10;

impl Engine {
    /// The plan of a load.
    pub(super) fn plan<A: Architecture>(&self, config: &A::Config) -> Result<Plan, Error> {
        let mut plan = self.bind::<A>(config)?;
        plan.adapters = self.planned_adapters::<A>(config, &plan)?;
        self.decide(&mut plan, None)?;
        self.divide::<A>(config, &mut plan)?;
        if !self.follows_map() {
            plan.unmapped(A::units(config));
            return self.settle(plan);
        }
        // A plan that lacks tensors cannot be loaded; it is shown as it is.
        if plan.missing.is_empty() {
            self.map::<A>(&mut plan, config)?;
        }
        Ok(plan)
    }

    /// The plan of weights as a load makes them, to be compared with adapters merged into them.
    pub(super) fn plan_merged<A: Architecture>(&self, config: &A::Config) -> Result<Plan, Error> {
        let (slots, own_head) = self.merged_slots::<A>(config)?;
        let plan = self.bind_slots::<A>(config, &slots)?;
        self.complete(Plan { own_head, ..plan })
    }

    /// Makes the choices that a bound plan leaves open: quantizations to be measured, and the strategy.
    fn complete(&self, mut plan: Plan) -> Result<Plan, Error> {
        self.decide(&mut plan, None)?;
        self.settle(plan)
    }

    /// Chooses the strategy.
    fn settle(&self, mut plan: Plan) -> Result<Plan, Error> {
        let adapters = plan.adapters.iter().map(|adapter| adapter.bytes);
        let bytes = plan.totals().bytes_finished + adapters.sum::<u64>();
        self.choose_strategy(&mut plan, bytes);
        Ok(plan)
    }

    /// Binds the slots of a model. Weights whose quantization is to be measured are dense so far.
    pub(super) fn bind<A: Architecture>(&self, config: &A::Config) -> Result<Plan, Error> {
        if let Some(quant) = self.config.pack.policy.dense_type() {
            let quant = quant.to_string();
            return Err(PlanError::DenseType { quant }.into());
        }
        self.bind_slots::<A>(config, &A::slots(config))
    }

    /// Binds what a save of a model writes: the stacks of the checkpoint stay stacks, and a tied head that merged adapters make
    /// another matrix is one.
    pub(super) fn bind_to_save<A: Architecture>(&self, config: &A::Config) -> Result<Plan, Error> {
        let (slots, own_head) = self.merged_slots::<A>(config)?;
        let slots = whole_stacks(slots, &self.request())?;
        let plan = self.bind_to_files::<A>(config, &slots)?;
        Ok(Plan { own_head, ..plan })
    }

    /// Binds slots whose weights go to files.
    pub(super) fn bind_to_files<A: Architecture>(
        &self,
        config: &A::Config,
        slots: &[Slot],
    ) -> Result<Plan, Error> {
        let request = Request {
            is_save: true,
            ..self.request()
        };
        self.bind_by::<A>(&request, config, slots)
    }

    fn bind_slots<A: Architecture>(
        &self,
        config: &A::Config,
        slots: &[Slot],
    ) -> Result<Plan, Error> {
        self.bind_by::<A>(&self.request(), config, slots)
    }

    fn bind_by<A: Architecture>(
        &self,
        request: &Request<'_>,
        config: &A::Config,
        slots: &[Slot],
    ) -> Result<Plan, Error> {
        let bound = Plan::bind(request, slots, |tensor| A::leaves_out(config, tensor));
        if bound.as_ref().map_or(true, |plan| !plan.missing.is_empty()) {
            // What the model lacks may be what the index promises.
            self.checkpoint().check_gaps()?;
        }
        let mut plan = bound?;
        plan.untied = self.untied.get().cloned().flatten();
        if self.config.pack.presinq {
            plan.link(A::links(config), slots)?;
        }
        Ok(plan)
    }

    /// The plan for the tensors of no particular model, as [`plan`](Self::plan) for a model.
    pub(super) fn plan_tensors(&self, include: &[Pattern]) -> Result<Plan, Error> {
        self.complete(self.bind_tensors(include)?)
    }

    /// Binds all tensors of the files, without a model. The matrices that match `include` are quantized; without any `include`, the
    /// matrices that look like linear layers.
    pub(super) fn bind_tensors(&self, include: &[Pattern]) -> Result<Plan, Error> {
        // Every tensor is wanted.
        self.checkpoint().check_gaps()?;
        let plan = self.with_files(|files| Plan::bind_files(&self.request(), include, files));
        let mut plan = plan?;
        if self.config.pack.presinq {
            // Without a model it is unknown which layer makes the input of a tensor.
            plan.link(Vec::new(), &[])?;
        }
        Ok(plan)
    }

    /// Adds the tensors that the slots of a model do not take, to be carried over.
    pub(super) fn carry_rest(&self, plan: &mut Plan) -> Result<(), Error> {
        Ok(self.with_files(|files| plan.carry_rest(&self.request(), files))?)
    }

    /// Calls `run` with the tensors of the checkpoint, of which it may read those that describe others.
    fn with_files<R>(&self, run: impl FnOnce(&Files<'_>) -> R) -> R {
        let source = self.checkpoint().source();
        let read = |tensor: &TensorInfo| {
            if tensor.bytes() > DESCRIPTION_MAX {
                return Err(format!("it has {} bytes", tensor.bytes()));
            }
            let mut bytes = vec![0; tensor.bytes() as usize];
            let read = source.read_at(&tensor.file, tensor.range.start, &mut bytes);
            read.map(|()| bytes).map_err(|error| error.to_string())
        };
        run(&Files {
            catalog: self.checkpoint().catalog(),
            read: &read,
        })
    }

    /// The request that a plan answers.
    pub(super) fn request(&self) -> Request<'_> {
        Request {
            model: self.checkpoint().source().describe(),
            notes: self.checkpoint().notes(),
            catalog: self.checkpoint().catalog(),
            dialect: self.dialect.as_deref(),
            dequantize: self.config.pack.dequantize,
            requantize: self.config.pack.requantize,
            policy: &self.config.pack.policy,
            dense: &self.dense,
            new_blocks: &self.new_blocks,
            devices: self.devices(),
            dtype: self.dtype,
            is_module: self.is_module,
            is_save: false,
            is_device: self.target.memory == MemoryKind::Device,
            compute: self.config.pack.compute,
        }
    }

    /// Measures and chooses a quantization for the weights that have none yet, if there are any.
    pub(super) fn decide(&self, plan: &mut Plan, to: Option<To>) -> Result<(), Error> {
        let policy = &self.config.pack.policy;
        let QuantSpec::Auto(limit) = policy.linear else {
            return Ok(());
        };
        // Such a plan cannot be loaded; it is shown without choices.
        if !plan.missing.is_empty() {
            return Ok(());
        }
        let limit = match limit {
            Auto::Bits(bits) => SizeLimit::Bits(bits),
            Auto::Size(bytes) => SizeLimit::Bytes(bytes),
            Auto::Fitting => SizeLimit::Bytes(self.fitting()?),
        };
        let candidates = match &self.config.pack.candidates[..] {
            [] => prepare::candidates(to),
            named => named.to_vec(),
        };
        let open = |step: &Step| matches!(step.slot.quant(policy), QuantSpec::Auto(_));
        let source = &**self.checkpoint().source();
        let observers = &self.observers;
        let settings = self.settings(observers);
        let decided = prepare::decide(plan, open, limit, &candidates, source, &settings);
        decided.map_err(|error| explain(observers, error.into()))
    }
}
