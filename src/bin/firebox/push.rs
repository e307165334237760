//! `firebox push`: a finished folder becomes a model that others can load, with a card.

use std::{ffi::OsString, fs, path::PathBuf};

use clap::Args;
use firebox::{
    LoadConfig, Loader, Target,
    config::{Bytes, Limits, PushConfig},
    model::CausalLm,
    publish::{MeasuredErrors, push},
};

use crate::{
    Failure, OnTarget,
    args::{IncludeArgs, ModelArgs},
    output::{self, Usage},
    progress::Bar,
    target::{TargetName, TargetParser},
};

#[derive(Debug, Args)]
pub(crate) struct PushCommand {
    /// The folder that `quantize`, `convert` or `merge` has finished
    folder: PathBuf,

    /// s3://bucket/folder, gs://…, az://…, or hf://org/name, which is made if it is not there
    to: String,

    /// The model that it was made from, for the card: org/name
    #[arg(long, value_name = "MODEL")]
    base_model: Option<String>,

    /// Measure the errors for the card against the model that it was made from
    #[arg(long, value_name = "SOURCE", conflicts_with = "report")]
    against: Option<OsString>,

    /// Take the errors for the card from what `verify --json` or `quantize --json` with a limit has printed
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Replace files of the same names
    #[arg(long)]
    replace: bool,

    /// Make a new model on the hub a private one
    #[arg(long)]
    private: bool,

    /// The message of the commit on the hub
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,

    /// Where errors are measured
    #[arg(long, value_parser = TargetParser, default_value_t)]
    pub(crate) target: TargetName,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl OnTarget for PushCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let errors = match (&self.against, &self.report) {
            (Some(against), _) => Some(self.measured::<T>(against)?),
            (None, Some(file)) => {
                let text = fs::read(file)
                    .map_err(|error| Usage(format!("{}: {error}", file.display())))?;
                Some(MeasuredErrors::read(&file.to_string_lossy(), &text)?)
            }
            (None, None) => None,
        };
        let mut config = PushConfig::new(&self.folder, &self.to)
            .replace(self.replace)
            .private(self.private);
        if let Some(base) = &self.base_model {
            config = config.base_model(base);
        }
        if let Some(message) = &self.message {
            config = config.message(message);
        }
        let pushed = push(&config, errors.as_ref(), &mut |file, bytes| {
            output::note(format_args!("{file}: {}", Bytes(bytes)));
        })?;
        if self.json {
            return output::json(&pushed);
        }
        let sent = pushed.files.iter().filter(|file| !file.was_there).count();
        output::line(format_args!(
            "{}: {} files, {sent} of them sent; all have the same SHA-256 there as here",
            pushed.to,
            pushed.files.len()
        ))?;
        if let Some(commit) = &pushed.commit {
            output::line(format_args!("commit {commit}"))?;
        }
        match (pushed.own_card, errors) {
            (true, _) => output::line("the folder has a README.md of its own: no card was written"),
            (false, None) => output::line(
                "the card says that errors were not measured; --against SOURCE measures them",
            ),
            (false, Some(_)) => Ok(()),
        }
    }
}

impl PushCommand {
    fn measured<T: Target>(&self, against: &OsString) -> Result<MeasuredErrors, Failure> {
        let bar = Bar::new();
        let folder = self.folder.as_os_str();
        let open = |model: &OsString| {
            let config = LoadConfig::new(model.to_string_lossy());
            ModelArgs::any(config, model)
        };
        let loader = Loader::<T>::new(
            firebox::LoadRequest::from(open(&folder.to_owned())).observer(bar.clone()),
        )?;
        let dense = firebox::LoadRequest::from(open(against)).open()?;
        let by_files = IncludeArgs::default().by_files(loader.checkpoint().config())?;
        let limits = Limits::default();
        let report = match by_files {
            true => loader.verify_tensors_against(&dense, &limits),
            false => loader.verify_against::<CausalLm>(&dense, &limits),
        };
        bar.clear();
        Ok(MeasuredErrors::of(&report?))
    }
}
