//! `firebox load`: load, report, leave. Also the load that every other command begins with.

use clap::Args;
use firebox::{
    Loaded, Loader, Target, config::Bytes, model::llama::Llama, quant::QuantSpec,
    report::LoadReport, tokenizer::Tokenizer,
};

use crate::{
    Failure, OnTarget,
    args::{LoadArgs, QuantArgs},
    output,
    progress::Bar,
};

#[derive(Debug, Args)]
pub(crate) struct LoadCommand {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    #[command(flatten)]
    quant: QuantArgs,

    /// List every tensor
    #[arg(long)]
    tensors: bool,

    /// Print JSON, every tensor included
    #[arg(long)]
    json: bool,
}

impl OnTarget for LoadCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let Loaded { report, .. } = load::<T>(&self.load, &self.quant.quant)?;
        if self.json {
            return output::json(&report);
        }
        if self.tensors {
            output::line(by_tensor(&report))?;
        }
        output::line(report)
    }
}

/// Loads with a progress bar.
pub(crate) fn load<T: Target>(
    args: &LoadArgs,
    quant: &QuantSpec,
) -> Result<Loaded<Llama>, Failure> {
    let (loader, bar) = open::<T>(args, quant)?;
    finish(&loader, &bar)
}

/// As [`load`], and the tokenizer: before the weights, so that a missing one does not cost a load.
pub(crate) fn load_with_tokenizer<T: Target>(
    args: &LoadArgs,
    quant: &QuantSpec,
) -> Result<(Loaded<Llama>, Tokenizer), Failure> {
    let (loader, bar) = open::<T>(args, quant)?;
    let tokenizer = loader.tokenizer()?;
    Ok((finish(&loader, &bar)?, tokenizer))
}

fn open<T: Target>(args: &LoadArgs, quant: &QuantSpec) -> Result<(Loader<T>, Bar), Failure> {
    let bar = Bar::new();
    let config = args.config(quant.clone()).observer(bar.clone());
    Ok((Loader::new(config)?, bar))
}

fn finish<T: Target>(loader: &Loader<T>, bar: &Bar) -> Result<Loaded<Llama>, Failure> {
    let loaded = loader.load();
    bar.clear();
    Ok(loaded?)
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
