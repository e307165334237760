//! `firebox plan`: what a load would do with every tensor, and the memory that it would take.

use std::time::Duration;

use clap::Args;
use firebox::{
    LoadConfig, Loader, Planner, ReadRate, Target,
    config::Bytes,
    plan::{Lacking, MemoryPlan, Plan, Summary},
    recommend::{Remedy, planned, remedies},
    source::{FetchTotals, SourceExt},
};
use serde::Serialize;

use crate::{
    Failure, OnTarget,
    args::{IncludeArgs, LoadArgs, ModelArgs, QuantArgs},
    machine::{MachineArgs, TaskArgs},
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
    task: TaskArgs,

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
struct PlanAnswer<'p> {
    #[serde(flatten)]
    plan: Summary<'p>,
    #[serde(flatten)]
    memory: Option<&'p MemoryPlan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lacking: Option<Vec<Lacking>>,
    #[serde(skip_serializing_if = "<[Remedy]>::is_empty")]
    remedies: &'p [Remedy],
    /// `null` where nobody has timed it.
    read: Option<ReadRate>,
    #[serde(flatten)]
    fetched: Option<FetchTotals>,
}

impl PlanCommand {
    /// For this machine, or for the one that is stated.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let target = self.load.target;
        let Some(memory) = self.machine.stated(target.known()) else {
            if let TargetName::Absent(target) = target {
                let why = TargetName::absent(target);
                return Err(format!(
                    "{why}; or state its memory for a plan, as in --device-memory 24GiB"
                )
                .into());
            }
            return on_target(target, self);
        };
        let config = self.config();
        // All devices that are stated, unless some of them are asked for.
        let config = match self.load.place.is_given() {
            true => config,
            false => config.devices(0..memory.devices.bytes().len()),
        };
        let planner = Planner::new(self.load.request(config)?, target.known(), &memory)?;
        self.planned(&planner, true)
    }

    /// The configuration; a map leaves room for the pass that is counted, unless another is named.
    fn config(&self) -> LoadConfig {
        let config = self.load.config(self.quant.quant.clone());
        match self.task.size() {
            Some([batch, length]) if !self.load.place.has_context() => {
                config.context(batch, length)
            }
            _ => config,
        }
    }

    /// Prints the plan with its memory, and says whether it fits.
    fn planned(&self, planner: &Planner, is_stated: bool) -> Result<(), Failure> {
        let task = self.task.task(None)?;
        let planned = planned(planner, &task)?;
        let memory = &planned.memory;
        let counts = is_stated || planned.size.is_some();
        let lacks = counts && !memory.lacking().is_empty();
        let remedies = match lacks || planned.refused.is_some() && planned.plan.missing.is_empty() {
            // What cannot be planned otherwise has no remedy, and its own error.
            true => remedies(planner, &task, planned.size).unwrap_or_default(),
            false => Vec::new(),
        };
        let rate = planner.read_rate(&planned.plan, self.probe)?;
        let fetched = planner.checkpoint().source().fetched();
        self.print(&planned.plan, Some(memory), &remedies, (rate, fetched))?;
        // Printed first: a plan that cannot be carried out is still worth reading.
        match planned.refused {
            Some(error) => Err(error.into()),
            None if lacks => Err(too_little(memory).into()),
            None => Ok(()),
        }
    }

    fn print(
        &self,
        plan: &Plan,
        memory: Option<&MemoryPlan>,
        remedies: &[Remedy],
        (read, fetched): (Option<ReadRate>, Option<FetchTotals>),
    ) -> Result<(), Failure> {
        if self.json {
            return output::json(&PlanAnswer {
                plan: plan.summary(),
                memory,
                lacking: memory.map(MemoryPlan::lacking),
                remedies,
                read,
                fetched,
            });
        }
        output::line(plan)?;
        if let Some(memory) = memory {
            output::line(memory)?;
        }
        for Remedy {
            change,
            effect,
            peak_bytes,
        } in remedies
        {
            output::line(format_args!(
                "would fit: {change} ({effect}): {} at most",
                Bytes(*peak_bytes)
            ))?;
        }
        if let Some(read) = read {
            output::line(format_args!(
                "reading takes {:.1} s at {}/s, as measured here; converting overlaps with it",
                read.seconds_read,
                Bytes(read.bytes_per_second as u64)
            ))?;
        }
        output::fetched(fetched)
    }
}

impl OnTarget for PlanCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let config = ModelArgs::any(self.config(), &self.load.model.model);
        let loader = Loader::<T>::new(self.load.request(config)?)?;
        if self.include.by_files(loader.checkpoint().config())? {
            // It can be saved, and not loaded.
            let plan = loader.plan_tensors(&self.include.patterns)?;
            let rate = loader.read_rate(&plan, self.probe)?;
            let fetched = loader.checkpoint().source().fetched();
            return self.print(&plan, None, &[], (rate, fetched));
        }
        self.planned(&Planner::of(&loader), false)
    }
}

/// The memories that are too small, with both numbers.
fn too_little(memory: &MemoryPlan) -> String {
    let lacking: Vec<String> = memory.lacking().iter().map(Lacking::to_string).collect();
    format!("the model does not fit: {}", lacking.join("; "))
}
