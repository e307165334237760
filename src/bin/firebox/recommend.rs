//! `firebox recommend`: a configuration for a model and a memory.

use std::{fs, path::PathBuf};

use clap::Args;
use firebox::{
    Planner, Target,
    config::{Bytes, StatedMemory},
    quant::QuantSpec,
    recommend::{Recommendation, recommend},
    source::SourceExt,
};

use crate::{
    Failure, OnTarget,
    args::ModelArgs,
    machine::{MachineArgs, TaskArgs, of_this_machine},
    on_target, output,
    target::{TargetName, TargetParser},
};

#[derive(Debug, Args)]
pub(crate) struct RecommendCommand {
    #[command(flatten)]
    model: ModelArgs,

    /// Where the model goes
    #[arg(long, value_parser = TargetParser, default_value_t)]
    target: TargetName,

    #[command(flatten)]
    machine: MachineArgs,

    #[command(flatten)]
    task: TaskArgs,

    /// What becomes of linear weights; chosen if not given
    #[arg(long, value_name = "SPEC")]
    quant: Option<QuantSpec>,

    /// Write the configuration as TOML, which --config of the other commands reads
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Print JSON: each choice with its reason, the memory that it takes, and the TOML
    #[arg(long)]
    json: bool,
}

impl RecommendCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.machine.stated(self.target.known()) {
            Some(memory) => self.recommended(&memory),
            None => on_target(self.target, self),
        }
    }

    fn recommended(&self, memory: &StatedMemory) -> Result<(), Failure> {
        let request = self.model.request(self.model.config(), &self.model.model)?;
        let planner = Planner::new(request, self.target.known(), memory)?;
        let recommended = recommend(&planner, &self.task.task(self.quant.clone())?)?;
        if let Some(file) = &self.out {
            let failed = |error| format!("{}: could not be written: {error}", file.display());
            fs::write(file, &recommended.toml).map_err(failed)?;
        }
        let fetched = planner.checkpoint().source().fetched();
        match (self.json, &self.out) {
            (true, _) => output::json(&output::WithFetched {
                answer: &recommended,
                fetched,
            }),
            (false, Some(_)) => {
                said(&recommended)?;
                output::fetched(fetched)
            }
            (false, None) => {
                output::line(recommended.toml.trim_end())?;
                fetched.map_or(Ok(()), |fetched| output::line(format_args!("# {fetched}")))
            }
        }
    }
}

impl OnTarget for RecommendCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        self.recommended(&of_this_machine::<T>()?)
    }
}

fn said(recommended: &Recommendation) -> Result<(), Failure> {
    for choice in &recommended.choices {
        output::line(format_args!(
            "{}: {}: {}",
            choice.setting, choice.value, choice.reason
        ))?;
    }
    let devices = recommended.plan.devices.iter();
    let peaks = devices.map(|device| format!("{} on {}", Bytes(device.peak_bytes), device.place()));
    let peaks = peaks.collect::<Vec<_>>().join(", ");
    let host = Bytes(recommended.plan.peak_host_bytes);
    output::line(format_args!("peak: {peaks}, {host} on the host"))
}
