//! MLX, as mlx-lm saves it: whole numbers with a scale and a bias for each group of a row.
//!
//! ```text
//! X.weight              U32 [out, in * bits / 32], each row a little-endian stream of codes
//! X.scales, X.biases    [out, in / group], in the type of the model
//! ```
//!
//! `quantization` of config.json has `group_size`, `bits` and `mode`, and an entry for each module that differs:
//! the same three, or `false` for one that is not packed. Embeddings and heads are packed too.

use std::{collections::HashMap, sync::Arc};

use firebox_kernels::{
    float::FloatBits,
    format::{Affine, Format, Offset, Packed},
};
use serde_json::{Value, json};

use super::{
    Adopt, Dialect, DialectError, Tensor, Writer,
    find::Find,
    plain,
    write::{Matrices, module},
};
use crate::{
    model::{Slot, fields::Fields},
    source::{Catalog, Dtype},
};

pub(super) const NAME: &str = "mlx";
const FIELD: &str = "quantization";

#[derive(Debug)]
struct Mlx {
    all: Scheme,
    /// Modules that differ; `None` is not packed.
    modules: HashMap<String, Option<Scheme>>,
}

#[derive(Debug, Clone, Copy)]
struct Scheme {
    bits: usize,
    group: usize,
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
    Ok(Arc::new(Mlx { all, modules }))
}

fn scheme(config: Fields<'_>, default: Option<Scheme>) -> Result<Scheme, DialectError> {
    let count = |field: &str, default: Option<usize>| -> Result<usize, DialectError> {
        let count = config.count(field)?.or(default);
        Ok(count.ok_or_else(|| config.missing(field))?)
    };
    match config.text("mode")? {
        None | Some("affine") => {}
        Some(mode) => return Err(config.unsupported("mode", mode, "affine").into()),
    }
    Ok(Scheme {
        bits: count("bits", default.map(|default| default.bits))?,
        group: count("group_size", default.map(|default| default.group))?,
    })
}

impl Dialect for Mlx {
    fn name(&self) -> &'static str {
        NAME
    }

    fn find(&self, slot: &Slot, catalog: &Catalog) -> Result<Option<Adopt>, DialectError> {
        let Some(find) = Find::new(NAME, slot, catalog) else {
            return Ok(None);
        };
        let scheme = match self.modules.get(find.module()) {
            Some(of_module) => *of_module,
            None => Some(self.all),
        };
        let Some(weight) = find.weight() else {
            return Ok(None);
        };
        if weight.dtype != Dtype::U32 {
            let plain = find.plain(Some(weight), scheme.is_none(), FIELD);
            return plain.map(|()| None);
        }
        let Scheme { bits, group } = scheme.ok_or_else(|| find.excepted(FIELD))?;

        let [o, i] = find.shape;
        let (scales, biases) = (find.need("scales")?, find.need("biases")?);
        find.dtype(scales, &[Dtype::F32, Dtype::F16, Dtype::BF16])?;
        find.dtype(biases, &[scales.dtype])?;
        let params = plain(scales.dtype).expect("a float type");
        let format = Mlx::new(bits, group)
            .and_then(|mlx| mlx.format(find.shape, params))
            .map_err(|source| DialectError::Format {
                tensor: slot.name.clone(),
                source,
            })?;
        find.shape(weight, &[&[o, i * bits / 32]])?;
        for tensor in [scales, biases] {
            find.shape(tensor, &[&[o, i / group]])?;
        }

        let parts = vec![weight.clone(), scales.clone(), biases.clone()];
        let Format::Affine(affine) = format else {
            unreachable!("it was made above");
        };
        Ok(Some(Adopt::new(format, parts, move |parts| {
            let stored = |part| -> Vec<u32> {
                let bytes = parts.bytes(part);
                match params.size() {
                    4 => bytemuck::pod_collect_to_vec(bytes),
                    _ => {
                        let (halves, _) = bytes.as_chunks();
                        let halves = halves.iter().map(|half| u16::from_le_bytes(*half));
                        halves.map(u32::from).collect()
                    }
                }
            };
            let scales = affine.join(&stored(1), &stored(2));
            Ok((parts.take(0), scales))
        })))
    }
}

/// Writes what most modules have in common once, and an entry for each of the others.
#[derive(Debug)]
struct MlxWriter(Value);

pub(super) fn writer(matrices: &Matrices<'_>) -> Result<Box<dyn Writer>, DialectError> {
    let scheme = |format| match format {
        Format::Affine(Affine {
            bits,
            group,
            form: Offset::Bias,
            ..
        }) => Some((bits, group)),
        _ => None,
    };
    let schemes = matrices.kinds(NAME, scheme, true)?;
    let of = |of: (usize, usize)| {
        let packed = matrices.packed.iter();
        packed.filter(move |(_, format)| scheme(*format) == Some(of))
    };
    let common = schemes
        .iter()
        .copied()
        .max_by_key(|scheme| of(*scheme).count());
    let Some(common) = common else {
        return Err(DialectError::NothingPacked { dialect: NAME });
    };
    let entry = |(bits, group)| json!({ "group_size": group, "bits": bits, "mode": "affine" });
    let mut config = entry(common);
    for (slot, format) in &matrices.packed {
        match scheme(*format) {
            Some(scheme) if scheme != common => config[module(slot)] = entry(scheme),
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

    fn tensors(&self, slot: &Slot, packed: Packed, _: FloatBits) -> Vec<Tensor> {
        let Format::Affine(affine) = packed.format else {
            unreachable!("the plan's formats were looked at");
        };
        let [o, i] = packed.shape;
        let groups = [o, i / affine.group];
        let (scales, biases): (Vec<u32>, Vec<u32>) = (0..groups[0] * groups[1])
            .map(|k| affine.params(&packed.scales, k))
            .map(|(scale, bias)| (scale.to_bits(), bias.to_bits()))
            .unzip();
        let name = |suffix: &str| format!("{}.{suffix}", module(slot));
        let columns = i * affine.bits / 32;
        vec![
            Tensor::words(slot.name.clone(), Dtype::U32, &[o, columns], &packed.words),
            Tensor::floats(name("scales"), affine.params, &groups, &scales),
            Tensor::floats(name("biases"), affine.params, &groups, &biases),
        ]
    }
}
