//! Making the plan: slots are bound to tensors, open choices are made, a strategy is chosen.

use super::engine::{Engine, explain};
use crate::{
    config::{Auto, Pattern, To},
    dialect,
    error::Error,
    model::{Architecture, Role, Slot},
    plan::{Plan, Request, Step},
    prepare::{self, SizeLimit},
    quant::QuantSpec,
};

impl Engine {
    /// The plan of a load.
    pub(super) fn plan<A: Architecture>(&self, config: &A::Config) -> Result<Plan, Error> {
        let mut plan = self.bind::<A>(config)?;
        self.decide(&mut plan, None)?;
        let bytes = plan.totals().bytes_finished;
        self.choose_strategy(&mut plan, bytes);
        Ok(plan)
    }

    /// Binds the slots of a model. Weights whose quantization is to be measured are dense so far.
    pub(super) fn bind<A: Architecture>(&self, config: &A::Config) -> Result<Plan, Error> {
        let slots = A::slots(config);
        let mut plan = Plan::bind(&self.request(), &slots, |tensor| {
            A::leaves_out(config, tensor)
        })?;
        if self.config.pack.presinq {
            plan.link(A::links(config), &slots)?;
        }
        Ok(plan)
    }

    /// Binds the tensors of no particular model: of the matrices those that `include` names, or all of them if it names
    /// none, are to be quantized.
    pub(super) fn bind_tensors(&self, include: &[Pattern]) -> Result<Plan, Error> {
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
            // Without a model it is unknown which layer makes the input of a tensor.
            plan.link(Vec::new(), &[])?;
        }
        Ok(plan)
    }

    /// The request that a plan answers.
    pub(super) fn request(&self) -> Request<'_> {
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
        let source = &**self.checkpoint.source();
        let observers = &self.observers;
        let settings = self.settings(observers);
        let decided = prepare::decide(plan, open, limit, &candidates, source, &settings);
        decided.map_err(|error| explain(observers, error.into()))
    }
}
