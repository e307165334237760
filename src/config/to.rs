//! The dialects that can be written.

use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::near::{letters, nearest};

/// A dialect that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum To {
    /// bitsandbytes, as transformers saves it.
    #[serde(rename = "bitsandbytes")]
    BitsAndBytes,
    /// compressed-tensors, as llm-compressor saves it.
    CompressedTensors,
    /// Fine-grained FP8, as DeepSeek and transformers save it.
    Fp8,
    /// A GGUF file, as llama.cpp reads it: `model.gguf`.
    Gguf,
    /// HQQ, as its own library saves it.
    Hqq,
    /// MLX, as mlx-lm saves it.
    Mlx,
    /// The experts of gpt-oss, as OpenAI saves them.
    Mxfp4,
    /// FP8 and NVFP4, as NVIDIA's ModelOpt saves them.
    #[serde(rename = "modelopt")]
    ModelOpt,
}

/// A dialect that is not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no dialect `{found}` is written; known are {}{}",
    To::ALL.map(To::name).join(", "),
    nearest.map_or(String::new(), |nearest| format!(", and the nearest is {nearest}"))
)]
pub struct UnknownDialect {
    /// The word.
    pub found: String,
    /// The dialect that is nearest.
    pub nearest: Option<To>,
}

impl To {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::BitsAndBytes,
        Self::CompressedTensors,
        Self::Fp8,
        Self::Gguf,
        Self::Hqq,
        Self::Mlx,
        Self::Mxfp4,
        Self::ModelOpt,
    ];

    /// Its name: `bitsandbytes`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BitsAndBytes => "bitsandbytes",
            Self::CompressedTensors => "compressed-tensors",
            Self::Fp8 => "fp8",
            Self::Gguf => "gguf",
            Self::Hqq => "hqq",
            Self::Mlx => "mlx",
            Self::Mxfp4 => "mxfp4",
            Self::ModelOpt => "modelopt",
        }
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for To {
    type Err = UnknownDialect;

    fn from_str(text: &str) -> Result<Self, UnknownDialect> {
        let named = Self::ALL.into_iter().find(|to| to.name() == text);
        named.ok_or_else(|| UnknownDialect {
            nearest: near(text),
            found: text.to_owned(),
        })
    }
}

/// The dialect that is nearest to a word that is none.
fn near(word: &str) -> Option<To> {
    let plain: String = letters(word).into_iter().collect();
    let known = match &*plain {
        "bnb" | "transformers" | "qlora" | "nf4" | "fp4" | "int8" => Some(To::BitsAndBytes),
        "ct" | "vllm" | "llmcompressor" | "sparseml" | "gptq" | "awq" | "autoawq" | "gptqmodel"
        | "wna16" | "w4a16" => Some(To::CompressedTensors),
        "deepseek" | "finegrained" | "finegrainedfp8" | "fp8block" => Some(To::Fp8),
        "mlxlm" | "apple" | "affine" => Some(To::Mlx),
        "gptoss" | "openai" => Some(To::Mxfp4),
        "ggml" | "llamacpp" | "ollama" | "lmstudio" | "koboldcpp" => Some(To::Gguf),
        _ => None,
    };
    let spelt = || {
        let name = nearest(&plain, To::ALL.iter().map(|to| to.name()))?;
        To::ALL.into_iter().find(|to| to.name() == name)
    };
    known.or_else(spelt)
}
