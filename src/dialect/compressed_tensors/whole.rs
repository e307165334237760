//! Whole numbers: packed into words, or a byte each.

use firebox_kernels::{
    arith::{float::DType, pack::pack_codes},
    format::{Affine, Along, Format, Offset, Packed},
};

use super::super::{
    Adopt, Assembly, CodesAndScales, DialectError, Parts, Tensor,
    lookup::Lookup,
    stream::{BitStream, rows, words_of},
    types::module,
    whole::{ScaleSpan, Whole},
    write::pairs,
};
use crate::{model::Slot, source::StoredType};

impl Whole {
    /// What the codes count from: they are stored as signed numbers, or larger by this.
    const fn middle(self) -> u32 {
        1 << (self.bits - 1)
    }

    fn affine(
        self,
        [o, i]: [usize; 2],
        along: Along,
        params: DType,
    ) -> Result<Affine, firebox_kernels::format::FormatError> {
        let group = match self.scale {
            ScaleSpan::Tensor => o * i,
            ScaleSpan::Channel => i,
            ScaleSpan::Group(group) => group,
        };
        Affine::new(self.bits, group.max(1), along, Offset::Zero, params)
    }

    /// The packed weight, whose codes are there.
    pub(super) fn adopt(self, lookup: &Lookup<'_>) -> Result<Adopt, DialectError> {
        let shape @ [o, i] = lookup.shape;
        let scale = lookup.need("weight_scale")?;
        let params = lookup.floats(scale)?;
        let grid @ [_, groups] = self.scale.grid(shape);
        match self.scale {
            ScaleSpan::Tensor => lookup.shape(scale, &[&[], &[1], &[1, 1]])?,
            _ => lookup.shape(scale, &[&grid])?,
        }

        let mut parts = Vec::new();
        if self.words {
            let packed = lookup.need("weight_packed")?;
            lookup.dtype(packed, &[StoredType::I32])?;
            lookup.shape(packed, &[&[o, words_of(i, self.bits)]])?;
            let said = lookup.need("weight_shape")?;
            lookup.dtype(said, &[StoredType::I64])?;
            lookup.shape(said, &[&[2]])?;
            parts.extend([packed, scale, said]);
        } else {
            let weight = lookup.need("weight")?;
            lookup.dtype(weight, &[StoredType::I8])?;
            lookup.shape(weight, &[&shape])?;
            parts.extend([weight, scale]);
        }
        let zeros = match (lookup.beside("weight_zero_point"), self.symmetric) {
            (Some(zeros), true) => {
                lookup.agree(zeros, "zero points", "weights.symmetric", "true")?;
                None
            }
            (None, true) => None,
            (_, false) => {
                let zeros = lookup.need("weight_zero_point")?;
                if self.words {
                    lookup.dtype(zeros, &[StoredType::I32])?;
                    lookup.shape(zeros, &[&[words_of(grid[0], self.bits), groups]])?;
                } else {
                    lookup.dtype(zeros, &[StoredType::I8])?;
                    lookup.shape(zeros, &[&scale.shape])?;
                }
                parts.push(zeros);
                Some(parts.len() - 1)
            }
        };
        let order = match lookup.beside("weight_g_idx") {
            Some(order) if matches!(self.scale, ScaleSpan::Group(_)) => {
                lookup.dtype(order, &[StoredType::I32])?;
                lookup.shape(order, &[&[i]])?;
                parts.push(order);
                Some(parts.len() - 1)
            }
            Some(order) => {
                lookup.agree(order, "groups in an order", "weights.strategy", "no groups")?;
                None
            }
            None => None,
        };

        let along = if order.is_some() {
            Along::Ordered
        } else {
            Along::Flat
        };
        let affine = lookup.format(self.affine(shape, along, params))?;
        let format = Format::Affine(affine);
        lookup.format(format.validate_shape(shape))?;
        let parts = parts.into_iter().cloned().collect();
        let recipe = Assembly::Whole {
            whole: self,
            zeros,
            order,
        };
        Ok(Adopt::new(format, parts, recipe).from(self.into()))
    }

    pub(in super::super) fn assemble(
        self,
        parts: &mut Parts<'_>,
        affine: Affine,
        zeros: Option<usize>,
        order: Option<usize>,
    ) -> Result<CodesAndScales, DialectError> {
        const CODES: usize = 0;
        const SCALES: usize = 1;
        const SHAPE: usize = 2;
        let shape @ [_, i] = parts.shape();
        if self.words {
            let [o, i] = parts.whole;
            let said: Vec<i64> = bytemuck::pod_collect_to_vec(parts.bytes(SHAPE));
            if said != [o as i64, i as i64] {
                let expected = format!("[{o}, {i}], which config.json implies");
                return Err(parts.wrong(SHAPE, format!("{said:?}"), expected));
            }
        }

        let middle = self.middle();
        let [down, across] = self.scale.grid(shape);
        let zero = |r: usize, g: usize| match zeros {
            None => middle,
            Some(zeros) if self.words => {
                let stream = BitStream {
                    start: g,
                    stride: across,
                    bits: self.bits,
                };
                stream.get(&parts.words[zeros], r)
            }
            Some(zeros) => signed(parts.bytes(zeros)[r * across + g], middle),
        };
        let zeros: Vec<u32> = (0..down)
            .flat_map(|r| (0..across).map(move |g| (r, g)))
            .map(|(r, g)| affine.params.to_bits(zero(r, g) as f32))
            .collect();
        let mut scales = affine.join(&parts.stored(SCALES), &zeros);
        if let Some(order) = order {
            scales.extend(columns(parts, order, across)?);
        }

        let words = if !self.words {
            let bytes = parts.bytes(CODES);
            pack_codes(self.bits, bytes.iter().map(|byte| signed(*byte, middle)))
        } else if (i * self.bits).is_multiple_of(32) {
            parts.take(CODES)
        } else {
            pack_codes(self.bits, rows(&parts.words[CODES], shape, self.bits))
        };
        // Streams are whole, and the last may lack some of its words.
        Ok((filled(words, affine, shape), scales))
    }

    /// The tensors of a weight.
    pub(super) fn tensors(self, slot: &Slot, packed: Packed, affine: Affine) -> Vec<Tensor> {
        let (shape @ [o, i], bits, middle) = (packed.shape, self.bits, self.middle());
        let [down, across] = self.scale.grid(shape);
        let [scales, zeros] = pairs(affine, &packed);
        let name = |name: &str| format!("{}.{name}", module(slot));
        let grid: &[usize] = match self.scale {
            ScaleSpan::Tensor => &[1],
            _ => &[down, across],
        };
        let stream = BitStream {
            start: 0,
            stride: 1,
            bits,
        };
        let code = |k: usize| stream.get(&packed.words, k);
        let zero = |k: usize| f32::from_bits(zeros[k]) as u32;

        let mut tensors = Vec::new();
        if self.words {
            let across = words_of(i, bits);
            let words = if (i * bits).is_multiple_of(32) {
                packed.words
            } else {
                let mut words = vec![0; o * across];
                for r in 0..o {
                    let start = r * across;
                    let row = BitStream { start, ..stream };
                    (0..i).for_each(|c| row.put(&mut words, c, code(r * i + c)));
                }
                words
            };
            let said: Vec<u8> = shape
                .iter()
                .flat_map(|side| (*side as i64).to_le_bytes())
                .collect();
            tensors.push(Tensor::words(
                name("weight_packed"),
                StoredType::I32,
                &[o, across],
                words,
            ));
            tensors.push(Tensor::new(
                name("weight_shape"),
                StoredType::I64,
                &[2],
                said,
            ));
        } else {
            let bytes = (0..o * i)
                .map(|k| code(k).wrapping_sub(middle) as u8)
                .collect();
            tensors.push(Tensor::new(
                slot.name.clone(),
                StoredType::I8,
                &shape,
                bytes,
            ));
        }
        tensors.push(Tensor::floats(
            name("weight_scale"),
            affine.params,
            grid,
            &scales,
        ));
        if !self.symmetric {
            let zero_point = name("weight_zero_point");
            tensors.push(if self.words {
                let high = words_of(down, bits);
                let mut words = vec![0; high * across];
                for g in 0..across {
                    let column = BitStream {
                        start: g,
                        stride: across,
                        bits,
                    };
                    (0..down).for_each(|r| column.put(&mut words, r, zero(r * across + g)));
                }
                Tensor::words(zero_point, StoredType::I32, &[high, across], words)
            } else {
                let bytes = (0..down * across).map(|k| zero(k).wrapping_sub(middle) as u8);
                Tensor::new(zero_point, StoredType::I8, grid, bytes.collect())
            });
        }
        tensors
    }
}

/// A signed byte, counted from 0. The codes of fewer than eight bits lie in bytes too.
fn signed(byte: u8, middle: u32) -> u32 {
    (i32::from(byte as i8) + middle.cast_signed()).cast_unsigned() & (2 * middle - 1)
}

/// The list of columns: which group each belongs to.
pub(in super::super) fn columns(
    parts: &Parts<'_>,
    part: usize,
    groups: usize,
) -> Result<Vec<u32>, DialectError> {
    let list = &parts.words[part];
    match list.iter().position(|group| *group as usize >= groups) {
        None => Ok(list.clone()),
        Some(column) => {
            let found = format!("group {} for column {column}", list[column].cast_signed());
            Err(parts.wrong(part, found, format!("one below {groups}")))
        }
    }
}

/// Words up to the length that the format has.
pub(in super::super) fn filled(mut words: Vec<u32>, affine: Affine, shape: [usize; 2]) -> Vec<u32> {
    words.resize(Format::Affine(affine).words_len(shape), 0);
    words
}
