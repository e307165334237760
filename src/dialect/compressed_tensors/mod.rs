//! compressed-tensors, as llm-compressor saves it: 8-bit floats and whole numbers.
//!
//! ```text
//! format             codes                                    X.weight_scale, by strategy
//! float-quantized    X.weight F8_E4M3 [out, in]               tensor [] or [1], channel [out, 1], group [out, in / g],
//! naive-quantized    the same, or X.weight I8                 block [ceil(out / rows), ceil(in / cols)]
//! int-quantized      X.weight I8 [out, in]                    tensor, channel or group
//!                    X.weight_zero_point I8, as the scales    where not symmetric
//! pack-quantized     X.weight_packed I32 [out, ceil(in * bits / 32)], rows of codes, larger by 2^(bits-1)
//!                    X.weight_shape I64 [2]
//!                    X.weight_zero_point I32 [ceil(out * bits / 32), groups], columns of codes
//!                    X.weight_g_idx I32 [in], which group each column belongs to
//! nvfp4-pack-        X.weight_packed U8 [out, in / 2], two codes of E2M1, the first one low; read only
//!   quantized        X.weight_scale F8_E4M3 [out, in / 16], divided by X.weight_global_scale F32 [1]
//! ```
//!
//! `config_groups` say which modules are packed and how: `targets` are `Linear`, names of modules, or `re:` and
//! a regular expression; `ignore` excepts modules in the same words. `input_scale` and its kin are of
//! activations, which are not quantized here.

mod config;
mod floats;
pub(super) mod whole;

use std::{collections::HashMap, sync::Arc};

use firebox_kernels::{
    arith::float::DType,
    format::{Affine, Along, Format, Fp8Kind, Offset, Packed, Tile},
};
use serde_json::{Map, Value, json};

use self::config::{CompressedTensors, FLOATS, IGNORE, INTS, ModuleTarget, NVFP4, PACKED, Scheme};
use super::{
    Adopt, Codes, Dialect, DialectError, Files, PackedSlot, Tensor, Writer,
    lookup::Lookup,
    modelopt::nvfp4,
    types::module,
    types::plain,
    whole::{ScaleSpan, Whole},
    write::Matrices,
};
use crate::{
    config::To,
    model::{Slot, fields::Fields},
    source::{StoredType, TensorInfo},
};

pub(super) const NAME: &str = To::CompressedTensors.name();
/// The release whose files are written.
const VERSION: &str = "0.20.0";

pub(super) fn declared(config: Fields<'_>) -> Result<Arc<dyn Dialect>, DialectError> {
    Ok(Arc::new(config::declared(config)?))
}

impl Dialect for CompressedTensors {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight_of(
        &self,
        tensor: &TensorInfo,
        files: &Files<'_>,
    ) -> Result<Option<(String, Vec<usize>)>, DialectError> {
        if let Some(module) = tensor.name.strip_suffix(".weight_packed") {
            if let (StoredType::U8, &[out, bytes]) = (tensor.dtype, &tensor.shape[..]) {
                return Ok(Some((format!("{module}.weight"), vec![out, 2 * bytes])));
            }
            let shape = files.sides(&format!("{module}.weight_shape"))?;
            return Ok(Some((format!("{module}.weight"), shape)));
        }
        let module = tensor.name.strip_suffix(".weight");
        let is_weight = plain(tensor.dtype).is_none()
            && module.is_some_and(|module| files.has(&format!("{module}.weight_scale")));
        Ok(is_weight.then(|| (tensor.name.to_string(), tensor.shape.clone())))
    }

    fn adopt_matrix(&self, lookup: &Lookup<'_>) -> Result<Option<Adopt>, DialectError> {
        let meant = |targets: &[ModuleTarget]| {
            for target in targets {
                if lookup.any_name(|module| target.is_match(module, lookup.slot.role))? {
                    return Ok::<_, DialectError>(true);
                }
            }
            Ok(false)
        };
        let mut targeted = None;
        for group in &self.groups {
            if meant(&group.targets)? {
                targeted = Some(group);
                break;
            }
        }
        let ignored = targeted.is_some() && meant(&self.ignore)?;
        let group = targeted.filter(|_| !ignored);
        let codes = match lookup.weight() {
            Some(weight) => plain(weight.dtype).is_none(),
            None => lookup.beside("weight_packed").is_some(),
        };
        match (codes, group.map(|group| group.scheme)) {
            (false, scheme) => {
                let plain = lookup.plain(lookup.weight(), scheme.is_none(), IGNORE);
                plain.map(|()| None)
            }
            (true, None) => Err(lookup.excepted(targeted.map_or("config_groups", |_| IGNORE))),
            (true, Some(Scheme::Floats(tile))) => floats::adopt(lookup, tile).map(Some),
            (true, Some(Scheme::Whole(whole))) => whole.adopt(lookup).map(Some),
            (true, Some(Scheme::Nvfp4)) => {
                let codes = lookup.need("weight_packed")?;
                nvfp4(lookup, codes, "weight_global_scale", true).map(Some)
            }
        }
    }

    fn leaves_out(&self, tensor: &str) -> bool {
        let of_activations = [
            ".input_scale",
            ".input_global_scale",
            ".input_zero_point",
            ".output_scale",
            ".k_scale",
            ".v_scale",
        ];
        of_activations.iter().any(|name| tensor.ends_with(name))
    }
}

/// Writes a group of modules for each scheme, with activations quantized as they come where that is usual.
#[derive(Debug)]
struct CompressedTensorsWriter {
    config: Value,
    schemes: HashMap<String, Scheme>,
}

/// How a packed weight would be written here: whole numbers only from methods and files that have them as such, since
/// the zeros of others lie between codes.
fn scheme(weight: &PackedSlot) -> Option<Scheme> {
    match weight.format {
        // Experts are modules of their own here.
        _ if weight.slot.shape.len() != 2 => None,
        Format::Fp8(Fp8Kind::E4m3, tile) => Some(Scheme::Floats(tile)),
        Format::Affine(Affine {
            along: Along::Flat,
            form: Offset::Zero,
            ..
        }) => weight.provenance.whole.map(Scheme::Whole),
        _ => None,
    }
}

pub(super) fn writer(matrices: &Matrices) -> Result<Box<dyn Writer>, DialectError> {
    let schemes = matrices.kinds(NAME, scheme, false)?;
    let of = |of: Scheme| {
        let packed = matrices.packed.iter();
        packed.filter(move |weight| scheme(weight) == Some(of))
    };
    let mut groups = Map::new();
    for (k, scheme) in schemes.iter().enumerate() {
        let targets: Vec<&str> = if schemes.len() == 1 {
            vec!["Linear"]
        } else {
            of(*scheme).map(|weight| module(&weight.slot)).collect()
        };
        groups.insert(format!("group_{k}"), scheme.group(&targets));
    }
    let mut formats: Vec<&str> = schemes.iter().map(|scheme| scheme.format()).collect();
    formats.dedup();
    let config = json!({
        "config_groups": groups,
        "format": if let [format] = formats[..] { format } else { "mixed-precision" },
        "global_compression_ratio": null,
        IGNORE: matrices.excepted(),
        "kv_cache_scheme": null,
        "moe_sparsity_config": null,
        "quant_method": NAME,
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": VERSION,
    });
    let schemes = schemes
        .iter()
        .flat_map(|scheme| of(*scheme).map(|weight| (weight.slot.name.clone(), *scheme)));
    let schemes = schemes.collect();
    Ok(Box::new(CompressedTensorsWriter { config, schemes }))
}

impl Scheme {
    fn format(self) -> &'static str {
        match self {
            Self::Floats(_) => FLOATS,
            Self::Whole(Whole { words: true, .. }) => PACKED,
            Self::Whole(_) => INTS,
            Self::Nvfp4 => NVFP4,
        }
    }

    /// An entry of `config_groups`.
    fn group(self, targets: &[&str]) -> Value {
        let (kind, bits, symmetric) = match self {
            Self::Floats(_) => ("float", 8, true),
            Self::Whole(whole) => ("int", whole.bits, whole.symmetric),
            Self::Nvfp4 => ("float", 4, true),
        };
        let (strategy, group, block) = match self {
            Self::Nvfp4 => ("tensor_group", json!(16), None),
            Self::Floats(Tile::Tensor) => ("tensor", Value::Null, None),
            Self::Floats(Tile::Row) => ("channel", Value::Null, None),
            Self::Floats(Tile::Block { rows: 1, cols }) => ("group", json!(cols), None),
            Self::Floats(Tile::Block { rows, cols }) => ("block", Value::Null, Some([rows, cols])),
            Self::Whole(whole) => match whole.scale {
                ScaleSpan::Tensor => ("tensor", Value::Null, None),
                ScaleSpan::Channel => ("channel", Value::Null, None),
                ScaleSpan::Group(group) => ("group", json!(group), None),
            },
        };
        let mut weights = json!({
            "dynamic": false,
            "group_size": group,
            "num_bits": bits,
            "observer": "memoryless_minmax",
            "strategy": strategy,
            "symmetric": symmetric,
            "type": kind,
        });
        if let Some(sides) = block {
            weights["block_structure"] = json!(sides);
        }
        // As the presets for these strategies have it; packed whole numbers multiply activations as they are.
        let activations = |strategy: &str, group: Value| {
            json!({
                "dynamic": true,
                "group_size": group,
                "num_bits": 8,
                "strategy": strategy,
                "symmetric": true,
                "type": kind,
            })
        };
        let activations = match self {
            Self::Floats(Tile::Block { cols, .. }) => activations("group", json!(cols)),
            Self::Whole(Whole { words: true, .. }) => Value::Null,
            _ => activations("token", Value::Null),
        };
        json!({
            "format": self.format(),
            "input_activations": activations,
            "output_activations": null,
            "targets": targets,
            "weights": weights,
        })
    }
}

impl Writer for CompressedTensorsWriter {
    fn config(&self) -> Vec<(&'static str, Value)> {
        vec![("quantization_config", self.config.clone())]
    }

    fn codes(&self, slot: &Slot, format: Format) -> Option<Codes> {
        match self.schemes[&slot.name] {
            Scheme::Whole(_) | Scheme::Nvfp4 => None,
            Scheme::Floats(_) => Some(floats::codes(slot, format)),
        }
    }

    fn tensors(&self, slot: &Slot, packed: Packed, source: DType) -> Vec<Tensor> {
        match (self.schemes[&slot.name], packed.format) {
            (Scheme::Whole(whole), Format::Affine(affine)) => whole.tensors(slot, packed, affine),
            (Scheme::Floats(tile), _) => floats::tensors(slot, packed, tile, source),
            _ => unreachable!("schemes were chosen by format"),
        }
    }
}
