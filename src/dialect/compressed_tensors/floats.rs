//! 8-bit floats.

use firebox_kernels::{
    arith::float::DType,
    format::{Format, Fp8Kind, Packed, Tile},
};

use super::super::{
    Adopt, Assembly, Codes, DialectError, Provenance, Tensor, lookup::Lookup, types::module,
};
use crate::{model::Slot, source::StoredType};

/// The packed weight, whose codes are there.
pub(super) fn adopt(lookup: &Lookup<'_>, tile: Tile) -> Result<Adopt, DialectError> {
    let weight = lookup.need("weight")?;
    lookup.dtype(weight, &[StoredType::F8E4M3])?;
    lookup.shape(weight, &[&lookup.shape])?;
    if let Tile::Block { rows: 1, cols } = tile
        && !lookup.shape[1].is_multiple_of(cols)
    {
        let found = format!("rows of {} weights", lookup.shape[1]);
        let declared = format!("{cols}, which does not divide them");
        lookup.agree(weight, found, "weights.group_size", declared)?;
    }
    let scale = lookup.need("weight_scale")?;
    let stored = lookup.floats(scale)?;
    if let Some(zeros) = lookup.beside("weight_zero_point") {
        lookup.agree(zeros, "zero points", "weights.symmetric", "true")?;
    }
    if let Some(order) = lookup.beside("weight_g_idx") {
        lookup.agree(order, "groups in an order", "weights.type", "float")?;
    }
    match tile {
        Tile::Tensor => lookup.shape(scale, &[&[], &[1], &[1, 1]])?,
        _ => lookup.shape(scale, &[&tile.grid(lookup.shape)])?,
    }
    let parts = vec![weight.clone(), scale.clone()];
    let format = Format::Fp8(Fp8Kind::E4m3, tile);
    let adopt = Adopt::new(format, parts, Assembly::Floats);
    Ok(adopt.from(Provenance {
        dtype: Some(stored),
        ..Provenance::default()
    }))
}

/// The tensors of a weight that was stored as `source`.
pub(super) fn tensors(slot: &Slot, packed: Packed, tile: Tile, source: DType) -> Vec<Tensor> {
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
        DType::F32
    };
    let mut tensors = codes(slot, packed.format).unless_written(packed.words);
    tensors.push(Tensor::floats(name, stored, shape, &packed.scales));
    tensors
}

pub(super) fn codes(slot: &Slot, format: Format) -> Codes {
    Codes::new(slot, StoredType::F8E4M3, &slot.shape, format)
}
