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
//! auto         bits=NUMBER | size=SIZE
//! ```
//!
//! Options follow a colon, with commas between them, in any order, each at most once. `ue8m0` (scales are
//! powers of two) is of the recipe `fine-grained` and asks for it. A format is printed by
//! [`Format`]; what a method adds to its format is printed here.

mod whole;

use core::{fmt, str::FromStr};
use std::sync::Arc;

use firebox_kernels::{
    error::FormatError,
    format::{Blocks, Format, Fp8Kind, Micro, Tile},
    formats::{fp8::Recipe, hqq::Hqq, wna16::Wna16},
};

use crate::config::Auto;

use super::method::{Bits4, Fp8, Int8, Method, Mlx};

/// What to do with a weight.
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
    /// `nf4`, `fp4`.
    Bits4(Bits4),
    /// `fp8`.
    Fp8(Fp8),
    /// `mlx`.
    Mlx(Mlx),
    /// `hqq`.
    Hqq(Hqq),
    /// `wna16`.
    Wna16(Wna16),
    /// `mxfp4`, `mxfp8`, `nvfp4`.
    Micro(Micro),
    /// `int8`.
    Int8(Int8),
    /// `auto`: what is measured to lose least, within a size. For linear weights as a whole, not in a rule.
    Auto(Auto),
    /// What a checkpoint has packed already, kept as it is. Nothing that can be asked for: no spec reads back
    /// to it.
    Kept(Format),
    /// A method of the caller's own, for a format of ours. It has no words: it prints as it debugs, and
    /// no spec reads back to it.
    Custom(Arc<dyn Method>),
}

/// A quantization that could not be understood.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// No such method.
    #[error(
        "unknown quantization `{found}`; known are none, nf4, fp4, fp8, mlx, hqq, wna16, mxfp4, mxfp8, nvfp4, int8 and auto (such as {EXAMPLES})"
    )]
    Unknown {
        /// What was written.
        found: String,
    },
    /// The method has no such option.
    #[error("`{spec}`: {method} has no option `{option}`; it has {known}")]
    Option {
        /// The whole spec.
        spec: String,
        /// The method.
        method: &'static str,
        /// What was written.
        option: String,
        /// What could have been.
        known: &'static str,
    },
    /// The option has no such value.
    #[error("`{spec}`: `{option}` cannot be `{value}`; write {known}")]
    Value {
        /// The whole spec.
        spec: String,
        /// The option.
        option: &'static str,
        /// What was written.
        value: String,
        /// What could have been.
        known: &'static str,
    },
    /// Two options say the same thing, be it in the same words.
    #[error("`{spec}`: `{first}` and `{second}` answer the same question; write one")]
    Repeated {
        /// The whole spec.
        spec: String,
        /// What was written first.
        first: String,
        /// What was written second.
        second: String,
    },
    /// Two options cannot both hold.
    #[error("`{spec}`: `{first}` and `{second}` contradict each other; write one")]
    Contradiction {
        /// The whole spec.
        spec: String,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// The values are out of range.
    #[error("`{spec}`: {source}")]
    Format {
        /// The whole spec.
        spec: String,
        /// What is wrong.
        source: FormatError,
    },
}

const EXAMPLES: &str = "`nf4:block=64,nested`, `fp8:e4m3,scale=channel`, `mlx:bits=4,group=64`";
const BLOCKS_OPTIONS: &str = "block=N and nested";
const FP8_OPTIONS: &str = "e4m3, e5m2, scale=…, recipe=… and ue8m0";
const FP8_SCALES: &str = "tensor, channel, block, ROWSxCOLS or a fixed positive number";
const FP8_RECIPES: &str = "compressed-tensors or fine-grained";

/// bitsandbytes' default.
const BLOCK: usize = 64;
/// DeepSeek's and transformers' tile.
const TILE: Tile = Tile::Block {
    rows: 128,
    cols: 128,
};

impl QuantSpec {
    /// The method, unless the weight stays dense.
    pub fn method(&self) -> Option<&dyn Method> {
        match self {
            Self::None | Self::Auto(_) | Self::Kept(_) => None,
            Self::Bits4(method) => Some(method),
            Self::Fp8(method) => Some(method),
            Self::Mlx(method) => Some(method),
            Self::Hqq(method) => Some(method),
            Self::Wna16(method) => Some(method),
            Self::Micro(method) => Some(method),
            Self::Int8(method) => Some(method),
            Self::Custom(method) => Some(method.as_ref()),
        }
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
        match name.trim() {
            "none" => no_options(spec, "none", options).map(|()| Self::None),
            "nf4" => Ok(Self::Bits4(Bits4::Nf4(blocks(spec, "nf4", options)?))),
            "fp4" => Ok(Self::Bits4(Bits4::Fp4(blocks(spec, "fp4", options)?))),
            "fp8" => fp8(spec, options).map(Self::Fp8),
            "mlx" => whole::mlx(spec, options).map(Self::Mlx),
            "hqq" => whole::hqq(spec, options).map(Self::Hqq),
            "wna16" => whole::wna16(spec, options).map(Self::Wna16),
            "mxfp4" => no_options(spec, "mxfp4", options).map(|()| Self::Micro(Micro::Mxfp4)),
            "mxfp8" => no_options(spec, "mxfp8", options).map(|()| Self::Micro(Micro::Mxfp8)),
            "nvfp4" => whole::nvfp4(spec, options).map(Self::Micro),
            "auto" => whole::auto(spec, options).map(Self::Auto),
            "int8" => no_options(spec, "int8", options).map(|()| Self::Int8(Int8)),
            _ => Err(SpecError::Unknown {
                found: spec.to_owned(),
            }),
        }
    }
}

/// What an option said, and the option as it was written.
type Said<'a, T> = Option<(&'a str, T)>;

fn say<'a, T>(
    spec: &str,
    said: &mut Said<'a, T>,
    option: &'a str,
    value: T,
) -> Result<(), SpecError> {
    match said {
        Some((first, _)) => Err(SpecError::Repeated {
            spec: spec.to_owned(),
            first: (*first).to_owned(),
            second: option.to_owned(),
        }),
        None => {
            *said = Some((option, value));
            Ok(())
        }
    }
}

fn no_options<'a>(
    spec: &str,
    method: &'static str,
    mut options: impl Iterator<Item = &'a str>,
) -> Result<(), SpecError> {
    match options.next() {
        None => Ok(()),
        Some(option) => Err(unknown_option(spec, method, option, "no options")),
    }
}

fn blocks<'a>(
    spec: &str,
    method: &'static str,
    options: impl Iterator<Item = &'a str>,
) -> Result<Blocks, SpecError> {
    let (mut block, mut nested) = (None, None);
    for option in options {
        match option.split_once('=') {
            None if option == "nested" => say(spec, &mut nested, option, ())?,
            Some(("block", value)) => {
                let value: usize = value.parse().map_err(|_| SpecError::Value {
                    spec: spec.to_owned(),
                    option: "block",
                    value: value.to_owned(),
                    known: "a power of two from 32 to 4096",
                })?;
                say(spec, &mut block, option, value)?;
            }
            _ => return Err(unknown_option(spec, method, option, BLOCKS_OPTIONS)),
        }
    }
    let block = block.map_or(BLOCK, |(_, block)| block);
    Blocks::new(method, block, nested.is_some()).map_err(|source| SpecError::Format {
        spec: spec.to_owned(),
        source,
    })
}

fn fp8<'a>(spec: &str, options: impl Iterator<Item = &'a str>) -> Result<Fp8, SpecError> {
    let value_error = |option, value: &str, known| SpecError::Value {
        spec: spec.to_owned(),
        option,
        value: value.to_owned(),
        known,
    };
    let contradiction = |first: &str, second: &str| SpecError::Contradiction {
        spec: spec.to_owned(),
        first: first.to_owned(),
        second: second.to_owned(),
    };

    let (mut kind, mut scale, mut recipe, mut ue8m0) = (None, None, None, None);
    for option in options {
        match option.split_once('=') {
            None if option == "e4m3" => say(spec, &mut kind, option, Fp8Kind::E4m3)?,
            None if option == "e5m2" => say(spec, &mut kind, option, Fp8Kind::E5m2)?,
            None if option == "ue8m0" => say(spec, &mut ue8m0, option, ())?,
            Some(("scale", value)) => {
                let value =
                    scale_of(value).ok_or_else(|| value_error("scale", value, FP8_SCALES))?;
                say(spec, &mut scale, option, value)?;
            }
            Some(("recipe", value)) => {
                let value =
                    recipe_of(value).ok_or_else(|| value_error("recipe", value, FP8_RECIPES))?;
                say(spec, &mut recipe, option, value)?;
            }
            _ => return Err(unknown_option(spec, "fp8", option, FP8_OPTIONS)),
        }
    }

    let kind = kind.map_or(Fp8Kind::E4m3, |(_, kind)| kind);
    let (tile, recipe) = match (scale, recipe, ue8m0) {
        (Some((_, Scale::Fixed(scale))), None, None) => (Tile::Tensor, Recipe::Fixed(scale)),
        (Some((fixed, Scale::Fixed(_))), Some((other, _)), _)
        | (Some((fixed, Scale::Fixed(_))), None, Some((other, ()))) => {
            return Err(contradiction(fixed, other));
        }
        (_, Some((first, Recipe::CompressedTensors)), Some((second, ()))) => {
            return Err(contradiction(first, second));
        }
        (scale, recipe, ue8m0) => {
            let tile = match scale {
                Some((_, Scale::Tile(tile))) => tile,
                _ => Tile::Tensor,
            };
            let recipe = match (recipe, ue8m0) {
                (_, Some(_)) => Recipe::FineGrained { ue8m0: true },
                (Some((_, recipe)), None) => recipe,
                (None, None) => default_recipe(tile),
            };
            (tile, recipe)
        }
    };
    Fp8::new(kind, tile, recipe).map_err(|source| SpecError::Format {
        spec: spec.to_owned(),
        source,
    })
}

/// Tiles are what transformers and DeepSeek write, rows and whole tensors what compressed-tensors
/// writes; each is computed as its writer computes it.
fn default_recipe(tile: Tile) -> Recipe {
    match tile {
        Tile::Block { .. } => Recipe::FineGrained { ue8m0: false },
        Tile::Tensor | Tile::Row => Recipe::CompressedTensors,
    }
}

enum Scale {
    Tile(Tile),
    Fixed(f32),
}

fn scale_of(value: &str) -> Option<Scale> {
    match value {
        "tensor" => return Some(Scale::Tile(Tile::Tensor)),
        "channel" => return Some(Scale::Tile(Tile::Row)),
        "block" => return Some(Scale::Tile(TILE)),
        _ => {}
    }
    if let Some((rows, cols)) = value.split_once('x') {
        let (rows, cols) = (rows.parse().ok()?, cols.parse().ok()?);
        return (rows > 0 && cols > 0).then_some(Scale::Tile(Tile::Block { rows, cols }));
    }
    let scale: f32 = value.parse().ok()?;
    (scale.is_finite() && scale > 0.0).then_some(Scale::Fixed(scale))
}

fn recipe_of(value: &str) -> Option<Recipe> {
    match value {
        "compressed-tensors" => Some(Recipe::CompressedTensors),
        "fine-grained" => Some(Recipe::FineGrained { ue8m0: false }),
        _ => None,
    }
}

fn unknown_option(
    spec: &str,
    method: &'static str,
    option: &str,
    known: &'static str,
) -> SpecError {
    SpecError::Option {
        spec: spec.to_owned(),
        method,
        option: option.to_owned(),
        known,
    }
}

/// Prints what [`FromStr`] reads back to the same spec; a method of the caller's own, which has no words,
/// as it debugs.
impl fmt::Display for QuantSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Bits4(Bits4::Nf4(blocks)) => Format::Nf4(*blocks).fmt(f),
            Self::Bits4(Bits4::Fp4(blocks)) => Format::Fp4(*blocks).fmt(f),
            Self::Fp8(fp8) => {
                let format = Format::Fp8(fp8.kind(), fp8.tile());
                match fp8.recipe() {
                    Recipe::Fixed(scale) => write!(f, "fp8:{},scale={scale}", fp8.kind()),
                    recipe if recipe == default_recipe(fp8.tile()) => format.fmt(f),
                    Recipe::CompressedTensors => write!(f, "{format},recipe=compressed-tensors"),
                    Recipe::FineGrained { ue8m0: false } => {
                        write!(f, "{format},recipe=fine-grained")
                    }
                    Recipe::FineGrained { ue8m0: true } => write!(f, "{format},ue8m0"),
                }
            }
            Self::Mlx(mlx) => write!(f, "mlx:bits={},group={}", mlx.bits(), mlx.group()),
            Self::Hqq(hqq) => whole::print_hqq(*hqq, f),
            Self::Wna16(wna16) => whole::print_wna16(*wna16, f),
            Self::Micro(micro) => micro.fmt(f),
            Self::Int8(Int8) => Format::Int8.fmt(f),
            Self::Auto(auto) => auto.fmt(f),
            Self::Kept(format) => format.fmt(f),
            Self::Custom(method) => write!(f, "{method:?}"),
        }
    }
}

impl serde::Serialize for QuantSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From the words that it is written as. A method of the caller's has none: the error names what was written for it.
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
            (Self::Bits4(a), Self::Bits4(b)) => a == b,
            (Self::Fp8(a), Self::Fp8(b)) => a == b,
            (Self::Mlx(a), Self::Mlx(b)) => a == b,
            (Self::Hqq(a), Self::Hqq(b)) => a == b,
            (Self::Wna16(a), Self::Wna16(b)) => a == b,
            (Self::Micro(a), Self::Micro(b)) => a == b,
            (Self::Int8(a), Self::Int8(b)) => a == b,
            (Self::Auto(a), Self::Auto(b)) => a == b,
            (Self::Kept(a), Self::Kept(b)) => a == b,
            (Self::Custom(a), Self::Custom(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}
