//! `quantization_config`: which modules are packed, and how.

use firebox_kernels::format::Tile;

use super::super::{
    DialectError,
    pattern::PythonPattern,
    whole::{ScaleSpan, Whole},
};
use crate::model::{Role, fields::Fields};

pub(super) const IGNORE: &str = "ignore";
pub(super) const FLOATS: &str = "float-quantized";
const NAIVE: &str = "naive-quantized";
pub(super) const INTS: &str = "int-quantized";
pub(super) const PACKED: &str = "pack-quantized";
pub(super) const NVFP4: &str = "nvfp4-pack-quantized";
const FORMATS: &str =
    "float-quantized, naive-quantized, int-quantized, pack-quantized or nvfp4-pack-quantized";
/// Codes of NVFP4 under one scale.
const NVFP4_GROUP: usize = 16;

#[derive(Debug)]
pub(super) struct CompressedTensors {
    pub(super) groups: Vec<ConfigGroup>,
    pub(super) ignore: Vec<ModuleTarget>,
}

/// How some modules are packed.
#[derive(Debug)]
pub(super) struct ConfigGroup {
    pub(super) targets: Vec<ModuleTarget>,
    pub(super) scheme: Scheme,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Floats(Tile),
    Whole(Whole),
    Nvfp4,
}

/// Which modules are meant.
#[derive(Debug)]
pub(super) enum ModuleTarget {
    /// Every linear layer.
    Linear,
    /// The module of this name, or of a path that ends in it.
    Name(String),
    /// A regular expression that matches from the beginning of the name.
    Matches(PythonPattern),
}

impl ModuleTarget {
    pub(super) fn new(config: Fields<'_>, field: &str, text: &str) -> Result<Self, DialectError> {
        if text == "Linear" {
            return Ok(Self::Linear);
        }
        let Some(pattern) = text.strip_prefix("re:") else {
            return Ok(Self::Name(text.to_owned()));
        };
        match PythonPattern::new(pattern) {
            Some(pattern) => Ok(Self::Matches(pattern)),
            None => Err(config
                .value(field, text, "a regular expression after `re:`")
                .into()),
        }
    }

    pub(super) fn is_match(&self, module: &str, role: Role) -> Result<bool, DialectError> {
        Ok(match self {
            Self::Linear => matches!(
                role,
                Role::Linear | Role::Expert | Role::Router | Role::Head
            ),
            Self::Name(name) => {
                let rest = module.strip_suffix(name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Self::Matches(pattern) => pattern.is_match(module)?,
        })
    }
}

pub(super) fn declared(config: Fields<'_>) -> Result<CompressedTensors, DialectError> {
    for field in ["sparsity_config", "transform_config"] {
        if let Some(inner) = config.object(field, "")?
            && !inner.is_empty()
        {
            return Err(config
                .unsupported(field, "set", "weights that are only quantized")
                .into());
        }
    }
    let groups = config
        .object("config_groups", "quantization_config.config_groups.")?
        .ok_or_else(|| config.missing("config_groups"))?;
    let format = config.text("format")?;
    let mut found = Vec::new();
    for (name, _) in groups.entries() {
        let group = groups.object(name, "quantization_config.config_groups.*.")?;
        let group = group.ok_or_else(|| groups.missing(name))?;
        found.push(self::group(group, format)?);
    }
    let ignore = config.texts(IGNORE)?.unwrap_or_default();
    let ignore = ignore
        .into_iter()
        .map(|text| ModuleTarget::new(config, IGNORE, text));
    Ok(CompressedTensors {
        groups: found,
        ignore: ignore.collect::<Result<_, _>>()?,
    })
}

fn group(group: Fields<'_>, format: Option<&str>) -> Result<ConfigGroup, DialectError> {
    let targets = group
        .texts("targets")?
        .ok_or_else(|| group.missing("targets"))?;
    let targets = targets
        .into_iter()
        .map(|text| ModuleTarget::new(group, "targets", text))
        .collect::<Result<_, _>>()?;
    let format = match group.text("format")?.or(format) {
        Some(format @ (FLOATS | NAIVE | INTS | PACKED | NVFP4)) => format,
        Some(format) => return Err(group.unsupported("format", format, FORMATS).into()),
        None => return Err(group.missing("format").into()),
    };
    let path = "quantization_config.config_groups.*.weights.";
    let weights = group
        .object("weights", path)?
        .ok_or_else(|| group.missing("weights"))?;
    let count = |field: &str| -> Result<usize, DialectError> {
        Ok(weights
            .count(field)?
            .ok_or_else(|| weights.missing(field))?)
    };
    let bits = count("num_bits")?;
    let floats = match (weights.text("type")?.unwrap_or("int"), format) {
        ("float", FLOATS | NAIVE) if bits == 8 => true,
        ("float", NVFP4) if bits == 4 => true,
        ("int", INTS | NAIVE) if (2..=8).contains(&bits) => false,
        ("int", PACKED) if (2..=8).contains(&bits) => false,
        (kind, format) => {
            let found = format!("{kind} of {bits} bits in {format}");
            let known = "floats of 8 bits in float-quantized, of 4 bits in nvfp4-pack-quantized, int of 2 to 8 bits in int-quantized and \
                         pack-quantized";
            return Err(weights.unsupported("type", found, known).into());
        }
    };
    let symmetric = weights.flag("symmetric")?.unwrap_or(true);
    if floats && !symmetric {
        return Err(weights.unsupported("symmetric", false, "true").into());
    }
    let strategy = weights.text("strategy")?;
    if format == NVFP4 {
        let group = count("group_size")?;
        return match (strategy, group) {
            (Some("tensor_group") | None, NVFP4_GROUP) => Ok(ConfigGroup {
                targets,
                scheme: Scheme::Nvfp4,
            }),
            (Some("tensor_group") | None, _) => Err(weights
                .unsupported("group_size", group, NVFP4_GROUP.to_string())
                .into()),
            (Some(found), _) => Err(weights
                .unsupported("strategy", found, "tensor_group")
                .into()),
        };
    }
    let scheme = match (strategy, floats) {
        (Some("tensor"), true) => Scheme::Floats(Tile::Tensor),
        (Some("channel"), true) => Scheme::Floats(Tile::Row),
        (Some("group"), true) => Scheme::Floats(Tile::Block {
            rows: 1,
            cols: count("group_size")?,
        }),
        (Some("block"), true) => match weights.counts("block_structure")?.as_deref() {
            Some(&[rows, cols]) => Scheme::Floats(Tile::Block { rows, cols }),
            Some(sides) => {
                let (field, found) = ("block_structure", format!("{sides:?}"));
                return Err(weights.value(field, found, "rows and columns").into());
            }
            None => return Err(weights.missing("block_structure").into()),
        },
        (Some(strategy @ ("tensor" | "channel" | "group")), false) => Scheme::Whole(Whole {
            bits,
            scale: match strategy {
                "tensor" => ScaleSpan::Tensor,
                "channel" => ScaleSpan::Channel,
                _ => ScaleSpan::Group(count("group_size")?),
            },
            symmetric,
            words: format == PACKED,
        }),
        (Some(strategy), floats) => {
            let known = if floats {
                "tensor, channel, group or block"
            } else {
                "tensor, channel or group"
            };
            return Err(weights.unsupported("strategy", strategy, known).into());
        }
        (None, _) => return Err(weights.missing("strategy").into()),
    };
    Ok(ConfigGroup { targets, scheme })
}
