//! HQQ, as its `save_to_safetensors` writes it.
//!
//! ```text
//! X.W_q            codes of the weight written down as [n / group, group] (axis 1) or [group, n / group] (axis 0), packed
//!                  along the rows of that: the first half of the rows in the high half of each byte, and so on
//!                    4, 2, 1 bits       U8 [rows / 2, 4, 8]
//!                    8, 6, 5 bits       U8 [rows], a byte each
//!                    3 bits             I32 [ceil(rows / 10)], ten a word from bit 27 down
//!                  or the same bytes as floats (`view_as_float`)
//!                  one group for all weights (not `channel_wise`) leaves the weight [out, in] as it is
//! X.scale, X.zero  [n / group, 1] or [1, n / group], [] with one group, in the type that layers compute in
//! X.nbits …        scalars that say the same as config.json, texts as bytes
//! ```
//!
//! hqq evaluates one of these texts as a program; here all are compared with lists.

use std::sync::Arc;

use firebox_kernels::{
    arith::float::DType,
    format::{Affine, Format, Packed},
    formats::hqq::{Axis, Group, Hqq, Levels},
};
use serde_json::{Value, json};

use super::{
    Adopt, Assembly, CodesAndScales, Dialect, DialectError, Files, PackedSlot, Parts, Provenance,
    Tensor, Writer,
    compressed_tensors::whole::filled,
    lookup::Lookup,
    names::Excepted,
    stream::{BitStream, joined},
    types::module,
    write::{Matrices, pairs, torch},
};
use crate::{
    config::To,
    model::{Slot, fields::Fields},
    source::{StoredType, TensorInfo},
};

pub(super) const NAME: &str = To::Hqq.name();
const SKIP: &str = "skip_modules";
const PATH: &str = "quantization_config.quant_config.weight_quant_params.";

#[derive(Debug)]
struct HqqFile {
    hqq: Hqq,
    excepted: Excepted,
}

pub(super) fn declared(config: Fields<'_>) -> Result<Arc<dyn Dialect>, DialectError> {
    let inner = config
        .object("quant_config", "quantization_config.quant_config.")?
        .ok_or_else(|| config.missing("quant_config"))?;
    let params = inner
        .object("weight_quant_params", PATH)?
        .ok_or_else(|| inner.missing("weight_quant_params"))?;
    for field in ["scale_quant_params", "zero_quant_params"] {
        if inner.get(field).is_some() {
            return Err(inner
                .unsupported(field, "set", "plain scales and zeros")
                .into());
        }
    }
    let nbits = params.positive("nbits")?;
    let levels = match nbits.ok_or_else(|| params.missing("nbits"))? {
        1.58 => Levels::Three,
        bits if matches!(bits as usize, 1..=6 | 8) && bits.fract() == 0.0 => {
            Levels::Bits(bits as usize)
        }
        bits => {
            let known = "1, 1.58, 2, 3, 4, 5, 6 or 8";
            return Err(params.unsupported("nbits", bits, known).into());
        }
    };
    let flag = |field: &str, default: bool| params.flag(field).map(|flag| flag.unwrap_or(default));
    let group = match (flag("channel_wise", true)?, params.count("group_size")?) {
        (false, _) => Group::All,
        (true, None) => Group::Line,
        (true, Some(group)) => Group::Of(group),
    };
    let axis = match params.index("axis")? {
        Some(0) => Axis::First,
        None | Some(1) => Axis::Last,
        Some(axis) => return Err(params.unsupported("axis", axis, "0 or 1").into()),
    };
    Ok(Arc::new(HqqFile {
        hqq: Hqq {
            levels,
            group,
            axis,
            optimize: flag("optimize", true)?,
            round_zero: flag("round_zero", false)?,
            params: DType::F32,
        },
        excepted: Excepted::new(config, SKIP)?,
    }))
}

/// How codes lie in the file.
#[derive(Debug, Clone, Copy)]
struct CodeLayout {
    bits: usize,
    /// Of the weight as it was written down to be packed.
    rows: usize,
    cols: usize,
}

impl CodeLayout {
    fn new(affine: Affine, shape: [usize; 2], hqq: Hqq) -> Self {
        let (group, groups) = (affine.group, affine.groups(shape));
        let [rows, cols] = match (hqq.group, hqq.axis) {
            // One group is the matrix as it is.
            (Group::All, _) => shape,
            (_, Axis::Last) => [groups, group],
            (_, Axis::First) => [group, groups],
        };
        Self {
            bits: affine.bits,
            rows,
            cols,
        }
    }

    /// Codes of a byte, or of a word with 3 bits.
    const fn codes(self) -> usize {
        match self.bits {
            4 => 2,
            3 => 10,
            2 => 4,
            1 => 8,
            _ => 1,
        }
    }

    const fn dtype(self) -> StoredType {
        if self.bits == 3 {
            StoredType::I32
        } else {
            StoredType::U8
        }
    }

    /// What hqq calls it.
    fn name(self) -> String {
        match self.bits {
            3 => "3bit_32".to_owned(),
            bits @ (1 | 2 | 4) => format!("{bits}bit_u8"),
            _ => "8bit_u8".to_owned(),
        }
    }

    /// Rows in the file, each of which holds so many apart.
    const fn apart(self) -> usize {
        self.rows.div_ceil(self.codes())
    }

    /// How far the code `k` is shifted in its element, which is `k` of them, counted round and round.
    fn shift(self, k: usize) -> usize {
        let round = k / (self.apart() * self.cols);
        self.bits * (self.codes() - 1 - round)
    }
}

/// Scalars beside the codes, by name: those that have to say what `config.json` says, and those that must be
/// one of a list.
const SCALARS: [&str; 15] = [
    "nbits",
    "group_size",
    "axis",
    "shape",
    "packing",
    "channel_wise",
    "quant_scale",
    "quant_zero",
    "view_as_float",
    "optimize",
    "round_zero",
    "offload_meta",
    "encoded_state_dict",
    "stores_quant_config",
    "unpack_view_dtype",
];
const COMPUTE: &str = "compute_dtype";

impl Dialect for HqqFile {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight_of(
        &self,
        tensor: &TensorInfo,
        files: &Files<'_>,
    ) -> Result<Option<(String, Vec<usize>)>, DialectError> {
        let Some(module) = tensor.name.strip_suffix(".W_q") else {
            return Ok(None);
        };
        let shape = files.sides(&format!("{module}.shape"))?;
        Ok(Some((format!("{module}.weight"), shape)))
    }

    fn adopt_matrix(&self, lookup: &Lookup<'_>) -> Result<Option<Adopt>, DialectError> {
        let Some(codes) = lookup.codes("W_q", &self.excepted)? else {
            return Ok(None);
        };
        let (scale, zero) = (lookup.need("scale")?, lookup.need("zero")?);
        let params = lookup.floats(scale)?;
        lookup.dtype(zero, &[scale.dtype])?;
        let hqq = Hqq { params, ..self.hqq };
        let format = lookup.format(hqq.format(lookup.shape))?;
        let Format::Affine(affine) = format else {
            unreachable!("HQQ has whole numbers");
        };
        let (shape, groups) = (lookup.shape, affine.groups(lookup.shape));
        let layout = CodeLayout::new(affine, shape, hqq);
        let elements = layout.apart() * layout.cols;
        let bytes = elements as u64 * layout.dtype().bits() / 8;
        // The same bytes may be declared as floats, which is compared with `view_as_float` when that is read.
        if !plain_view(codes.dtype) || codes.bytes() != bytes {
            lookup.dtype(codes, &[layout.dtype()])?;
            lookup.shape(codes, &[&[layout.apart(), layout.cols]])?;
        }
        if layout.bits != 3 && !layout.rows.is_multiple_of(layout.codes()) {
            let found = format!("{} rows of codes", layout.rows);
            let declared = format!("{}, of which {} share a byte", layout.bits, layout.codes());
            lookup.agree(codes, found, "nbits", declared)?;
        }
        for tensor in [scale, zero] {
            match hqq.group {
                Group::All => lookup.shape(tensor, &[&[], &[1], &[1, 1]])?,
                _ => lookup.shape(tensor, &[&[groups, 1], &[1, groups], &[groups]])?,
            }
        }
        let mut parts = vec![codes.clone(), scale.clone(), zero.clone()];
        let scalars = SCALARS.iter().chain([&COMPUTE]);
        parts.extend(scalars.filter_map(|name| lookup.beside(name)).cloned());
        let adopt = Adopt::new(format, parts, Assembly::Hqq(hqq));
        Ok(Some(adopt.from(Provenance {
            hqq: Some(hqq),
            ..Provenance::default()
        })))
    }
}

fn plain_view(dtype: StoredType) -> bool {
    super::plain(dtype).is_some()
}

pub(super) fn assemble(
    parts: &Parts<'_>,
    hqq: Hqq,
    affine: Affine,
) -> Result<CodesAndScales, DialectError> {
    let layout = CodeLayout::new(affine, parts.whole, hqq);
    let viewed = plain_view(parts.tensor(0).dtype);
    let expected = scalars(hqq, layout, parts.whole, viewed);
    for part in 3..parts.tensors.len() {
        let tensor = parts.tensor(part);
        let (_, name) = tensor.name.rsplit_once('.').unwrap_or_default();
        let found = parts.bytes(part);
        // Said of one group too, where it is not used.
        if name == "group_size" && hqq.group == Group::All {
            continue;
        }
        let known: &[&[u8]] = match name {
            COMPUTE => &[b"torch.bfloat16", b"torch.float16", b"torch.float32"],
            // Of how it was made, not of what it is.
            "optimize"
            | "round_zero"
            | "offload_meta"
            | "encoded_state_dict"
            | "stores_quant_config" => &[&[0], &[1]],
            _ => {
                let of = expected.iter().find(|(scalar, ..)| *scalar == name);
                let (_, _, _, bytes) = of.expect("every scalar has a value");
                &[bytes.as_slice()]
            }
        };
        if !known.contains(&found) {
            let texts: Vec<String> = known.iter().map(|bytes| said(bytes)).collect();
            return Err(parts.wrong(part, said(found), texts.join(" or ")));
        }
    }
    let scales = affine.join(&parts.stored(1), &parts.stored(2));
    // An excerpt has an element for each of its values.
    let shape @ [_, cols] = parts.shape();
    let first = parts.rows.start * cols;
    let mask = (1 << layout.bits) - 1;
    let words = if layout.bits == 3 {
        let words = &parts.words[0];
        joined(layout.bits, shape, |r, c| {
            let k = r * cols + c;
            words[k % words.len()] >> layout.shift(first + k) & mask
        })
    } else {
        let bytes = parts.bytes(0);
        joined(layout.bits, shape, |r, c| {
            let k = r * cols + c;
            u32::from(bytes[k % bytes.len()]) >> layout.shift(first + k) & mask
        })
    };
    Ok((filled(words, affine, shape), scales))
}

/// Elements of codes, and the bytes of one: value `k` is in element `k` of them, counted round and round.
pub(super) fn elements(hqq: Hqq, affine: Affine, shape: [usize; 2]) -> (usize, usize) {
    let layout = CodeLayout::new(affine, shape, hqq);
    let elements = layout.apart() * layout.cols;
    (elements.max(1), layout.dtype().bits() as usize / 8)
}

/// Bytes for a message: as text where they are one.
fn said(bytes: &[u8]) -> String {
    match core::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(|c| c.is_ascii_graphic()) => format!("`{text}`"),
        _ => format!("{bytes:?}"),
    }
}

/// Name, type, shape and bytes of what stands beside the codes.
type Scalar = (&'static str, StoredType, Vec<usize>, Vec<u8>);

fn scalars(hqq: Hqq, layout: CodeLayout, shape: [usize; 2], viewed: bool) -> Vec<Scalar> {
    let int = |value: usize| {
        (
            StoredType::I32,
            vec![],
            (value as i32).to_le_bytes().to_vec(),
        )
    };
    let flag = |value: bool| (StoredType::U8, vec![], vec![u8::from(value)]);
    let text = |text: &str| (StoredType::U8, vec![text.len()], text.as_bytes().to_vec());
    let nbits = match hqq.levels {
        Levels::Bits(bits) => int(bits),
        Levels::Three => (StoredType::F32, vec![], 1.58_f32.to_le_bytes().to_vec()),
    };
    let sides = shape.iter().flat_map(|side| (*side as i64).to_le_bytes());
    let group = match hqq.axis {
        Axis::Last => layout.cols,
        Axis::First => layout.rows,
    };
    let view = if layout.bits == 3 {
        "torch.int32"
    } else {
        "torch.uint8"
    };
    let of = [
        nbits,
        int(group),
        int(usize::from(hqq.axis == Axis::Last)),
        (StoredType::I64, vec![2], sides.collect()),
        text(&layout.name()),
        flag(hqq.group != Group::All),
        flag(false),
        flag(false),
        flag(viewed),
        flag(hqq.optimize),
        flag(hqq.round_zero),
        flag(false),
        flag(true),
        flag(true),
        text(view),
    ];
    let named = SCALARS.into_iter().zip(of);
    named
        .map(|(name, (dtype, shape, bytes))| (name, dtype, shape, bytes))
        .collect()
}

/// Writes every packed weight with the same parameters.
#[derive(Debug)]
struct HqqWriter {
    hqq: Hqq,
    excepted: Vec<String>,
}

pub(super) fn writer(matrices: &Matrices) -> Result<Box<dyn Writer>, DialectError> {
    let params = |weight: &PackedSlot| {
        // No module of its library has stacked matrices.
        if weight.slot.shape.len() != 2 {
            return None;
        }
        Some(Hqq {
            // Each weight's own.
            params: DType::F32,
            ..weight.provenance.hqq?
        })
    };
    let hqq = matrices.kind(NAME, params)?;
    let excepted = matrices.excepted().into_iter().map(str::to_owned).collect();
    Ok(Box::new(HqqWriter { hqq, excepted }))
}

impl Writer for HqqWriter {
    fn tensors_max(&self) -> usize {
        3 + SCALARS.len() + 1
    }

    fn config(&self) -> Vec<(&'static str, Value)> {
        let Hqq {
            levels,
            group,
            axis,
            optimize,
            round_zero,
            ..
        } = self.hqq;
        let nbits = match levels {
            Levels::Bits(bits) => json!(bits),
            Levels::Three => json!(1.58),
        };
        let size = match group {
            Group::Of(group) => json!(group),
            Group::Line | Group::All => Value::Null,
        };
        let params = json!({
            "axis": usize::from(axis == Axis::Last),
            "channel_wise": group != Group::All,
            "group_size": size,
            "nbits": nbits,
            "optimize": optimize,
            "round_zero": round_zero,
            "view_as_float": false,
        });
        let config = json!({
            "quant_config": {
                "offload_meta": false,
                "scale_quant_params": null,
                "weight_quant_params": params,
                "zero_quant_params": null,
            },
            "quant_method": NAME,
            SKIP: self.excepted,
        });
        vec![("quantization_config", config)]
    }

    fn tensors(&self, slot: &Slot, packed: Packed, _: DType) -> Vec<Tensor> {
        let Format::Affine(affine) = packed.format else {
            unreachable!("the plan's formats were looked at");
        };
        let (shape, hqq) = (packed.shape, self.hqq);
        let layout = CodeLayout::new(affine, shape, hqq);
        let n = shape[0] * shape[1];
        let stream = BitStream {
            start: 0,
            stride: 1,
            bits: layout.bits,
        };
        let mut elements = vec![0u32; layout.apart() * layout.cols];
        for k in 0..n {
            let at = k % elements.len();
            elements[at] |= stream.get(&packed.words, k) << layout.shift(k);
        }
        let codes = if layout.bits == 3 {
            bytemuck::pod_collect_to_vec(&elements)
        } else {
            elements.iter().map(|element| *element as u8).collect()
        };
        let name = |name: &str| format!("{}.{name}", module(slot));
        let [scales, zeros] = pairs(affine, &packed);
        let groups = affine.groups(shape);
        let grid: &[usize] = match (hqq.group, hqq.axis) {
            (Group::All, _) => &[],
            (_, Axis::Last) => &[groups, 1],
            (_, Axis::First) => &[1, groups],
        };
        let file = [layout.apart(), layout.cols];
        let mut tensors = vec![
            Tensor::new(name("W_q"), layout.dtype(), &file, codes),
            Tensor::floats(name("scale"), affine.params, grid, &scales),
            Tensor::floats(name("zero"), affine.params, grid, &zeros),
        ];
        for (scalar, dtype, shape, bytes) in scalars(hqq, layout, shape, false) {
            tensors.push(Tensor::new(name(scalar), dtype, &shape, bytes));
        }
        let compute = format!("torch.{}", torch(affine.params)).into_bytes();
        let len = compute.len();
        tensors.push(Tensor::new(name(COMPUTE), StoredType::U8, &[len], compute));
        tensors
    }
}
