//! The smallest changes that make a plan fit, each found by a plan.

use serde::Serialize;

use super::{RecommendError, Task, trial::Trial};
use crate::{
    config::Strategy,
    loader::Planner,
    model::{CausalLm, PassSize},
    quant::QuantSpec,
    target::MemoryKind,
};

/// A change that makes a plan fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// In the words of the program: `--quant nf4:block=64`.
    pub change: String,
    /// In a sentence's part.
    pub effect: String,
    /// The most that a device then has, in bytes; of the host where tensors are in its memory.
    pub peak_bytes: u64,
}

/// Quantizations with fewer bits, from the most.
const FEWER: [&str; 7] = [
    "fp8:e4m3,scale=channel",
    "mlx:bits=6,group=64",
    "nf4:block=64",
    "nf4:block=64,nested",
    "mlx:bits=3,group=64",
    "mlx:bits=2,group=64",
    "hqq:bits=2,group=64",
];

/// Devices that are tried beside those that there are, at most.
const DEVICES_MORE: usize = 8;

/// Tokens between lengths that are tried.
const LENGTH_STEP: usize = 64;

/// Single changes of the configuration of `planner` that make its plan fit, the least drastic first. None for a plan that fits, and
/// for one that no single change makes fit.
///
/// # Errors
///
/// Errors of the model.
pub fn remedies(
    planner: &Planner,
    task: &Task,
    size: Option<PassSize>,
) -> Result<Vec<Remedy>, RecommendError> {
    let spec = planner.config::<CausalLm>()?;
    let asked = match size {
        Some(size) => size,
        None => PassSize {
            batch: 1,
            length: 1,
        },
    };
    let config = planner.load_config();
    let now = Trial {
        quant: config.linear_quant().clone(),
        strategy: config.asked_strategy(),
        devices: planner.devices(),
        size: asked,
        recompute: task.recompute.unwrap_or(false),
    };
    let mut found = Vec::new();
    let mut fits = |trial: Trial, change: String, effect: &str| -> Result<bool, RecommendError> {
        let Some(tried) = trial
            .plan(planner, task, &spec)?
            .filter(super::trial::Tried::fits)
        else {
            return Ok(false);
        };
        let devices = tried.memory.devices.iter().map(|device| device.peak_bytes);
        let peak_bytes = match planner.target().memory() {
            MemoryKind::Host => tried.memory.peak_host_bytes,
            MemoryKind::Device => devices.max().unwrap_or(0),
        };
        found.push(Remedy {
            change,
            effect: effect.to_owned(),
            peak_bytes,
        });
        Ok(true)
    };
    if fits(now.clone(), String::new(), "")? {
        return Ok(Vec::new());
    }

    if now.strategy != Strategy::LowMemory && now.strategy != Strategy::Streaming {
        let trial = Trial {
            strategy: Strategy::LowMemory,
            ..now.clone()
        };
        fits(
            trial,
            "--strategy low-memory".to_owned(),
            "reads less ahead",
        )?;
    }
    if task.train.is_some() && !now.recompute {
        let trial = Trial {
            recompute: true,
            ..now.clone()
        };
        fits(
            trial,
            "--recompute".to_owned(),
            "computes layers again, which takes a third longer",
        )?;
    }
    if size.is_some() {
        let mut batch = asked.batch / 2;
        while batch > 0 {
            let trial = Trial {
                size: PassSize { batch, ..asked },
                ..now.clone()
            };
            if fits(trial, format!("--batch {batch}"), "fewer sequences at once")? {
                break;
            }
            batch /= 2;
        }
        // The longest that fits, by halves.
        let (mut short, mut long) = (0, asked.length / LENGTH_STEP);
        let mut best = None;
        while short + 1 < long {
            let middle = (short + long) / 2;
            let length = middle * LENGTH_STEP;
            let trial = Trial {
                size: PassSize { length, ..asked },
                ..now.clone()
            };
            match trial
                .plan(planner, task, &spec)?
                .is_some_and(|tried| tried.fits())
            {
                true => (short, best) = (middle, Some(trial)),
                false => long = middle,
            }
        }
        if let Some(trial) = best {
            let change = format!("--length {}", trial.size.length);
            fits(trial, change, "shorter sequences")?;
        }
    }
    if task.quant.is_none() && !planner.is_packed() {
        let bits = |trial: &Trial| -> Result<Option<f64>, RecommendError> {
            Ok(trial.plan(planner, task, &spec)?.map(|tried| tried.bits))
        };
        let has = bits(&now)?.unwrap_or(f64::INFINITY);
        for word in FEWER {
            let quant: QuantSpec = word.parse().expect("quantizations of ours");
            let trial = Trial {
                quant,
                ..now.clone()
            };
            if bits(&trial)?.is_some_and(|bits| bits < has)
                && fits(trial, format!("--quant {word}"), "fewer bits a weight")?
            {
                break;
            }
        }
    }
    for more in 1..=DEVICES_MORE {
        let trial = Trial {
            devices: now.devices + more,
            ..now.clone()
        };
        let devices = now.devices + more;
        if fits(
            trial,
            format!("{devices} devices like these"),
            "whole layers on each",
        )? {
            break;
        }
    }
    if now.strategy != Strategy::Streaming && planner.target().memory() == MemoryKind::Device {
        let trial = Trial {
            strategy: Strategy::Streaming,
            devices: 1,
            ..now
        };
        fits(
            trial,
            "--strategy streaming".to_owned(),
            "matrices wait in host memory, which is slow",
        )?;
    }
    Ok(found)
}
