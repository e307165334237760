//! The learning rate as a function of the step: nothing about it has to be saved.

use core::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// It stays.
    Constant,
    /// On a straight line to the floor.
    Linear,
    /// On half a wave of the cosine to the floor.
    #[default]
    Cosine,
}

/// The learning rate over a run.
///
/// The factors are those of `get_cosine_schedule_with_warmup` and its like in transformers: during `w` steps of warm-up, step
/// `s`, counted from 0, has the factor `s / w`, so that the first one changes nothing. Then `p = (s - w) / (n - w)` of the way is
/// gone, and the factor is `floor + (1 - floor) · d` with `d = 1 - p` ([`Linear`](Decay::Linear)) or `d = (1 + cos πp) / 2`
/// ([`Cosine`](Decay::Cosine)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub rate: f64,
    /// How it falls.
    pub decay: Decay,
    /// Steps of warm-up.
    pub warmup: u64,
    /// The last factor.
    pub floor: f64,
    /// Steps of the run.
    pub steps: u64,
}

impl Schedule {
    /// The learning rate of a step, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        self.rate * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let falls = self.steps.saturating_sub(self.warmup).max(1);
        let gone = ((step - self.warmup) as f64 / falls as f64).min(1.0);
        let left = match self.decay {
            Decay::Constant => return 1.0,
            Decay::Linear => 1.0 - gone,
            Decay::Cosine => 0.5 * (1.0 + (PI * gone).cos()),
        };
        self.floor + (1.0 - self.floor) * left
    }
}

/// The warm-up as people write it: a number of steps, or a share of all.
pub(super) fn warmup_steps(warmup: f64, steps: u64) -> u64 {
    match warmup < 1.0 {
        true => (warmup * steps as f64).ceil() as u64,
        false => warmup as u64,
    }
}
