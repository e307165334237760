//! Choosing by measured errors: each weight gets the candidate that it needs, all together no more than a size.
//!
//! Every candidate packs every weight once, and the packed weight is compared with its source. The measure is the sum of
//! squared errors over the sum of squared values, times the number of values: the noise that a layer adds to its output if
//! all its inputs are alike, weighted by the size of the layer.
//!
//! Memory is that of the pipeline for one packed weight. Every candidate reads every weight twice.

use super::{
    balance,
    choose::{Choice, choose},
};
use crate::{
    config::{Auto, To},
    observe::{Event, Flow, tell},
    pipeline::{
        self, Comparer, Finished, Original, PipelineError, Settings, Sink, SinkError, StepReads,
        comparing,
    },
    plan::{Plan, PlanError, Step},
    quant::QuantSpec,
    source::Source,
};

/// The default candidates: formats that can be loaded side by side, or that a dialect holds side by side.
pub(crate) fn candidates(to: Option<To>) -> Vec<QuantSpec> {
    let words: &[&str] = match to {
        None => &[
            "mlx:bits=2",
            "mlx:bits=3",
            "nf4:nested",
            "nf4",
            "mlx:bits=4",
            "mlx:bits=5",
            "mlx:bits=6",
            "int8",
            "fp8:scale=channel",
            "mlx:bits=8",
            "none",
        ],
        Some(To::Mlx) => &[
            "mlx:bits=2",
            "mlx:bits=3",
            "mlx:bits=4",
            "mlx:bits=5",
            "mlx:bits=6",
            "mlx:bits=8",
            "none",
        ],
        Some(To::Gguf) => &["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0", "none"],
        Some(To::BitsAndBytes) => &["nf4:nested", "none"],
        Some(To::Hqq) => &["hqq", "none"],
        Some(To::CompressedTensors) => &["fp8:scale=channel", "none"],
        Some(To::Fp8) => &["fp8:scale=block", "none"],
        Some(To::Mxfp4) => &["mxfp4", "none"],
        Some(To::ModelOpt) => &["nvfp4:global", "none"],
    };
    let spec = |words: &&str| {
        words
            .parse()
            .expect("candidates of our own are in words of our own")
    };
    words.iter().map(spec).collect()
}

/// Weights could not be measured, or no choice fits.
#[derive(Debug)]
pub(crate) enum PrepareError {
    /// No choice fits.
    Plan(PlanError),
    /// Weights could not be read, packed or compared.
    Pipeline(PipelineError),
}

impl From<PlanError> for PrepareError {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

impl From<PipelineError> for PrepareError {
    fn from(error: PipelineError) -> Self {
        Self::Pipeline(error)
    }
}

/// How large the weights may become that are chosen for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SizeLimit {
    /// Bits of a weight on average, scales included, over the weights that are chosen for.
    Bits(f64),
    /// Bytes of all finished weights of the model.
    Bytes(u64),
}

impl SizeLimit {
    fn asked(self) -> Auto {
        match self {
            Self::Bits(bits) => Auto::Bits(bits),
            Self::Bytes(bytes) => Auto::Size(bytes),
        }
    }
}

/// Chooses a candidate for each weight of `plan` that is `open`; so far the plan leaves these weights dense.
///
/// # Errors
///
/// [`PlanError::Budget`] where the smallest candidates are too much, and errors of reading and packing.
pub(crate) fn decide(
    plan: &mut Plan,
    open: impl Fn(&Step) -> bool,
    limit: SizeLimit,
    candidates: &[QuantSpec],
    source: &dyn Source,
    settings: &Settings<'_>,
) -> Result<(), PrepareError> {
    let places: Vec<usize> = (0..plan.steps.len())
        .filter(|place| plan.steps[*place].has_values() && open(&plan.steps[*place]))
        .collect();
    // Where columns are balanced first, the packed values differ from the stored ones.
    let mut measured = plan.clone();
    balance(&mut measured, source, settings)?;
    measured.links.clear();
    let steps: Vec<Step> = (places.iter())
        .map(|place| measured.steps[*place].clone())
        .collect();

    let mut becomes: Vec<Vec<Step>> = vec![Vec::new(); steps.len()];
    let mut table: Vec<Vec<Choice>> = vec![Vec::new(); steps.len()];
    for quant in candidates {
        let (of, trial) = tried(&steps, quant);
        measured.steps = trial;
        let errors = errors(&measured, source, settings)?;
        for ((weight, step), error) in of.into_iter().zip(&measured.steps).zip(errors) {
            let bytes = step.bytes_finished();
            table[weight].push(Choice { bytes, error });
            becomes[weight].push(step.clone());
        }
        let event = Event::Measured { quant };
        tell(settings.observer, &event, 0, plan.steps.len()).map_err(PipelineError::from)?;
    }

    let budget = budget(plan, &places, limit);
    let chosen = choose(&table, budget).ok_or_else(|| {
        let least = |choices: &Vec<Choice>| choices.iter().map(|choice| choice.bytes).min();
        PlanError::Budget {
            asked: limit.asked().to_string(),
            budget,
            // A weight that no candidate can pack has no size at all.
            needed: table.iter().map(least).sum(),
        }
    })?;
    for ((place, chosen), mut becomes) in places.into_iter().zip(chosen).zip(becomes) {
        let (step, chosen) = (&mut plan.steps[place], becomes.swap_remove(chosen));
        (step.slot, step.action) = (chosen.slot, chosen.action);
        tracing::info!(tensor = step.slot.name, quant = %step.quant(), "chosen");
    }
    Ok(())
}

/// Bytes for the weights at `places`.
fn budget(plan: &Plan, places: &[usize], limit: SizeLimit) -> u64 {
    let of = |place: &usize| &plan.steps[*place];
    match limit {
        SizeLimit::Bits(bits) => {
            let weights = places.iter().map(|place| numbers(of(place))).sum::<usize>();
            (weights as f64 * bits / 8.0) as u64
        }
        SizeLimit::Bytes(size) => {
            let open = places
                .iter()
                .map(|place| of(place).bytes_finished())
                .sum::<u64>();
            size.saturating_sub(plan.totals().bytes_finished - open)
        }
    }
}

fn numbers(step: &Step) -> usize {
    step.slot.shape.iter().product()
}

/// The steps that `quant` can pack, packed by it, and their places in `steps`.
fn tried(steps: &[Step], quant: &QuantSpec) -> (Vec<usize>, Vec<Step>) {
    let tried = steps
        .iter()
        .enumerate()
        .filter_map(|(weight, step)| Some((weight, step.clone().packed(quant).ok()?)));
    tried.unzip()
}

/// The error of each step of `plan`; 0 where it stays dense.
fn errors(
    plan: &Plan,
    source: &dyn Source,
    settings: &Settings<'_>,
) -> Result<Vec<f64>, PipelineError> {
    if plan.steps.iter().all(|step| step.action.format().is_none()) {
        return Ok(vec![0.0; plan.steps.len()]);
    }
    let originals = plan.steps.iter().map(StepReads::of_pass);
    // Codes are the same on every device; packed on the host they are at hand.
    let quiet = |_: &Event<'_>| Flow::Continue;
    let on_host = Settings {
        devices: &[],
        allocation_max: None,
        observer: &quiet,
        ..settings.clone()
    };
    comparing(source, originals, settings, |comparer| {
        let each = Vec::new();
        let mut errors = Errors { comparer, each };
        pipeline::run(plan, source, &mut errors, &on_host)?;
        Ok(errors.each)
    })
}

/// Compares every packed weight with the values that it was packed from.
struct Errors<'a> {
    comparer: Comparer<'a>,
    each: Vec<f64>,
}

impl Sink for Errors<'_> {
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        let sums = self.comparer.sums(step, &Original::of(step), &weight)?;
        self.comparer.finished(self.each.len());
        let relative = if sums.source_squares > 0.0 {
            sums.error_squares / sums.source_squares
        } else {
            0.0
        };
        self.each.push(relative * numbers(step) as f64);
        Ok(())
    }
}
