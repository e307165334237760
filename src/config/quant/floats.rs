//! The words of methods whose codes are levels or small floats: the 4-bit formats, FP8, NVFP4.

use core::fmt::{self, Display};

use firebox_kernels::{
    format::{Blocks, Format, Fp8Kind, Micro, Tile},
    formats::fp8::Recipe,
    packing::Packing,
};

use super::{
    error::SpecError,
    options::{Said, say, set, unknown_option},
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
            Some(("block", text)) => {
                let known = "a power of two from 32 to 4096";
                let read = |text: &str| text.parse::<usize>().ok();
                set(spec, &mut block, option, ("block", text), known, read)?;
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
    let (mut kind, mut scale, mut recipe, mut ue8m0) = (None, None, None, None);
    for option in options {
        match option.split_once('=') {
            None if option == "e4m3" => say(spec, &mut kind, option, Fp8Kind::E4m3)?,
            None if option == "e5m2" => say(spec, &mut kind, option, Fp8Kind::E5m2)?,
            None if option == "ue8m0" => say(spec, &mut ue8m0, option, ())?,
            Some(("scale", text)) => {
                set(
                    spec,
                    &mut scale,
                    option,
                    ("scale", text),
                    FP8_SCALES,
                    scale_of,
                )?;
            }
            Some(("recipe", text)) => {
                set(
                    spec,
                    &mut recipe,
                    option,
                    ("recipe", text),
                    FP8_RECIPES,
                    recipe_of,
                )?;
            }
            _ => return Err(unknown_option(spec, "fp8", option, FP8_OPTIONS)),
        }
    }

    let kind = kind.map_or(Fp8Kind::E4m3, |(_, kind)| kind);
    let (tile, recipe) = tile_and_recipe(spec, scale, recipe, ue8m0)?;
    Packing::fp8(kind, tile, recipe).map_err(|source| SpecError::Format {
        spec: spec.to_owned(),
        source,
    })
}

/// Which weights share a scale, and how it is computed, from what was written of them.
fn tile_and_recipe(
    spec: &str,
    scale: Said<'_, Fp8Scale>,
    recipe: Said<'_, Recipe>,
    ue8m0: Said<'_, ()>,
) -> Result<(Tile, Recipe), SpecError> {
    let contradiction = |first: &str, second: &str| SpecError::Contradiction {
        spec: spec.to_owned(),
        first: first.to_owned(),
        second: second.to_owned(),
    };
    match (scale, recipe, ue8m0) {
        (Some((_, Fp8Scale::Fixed(scale))), None, None) => Ok((Tile::Tensor, Recipe::Fixed(scale))),
        (Some((fixed, Fp8Scale::Fixed(_))), Some((other, _)), _)
        | (Some((fixed, Fp8Scale::Fixed(_))), None, Some((other, ()))) => {
            Err(contradiction(fixed, other))
        }
        (_, Some((first, Recipe::CompressedTensors)), Some((second, ()))) => {
            Err(contradiction(first, second))
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
            Ok((tile, recipe))
        }
    }
}

/// The recipe of the project that writes such scales: transformers and DeepSeek write tiles, compressed-tensors writes
/// rows and whole tensors.
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
