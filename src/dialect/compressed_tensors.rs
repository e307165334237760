//! compressed-tensors, as llm-compressor saves it: FP8 for now.
//!
//! ```text
//! format            X.weight              X.weight_scale, by strategy
//! float-quantized   F8_E4M3 [out, in]     tensor [] or [1], channel [out, 1], group [out, in / g],
//! naive-quantized                         block [ceil(out / rows), ceil(in / cols)]
//! ```
//!
//! `config_groups` say which modules are packed and how: `targets` are `Linear`, names of modules, or `re:` and
//! a regular expression; `ignore` excepts modules in the same words. `input_scale` and its kin are of
//! activations, which are not quantized here.

use std::sync::Arc;

use firebox_kernels::{
    float::FloatBits,
    format::{Format, Fp8Kind, Packed, Tile},
};
use regex::Regex;
use serde_json::{Map, Value, json};

use super::{
    Adopt, Dialect, DialectError, Tensor, Writer,
    find::Find,
    plain,
    write::{Matrices, module},
};
use crate::{
    model::{Role, Slot, fields::Fields},
    source::{Catalog, Dtype},
};

pub(super) const NAME: &str = "compressed-tensors";
const IGNORE: &str = "ignore";
const FLOATS: &str = "float-quantized";
/// The release whose files are written.
const VERSION: &str = "0.20.0";
const SCALES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

#[derive(Debug)]
struct CompressedTensors {
    groups: Vec<Group>,
    ignore: Vec<Target>,
}

/// How some modules are packed.
#[derive(Debug)]
struct Group {
    targets: Vec<Target>,
    tile: Tile,
    /// Rows have to be whole tiles.
    whole: bool,
}

/// Which modules are meant.
#[derive(Debug)]
enum Target {
    /// Every linear layer.
    Linear,
    /// The module of this name, or of a path that ends in it.
    Name(String),
    /// A regular expression that matches from the beginning of the name.
    Matches(Regex),
}

impl Target {
    fn new(config: Fields<'_>, field: &str, text: &str) -> Result<Self, DialectError> {
        if text == "Linear" {
            return Ok(Self::Linear);
        }
        let Some(pattern) = text.strip_prefix("re:") else {
            return Ok(Self::Name(text.to_owned()));
        };
        match Regex::new(&format!("^(?:{pattern})")) {
            Ok(regex) => Ok(Self::Matches(regex)),
            Err(_) => Err(config
                .value(field, text, "a regular expression after `re:`")
                .into()),
        }
    }

    fn is_match(&self, module: &str, role: Role) -> bool {
        match self {
            Self::Linear => matches!(role, Role::Linear | Role::Head),
            Self::Name(name) => {
                let rest = module.strip_suffix(name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Self::Matches(regex) => regex.is_match(module),
        }
    }
}

pub(super) fn declared(config: Fields<'_>) -> Result<Arc<dyn Dialect>, DialectError> {
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
        .map(|text| Target::new(config, IGNORE, text));
    Ok(Arc::new(CompressedTensors {
        groups: found,
        ignore: ignore.collect::<Result<_, _>>()?,
    }))
}

fn group(group: Fields<'_>, format: Option<&str>) -> Result<Group, DialectError> {
    let targets = group
        .texts("targets")?
        .ok_or_else(|| group.missing("targets"))?;
    let targets = targets
        .into_iter()
        .map(|text| Target::new(group, "targets", text))
        .collect::<Result<_, _>>()?;
    match group.text("format")?.or(format) {
        Some("float-quantized" | "naive-quantized") => {}
        Some(format) => {
            let known = "float-quantized or naive-quantized";
            return Err(group.unsupported("format", format, known).into());
        }
        None => return Err(group.missing("format").into()),
    }
    let path = "quantization_config.config_groups.*.weights.";
    let weights = group
        .object("weights", path)?
        .ok_or_else(|| group.missing("weights"))?;
    let count = |field: &str| -> Result<usize, DialectError> {
        Ok(weights
            .count(field)?
            .ok_or_else(|| weights.missing(field))?)
    };
    let kind = (weights.text("type")?.unwrap_or("int"), count("num_bits")?);
    if kind != ("float", 8) {
        let found = format!("{} of {} bits", kind.0, kind.1);
        return Err(weights
            .unsupported("type", found, "floats of 8 bits")
            .into());
    }
    if weights.flag("symmetric")? == Some(false) {
        return Err(weights.unsupported("symmetric", false, "true").into());
    }
    let strategy = weights.text("strategy")?;
    let tile = match strategy {
        Some("tensor") => Tile::Tensor,
        Some("channel") => Tile::Row,
        Some("group") => Tile::Block {
            rows: 1,
            cols: count("group_size")?,
        },
        Some("block") => match weights.counts("block_structure")?.as_deref() {
            Some(&[rows, cols]) => Tile::Block { rows, cols },
            Some(sides) => {
                let (field, found) = ("block_structure", format!("{sides:?}"));
                return Err(weights.value(field, found, "rows and columns").into());
            }
            None => return Err(weights.missing("block_structure").into()),
        },
        Some(strategy) => {
            let known = "tensor, channel, group or block";
            return Err(weights.unsupported("strategy", strategy, known).into());
        }
        None => return Err(weights.missing("strategy").into()),
    };
    Ok(Group {
        targets,
        tile,
        whole: strategy == Some("group"),
    })
}

impl Dialect for CompressedTensors {
    fn name(&self) -> &'static str {
        NAME
    }

    fn find(&self, slot: &Slot, catalog: &Catalog) -> Result<Option<Adopt>, DialectError> {
        let Some(find) = Find::new(NAME, slot, catalog) else {
            return Ok(None);
        };
        let Some(weight) = find.weight() else {
            return Ok(None);
        };
        let meant = |targets: &[Target]| {
            let mut targets = targets.iter();
            targets.any(|target| target.is_match(find.module(), slot.role))
        };
        let targeted = self.groups.iter().find(|group| meant(&group.targets));
        let group = targeted.filter(|_| !meant(&self.ignore));
        if weight.dtype != Dtype::F8E4M3 {
            if group.is_some() && plain(weight.dtype).is_none() {
                find.dtype(weight, &[Dtype::F8E4M3])?;
            }
            let plain = find.plain(Some(weight), group.is_none(), IGNORE);
            return plain.map(|()| None);
        }
        let Some(&Group { tile, whole, .. }) = group else {
            let field = targeted.map_or("config_groups", |_| IGNORE);
            return Err(find.excepted(field));
        };
        find.shape(weight, &[&find.shape])?;
        let [_, cols] = tile.sides(find.shape);
        if whole && find.shape[1] % cols != 0 {
            let found = format!("rows of {} weights", find.shape[1]);
            let declared = format!("{cols}, which does not divide them");
            find.agree(weight, found, "weights.group_size", declared)?;
        }
        let scale = find.need("weight_scale")?;
        find.dtype(scale, &SCALES)?;
        if let Some(zeros) = find.beside("weight_zero_point") {
            find.agree(zeros, "zero points", "weights.symmetric", "true")?;
        }
        if let Some(order) = find.beside("weight_g_idx") {
            find.agree(order, "groups in an order", "weights.type", "float")?;
        }
        match tile {
            Tile::Tensor => find.shape(scale, &[&[], &[1], &[1, 1]])?,
            _ => find.shape(scale, &[&tile.grid(find.shape)])?,
        }

        let parts = vec![weight.clone(), scale.clone()];
        let format = Format::Fp8(Fp8Kind::E4m3, tile);
        Ok(Some(Adopt::new(format, parts, |parts| {
            let scales = parts.floats(1);
            Ok((parts.take(0), scales))
        })))
    }

    fn leaves_out(&self, tensor: &str) -> bool {
        let of_activations = [".input_scale", ".output_scale", ".k_scale", ".v_scale"];
        of_activations.iter().any(|name| tensor.ends_with(name))
    }
}

/// Writes a group of modules for each tile, with activations quantized as they come where that is usual.
#[derive(Debug)]
struct CompressedTensorsWriter(Value);

pub(super) fn writer(matrices: &Matrices<'_>) -> Result<Box<dyn Writer>, DialectError> {
    let tile = |format| match format {
        Format::Fp8(Fp8Kind::E4m3, tile) => Some(tile),
        _ => None,
    };
    let tiles = matrices.kinds(NAME, tile, false)?;
    if tiles.is_empty() {
        return Err(DialectError::NothingPacked { dialect: NAME });
    }
    let mut groups = Map::new();
    for (k, of) in tiles.iter().enumerate() {
        let targets: Vec<&str> = if tiles.len() == 1 {
            vec!["Linear"]
        } else {
            let packed = matrices.packed.iter();
            let packed = packed.filter(|(_, format)| tile(*format) == Some(*of));
            packed.map(|(slot, _)| module(slot)).collect()
        };
        let (strategy, group, block) = match of {
            Tile::Tensor => ("tensor", Value::Null, None),
            Tile::Row => ("channel", Value::Null, None),
            Tile::Block { rows: 1, cols } => ("group", json!(cols), None),
            Tile::Block { rows, cols } => ("block", Value::Null, Some([*rows, *cols])),
        };
        let mut weights = json!({
            "dynamic": false,
            "group_size": group,
            "num_bits": 8,
            "observer": "memoryless_minmax",
            "strategy": strategy,
            "symmetric": true,
            "type": "float",
        });
        if let Some(sides) = block {
            weights["block_structure"] = json!(sides);
        }
        // As the presets for these strategies have it.
        let (strategy, group) = match of {
            Tile::Block { cols, .. } => ("group", json!(cols)),
            _ => ("token", Value::Null),
        };
        let activations = json!({
            "dynamic": true,
            "group_size": group,
            "num_bits": 8,
            "strategy": strategy,
            "symmetric": true,
            "type": "float",
        });
        let group = json!({
            "format": FLOATS,
            "input_activations": activations,
            "output_activations": null,
            "targets": targets,
            "weights": weights,
        });
        groups.insert(format!("group_{k}"), group);
    }
    Ok(Box::new(CompressedTensorsWriter(json!({
        "config_groups": groups,
        "format": FLOATS,
        "global_compression_ratio": null,
        IGNORE: matrices.excepted(),
        "kv_cache_scheme": null,
        "moe_sparsity_config": null,
        "quant_method": NAME,
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": VERSION,
    }))))
}

impl Writer for CompressedTensorsWriter {
    fn config(&self) -> Vec<(&'static str, Value)> {
        vec![("quantization_config", self.0.clone())]
    }

    fn tensors(&self, slot: &Slot, packed: Packed, source: FloatBits) -> Vec<Tensor> {
        let Format::Fp8(_, tile) = packed.format else {
            unreachable!("the plan's formats were looked at");
        };
        let name = format!("{}.weight_scale", module(slot));
        let grid = tile.grid(packed.shape);
        let shape: &[usize] = if tile == Tile::Tensor { &[1] } else { &grid };
        // In the weight's own type, unless they were computed in f32.
        let exact = |bits: &u32| {
            let stored = source.from_bits(source.to_bits(f32::from_bits(*bits)));
            stored.to_bits() == *bits
        };
        let stored = if packed.scales.iter().all(exact) {
            source
        } else {
            FloatBits::F32
        };
        vec![
            Tensor::words(
                slot.name.clone(),
                Dtype::F8E4M3,
                &packed.shape,
                &packed.words,
            ),
            Tensor::floats(name, stored, shape, &packed.scales),
        ]
    }
}
