//! `firebox plan`: what a load would do with every tensor, and the memory that it would take.

use std::time::Duration;

use clap::Args;
use firebox::{
    LoadConfig, Loader, Planner, ReadRate, Target,
    config::Bytes,
    model::{Architecture, CausalLm, PassSize},
    plan::{Lacking, MemoryPlan, Plan, Summary},
};
use serde::Serialize;

use crate::{
    Failure, OnTarget,
    args::{IncludeArgs, LoadArgs, ModelArgs, QuantArgs},
    load::check_positions,
    machine::{MachineArgs, PassArgs},
    on_target, output,
    settings::SettingsArgs,
    target::TargetName,
};

#[derive(Debug, Args)]
pub(crate) struct PlanCommand {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    quant: QuantArgs,

    #[command(flatten)]
    include: IncludeArgs,

    #[command(flatten)]
    machine: MachineArgs,

    #[command(flatten)]
    pass: PassArgs,

    /// Read weights for so many seconds, to say how long all of them take; 0 for none. Each byte is read once at most, and none is
    /// kept
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    probe: Duration,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds")?;
    match (0.0..=60.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("write a number of seconds from 0 to 60"),
    }
}

/// The plan, and the memory that it takes.
#[derive(Serialize)]
struct Planned<'p> {
    #[serde(flatten)]
    plan: Summary<'p>,
    #[serde(flatten)]
    memory: Option<&'p MemoryPlan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lacking: Option<Vec<Lacking>>,
    /// `null` where nobody has timed it.
    read: Option<ReadRate>,
}

impl PlanCommand {
    /// For this machine, or for the one that is stated.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let target = self.load.target;
        let Some(memory) = self.machine.stated() else {
            if let TargetName::Absent(target) = target {
                let why = TargetName::absent(target);
                return Err(format!(
                    "{why}; or state its memory for a plan, as in --device-memory 24GiB"
                )
                .into());
            }
            return on_target(target, self);
        };
        let request = self.load.request(self.config())?;
        let planner = Planner::new(request, target.known(), &memory)?;
        let size = self.size(planner.checkpoint().config())?;
        let plan = planner.plan::<CausalLm>()?;
        let memory = planner.memory::<CausalLm>(&plan, size, None)?;
        let rate = planner.read_rate(&plan, self.probe)?;
        self.print(&plan, Some(&memory), rate)?;
        planner.check(&plan)?;
        fits(&memory)
    }

    /// The configuration; a map leaves room for the pass that is counted, unless another is named.
    fn config(&self) -> LoadConfig {
        let config = self.load.config(self.quant.quant.clone());
        match self.pass.size() {
            Some(size) if !self.load.place.has_context() => config.context(size.batch, size.length),
            _ => config,
        }
    }

    /// The pass that is asked for, which the model has positions for.
    fn size(&self, config: &serde_json::Value) -> Result<Option<PassSize>, Failure> {
        let size = self.pass.size();
        if let Some(PassSize { length, .. }) = size {
            check_positions(&CausalLm::config(config)?, length)?;
        }
        Ok(size)
    }

    fn print(
        &self,
        plan: &Plan,
        memory: Option<&MemoryPlan>,
        read: Option<ReadRate>,
    ) -> Result<(), Failure> {
        if self.json {
            return output::json(&Planned {
                plan: plan.summary(),
                memory,
                lacking: memory.map(MemoryPlan::lacking),
                read,
            });
        }
        output::line(plan)?;
        if let Some(memory) = memory {
            output::line(memory)?;
        }
        match read {
            Some(read) => output::line(format_args!(
                "reading takes {:.1} s at {}/s, as measured here; converting overlaps with it",
                read.seconds_read,
                Bytes(read.bytes_per_second as u64)
            )),
            None => Ok(()),
        }
    }
}

impl OnTarget for PlanCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let config = self.config();
        let config = ModelArgs::any(config, &self.load.model.model);
        let loader = Loader::<T>::new(self.load.request(config)?)?;
        let config = loader.checkpoint().config();
        if self.include.by_files(config)? {
            // It can be saved, and not loaded.
            let plan = loader.plan_tensors(&self.include.patterns)?;
            let rate = loader.read_rate(&plan, self.probe)?;
            return self.print(&plan, None, rate);
        }
        let size = self.size(config)?;
        let plan = loader.plan::<CausalLm>()?;
        let memory = loader.memory::<CausalLm>(&plan, size, None)?;
        let rate = loader.read_rate(&plan, self.probe)?;
        self.print(&plan, Some(&memory), rate)?;
        // Printed first: a plan that cannot be carried out is still worth reading.
        loader.check(&plan)?;
        match size {
            Some(_) => fits(&memory),
            None => Ok(()),
        }
    }
}

/// Refuses a memory that is too small, with both numbers.
fn fits(memory: &MemoryPlan) -> Result<(), Failure> {
    let lacking = memory.lacking();
    if lacking.is_empty() {
        return Ok(());
    }
    let lacking: Vec<String> = lacking.iter().map(Lacking::to_string).collect();
    Err(format!("the model does not fit: {}", lacking.join("; ")).into())
}
