//! `firebox plan`: what a load would do with every tensor.

use clap::Args;
use firebox::{Loader, Target, model::CausalLm};

use crate::{
    Failure, OnTarget,
    args::{LoadArgs, QuantArgs},
    output,
};

#[derive(Debug, Args)]
pub(crate) struct PlanCommand {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    #[command(flatten)]
    quant: QuantArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl OnTarget for PlanCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let loader = Loader::<T>::new(self.load.request(self.load.config(self.quant.quant))?)?;
        let plan = loader.plan::<CausalLm>()?;
        if self.json {
            output::json(&plan.summary())?;
        } else {
            output::line(&plan)?;
        }
        // Printed first: a plan that cannot be carried out is still worth reading.
        Ok(loader.check(&plan)?)
    }
}
