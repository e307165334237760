//! The words people write for a quantization: `nf4:block=64,nested`, `fp8:e4m3,scale=channel`.
//!
//! ```text
//! none
//! nf4 | fp4    block=N  nested
//! fp8          e4m3 | e5m2   scale=tensor | channel | block | ROWSxCOLS   recipe=NAME  ue8m0
//! fp8          e4m3 | e5m2   scale=NUMBER
//! mlx          bits=2 | 3 | 4 | 5 | 6 | 8   group=32 | 64 | 128
//! hqq          bits=1 | 1.58 | 2 | 3 | 4 | 5 | 6 | 8   group=N | line | all   axis=0 | 1   zero=whole | free   unsolved
//! wna16        bits=2 | 3 | 4 | 5 | 6 | 8   scale=tensor | channel   group=N   asymmetric
//! mxfp4 | mxfp8
//! nvfp4        global
//! int8
//! q4_0 | q4_1 | q5_0 | q5_1 | q8_0 | q2_k | q3_k | q4_k | q5_k | q6_k | iq4_nl
//! q3_k_s | q3_k_m | q3_k_l | q4_k_s | q4_k_m | q5_k_s | q5_k_m
//! q4_0 | q4_1 | q5_0 | q5_1 | q8_0 | q2_k | q6_k | iq4_nl   mixture
//! f16 | bf16 | f32
//! auto         bits=NUMBER | size=SIZE
//! ```
//!
//! Options follow a colon, with commas between them, in any order, each at most once. `ue8m0` (scales are
//! powers of two) belongs to the recipe `fine-grained` and selects it. [`Format`] prints its own words; here is printed
//! what a method adds to its format.

mod auto;
mod error;
mod floats;
mod foreign;
mod mixture;
mod options;
mod whole;

use core::{
    fmt::{self, Display},
    str::FromStr,
};
use std::sync::Arc;

use firebox_kernels::{
    arith::float::DType,
    format::{Format, Gguf, Micro},
    packing::{Method, Packing},
};

pub use auto::Auto;
pub use error::SpecError;
pub use mixture::Mixture;
use options::{Said, no_options, say, unknown_option};

use super::known::Known;

/// The library that chooses the blocks of GGUF files, without an importance matrix.
const GGML: &str = "llama.cpp (ggml 0.25.3)";

/// The option of a block type that asks for a mixture.
const MIXTURE: &str = "mixture";

/// The quantization that is asked for.
///
/// ```
/// use firebox::quant::QuantSpec;
///
/// let spec: QuantSpec = "nf4:block=64,nested".parse()?;
/// assert_eq!(spec.to_string(), "nf4:block=64,nested");
/// assert!("nf5".parse::<QuantSpec>().is_err());
/// # Ok::<(), firebox::quant::SpecError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum QuantSpec {
    /// Leave it dense.
    #[default]
    None,
    /// Dense values of this type, in a GGUF file: of all matrices, where it is not in a rule.
    Dense(DType),
    /// A method of the kernels.
    Pack(Packing),
    /// `auto`: the quantizations that are measured to lose least, within a size. For all linear weights together, not in a
    /// rule.
    Auto(Auto),
    /// The types that llama-quantize chooses for the matrices of a model, by their layers. For all weights together, not in a rule.
    Mixture(Mixture),
    /// A custom method for one of the formats. It has no words: it prints as its `Debug` does, and no words read back to
    /// it.
    Custom(Arc<dyn Method>),
}

impl QuantSpec {
    /// The first word of every quantization that has codes, and the library whose codes and scales are the same to the bit.
    pub const KNOWN: [Known; 21] = [
        Known::new("nf4", "bitsandbytes 0.50.2"),
        Known::new("fp4", "bitsandbytes 0.50.2"),
        Known::new("fp8", "compressed-tensors 0.20.0, transformers 5.23.0"),
        Known::new("mlx", "mlx 0.32.4"),
        Known::new("hqq", "hqq 0.2.8"),
        Known::new("wna16", "compressed-tensors 0.20.0"),
        Known::new("mxfp4", "mlx 0.32.4"),
        Known::new("mxfp8", "mlx 0.32.4"),
        Known::new("nvfp4", "mlx 0.32.4"),
        Known::new("int8", "bitsandbytes 0.50.2"),
        Known::new("q4_0", GGML),
        Known::new("q4_1", GGML),
        Known::new("q5_0", GGML),
        Known::new("q5_1", GGML),
        Known::new("q8_0", GGML),
        Known::new("q2_k", GGML),
        Known::new("q3_k", GGML),
        Known::new("q4_k", GGML),
        Known::new("q5_k", GGML),
        Known::new("q6_k", GGML),
        Known::new("iq4_nl", GGML),
    ];

    /// What it becomes for rows of `cols` weights: blocks of a GGUF type that do not fit them are replaced as llama.cpp does.
    pub(crate) fn fitting(&self, cols: usize) -> Self {
        match self {
            Self::Pack(Packing::Gguf(kind)) => {
                Self::Pack(Packing::Gguf(kind.fitting(cols).unwrap_or(*kind)))
            }
            other => other.clone(),
        }
    }

    /// Whether blocks of a GGUF type, or those in their place, fit rows of `cols` weights.
    pub(crate) fn fits(&self, cols: usize) -> bool {
        match self {
            Self::Pack(Packing::Gguf(kind)) => kind.fitting(cols).is_some(),
            _ => true,
        }
    }

    /// The method, unless the weight stays dense or is open still.
    pub fn method(&self) -> Option<&dyn Method> {
        match self {
            Self::None | Self::Dense(_) | Self::Auto(_) | Self::Mixture(_) => None,
            Self::Pack(packing) => Some(packing),
            Self::Custom(method) => Some(method.as_ref()),
        }
    }
}

impl From<Packing> for QuantSpec {
    fn from(packing: Packing) -> Self {
        Self::Pack(packing)
    }
}

impl FromStr for QuantSpec {
    type Err = SpecError;

    fn from_str(spec: &str) -> Result<Self, SpecError> {
        let (name, options) = spec.split_once(':').unwrap_or((spec, ""));
        let options = options
            .split(',')
            .map(str::trim)
            .filter(|option| !option.is_empty());
        if let Some((name, mixture)) = Mixture::named(name.trim()) {
            return no_options(spec, name, options).map(|()| Self::Mixture(mixture));
        }
        let packing = match name.trim() {
            "none" => return no_options(spec, "none", options).map(|()| Self::None),
            "auto" => return whole::auto(spec, options).map(Self::Auto),
            "f16" => return no_options(spec, "f16", options).map(|()| Self::Dense(DType::F16)),
            "bf16" => return no_options(spec, "bf16", options).map(|()| Self::Dense(DType::Bf16)),
            "f32" => return no_options(spec, "f32", options).map(|()| Self::Dense(DType::F32)),
            "nf4" => Packing::Nf4(floats::blocks(spec, "nf4", options)?),
            "fp4" => Packing::Fp4(floats::blocks(spec, "fp4", options)?),
            "fp8" => floats::fp8(spec, options)?,
            "mlx" => whole::mlx(spec, options)?,
            "hqq" => Packing::Hqq(whole::hqq(spec, options)?),
            "wna16" => Packing::Wna16(whole::wna16(spec, options)?),
            "mxfp4" => no_options(spec, "mxfp4", options).map(|()| Packing::Micro(Micro::Mxfp4))?,
            "mxfp8" => no_options(spec, "mxfp8", options).map(|()| Packing::Micro(Micro::Mxfp8))?,
            "nvfp4" => Packing::Micro(floats::nvfp4(spec, options)?),
            "int8" => no_options(spec, "int8", options).map(|()| Packing::Int8)?,
            name => match block_type(name) {
                Some(kind) => match blocks(spec, kind, options)? {
                    Some(mixture) => return Ok(Self::Mixture(mixture)),
                    None => Packing::Gguf(kind),
                },
                None => {
                    let names = Self::KNOWN.map(|known| known.name);
                    let names = [&names[..], &["none", "f16", "bf16", "f32", "auto"]].concat();
                    return Err(SpecError::Unknown {
                        nearest: foreign::nearest_spec(spec, &names),
                        found: spec.to_owned(),
                    });
                }
            },
        };
        Ok(Self::Pack(packing))
    }
}

/// The block type of a GGUF file with this name, where its codes can be chosen.
fn block_type(name: &str) -> Option<Gguf> {
    Gguf::CHOSEN.into_iter().find(|kind| kind.name() == name)
}

/// The mixture that has most matrices in blocks of this type, where the options ask for it.
fn blocks<'o>(
    spec: &str,
    kind: Gguf,
    options: impl Iterator<Item = &'o str>,
) -> Result<Option<Mixture>, SpecError> {
    let Some(mixture) = Mixture::of(kind) else {
        return no_options(spec, kind.name(), options).map(|()| None);
    };
    let mut said: Said<'_, Mixture> = None;
    for option in options {
        match option {
            MIXTURE => say(spec, &mut said, option, mixture)?,
            _ => return Err(unknown_option(spec, kind.name(), option, MIXTURE)),
        }
    }
    Ok(said.map(|(_, mixture)| mixture))
}

/// Prints words that [`FromStr`] reads back to the same spec; a custom method, which has no words, as its `Debug` does.
impl Display for QuantSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Dense(dtype) => dtype.fmt(f),
            Self::Pack(packing) => print(*packing, f),
            Self::Auto(auto) => auto.fmt(f),
            Self::Mixture(mixture) => mixture.fmt(f),
            Self::Custom(method) => write!(f, "{method:?}"),
        }
    }
}

/// The words of a method: those of its format, and those that the method adds.
fn print(packing: Packing, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match packing {
        Packing::Nf4(blocks) => Format::Nf4(blocks).fmt(f),
        Packing::Fp4(blocks) => Format::Fp4(blocks).fmt(f),
        Packing::Fp8 { kind, tile, recipe } => floats::print_fp8(kind, tile, recipe, f),
        Packing::Mlx { bits, group } => write!(f, "mlx:bits={bits},group={group}"),
        Packing::Int8 => Format::Int8.fmt(f),
        Packing::Hqq(hqq) => whole::print_hqq(hqq, f),
        Packing::Wna16(wna16) => whole::print_wna16(wna16, f),
        Packing::Micro(micro) => micro.fmt(f),
        Packing::Gguf(kind) => kind.fmt(f),
    }
}

impl serde::Serialize for QuantSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From the words that it is written as. A custom method has none: the error names the text that was written for it.
impl<'de> serde::Deserialize<'de> for QuantSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = String::deserialize(deserializer)?;
        words.parse().map_err(serde::de::Error::custom)
    }
}

/// A custom method is equal to itself only.
impl PartialEq for QuantSpec {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Dense(a), Self::Dense(b)) => a == b,
            (Self::Pack(a), Self::Pack(b)) => a == b,
            (Self::Auto(a), Self::Auto(b)) => a == b,
            (Self::Mixture(a), Self::Mixture(b)) => a == b,
            (Self::Custom(a), Self::Custom(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}
