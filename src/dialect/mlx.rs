//! MLX, as mlx-lm saves it: whole numbers with a scale and a bias for each group of a row, and small floats.
//!
//! ```text
//! X.weight              U32 [out, in * bits / 32], each row a little-endian stream of codes
//! X.scales, X.biases    [out, in / group], in the type of the model; scales are U8 and biases absent in the modes
//!                       mxfp4, mxfp8 and nvfp4
//! ```
//!
//! `quantization` of config.json has `group_size`, `bits` and `mode`, and an entry for each module that differs:
//! the same three, or `false` for one that is not packed. Embeddings and heads are packed too.

use std::{collections::HashMap, sync::Arc};

use firebox_kernels::{
    arith::float::DType,
    format::{Affine, Along, Format, Micro, Offset, Packed},
    packing::Packing,
};
use serde_json::{Value, json};

use super::{
    Adopt, Assembly, Codes, Dialect, DialectError, Files, Tensor, Writer, experts,
    in_stack::InStack,
    lookup::Lookup,
    stack::{PackedStack, by_parts},
    types::{matrix, module, stacked},
    write::{Matrices, pairs},
};
use crate::{
    config::To,
    model::{Slot, fields::Fields},
    source::{Catalog, StoredType, TensorInfo},
};

pub(super) const NAME: &str = To::Mlx.name();
const FIELD: &str = "quantization";

#[derive(Debug)]
struct MlxDialect {
    all: MlxScheme,
    /// Modules that differ; `None` is not packed.
    modules: HashMap<String, Option<MlxScheme>>,
}

/// How a module is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MlxScheme {
    Affine { bits: usize, group: usize },
    Micro(Micro),
}

/// The modes whose scales are bytes.
const MICRO: [(&str, Micro); 3] = [
    ("mxfp4", Micro::Mxfp4),
    ("mxfp8", Micro::Mxfp8),
    ("nvfp4", Micro::Nvfp4 { global: false }),
];

impl MlxScheme {
    /// `bits`, `group_size` and `mode`.
    fn fields(self) -> (usize, usize, &'static str) {
        match self {
            Self::Affine { bits, group } => (bits, group, "affine"),
            Self::Micro(micro) => {
                let known = MICRO.iter().find(|(_, known)| *known == micro);
                let mode = known.map_or("nvfp4", |(mode, _)| mode);
                (micro.bits(), micro.group(), mode)
            }
        }
    }
}

pub(super) fn declared(config: Fields<'_>) -> Result<Arc<dyn Dialect>, DialectError> {
    let all = scheme(config, None)?;
    let mut modules = HashMap::new();
    for (module, entry) in config.entries() {
        let of_module = match entry {
            Value::Object(_) => {
                let entry = config.object(module, "quantization.*.")?;
                Some(scheme(entry.expect("the entry is there"), Some(all))?)
            }
            Value::Bool(false) => None,
            // As `true` says nothing, and the other fields are scalars.
            _ => continue,
        };
        modules.insert(module.to_owned(), of_module);
    }
    Ok(Arc::new(MlxDialect { all, modules }))
}

fn scheme(config: Fields<'_>, default: Option<MlxScheme>) -> Result<MlxScheme, DialectError> {
    let default = default.map(MlxScheme::fields);
    let count = |field: &str, default: Option<usize>| -> Result<usize, DialectError> {
        let count = config.count(field)?.or(default);
        Ok(count.ok_or_else(|| config.missing(field))?)
    };
    let bits = count("bits", default.map(|(bits, _, _)| bits))?;
    let group = count("group_size", default.map(|(_, group, _)| group))?;
    let mode = config.text("mode")?.unwrap_or("affine");
    if mode == "affine" {
        return Ok(MlxScheme::Affine { bits, group });
    }
    let known = MICRO.iter().find(|(known, _)| *known == mode);
    let Some((_, micro)) = known else {
        let known = "affine, mxfp4, mxfp8 or nvfp4";
        return Err(config.unsupported("mode", mode, known).into());
    };
    for (field, found, fixed) in [
        ("bits", bits, micro.bits()),
        ("group_size", group, micro.group()),
    ] {
        if found != fixed {
            let expected = format!("{fixed}, which {mode} has");
            return Err(config.value(field, found, expected).into());
        }
    }
    Ok(MlxScheme::Micro(*micro))
}

impl Dialect for MlxDialect {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight_of(
        &self,
        tensor: &TensorInfo,
        files: &Files<'_>,
    ) -> Result<Option<(String, Vec<usize>)>, DialectError> {
        let module = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        if tensor.dtype != StoredType::U32 || !files.has(&format!("{module}.scales")) {
            return Ok(None);
        }
        let scheme = self.modules.get(module).copied().unwrap_or(Some(self.all));
        let Some((scheme, (words, outer))) = scheme.zip(tensor.shape.split_last()) else {
            return Ok(None);
        };
        let (bits, ..) = scheme.fields();
        let shape = [outer, &[words * 32 / bits.max(1)]].concat();
        Ok(Some((tensor.name.to_string(), shape)))
    }

    /// mlx-lm stacks experts that have a tensor each elsewhere.
    fn stack(&self, slot: &Slot, catalog: &Catalog) -> Result<Option<PackedStack>, DialectError> {
        let named = experts::stacks_of(&slot.name);
        let named = named.map(|(stack, nth)| InStack { stack, nth });
        let mut places = InStack::by_origin(slot, false).into_iter().chain(named);
        let place = places.find(|place| catalog.get(&place.stack).is_some());
        by_parts(NAME, &["weight", "scales", "biases"], slot, place, catalog)
    }

    fn adopt_matrix(&self, lookup: &Lookup<'_>) -> Result<Option<Adopt>, DialectError> {
        let named = lookup.names();
        let mut named = named.iter().filter_map(|name| self.modules.get(name));
        let scheme = named.next().copied().unwrap_or(Some(self.all));
        let Some(weight) = lookup.weight() else {
            return Ok(None);
        };
        if weight.dtype != StoredType::U32 {
            let plain = lookup.plain(Some(weight), scheme.is_none(), FIELD);
            return plain.map(|()| None);
        }
        let scheme = scheme.ok_or_else(|| lookup.excepted(FIELD))?;
        let [o, i] = lookup.shape;
        let (bits, group, _) = scheme.fields();
        let scales = lookup.need("scales")?;
        let (format, groups) = match scheme {
            MlxScheme::Affine { .. } => {
                let params = lookup.floats(scales)?;
                (
                    Packing::mlx(bits, group).and_then(|mlx| mlx.format(lookup.shape, params)),
                    [o, i / group],
                )
            }
            MlxScheme::Micro(micro) => {
                lookup.dtype(scales, &[StoredType::U8])?;
                (
                    Packing::Micro(micro).format(lookup.shape, DType::F32),
                    [o, i / group],
                )
            }
        };
        let format = lookup.format(format)?;
        lookup.shape(weight, &[&lookup.stacked([o, i * bits / 32])])?;
        let groups = lookup.stacked(groups);
        lookup.shape(scales, &[&groups])?;
        let mut parts = vec![weight.clone(), scales.clone()];
        let Format::Affine(_) = format else {
            return Ok(Some(Adopt::new(format, parts, Assembly::Stored)));
        };
        let biases = lookup.need("biases")?;
        lookup.dtype(biases, &[scales.dtype])?;
        lookup.shape(biases, &[&groups])?;
        parts.push(biases.clone());
        Ok(Some(Adopt::new(format, parts, Assembly::Pairs)))
    }
}

/// Writes what most modules have in common once, and an entry for each of the others.
#[derive(Debug)]
struct MlxWriter(Value);

pub(super) fn writer(matrices: &Matrices) -> Result<Box<dyn Writer>, DialectError> {
    let scheme = |format| match format {
        Format::Affine(Affine {
            bits,
            group: group @ (32 | 64 | 128),
            along: Along::Flat,
            form: Offset::Bias,
            ..
        }) => Some(MlxScheme::Affine { bits, group }),
        Format::Micro(micro) if !micro.is_global() => Some(MlxScheme::Micro(micro)),
        _ => None,
    };
    let schemes = matrices.kinds(NAME, |weight| scheme(weight.format), true)?;
    let of = |of: MlxScheme| {
        let packed = matrices.packed.iter();
        packed.filter(move |weight| scheme(weight.format) == Some(of))
    };
    let most = schemes.iter().max_by_key(|scheme| of(**scheme).count());
    let common = *most.expect("something is packed");
    let entry = |scheme: MlxScheme| {
        let (bits, group, mode) = scheme.fields();
        json!({ "group_size": group, "bits": bits, "mode": mode })
    };
    let mut config = entry(common);
    for weight in &matrices.packed {
        match scheme(weight.format) {
            Some(scheme) if scheme != common => {
                let mut entry = entry(scheme);
                // As mlx-lm's own choices for modules have it: affine unless another mode is said.
                if let (MlxScheme::Affine { .. }, Some(entry)) = (scheme, entry.as_object_mut()) {
                    entry.remove("mode");
                }
                config[module(&weight.slot)] = entry;
            }
            _ => {}
        }
    }
    for slot in &matrices.plain {
        config[module(slot)] = Value::Bool(false);
    }
    Ok(Box::new(MlxWriter(config)))
}

impl Writer for MlxWriter {
    fn metadata(&self) -> &'static str {
        "mlx"
    }

    fn config(&self) -> Vec<(&'static str, Value)> {
        vec![
            (FIELD, self.0.clone()),
            ("quantization_config", self.0.clone()),
        ]
    }

    fn codes(&self, slot: &Slot, format: Format) -> Option<Codes> {
        let [rows, cols] = matrix(slot);
        let shape = stacked(slot, [rows, cols * format.code_bits() / 32]);
        Some(Codes::new(slot, StoredType::U32, &shape, format))
    }

    fn tensors(&self, slot: &Slot, mut packed: Packed, _: DType) -> Vec<Tensor> {
        let [o, i] = packed.shape;
        let name = |suffix: &str| format!("{}.{suffix}", module(slot));
        let codes = self.codes(slot, packed.format);
        let codes = codes.map(|codes| codes.unless_written(core::mem::take(&mut packed.words)));
        let mut tensors = codes.unwrap_or_default();
        match packed.format {
            Format::Micro(micro) => {
                let (name, groups) = (name("scales"), stacked(slot, [o, i / micro.group()]));
                tensors.push(Tensor::words(name, StoredType::U8, &groups, packed.scales));
            }
            Format::Affine(affine) => {
                let groups = stacked(slot, [o, i / affine.group]);
                for (suffix, values) in ["scales", "biases"].into_iter().zip(pairs(affine, &packed))
                {
                    let floats = Tensor::floats(name(suffix), affine.params, &groups, &values);
                    tensors.push(floats);
                }
            }
            _ => unreachable!("the plan's formats were looked at"),
        }
        tensors
    }
}
