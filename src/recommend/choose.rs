//! The order in which configurations are tried, and the first that fits.

use serde::Serialize;

use super::{
    ReasonedChoice, RecommendError, Task, reasons,
    trial::{Trial, Tried},
    write,
};
use crate::{
    config::{LoadConfig, StatedMemory, Strategy},
    error::Error,
    loader::{LoadRequest, Planner},
    model::{CausalLm, PassSize, decoder::Spec},
    plan::{Lacking, MemoryPlan},
    quant::QuantSpec,
    target::{KnownTarget, Target},
};

/// A configuration for a model and a memory. Serialises to the JSON of `firebox recommend --json`; [`toml`](Self::toml) is what
/// `--config` of the other commands reads.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Recommendation {
    /// The model.
    pub model: String,
    /// The target that it is for.
    pub target: KnownTarget,
    /// The memory that it is for.
    #[serde(rename = "stated")]
    pub memory: StatedMemory,
    /// The size of a pass.
    pub size: PassSize,
    /// Each choice, with its reason.
    pub choices: Vec<ReasonedChoice>,
    /// The memory that it takes.
    #[serde(flatten)]
    pub plan: MemoryPlan,
    /// The same as a file for `--config`.
    pub toml: String,
    /// The same for a program.
    #[serde(skip)]
    pub config: LoadConfig,
}

/// [`recommend`] for a target of this build, for inference.
///
/// ```
/// use firebox::{Cpu, LoadConfig, config::StatedMemory, recommend::recommended_config};
///
/// let model = LoadConfig::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tinyrust"));
/// let memory = StatedMemory::new("8GiB".parse()?);
/// let recommended = recommended_config::<Cpu>(model, &memory)?;
/// for choice in &recommended.choices {
///     println!("{}: {} ({})", choice.setting, choice.value, choice.reason);
/// }
/// let loader = firebox::Loader::<Cpu>::new(recommended.config)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// As [`recommend`].
pub fn recommended_config<T: Target>(
    request: impl Into<LoadRequest>,
    memory: &StatedMemory,
) -> Result<Recommendation, RecommendError> {
    let target = T::NAME
        .parse()
        .expect("every target of this crate is known");
    let planner = Planner::new(request, target, memory)?;
    recommend(&planner, &Task::new())
}

/// The configuration that loses least among those that fit in the memory of `planner`.
///
/// Weights stay as they are if that fits, else they are packed in as many bits as fit, to 4 bits; then sequences get shorter unless
/// their length was given; then come 3 bits, and at last matrices that are streamed from host memory. For training it is computed
/// again before fewer rows are taken at once. Of all devices the fewest are used.
///
/// # Errors
///
/// [`RecommendError::NothingFits`], and errors of the model.
pub fn recommend(planner: &Planner, task: &Task) -> Result<Recommendation, RecommendError> {
    let spec = planner.config::<CausalLm>()?;
    let size = task.size(&spec)?;
    let mut passed = Vec::<Tried>::new();
    for trial in trials(planner, task, &spec, size) {
        // On all devices first: what does not fit there fits nowhere.
        let Some(widest) = trial.plan(planner, task, &spec)? else {
            continue;
        };
        if !widest.fits() {
            passed.push(widest);
            continue;
        }
        for devices in 1..trial.devices {
            let fewer = Trial {
                devices,
                ..trial.clone()
            };
            if let Some(fewer) = fewer.plan(planner, task, &spec)? {
                if fewer.fits() {
                    return Ok(recommendation(planner, task, size, &passed, fewer));
                }
                passed.push(fewer);
            }
        }
        return Ok(recommendation(planner, task, size, &passed, widest));
    }
    let tried = passed.len();
    let shortest = |tried: &Tried| {
        let lacking = tried.lacking();
        lacking
            .into_iter()
            .max_by_key(|place| place.needed - place.memory)
    };
    let least = passed.iter().filter_map(shortest);
    match least.min_by_key(Lacking::short) {
        Some(least) => Err(RecommendError::NothingFits { tried, least }),
        None => {
            // The method that was asked for packs nothing: its own error says why.
            let asked = task.quant.clone().unwrap_or_default();
            let planner = planner.with(None, |config| config.quant(asked));
            let plan = planner.plan::<CausalLm>()?;
            Err(planner
                .check(&plan)
                .map_or_else(RecommendError::from, |()| {
                    Error::from(crate::plan::PlanError::NoBudget {
                        target: planner.target().name(),
                    })
                    .into()
                }))
        }
    }
}

fn recommendation(
    planner: &Planner,
    task: &Task,
    asked: PassSize,
    passed: &[Tried],
    chosen: Tried,
) -> Recommendation {
    let choices = reasons::choices(planner, task, asked, passed, &chosen);
    let settings = write::settings(planner.target(), task, &chosen);
    Recommendation {
        model: planner.checkpoint().source().describe(),
        target: planner.target(),
        memory: planner
            .stated()
            .cloned()
            .expect("a planner has a stated memory"),
        size: chosen.trial.size,
        toml: write::toml(&settings, &choices, &chosen.plan.model),
        choices,
        config: chosen.planner.load_config().clone(),
        plan: chosen.memory,
    }
}

/// Quantizations for inference that lose little, from the most bits to the fewest.
const GOOD: [&str; 5] = [
    "none",
    "fp8:e4m3,scale=channel",
    "mlx:bits=6,group=64",
    "nf4:block=64",
    "nf4:block=64,nested",
];
/// One that loses more.
const COARSE: [&str; 1] = ["mlx:bits=3,group=64"];
/// For training: what is trained makes up for the base, and the gradient passes through each.
const TRAINED: [&str; 2] = ["none", "nf4:block=64,nested"];

/// All trials, the best first.
fn trials(planner: &Planner, task: &Task, spec: &Spec, size: PassSize) -> Vec<Trial> {
    let words = |words: &[&str]| -> Vec<QuantSpec> {
        let specs = words.iter().map(|word| word.parse());
        specs
            .collect::<Result<_, _>>()
            .expect("quantizations of ours")
    };
    let is_packed = planner.is_packed();
    let quants = |list: &[&str]| match &task.quant {
        Some(asked) => vec![asked.clone()],
        // What is packed stays as it is.
        None if is_packed => vec![QuantSpec::None],
        None => words(list),
    };
    let shorter: Vec<PassSize> = match (task.length, &task.train) {
        (None, None) => [2, 4].map(|part| size.length / part).into(),
        (None, Some(_)) => vec![size.length / 2],
        (Some(_), _) => Vec::new(),
    }
    .into_iter()
    .filter(|length| (128..size.length).contains(length) && *length <= spec.positions)
    .map(|length| PassSize { length, ..size })
    .collect();
    let mut found = Vec::new();
    let mut add = |quant: &QuantSpec, strategy, size, recompute| {
        found.push(Trial {
            quant: quant.clone(),
            strategy,
            // What is streamed uses one device.
            devices: match strategy {
                Strategy::Streaming => 1,
                _ => planner.devices(),
            },
            size,
            recompute,
        });
    };
    if task.train.is_some() {
        let batches: Vec<PassSize> = match task.batch {
            Some(_) => vec![size],
            None => [4, 2, 1].map(|batch| PassSize { batch, ..size }).into(),
        };
        let again = match task.recompute {
            Some(asked) => vec![asked],
            None => vec![false, true],
        };
        for quant in quants(&TRAINED) {
            for recompute in &again {
                add(&quant, Strategy::Auto, size, *recompute);
            }
            let most = again.last().copied().unwrap_or(true);
            let smaller = batches.iter().skip(1).copied();
            let last = batches.last().copied().unwrap_or(size);
            let shorter = shorter.iter().map(|size| PassSize {
                batch: last.batch,
                ..*size
            });
            for size in smaller.chain(shorter.clone()) {
                add(&quant, Strategy::Auto, size, most);
            }
            if quant.method().is_some() || is_packed {
                for size in [last].into_iter().chain(shorter) {
                    add(&quant, Strategy::Streaming, size, most);
                }
            }
        }
        return found;
    }
    let good = quants(&GOOD);
    for quant in &good {
        add(quant, Strategy::Auto, size, false);
    }
    let last = good.last().cloned().unwrap_or_default();
    for shorter in &shorter {
        add(&last, Strategy::Auto, *shorter, false);
    }
    if task.quant.is_none() && !is_packed {
        for quant in words(&COARSE) {
            for size in [size].iter().chain(&shorter) {
                add(&quant, Strategy::Auto, *size, false);
            }
        }
    }
    for size in [size].iter().chain(&shorter) {
        add(&last, Strategy::Streaming, *size, false);
    }
    found
}
