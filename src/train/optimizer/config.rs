//! Which optimizer trains, and its settings.

use core::{fmt, str::FromStr};

use firebox_kernels::adamw::AdamwSettings;
use serde::{Deserialize, Serialize};

/// AdamW (arXiv 1711.05101) and how it keeps the moments of gradients. The defaults are those of PyTorch.
///
/// Written `adamw` or `adamw8bit`, with settings: `adamw8bit:beta1=0.9,beta2=0.999,eps=1e-8,decay=0.01,vector_decay=0`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// How moments are kept.
    pub moments: MomentForm,
    /// How much of the first moment stays in a step.
    pub beta1: f64,
    /// How much of the second moment stays in a step.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// How much of a parameter a step takes away, times the learning rate.
    pub decay: f64,
    /// The same of vectors: norms, biases, magnitudes. As of all others if `None`.
    pub vector_decay: Option<f64>,
}

/// How the two moments of a parameter are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentForm {
    /// In `f32`: 8 bytes a value.
    #[default]
    Full,
    /// In 8 bits with an absolute maximum for each 256 values, as bitsandbytes keeps them (arXiv 2110.02861): 2.03 bytes a
    /// value. Parameters with fewer than 4096 values have theirs in `f32`.
    Blocks,
}

/// An optimizer that could not be understood.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OptimizerSpecError {
    /// No optimizer of this name.
    #[error("optimizer `{optimizer}`: write adamw or adamw8bit, with settings after a colon")]
    Name {
        /// The text.
        optimizer: String,
    },
    /// An unknown setting.
    #[error(
        "optimizer `{optimizer}`: `{setting}` is no setting; there are beta1, beta2, eps, decay and vector_decay, each with a value: decay=0.01"
    )]
    Setting {
        /// The text.
        optimizer: String,
        /// The part that is no setting.
        setting: String,
    },
    /// A value that cannot be.
    #[error("optimizer `{optimizer}`: {setting} is {found}, and has to be {expected}")]
    Value {
        /// The text.
        optimizer: String,
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The values that it may have.
        expected: &'static str,
    },
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            moments: MomentForm::Full,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            decay: 0.01,
            vector_decay: None,
        }
    }
}

impl OptimizerConfig {
    /// AdamW that keeps moments in this form.
    pub fn new(moments: MomentForm) -> Self {
        Self {
            moments,
            ..Self::default()
        }
    }

    /// Refuses settings that no step can be made with. Configurations that were parsed have been through this.
    ///
    /// # Errors
    ///
    /// [`OptimizerSpecError::Value`].
    pub fn check(&self) -> Result<(), OptimizerSpecError> {
        let beta = ("at least 0 and below 1", 0.0..1.0);
        let above = ("a number above 0", f64::MIN_POSITIVE..f64::INFINITY);
        let positive = ("a number of at least 0", 0.0..f64::INFINITY);
        let settings = [
            ("beta1", Some(self.beta1), &beta),
            ("beta2", Some(self.beta2), &beta),
            ("eps", Some(self.eps), &above),
            ("decay", Some(self.decay), &positive),
            ("vector_decay", self.vector_decay, &positive),
        ];
        for (setting, value, (expected, range)) in settings {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                return Err(OptimizerSpecError::Value {
                    optimizer: self.to_string(),
                    setting,
                    found: value.to_string(),
                    expected,
                });
            }
        }
        Ok(())
    }

    /// The settings of parameters with `rank` dimensions.
    pub(super) fn settings(&self, rank: usize) -> AdamwSettings {
        let Self { decay, .. } = *self;
        AdamwSettings {
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            decay: match rank {
                0 | 1 => self.vector_decay.unwrap_or(decay),
                _ => decay,
            },
        }
    }
}

impl FromStr for OptimizerConfig {
    type Err = OptimizerSpecError;

    fn from_str(text: &str) -> Result<Self, OptimizerSpecError> {
        let (name, settings) = text.split_once(':').unwrap_or((text, ""));
        let mut config = Self::new(match name {
            "adamw" => MomentForm::Full,
            "adamw8bit" => MomentForm::Blocks,
            _ => {
                return Err(OptimizerSpecError::Name {
                    optimizer: text.to_owned(),
                });
            }
        });
        for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
            let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
            let number = |setting| {
                value.parse().map_err(|_| OptimizerSpecError::Value {
                    optimizer: text.to_owned(),
                    setting,
                    found: format!("`{value}`"),
                    expected: "a number",
                })
            };
            match name {
                "beta1" => config.beta1 = number("beta1")?,
                "beta2" => config.beta2 = number("beta2")?,
                "eps" => config.eps = number("eps")?,
                "decay" => config.decay = number("decay")?,
                "vector_decay" => config.vector_decay = Some(number("vector_decay")?),
                _ => {
                    return Err(OptimizerSpecError::Setting {
                        optimizer: text.to_owned(),
                        setting: setting.to_owned(),
                    });
                }
            }
        }
        config.check()?;
        Ok(config)
    }
}

impl fmt::Display for OptimizerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            moments,
            beta1,
            beta2,
            eps,
            decay,
            vector_decay,
        } = self;
        f.write_str(match moments {
            MomentForm::Full => "adamw",
            MomentForm::Blocks => "adamw8bit",
        })?;
        write!(f, ":beta1={beta1},beta2={beta2},eps={eps},decay={decay}")?;
        match vector_decay {
            Some(decay) => write!(f, ",vector_decay={decay}"),
            None => Ok(()),
        }
    }
}
