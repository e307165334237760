//! `quant_method: fp8`: the tiles of DeepSeek and transformers, and the older layout of AutoFP8.
//!
//! ```text
//! X.weight              F8_E4M3 [out, in], or F8_E5M2 where `fmt` says so
//! X.weight_scale_inv    F32 or F8_E8M0 [ceil(out / rows), ceil(in / cols)], one for each tile of `weight_block_size`;
//!                       [], [1] or [1, 1] where that is absent. Multiplied by, whatever its name says
//! X.weight_scale        F32 [] or [1]: AutoFP8, no `weight_block_size`
//! X.input_scale         AutoFP8: of activations, which are not quantized here
//! ```

use std::sync::Arc;

use firebox_kernels::{
    arith::float::DType,
    format::{Format, Fp8Kind, Packed, Tile},
};
use serde_json::{Value, json};

use super::{
    Adopt, Assembly, Codes, Dialect, DialectError, Files, PackedSlot, Provenance, Tensor, Writer,
    in_stack::InStack,
    lookup::Lookup,
    names::Excepted,
    stack::{PackedStack, by_parts},
    types::{beside, stacked},
    write::Matrices,
};
use crate::{
    config::To,
    model::{Slot, fields::Fields},
    source::{Catalog, StoredType, TensorInfo},
};

pub(super) const NAME: &str = To::Fp8.name();
/// Lists of exceptions, by their names over time.
const SKIP: [&str; 3] = [
    "modules_to_not_convert",
    "ignored_layers",
    "ignored_modules",
];
const SCALES: [StoredType; 4] = [
    StoredType::F32,
    StoredType::F16,
    StoredType::BF16,
    StoredType::F8E8M0,
];

#[derive(Debug)]
struct Fp8Dialect {
    kind: Fp8Kind,
    tile: Option<[usize; 2]>,
    excepted: Excepted,
}

pub(super) fn declared(config: Fields<'_>) -> Result<Arc<dyn Dialect>, DialectError> {
    let kind = match config.text("fmt")? {
        None | Some("e4m3" | "float8_e4m3fn") => Fp8Kind::E4m3,
        Some("e5m2" | "float8_e5m2") => Fp8Kind::E5m2,
        Some(fmt) => return Err(config.unsupported("fmt", fmt, "e4m3 or e5m2").into()),
    };
    let tile = config.counts("weight_block_size")?;
    let tile = match tile.as_deref() {
        None => None,
        Some(&[rows, cols]) => Some([rows, cols]),
        Some(sides) => {
            let found = format!("{sides:?}");
            return Err(config
                .value("weight_block_size", found, "rows and columns")
                .into());
        }
    };
    let skip = SKIP.into_iter().find(|field| config.get(field).is_some());
    Ok(Arc::new(Fp8Dialect {
        kind,
        tile,
        excepted: Excepted::new(config, skip.unwrap_or(SKIP[0]))?,
    }))
}

impl Dialect for Fp8Dialect {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight_of(
        &self,
        tensor: &TensorInfo,
        files: &Files<'_>,
    ) -> Result<Option<(String, Vec<usize>)>, DialectError> {
        let module = tensor.name.strip_suffix(".weight");
        let beside = |part: &str| match module {
            Some(module) => files.has(&format!("{module}.{part}")),
            None => files.has(&format!("{}{}", tensor.name, &part["weight".len()..])),
        };
        let scaled = beside("weight_scale_inv") || beside("weight_scale");
        let is_weight = tensor.dtype == stored(self.kind) && scaled;
        Ok(is_weight.then(|| (tensor.name.to_string(), tensor.shape.clone())))
    }

    fn stack(&self, slot: &Slot, catalog: &Catalog) -> Result<Option<PackedStack>, DialectError> {
        let place = InStack::by_origin(slot, false);
        by_parts(NAME, &["weight", "weight_scale_inv"], slot, place, catalog)
    }

    fn adopt_matrix(&self, lookup: &Lookup<'_>) -> Result<Option<Adopt>, DialectError> {
        let Some(weight) = lookup.weight() else {
            return Ok(None);
        };
        let excepted = lookup.is_excepted(&self.excepted);
        let stored = stored(self.kind);
        let floats = [
            StoredType::F8E4M3,
            StoredType::F8E5M2,
            StoredType::F8E4M3Fnuz,
            StoredType::F8E5M2Fnuz,
        ];
        if floats.contains(&weight.dtype) {
            lookup.agree(weight, weight.dtype, "fmt", stored)?;
        }
        if weight.dtype != stored {
            let plain = lookup.plain(Some(weight), excepted, self.excepted.field);
            return plain.map(|()| None);
        }
        if excepted {
            return Err(lookup.excepted(self.excepted.field));
        }
        lookup.shape(weight, &[&lookup.slot.shape])?;

        let (inverse, older) = (
            lookup.beside("weight_scale_inv"),
            lookup.beside("weight_scale"),
        );
        let scale = match (inverse, older, self.tile) {
            (Some(_), Some(second), _) => {
                return Err(DialectError::Value {
                    tensor: second.name.to_string(),
                    found: "a second scale".to_owned(),
                    expected: "one, and weight_scale_inv is there".to_owned(),
                });
            }
            (None, Some(scale), None) => scale,
            _ => lookup.need("weight_scale_inv")?,
        };
        lookup.dtype(scale, &SCALES)?;
        let tile = match self.tile {
            Some([rows, cols]) => Tile::Block { rows, cols },
            None => Tile::Tensor,
        };
        match tile {
            Tile::Block { .. } => {
                lookup.shape(scale, &[&lookup.stacked(tile.grid(lookup.shape))])?;
            }
            _ => lookup.shape(scale, &[&[], &[1], &[1, 1]])?,
        }

        let parts = vec![weight.clone(), scale.clone()];
        let format = Format::Fp8(self.kind, tile);
        let provenance = Provenance {
            powers: scale.dtype == StoredType::F8E8M0,
            ..Provenance::default()
        };
        let adopt = Adopt::new(format, parts, Assembly::Floats);
        Ok(Some(adopt.from(provenance)))
    }

    fn leaves_out(&self, tensor: &str) -> bool {
        let of_activations = [".input_scale", ".k_scale", ".v_scale", ".kv_scale"];
        of_activations.iter().any(|name| tensor.ends_with(name))
    }
}

/// Writes every packed weight with one kind of float and one tile.
#[derive(Debug)]
struct Fp8Writer {
    kind: Fp8Kind,
    tile: Tile,
    /// Scales are powers of two.
    powers: bool,
    excepted: Vec<String>,
}

pub(super) fn writer(matrices: &Matrices) -> Result<Box<dyn Writer>, DialectError> {
    let kind = |weight: &PackedSlot| match weight.format {
        Format::Fp8(_, Tile::Row) => None,
        // A tile belongs to one expert.
        Format::Fp8(_, Tile::Block { rows, .. }) if matches!(weight.slot.shape[..], [_, out, _] if !out.is_multiple_of(rows)) => {
            None
        }
        Format::Fp8(kind, tile) => Some((kind, tile, weight.provenance.powers)),
        _ => None,
    };
    let (kind, tile, powers) = matrices.kind(NAME, kind)?;
    Ok(Box::new(Fp8Writer {
        kind,
        tile,
        powers,
        excepted: matrices.excepted().into_iter().map(str::to_owned).collect(),
    }))
}

impl Writer for Fp8Writer {
    fn config(&self) -> Vec<(&'static str, Value)> {
        let sides = match self.tile {
            Tile::Block { rows, cols } => json!([rows, cols]),
            _ => Value::Null,
        };
        let mut config = json!({
            "activation_scheme": "dynamic",
            "fmt": self.kind.to_string(),
            "quant_method": NAME,
            "weight_block_size": sides,
            SKIP[0]: self.excepted,
        });
        if self.powers {
            config["scale_fmt"] = json!("ue8m0");
        }
        vec![("quantization_config", config)]
    }

    fn codes(&self, slot: &Slot, format: Format) -> Option<Codes> {
        Some(Codes::new(slot, stored(self.kind), &slot.shape, format))
    }

    fn tensors(&self, slot: &Slot, mut packed: Packed, _: DType) -> Vec<Tensor> {
        let name = beside(slot, "weight_scale_inv");
        let grid = match self.tile {
            Tile::Tensor => self.tile.grid(packed.shape).to_vec(),
            tile => stacked(slot, tile.grid(packed.shape)),
        };
        let codes = self.codes(slot, packed.format);
        let codes = codes.map(|codes| codes.unless_written(core::mem::take(&mut packed.words)));
        let mut tensors = codes.unwrap_or_default();
        let scales = if self.powers {
            let exponents = packed.scales.iter().map(|bits| (bits >> 23) as u8);
            Tensor::new(name, StoredType::F8E8M0, &grid, exponents.collect())
        } else {
            Tensor::words(name, StoredType::F32, &grid, packed.scales)
        };
        tensors.push(scales);
        tensors
    }
}

/// The type of codes in a file.
pub(super) const fn stored(kind: Fp8Kind) -> StoredType {
    match kind {
        Fp8Kind::E4m3 => StoredType::F8E4M3,
        Fp8Kind::E5m2 => StoredType::F8E5M2,
    }
}
