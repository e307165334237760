//! GPTQ, as AutoGPTQ and GPTQModel save it. Read only: its codes come from a calibration that is not made here.
//!
//! ```text
//! X.qweight    I32 [in * bits / 32, out], columns of codes
//! X.qzeros     I32 [groups, out * bits / 32], rows of zero points: smaller by 1, but in `gptq_v2`
//! X.scales     F16 [groups, out]
//! X.g_idx      I32 [in], which group each input belongs to: any with `desc_act`, else in order
//! ```
//!
//! `group_size` -1 is one group for all inputs.

use std::sync::Arc;

use firebox_kernels::{
    format::{Affine, Along, Format, Offset},
    pack::pack_codes,
};
use serde_json::Value;

use super::{
    Adopt, Dialect, DialectError, Halves, Parts, Said,
    compressed_tensors::whole::{Scale, Whole, columns, filled},
    find::Find,
    names::Excepted,
    stream::{Stream, words_of},
};
use crate::{
    model::{Slot, fields::Fields},
    source::{Catalog, Dtype},
};

pub(super) const NAME: &str = "gptq";
const SKIP: &str = "modules_to_not_convert";

#[derive(Debug, Clone)]
struct Gptq {
    bits: usize,
    group: Option<usize>,
    ordered: bool,
    /// What is added to stored zero points.
    added: u32,
    excepted: Excepted,
}

pub(super) fn declared(config: Fields<'_>) -> Result<Arc<dyn Dialect>, DialectError> {
    let bits = match config.count("bits")? {
        Some(bits @ (2 | 3 | 4 | 8)) => bits,
        Some(bits) => return Err(config.unsupported("bits", bits, "2, 3, 4 or 8").into()),
        None => return Err(config.missing("bits").into()),
    };
    let added = match config.text("checkpoint_format")? {
        None | Some("gptq") => 1,
        Some("gptq_v2") => 0,
        Some(format) => {
            let known = "gptq or gptq_v2";
            return Err(config
                .unsupported("checkpoint_format", format, known)
                .into());
        }
    };
    if let Some(dynamic) = config.object("dynamic", "")?
        && !dynamic.is_empty()
    {
        let known = "the same bits for every module";
        return Err(config.unsupported("dynamic", "set", known).into());
    }
    Ok(Arc::new(Gptq {
        bits,
        group: group_size(config)?,
        ordered: config.flag("desc_act")?.unwrap_or(false),
        added,
        excepted: Excepted::new(config.texts(SKIP)?.unwrap_or_default()),
    }))
}

/// Inputs under one scale; `None` for all of them, which is written as -1.
pub(super) fn group_size(config: Fields<'_>) -> Result<Option<usize>, DialectError> {
    const FIELD: &str = "group_size";
    match config.get(FIELD) {
        Some(Value::Number(number)) if number.as_i64() == Some(-1) => Ok(None),
        _ => Ok(Some(
            config.count(FIELD)?.ok_or_else(|| config.missing(FIELD))?,
        )),
    }
}

/// Places in `Adopt::parts`.
const CODES: usize = 0;
const ZEROS: usize = 1;
const SCALES: usize = 2;
const ORDER: usize = 3;

impl Dialect for Gptq {
    fn name(&self) -> &'static str {
        NAME
    }

    fn find(&self, slot: &Slot, catalog: &Catalog) -> Result<Option<Adopt>, DialectError> {
        let Some(find) = Find::new(NAME, slot, catalog) else {
            return Ok(None);
        };
        let excepted = self.excepted.names(find.module());
        let Some(codes) = find.beside("qweight") else {
            return find.plain(find.weight(), excepted, SKIP).map(|()| None);
        };
        if excepted {
            return Err(find.excepted(SKIP));
        }
        let (shape @ [o, i], bits) = (find.shape, self.bits);
        let group = self.group.unwrap_or(i).max(1);
        let groups = i.div_ceil(group);
        let (zeros, scales) = (find.need("qzeros")?, find.need("scales")?);
        for tensor in [codes, zeros] {
            find.dtype(tensor, &[Dtype::I32])?;
        }
        find.shape(codes, &[&[words_of(i, bits), o]])?;
        find.shape(zeros, &[&[groups, words_of(o, bits)]])?;
        let params = find.floats(scales)?;
        find.shape(scales, &[&[groups, o]])?;
        let mut parts = vec![codes.clone(), zeros.clone(), scales.clone()];
        let order = if self.ordered {
            Some(find.need("g_idx")?)
        } else {
            find.beside("g_idx")
        };
        if let Some(order) = order {
            find.dtype(order, &[Dtype::I32])?;
            find.shape(order, &[&[i]])?;
            parts.push(order.clone());
        }

        let along = if self.ordered || !i.is_multiple_of(group) {
            Along::Ordered
        } else {
            Along::Flat
        };
        let affine = Affine::new(bits, group, along, Offset::Zero, params);
        let affine = affine.map_err(|source| find.format_error(source))?;
        let this = self.clone();
        let adopt = Adopt::new(Format::Affine(affine), parts, move |parts| {
            this.assemble(parts, affine, shape, groups)
        });
        // The same words and scales in another order.
        let whole = Whole {
            bits,
            scale: self.group.map_or(Scale::Channel, Scale::Group),
            symmetric: false,
            words: true,
        };
        Ok(Some(adopt.saying(Said::Whole(whole))))
    }
}

impl Gptq {
    fn assemble(
        &self,
        parts: &mut Parts<'_>,
        affine: Affine,
        shape @ [o, i]: [usize; 2],
        groups: usize,
    ) -> Result<Halves, DialectError> {
        let in_order = |c: usize| (c / affine.group) as u32;
        let mut order: Vec<u32> = (0..i).map(in_order).collect();
        if parts.tensors.len() > ORDER {
            let list = columns(parts, ORDER, groups)?;
            if !self.ordered && list != order {
                let found = "groups in another order";
                return Err(parts.wrong(ORDER, found, "ascending ones, as `desc_act` is false"));
            }
            order = list;
        }
        let across = words_of(o, self.bits);
        let zero = |r: usize, g: usize| {
            let stream = Stream {
                start: g * across,
                stride: 1,
                bits: self.bits,
            };
            affine
                .params
                .to_bits((stream.get(&parts.words[ZEROS], r) + self.added) as f32)
        };
        let stored = parts.stored(SCALES);
        let mut scales = transposed(affine, [o, groups], |r, g| (stored[g * o + r], zero(r, g)));
        if affine.along == Along::Ordered {
            scales.extend(order);
        }
        let codes = (0..o).flat_map(|r| {
            let column = Stream {
                start: r,
                stride: o,
                bits: self.bits,
            };
            let words = &parts.words[CODES];
            (0..i).map(move |c| column.get(words, c))
        });
        let words = pack_codes(self.bits, codes);
        Ok((filled(words, affine, shape), scales))
    }
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
