//! `firebox quantize`, `firebox convert` and `firebox merge`: a checkpoint in, a checkpoint out.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{Args, ValueEnum};
use firebox::{
    Loader, Target,
    config::{Bytes, SaveConfig, To},
    model::CausalLm,
    observe::{Event, Flow},
    quant::QuantSpec,
    report::{Saved, VerifyReport},
    source::{FetchTotals, SourceExt},
};
use serde::Serialize;

use crate::{
    Failure, OnTarget,
    args::{IncludeArgs, LoadArgs, ModelArgs, QuantArgs},
    output::{self, Usage},
    progress::Bar,
    settings::SettingsArgs,
    stops::{Signalled, Stops, signalled},
    verify::{LimitArgs, within},
};

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    #[command(flatten)]
    settings: SettingsArgs,

    /// Folder for the checkpoint, also in an object store (s3://bucket/folder, gs://…, az://…); it has to be empty, or not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// The project that reads it: bitsandbytes, compressed-tensors, fp8, gguf, hqq, mlx, mxfp4 or modelopt; the usual one if not
    /// given. convert also has burnpack: a dense file of Burn
    #[arg(long, value_name = "DIALECT")]
    to: Option<SaveTo>,

    /// Go on with what an earlier run of the same command left in the folder; a complete one is left as it is
    #[arg(long)]
    resume: bool,

    /// Bytes of a shard; 5GB if not given, and all of a GGUF file
    #[arg(long, value_name = "SIZE")]
    shard_size: Option<Bytes>,

    /// Print JSON, every tensor included
    #[arg(long)]
    json: bool,
}

/// What `--to` names.
#[derive(Debug, Clone, Copy)]
enum SaveTo {
    Dialect(To),
    Burnpack,
}

impl FromStr for SaveTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "burnpack" | "bpk" => Ok(Self::Burnpack),
            _ => match text.parse() {
                Ok(to) => Ok(Self::Dialect(to)),
                Err(error) => Err(format!("{error}; convert also has burnpack")),
            },
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct QuantizeCommand {
    #[command(flatten)]
    pub(crate) save: SaveArgs,

    #[command(flatten)]
    include: IncludeArgs,

    /// What becomes of linear weights: nf4, fp4, nf4:block=64,nested, fp8:e4m3,scale=tensor,
    /// fp8:e4m3,scale=channel, fp8:e4m3,scale=block, mlx:bits=4,group=64,
    /// hqq:bits=4,group=64, wna16:bits=4,group=128, mxfp4, mxfp8, nvfp4, int8; in GGUF files
    /// q4_k, q8_0, iq4_nl and so on, mixtures such as q4_k_m and q6_k:mixture, f16, bf16, f32
    #[arg(long, value_name = "SPEC")]
    quant: QuantSpec,

    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ConvertCommand {
    #[command(flatten)]
    pub(crate) save: SaveArgs,

    /// Scales of 4-bit weights: plain or nested; as they are, if not given
    #[arg(long, value_enum)]
    scales: Option<Scales>,
}

#[derive(Debug, Args)]
pub(crate) struct MergeCommand {
    #[command(flatten)]
    pub(crate) save: SaveArgs,

    #[command(flatten)]
    quant: QuantArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scales {
    /// In f32, exactly as the nested ones give them
    Plain,
    /// As 8-bit codes, the nearest ones
    Nested,
}

impl OnTarget for QuantizeCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let limits = self.limits.any().then_some(&self.limits);
        self.save
            .run::<T>(self.quant, &self.include, limits, self.save.to())
    }
}

impl OnTarget for ConvertCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let to = self.save.to();
        let to = match self.scales {
            Some(scales) => to.nested(matches!(scales, Scales::Nested)),
            None => to,
        };
        self.save
            .run::<T>(QuantSpec::None, &IncludeArgs::default(), None, to)
    }
}

impl OnTarget for MergeCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        if self.save.load.adapters.is_empty() {
            return Err(Usage("name the adapter to merge: --adapter DIR".to_owned()).into());
        }
        let include = IncludeArgs::default();
        self.save
            .run::<T>(self.quant.quant, &include, None, self.save.to())
    }
}

/// Whether an output is no folder of this machine.
fn is_address(out: &Path) -> bool {
    out.to_str().is_some_and(|out| out.contains("://"))
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    saved: Saved,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<VerifyReport>,
    #[serde(flatten)]
    fetched: Option<FetchTotals>,
}

impl SaveArgs {
    fn to(&self) -> SaveConfig {
        let mut to = SaveConfig::new(&self.out).resume(self.resume);
        if let Some(Bytes(bytes)) = self.shard_size {
            to = to.shard_bytes(bytes);
        }
        match self.to {
            Some(SaveTo::Dialect(dialect)) => to.dialect(dialect),
            Some(SaveTo::Burnpack) | None => to,
        }
    }

    /// The dense tensors as a file of Burn.
    #[cfg(feature = "store")]
    fn burnpack<T: Target>(&self) -> Result<(), Failure> {
        if self.resume {
            let why = "a file of Burn is written in one go, and not at all where that is interrupted: leave --resume out";
            return Err(Usage(why.to_owned()).into());
        }
        let config = self.load.config(QuantSpec::None);
        let config = ModelArgs::any(config, &self.load.model.model);
        let mut store = Loader::<T>::new(self.load.request(config)?)?.store()?;
        let saved = store.save_burnpack(&self.out)?;
        if self.json {
            return output::json(&saved);
        }
        output::line(format_args!(
            "{}: {} in {} tensors, as {}",
            saved.folder.join(saved.files[0]).display(),
            Bytes(saved.bytes_written),
            saved.made,
            saved.dialect
        ))
    }

    #[cfg(not(feature = "store"))]
    #[allow(clippy::unused_self, reason = "as with the feature")]
    fn burnpack<T: Target>(&self) -> Result<(), Failure> {
        Err(Usage(
            "this program was built without the feature `store`, which writes burnpack".to_owned(),
        )
        .into())
    }

    /// With limits, weights are verified before any is written, and saved as the fallbacks that were chosen.
    fn run<T: Target>(
        &self,
        quant: QuantSpec,
        include: &IncludeArgs,
        limits: Option<&LimitArgs>,
        to: SaveConfig,
    ) -> Result<(), Failure> {
        self.load
            .refuse_compute("a saved checkpoint is the same in each")?;
        if matches!(self.to, Some(SaveTo::Burnpack)) {
            let dense =
                quant == QuantSpec::None && self.load.adapters.is_empty() && limits.is_none();
            return match dense {
                true if is_address(&self.out) => Err(Usage(
                    "a file of Burn is written to a folder of this machine; convert it there, and `firebox push` it"
                        .to_owned(),
                )
                .into()),
                true => self.burnpack::<T>(),
                false => Err(Usage(
                    "a file of Burn holds the tensors of the checkpoint, dense: `firebox convert MODEL --to burnpack`"
                        .to_owned(),
                )
                .into()),
            };
        }
        if !is_address(&self.out) {
            return self.save::<T>(quant, include, limits, to);
        }
        // An upload that is under way is given up before the end; a second signal does not wait for that.
        let stops = Stops::install();
        let saved = self.save::<T>(quant, include, limits, to);
        saved.map_err(|failure| match stops.signal() {
            Some(signal) => Box::new(Signalled {
                signal,
                said: output::chain(&*failure),
            }) as Failure,
            None => failure,
        })
    }

    fn save<T: Target>(
        &self,
        quant: QuantSpec,
        include: &IncludeArgs,
        limits: Option<&LimitArgs>,
        to: SaveConfig,
    ) -> Result<(), Failure> {
        let bar = Bar::new();
        let config = self.load.config(quant);
        let config = ModelArgs::any(config, &self.load.model.model);
        let request = self.load.request(config)?.observer(bar.clone());
        let request = request.observer(|_: &Event<'_>| match signalled() {
            Some(_) => Flow::Cancel,
            None => Flow::Continue,
        });
        let mut loader = Loader::<T>::new(request)?;
        let by_files = include.by_files(loader.checkpoint().config())?;
        let mut verified = None;
        if let Some(limits) = limits {
            let report = if by_files {
                loader.verify_tensors(&include.patterns, &limits.config())
            } else {
                loader.verify_save::<CausalLm>(&limits.config())
            };
            bar.clear();
            let report = report?;
            within(&report)?;
            loader = loader.with_rules(report.rules());
            verified = Some(report);
        }
        let saved = if by_files {
            loader.save_tensors(&include.patterns, &to)
        } else {
            loader.save::<CausalLm>(&to)
        };
        bar.clear();
        let saved = saved?;
        if self.json {
            let fetched = loader.checkpoint().source().fetched();
            return output::json(&Answer {
                saved,
                verified,
                fetched,
            });
        }
        if let Some(verified) = verified {
            output::text(verified.beyond())?;
        }
        let Saved {
            folder, dialect, ..
        } = &saved;
        output::line(format_args!(
            "{}: {} in {} files of weights, {}",
            folder.display(),
            Bytes(saved.bytes_written),
            saved.files.len(),
            dialect.map_or("plain".to_owned(), |dialect| format!("as {dialect}"))
        ))?;
        if saved.made == 0 {
            output::line("nothing was left to do: all weights were there already")?;
        } else if saved.resumed > 0 {
            let (resumed, of) = (saved.resumed, saved.report.tensors);
            output::line(format_args!("{resumed} of {of} weights were there already"))?;
        }
        output::line(saved.report)
    }
}
