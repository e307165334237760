//! The parts that AWQ and GPTQ have in common: codes `[in, out]` under transposed scales. Each refuses the layout of the
//! other by its name.

use firebox_kernels::{arith::float::DType, format::Affine};

use super::{DialectError, lookup::Lookup, stream::words_of};
use crate::{
    model::fields::Fields,
    source::{StoredType, TensorInfo},
};

/// The names of the two dialects.
pub(super) const AWQ: &str = "awq";
pub(super) const GPTQ: &str = "gptq";

/// Inputs under one scale; `None` for all of them, which is written as -1.
pub(super) fn group_size(config: Fields<'_>) -> Result<Option<usize>, DialectError> {
    const FIELD: &str = "group_size";
    let found = config.get(FIELD).ok_or_else(|| config.missing(FIELD))?;
    if found.as_i64() == Some(-1) {
        return Ok(None);
    }
    match config.count(FIELD) {
        Ok(count) => Ok(count),
        Err(_) => {
            let expected = "a whole number from 1 to 2147483647, or -1 for all inputs";
            Err(config.value(FIELD, found, expected).into())
        }
    }
}

/// Codes, zero points and scales, which have to have these shapes, and the type of the scales. Codes of the `other`
/// layout are refused by its name.
pub(super) fn parts(
    lookup: &Lookup<'_>,
    codes: &TensorInfo,
    (other, others): (&str, [usize; 2]),
    [own, of_zeros, of_scales]: [[usize; 2]; 3],
) -> Result<(Vec<TensorInfo>, DType), DialectError> {
    let (zeros, scales) = (lookup.need("qzeros")?, lookup.need("scales")?);
    for tensor in [codes, zeros] {
        lookup.dtype(tensor, &[StoredType::I32])?;
    }
    if codes.shape == others && own != others {
        let shape = lookup.shape;
        let found = format!("{others:?}, as {other} lays out a weight of {shape:?}");
        let declared = format!("{}, which has {own:?} there", lookup.dialect);
        lookup.agree(codes, found, "quant_method", declared)?;
    }
    lookup.shape(codes, &[&own])?;
    lookup.shape(zeros, &[&of_zeros])?;
    let params = lookup.floats(scales)?;
    lookup.shape(scales, &[&of_scales])?;
    let parts = [codes, zeros, scales].map(TensorInfo::clone);
    Ok((parts.into(), params))
}

/// The shape of GPTQ's codes of a weight `[o, i]`.
pub(super) const fn gptq_words([o, i]: [usize; 2], bits: usize) -> [usize; 2] {
    [words_of(i, bits), o]
}

/// The shape of AWQ's codes of a weight `[o, i]`.
pub(super) const fn awq_words([o, i]: [usize; 2]) -> [usize; 2] {
    [i, o.div_ceil(8)]
}

/// Words of scales from stored scales and offsets, by row and group.
pub(super) fn transposed(
    affine: Affine,
    [rows, groups]: [usize; 2],
    pair: impl Fn(usize, usize) -> (u32, u32),
) -> Vec<u32> {
    let pairs = (0..rows).flat_map(|r| (0..groups).map(move |g| (r, g)));
    let (scales, offsets): (Vec<u32>, Vec<u32>) = pairs.map(|(r, g)| pair(r, g)).unzip();
    affine.join(&scales, &offsets)
}
