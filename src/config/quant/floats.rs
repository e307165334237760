//! The words of methods whose codes are levels or small floats: the 4-bit formats, FP8, NVFP4.

use core::fmt::{self, Display};

use firebox_kernels::{
    format::{Blocks, Format, Fp8Kind, Micro, Tile},
    formats::fp8::Recipe,
    packing::Packing,
};

use super::{
    error::SpecError,
    options::{say, unknown_option},
};

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

pub(super) fn blocks<'a>(
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

pub(super) fn fp8<'a>(
    spec: &str,
    options: impl Iterator<Item = &'a str>,
) -> Result<Packing, SpecError> {
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
        (Some((_, Fp8Scale::Fixed(scale))), None, None) => (Tile::Tensor, Recipe::Fixed(scale)),
        (Some((fixed, Fp8Scale::Fixed(_))), Some((other, _)), _)
        | (Some((fixed, Fp8Scale::Fixed(_))), None, Some((other, ()))) => {
            return Err(contradiction(fixed, other));
        }
        (_, Some((first, Recipe::CompressedTensors)), Some((second, ()))) => {
            return Err(contradiction(first, second));
        }
        (scale, recipe, ue8m0) => {
            let tile = match scale {
                Some((_, Fp8Scale::Tile(tile))) => tile,
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
    Packing::fp8(kind, tile, recipe).map_err(|source| SpecError::Format {
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

enum Fp8Scale {
    Tile(Tile),
    Fixed(f32),
}

fn scale_of(value: &str) -> Option<Fp8Scale> {
    match value {
        "tensor" => return Some(Fp8Scale::Tile(Tile::Tensor)),
        "channel" => return Some(Fp8Scale::Tile(Tile::Row)),
        "block" => return Some(Fp8Scale::Tile(TILE)),
        _ => {}
    }
    if let Some((rows, cols)) = value.split_once('x') {
        let (rows, cols) = (rows.parse().ok()?, cols.parse().ok()?);
        return (rows > 0 && cols > 0).then_some(Fp8Scale::Tile(Tile::Block { rows, cols }));
    }
    let scale: f32 = value.parse().ok()?;
    (scale.is_finite() && scale > 0.0).then_some(Fp8Scale::Fixed(scale))
}

fn recipe_of(value: &str) -> Option<Recipe> {
    match value {
        "compressed-tensors" => Some(Recipe::CompressedTensors),
        "fine-grained" => Some(Recipe::FineGrained { ue8m0: false }),
        _ => None,
    }
}

pub(super) fn print_fp8(
    kind: Fp8Kind,
    tile: Tile,
    recipe: Recipe,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let format = Format::Fp8(kind, tile);
    match recipe {
        Recipe::Fixed(scale) => write!(f, "fp8:{kind},scale={scale}"),
        recipe if recipe == default_recipe(tile) => format.fmt(f),
        Recipe::CompressedTensors => write!(f, "{format},recipe=compressed-tensors"),
        Recipe::FineGrained { ue8m0: false } => write!(f, "{format},recipe=fine-grained"),
        Recipe::FineGrained { ue8m0: true } => write!(f, "{format},ue8m0"),
    }
}

pub(super) fn nvfp4<'a>(
    spec: &str,
    options: impl Iterator<Item = &'a str>,
) -> Result<Micro, SpecError> {
    let mut global = None;
    for option in options {
        match option {
            "global" => say(spec, &mut global, option, ())?,
            _ => return Err(unknown_option(spec, "nvfp4", option, "global")),
        }
    }
    let global = global.is_some();
    Ok(Micro::Nvfp4 { global })
}
