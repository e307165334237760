//! `firebox models`: what is known, and what each was compared with.

use clap::Args;
use firebox::{
    config::{Known, To},
    dialect,
    model::{Family, RopeScaling, Wrapper, families, wrappers},
    quant::QuantSpec,
};
use serde::Serialize;

use crate::{Failure, output};

#[derive(Debug, Args)]
pub(crate) struct ModelsCommand {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Answer {
    families: Vec<&'static Family>,
    multimodal: Vec<&'static Wrapper>,
    rotary_scalings: Vec<Known>,
    dialects: Vec<KnownDialect>,
    methods: Vec<Known>,
}

#[derive(Serialize)]
struct KnownDialect {
    #[serde(flatten)]
    known: Known,
    read: bool,
    written: bool,
}

impl ModelsCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let answer = Answer::new();
        match self.json {
            true => output::json(&answer),
            false => answer.print(),
        }
    }
}

impl Answer {
    fn new() -> Self {
        let written = |known: &Known| To::ALL.iter().any(|to| to.name() == known.name);
        let dialects = dialect::KNOWN.into_iter().map(|known| KnownDialect {
            known,
            read: true,
            written: written(&known),
        });
        Self {
            families: families().collect(),
            multimodal: wrappers().collect(),
            rotary_scalings: RopeScaling::KNOWN.to_vec(),
            dialects: dialects.collect(),
            methods: QuantSpec::KNOWN.to_vec(),
        }
    }

    /// Tables that Markdown understands.
    fn print(&self) -> Result<(), Failure> {
        let families = self.families.iter().map(|family| {
            let of = family
                .alias_of
                .map(|of| format!("{} (as {of})", family.model_type));
            let name = of.unwrap_or_else(|| family.model_type.to_owned());
            vec![name, family.verified.join(", ")]
        });
        output::line(output::table(
            &["model_type", "compared with"],
            &[],
            families,
        ))?;
        let multimodal = self.multimodal.iter().map(|wrapper| {
            let Wrapper {
                model_type, text, ..
            } = wrapper;
            vec![(*model_type).to_owned(), (*text).to_owned()]
        });
        let multimodal = output::table(&["multimodal", "text model"], &[], multimodal);
        output::line(format_args!("\n{multimodal}"))?;
        let pairs = |known: &[Known]| -> Vec<Vec<String>> {
            let rows = known.iter();
            rows.map(|known| vec![known.name.to_owned(), known.verified.to_owned()])
                .collect()
        };
        let rows = pairs(&self.rotary_scalings);
        let scalings = output::table(&["rope_type", "compared with"], &[], rows);
        output::line(format_args!("\n{scalings}\n"))?;
        let said = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let dialects = self.dialects.iter().map(|dialect| {
            let Known { name, verified } = dialect.known;
            let sides = [said(dialect.read), said(dialect.written)];
            [
                vec![name.to_owned()],
                sides.to_vec(),
                vec![verified.to_owned()],
            ]
            .concat()
        });
        let header = ["dialect", "read", "written", "compared with"];
        output::line(output::table(&header, &[], dialects))?;
        let rows = pairs(&self.methods);
        let methods = output::table(&["method", "compared with"], &[], rows);
        output::line(format_args!("\n{methods}"))
    }
}
