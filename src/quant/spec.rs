//! The words people write for a quantization: `nf4:block=64,nested`, `fp8:e4m3,scale=channel`.

use core::{fmt, str::FromStr};
use std::sync::Arc;

use firebox_kernels::{
    error::FormatError,
    format::{Blocks, Fp8Kind, Tile},
    fp8::Recipe,
};

use super::method::{Bits4, Fp8, Method};

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
    /// A method of the caller's own, for a format of ours.
    Custom(Arc<dyn Method>),
}

/// A quantization that could not be understood.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// No such method.
    #[error(
        "unknown quantization `{found}`; known are none, nf4, fp4 and fp8 (such as {EXAMPLES})"
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
    /// The values do not go together or are out of range.
    #[error("`{spec}`: {source}")]
    Format {
        /// The whole spec.
        spec: String,
        /// What is wrong.
        source: FormatError,
    },
}

const EXAMPLES: &str = "`nf4:block=64,nested`, `fp8:e4m3,scale=channel`";
const BLOCKS_OPTIONS: &str = "block=N and nested";
const FP8_OPTIONS: &str = "e4m3, e5m2, scale=… and recipe=…";
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
            Self::None => None,
            Self::Bits4(method) => Some(method),
            Self::Fp8(method) => Some(method),
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
            "none" => match options.into_iter().next() {
                None => Ok(Self::None),
                Some(option) => Err(unknown_option(spec, "none", option, "no options")),
            },
            "nf4" => Ok(Self::Bits4(Bits4::Nf4(blocks(spec, "nf4", options)?))),
            "fp4" => Ok(Self::Bits4(Bits4::Fp4(blocks(spec, "fp4", options)?))),
            "fp8" => fp8(spec, options).map(Self::Fp8),
            _ => Err(SpecError::Unknown {
                found: spec.to_owned(),
            }),
        }
    }
}

fn blocks<'a>(
    spec: &str,
    method: &'static str,
    options: impl Iterator<Item = &'a str>,
) -> Result<Blocks, SpecError> {
    let (mut block, mut nested) = (BLOCK, false);
    for option in options {
        match option.split_once('=') {
            None if option == "nested" => nested = true,
            Some(("block", value)) => {
                block = value.parse().map_err(|_| SpecError::Value {
                    spec: spec.to_owned(),
                    option: "block",
                    value: value.to_owned(),
                    known: "a power of two from 32 to 4096",
                })?;
            }
            _ => return Err(unknown_option(spec, method, option, BLOCKS_OPTIONS)),
        }
    }
    Blocks::new(method, block, nested).map_err(|source| SpecError::Format {
        spec: spec.to_owned(),
        source,
    })
}

fn fp8<'a>(spec: &str, options: impl Iterator<Item = &'a str>) -> Result<Fp8, SpecError> {
    let (mut kind, mut tile, mut fixed, mut recipe) = (Fp8Kind::E4m3, Tile::Tensor, None, None);
    let value_error = |option, value: &str, known| SpecError::Value {
        spec: spec.to_owned(),
        option,
        value: value.to_owned(),
        known,
    };
    for option in options {
        match option.split_once('=') {
            None if option == "e4m3" => kind = Fp8Kind::E4m3,
            None if option == "e5m2" => kind = Fp8Kind::E5m2,
            Some(("scale", value)) => match scale(value) {
                Some(Scale::Tile(asked)) => tile = asked,
                Some(Scale::Fixed(scale)) => fixed = Some(scale),
                None => return Err(value_error("scale", value, FP8_SCALES)),
            },
            Some(("recipe", "compressed-tensors")) => recipe = Some(Recipe::CompressedTensors),
            Some(("recipe", "fine-grained")) => recipe = Some(Recipe::FineGrained { ue8m0: false }),
            Some(("recipe", value)) => return Err(value_error("recipe", value, FP8_RECIPES)),
            _ => return Err(unknown_option(spec, "fp8", option, FP8_OPTIONS)),
        }
    }
    let recipe = match fixed {
        Some(scale) => Recipe::Fixed(scale),
        None => recipe.unwrap_or(default_recipe(tile)),
    };
    Ok(Fp8 { kind, tile, recipe })
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

fn scale(value: &str) -> Option<Scale> {
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

/// Prints what [`FromStr`] reads back to the same spec.
impl fmt::Display for QuantSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Bits4(Bits4::Nf4(blocks)) => write_blocks(f, "nf4", *blocks),
            Self::Bits4(Bits4::Fp4(blocks)) => write_blocks(f, "fp4", *blocks),
            Self::Fp8(Fp8 { kind, tile, recipe }) => {
                let kind = match kind {
                    Fp8Kind::E4m3 => "e4m3",
                    Fp8Kind::E5m2 => "e5m2",
                };
                write!(f, "fp8:{kind},scale=")?;
                match (recipe, tile) {
                    (Recipe::Fixed(scale), _) => return write!(f, "{scale}"),
                    (_, Tile::Tensor) => f.write_str("tensor")?,
                    (_, Tile::Row) => f.write_str("channel")?,
                    (_, tile) if *tile == TILE => f.write_str("block")?,
                    (_, Tile::Block { rows, cols }) => write!(f, "{rows}x{cols}")?,
                }
                match recipe {
                    recipe if *recipe == default_recipe(*tile) => Ok(()),
                    Recipe::CompressedTensors => f.write_str(",recipe=compressed-tensors"),
                    _ => f.write_str(",recipe=fine-grained"),
                }
            }
            Self::Custom(method) => write!(f, "{method:?}"),
        }
    }
}

fn write_blocks(f: &mut fmt::Formatter<'_>, name: &str, blocks: Blocks) -> fmt::Result {
    write!(f, "{name}:block={}", blocks.block)?;
    if blocks.nested {
        f.write_str(",nested")
    } else {
        Ok(())
    }
}

impl serde::Serialize for QuantSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
