//! What was found: for programs (JSON), for people (a table), and as rules for the next load.

use core::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct};

use firebox_kernels::compare::Stats;

use crate::{
    config::{Beyond, Limits, Rule},
    plan::{Step, Treatment},
    quant::QuantSpec,
};

/// How far the weights of a quantization are from their source. Serialises to what `firebox verify --json` prints.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The checkpoint.
    pub model: String,
    /// The checkpoint that it was compared with, `None` where that is itself.
    pub against: Option<String>,
    /// Where weights were packed: [`Target::NAME`](crate::Target::NAME).
    pub target: String,
    /// What was asked of every weight.
    pub limits: Limits,
    /// Each weight that was compared, in the order they were read.
    pub tensors: Vec<TensorCheck>,
}

/// How far one weight is from its source.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct TensorCheck {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What became of it.
    pub quant: Treatment,
    /// How far it is.
    #[serde(flatten, with = "Numbers")]
    pub stats: Stats,
    /// The limits that it is beyond.
    pub beyond: Vec<Beyond>,
    /// What is within them.
    pub fallback: Option<Fallback>,
}

/// What a weight can be packed as to be within the limits.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Fallback {
    /// As what; [`QuantSpec::None`] to leave it as it is stored.
    pub quant: QuantSpec,
    /// How far it is from its source then.
    #[serde(flatten, with = "Numbers")]
    pub stats: Stats,
}

/// The words for statistics. What is infinite is `null` in JSON, which has no word for it.
#[derive(Serialize)]
#[serde(remote = "Stats")]
struct Numbers {
    max_error: f64,
    mean_error: f64,
    relative_error: f64,
    cosine: f64,
    #[serde(rename = "sqnr_db")]
    sqnr: f64,
    compared: u64,
    saturated: u64,
    #[serde(rename = "nonfinite_source")]
    lost_sources: u64,
    #[serde(rename = "nonfinite_result")]
    lost_results: u64,
}

/// [`Numbers`] of a weight that may not have been verified.
pub(crate) fn numbers<S: Serializer>(stats: &Option<Stats>, to: S) -> Result<S::Ok, S::Error> {
    match stats {
        Some(stats) => Numbers::serialize(stats, to),
        None => to.serialize_none(),
    }
}

/// The row of one weight.
pub(crate) fn check(step: &Step, stats: Stats, limits: &Limits) -> TensorCheck {
    TensorCheck {
        name: step.slot.name.clone(),
        shape: step.slot.shape.clone(),
        quant: step.quant(),
        stats,
        beyond: limits.beyond(&stats),
        fallback: None,
    }
}

impl TensorCheck {
    /// Whether it is beyond the limits, and every fallback is as well.
    pub fn failed(&self) -> bool {
        !self.beyond.is_empty() && self.fallback.is_none()
    }
}

impl VerifyReport {
    /// Weights that are beyond the limits and that no fallback helps.
    pub fn failed(&self) -> impl Iterator<Item = &TensorCheck> {
        self.tensors.iter().filter(|tensor| tensor.failed())
    }

    /// The weight with the lowest signal to noise ratio.
    pub fn worst(&self) -> Option<&TensorCheck> {
        let tensors = self.tensors.iter();
        tensors.min_by(|a, b| a.stats.sqnr.total_cmp(&b.stats.sqnr))
    }

    /// A rule for each weight that a fallback was chosen for. They have to come before other rules that name these
    /// weights, as [`Loader::with_rules`](crate::Loader::with_rules) puts them.
    pub fn rules(&self) -> Vec<Rule> {
        let chosen = self.tensors.iter().filter_map(|tensor| {
            let fallback = tensor.fallback.as_ref()?;
            Some(Rule::tensor(&tensor.name, fallback.quant.clone()))
        });
        chosen.collect()
    }

    /// Prints a line for each weight that is beyond the limits, and the rules. Nothing where there is none.
    pub fn beyond(&self) -> impl fmt::Display {
        fmt::from_fn(|f| {
            for tensor in self
                .tensors
                .iter()
                .filter(|tensor| !tensor.beyond.is_empty())
            {
                let beyond: Vec<String> = tensor.beyond.iter().map(Beyond::to_string).collect();
                write!(f, "beyond: {}: {}; ", tensor.name, beyond.join(", "))?;
                match &tensor.fallback {
                    Some(Fallback { quant, stats }) => {
                        writeln!(f, "{quant} has {:.2} dB", stats.sqnr)?;
                    }
                    None => writeln!(f, "no fallback is within")?,
                }
            }
            for rule in self.rules() {
                writeln!(f, "--rule {rule}")?;
            }
            Ok(())
        })
    }
}

impl Serialize for VerifyReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let failed: Vec<&str> = self.failed().map(|tensor| &*tensor.name).collect();
        let rules: Vec<String> = self.rules().iter().map(Rule::to_string).collect();
        let mut report = serializer.serialize_struct("VerifyReport", 8)?;
        report.serialize_field("model", &self.model)?;
        report.serialize_field("against", &self.against)?;
        report.serialize_field("target", &self.target)?;
        report.serialize_field("limits", &self.limits)?;
        report.serialize_field("worst", &self.worst().map(|tensor| &tensor.name))?;
        report.serialize_field("failed", &failed)?;
        report.serialize_field("rules", &rules)?;
        report.serialize_field("tensors", &self.tensors)?;
        report.end()
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 9]> = self.tensors.iter().map(row).collect();
        let widths: Vec<usize> = (0..HEADER.len())
            .map(|column| {
                let cells = rows.iter().map(|row| row[column].len());
                cells.fold(HEADER[column].len(), usize::max)
            })
            .collect();
        let against = self.against.as_deref().unwrap_or("their source");
        let (model, target) = (&self.model, &self.target);
        let count = self.tensors.len();
        writeln!(f, "{model} on {target}, {count} weights against {against}")?;
        line(f, &HEADER, &widths)?;
        for row in &rows {
            line(f, row, &widths)?;
        }
        write!(f, "{}", self.beyond())?;
        match self.worst() {
            Some(TensorCheck { name, stats, .. }) => {
                write!(f, "worst: {name}, {:.2} dB", stats.sqnr)
            }
            None => f.write_str("nothing to compare"),
        }
    }
}

const HEADER: [&str; 9] = [
    "tensor",
    "quant",
    "max error",
    "mean error",
    "relative",
    "cosine",
    "SQNR dB",
    "saturated",
    "not finite",
];

fn row(tensor: &TensorCheck) -> [String; 9] {
    let Stats {
        max_error,
        mean_error,
        relative_error,
        cosine,
        sqnr,
        saturated,
        lost_sources,
        lost_results,
        ..
    } = tensor.stats;
    [
        tensor.name.clone(),
        tensor.quant.to_string(),
        format!("{max_error:.3e}"),
        format!("{mean_error:.3e}"),
        format!("{relative_error:.5}"),
        format!("{cosine:.6}"),
        format!("{sqnr:.2}"),
        saturated.to_string(),
        lost_sources.max(lost_results).to_string(),
    ]
}

/// Text to the left, numbers to the right.
fn line(f: &mut fmt::Formatter<'_>, cells: &[impl AsRef<str>; 9], widths: &[usize]) -> fmt::Result {
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let (cell, width) = (cell.as_ref(), *width);
        match column {
            0 => write!(f, "{cell:width$}")?,
            1 => write!(f, "  {cell:width$}")?,
            _ => write!(f, "  {cell:>width$}")?,
        }
    }
    writeln!(f)
}
