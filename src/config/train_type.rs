//! The train types of the script that answer.ai trains QLoRA models with.

use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Expand, LoadConfig, LoraConfig, near::nearest, quant::QuantSpec};

/// What of a model is trained, and what the rest of it is packed as: a `--train_type` of answer.ai's `fsdp_qlora`.
///
/// ```
/// use firebox::{LoadConfig, adapter::LoraConfig, config::TrainType};
///
/// let train: TrainType = "hqq_dora".parse()?;
/// let config = train.config(LoadConfig::new("meta-llama/Llama-3.2-1B"), &LoraConfig::new(16, 32.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TrainType {
    /// Every value of a dense model.
    Full,
    /// Factors on a dense model.
    Lora,
    /// The same computation: the script has its own implementation beside that of peft.
    CustomLora,
    /// Factors on a model in NF4.
    Qlora,
    /// The same, as [`CustomLora`](Self::CustomLora).
    CustomQlora,
    /// Factors on a model in HQQ's 4 bits.
    HqqLora,
    /// Factors and norms of rows on a model in HQQ's 4 bits.
    HqqDora,
    /// Factors and norms of rows on a model in NF4.
    BnbDora,
    /// The new blocks of a dense model.
    LlamaPro,
    /// The new blocks of a model whose other blocks are in NF4.
    BnbLlamaPro,
    /// The new blocks of a model whose other blocks are in HQQ's 4 bits.
    HqqLlamaPro,
}

/// A train type that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is no train type; known are {}{}",
    TrainType::ALL.map(TrainType::name).join(", "),
    nearest.map_or(String::new(), |nearest| format!(", and the nearest is {nearest}"))
)]
pub struct UnknownTrainType {
    /// The word.
    pub found: String,
    /// The nearest train type.
    pub nearest: Option<&'static str>,
}

impl TrainType {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Full,
        Self::Lora,
        Self::CustomLora,
        Self::Qlora,
        Self::CustomQlora,
        Self::HqqLora,
        Self::HqqDora,
        Self::BnbDora,
        Self::LlamaPro,
        Self::BnbLlamaPro,
        Self::HqqLlamaPro,
    ];

    /// Its name: `hqq_dora`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Lora => "lora",
            Self::CustomLora => "custom_lora",
            Self::Qlora => "qlora",
            Self::CustomQlora => "custom_qlora",
            Self::HqqLora => "hqq_lora",
            Self::HqqDora => "hqq_dora",
            Self::BnbDora => "bnb_dora",
            Self::LlamaPro => "llama_pro",
            Self::BnbLlamaPro => "bnb_llama_pro",
            Self::HqqLlamaPro => "hqq_llama_pro",
        }
    }

    /// Whether new factors are trained.
    pub const fn has_factors(self) -> bool {
        !matches!(self, Self::Full) && !self.has_new_blocks()
    }

    /// Whether new blocks are trained.
    pub const fn has_new_blocks(self) -> bool {
        matches!(self, Self::LlamaPro | Self::BnbLlamaPro | Self::HqqLlamaPro)
    }

    /// What the linear weights that are not trained are packed as: `nf4:nested`, `hqq:bits=4,group=64`, or nothing.
    pub fn quant(self) -> QuantSpec {
        let spec = match self {
            Self::Full | Self::Lora | Self::CustomLora | Self::LlamaPro => "none",
            Self::Qlora | Self::CustomQlora | Self::BnbDora | Self::BnbLlamaPro => "nf4:nested",
            Self::HqqLora | Self::HqqDora | Self::HqqLlamaPro => "hqq:bits=4,group=64",
        };
        spec.parse().expect("a quantization of ours")
    }

    /// The configuration of a load that is trained so.
    ///
    /// `lora` has rank, `alpha`, targets and dropout of new factors; types without factors do not use it, and whether norms of rows
    /// are trained is said by the type. A quantization that `config` asks for stays: it is the number of bits of the script. New
    /// blocks are those of the checkpoint unless `config` [expands](LoadConfig::expand) it, and stay dense.
    ///
    /// [`adapter::train`](crate::adapter::train) begins the training of the loaded model.
    pub fn config(self, config: LoadConfig, lora: &LoraConfig) -> LoadConfig {
        let config = match config.pack.policy.linear {
            QuantSpec::None => config.quant(self.quant()),
            _ => config,
        };
        if self.has_new_blocks() {
            let expand = config.expand.unwrap_or(Expand::known());
            return config.expand(expand.dense());
        }
        match self {
            Self::Full => config,
            Self::HqqDora | Self::BnbDora => config.adapter(lora.clone().dora(true)),
            _ => config.adapter(lora.clone().dora(false)),
        }
    }
}

impl fmt::Display for TrainType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TrainType {
    type Err = UnknownTrainType;

    fn from_str(text: &str) -> Result<Self, UnknownTrainType> {
        let named = Self::ALL.into_iter().find(|it| it.name() == text);
        named.ok_or_else(|| UnknownTrainType {
            found: text.to_owned(),
            nearest: nearest(text, Self::ALL.iter().map(|it| it.name())),
        })
    }
}
