//! `firebox plan`: what a load would do with every tensor.

use clap::Args;
use firebox::{Loader, Target, model::CausalLm};

use crate::{
    Failure, OnTarget,
    args::{IncludeArgs, LoadArgs, ModelArgs, QuantArgs},
    output,
};

#[derive(Debug, Args)]
pub(crate) struct PlanCommand {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    #[command(flatten)]
    quant: QuantArgs,

    #[command(flatten)]
    include: IncludeArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl OnTarget for PlanCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let config = self.load.config(self.quant.quant);
        let config = ModelArgs::any(config, &self.load.model.model);
        let loader = Loader::<T>::new(self.load.request(config)?)?;
        let by_files = self.include.by_files(loader.checkpoint().config())?;
        let plan = if by_files {
            loader.plan_tensors(&self.include.patterns)?
        } else {
            loader.plan::<CausalLm>()?
        };
        if self.json {
            output::json(&plan.summary())?;
        } else {
            output::line(&plan)?;
        }
        if by_files {
            // It can be saved, and not loaded.
            return Ok(());
        }
        // Printed first: a plan that cannot be carried out is still worth reading.
        Ok(loader.check(&plan)?)
    }
}
