//! `firebox load`: load, report, leave. Also the load that every other command begins with.

use std::path::PathBuf;

use clap::Args;
use firebox::{
    LoadRequest, Loaded, LoadedPart, Loader, Target,
    config::{Bytes, Parallel},
    model::{Architecture, CacheError, CausalLm, decoder::Spec},
    report::LoadReport,
    text::Tokenizer,
};

use crate::{Failure, OnTarget, args::RunArgs, output, progress::Bar, verify::LimitArgs};

#[derive(Debug, Args)]
pub(crate) struct LoadCommand {
    #[command(flatten)]
    pub(crate) run: RunArgs,

    #[command(flatten)]
    limits: LimitArgs,

    /// Write a page with pictures of memory, stages and errors into DIR, and the numbers as JSON
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,

    /// List every tensor
    #[arg(long)]
    tensors: bool,

    /// Print JSON, every tensor included
    #[arg(long)]
    json: bool,
}

impl OnTarget for LoadCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let mut request = self.run.request()?;
        if self.limits.any() {
            request = request.with(|config| config.verify(self.limits.config()));
        }
        let opened = Opened::<T>::new(request)?;
        let report = match opened.loader.ranks() {
            Some(ranks) if ranks.parallel != Parallel::Replicate => opened.load_part()?.report,
            _ => opened.load()?.report,
        };
        if let Some(folder) = &self.report {
            report.write_html(folder)?;
        }
        if self.json {
            return output::json(&report);
        }
        if self.tensors {
            output::line(by_tensor(&report))?;
        }
        output::line(report)
    }
}

/// A checkpoint whose weights have not been read: what else can be wrong is found before they are, since
/// a load may take minutes.
pub(crate) struct Opened<T: Target> {
    loader: Loader<T>,
    bar: Bar,
}

impl<T: Target> Opened<T> {
    pub(crate) fn new(request: LoadRequest) -> Result<Self, Failure> {
        let bar = Bar::new();
        let loader = Loader::new(request.observer(bar.clone()))?;
        Ok(Self { loader, bar })
    }

    pub(crate) fn config(&self) -> Result<Spec, Failure> {
        Ok(CausalLm::config(self.loader.checkpoint().config())?)
    }

    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, Failure> {
        Ok(self.loader.tokenizer()?)
    }

    /// Refuses what cannot be loaded, without reading weights.
    pub(crate) fn check(&self) -> Result<(), firebox::Error> {
        let checked = self.loader.plan::<CausalLm>();
        let checked = checked.and_then(|plan| self.loader.check(&plan));
        self.bar.clear();
        checked
    }

    /// Loads with a progress bar.
    pub(crate) fn load(&self) -> Result<Loaded<CausalLm>, Failure> {
        let loaded = self.loader.load();
        self.bar.clear();
        Ok(loaded?)
    }

    /// Loads what one of several ranks keeps.
    fn load_part(&self) -> Result<LoadedPart, Failure> {
        let loaded = self.loader.load_part::<CausalLm>();
        self.bar.clear();
        Ok(loaded?)
    }
}

/// Refuses ids that the model has no row for.
pub(crate) fn check_vocabulary(config: &Spec, ids: &[u32]) -> Result<(), Failure> {
    let vocabulary = config.vocabulary;
    let outside = |id: u32| !usize::try_from(id).is_ok_and(|id| id < vocabulary);
    match ids.iter().enumerate().find(|(_, id)| outside(**id)) {
        None => Ok(()),
        Some((place, id)) => Err(format!(
            "token {place} is {id}, which is not below the model's vocabulary of {vocabulary}"
        )
        .into()),
    }
}

/// Refuses more tokens than the model has positions.
pub(crate) fn check_positions(config: &Spec, tokens: usize) -> Result<(), CacheError> {
    let limit = config.positions;
    if tokens <= limit {
        return Ok(());
    }
    Err(CacheError::Full {
        held: 0,
        asked: tokens,
        limit,
    })
}

fn by_tensor(report: &LoadReport) -> comfy_table::Table {
    let ms = |seconds: f64| format!("{:.2}", seconds * 1e3);
    let rows = report.per_tensor.iter().map(|tensor| {
        vec![
            tensor.name.clone(),
            tensor.quant.to_string(),
            Bytes(tensor.bytes_read).to_string(),
            Bytes(tensor.bytes_packed).to_string(),
            ms(tensor.seconds_read),
            ms(tensor.seconds_convert),
            ms(tensor.seconds_place),
        ]
    });
    let header = [
        "tensor",
        "quant",
        "read",
        "kept",
        "read ms",
        "convert ms",
        "place ms",
    ];
    output::table(&header, &[2, 3, 4, 5, 6], rows)
}
