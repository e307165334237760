//! bitsandbytes, as transformers saves it: 4 bits (NF4 and FP4, plain and nested scales) and 8 bits.
//!
//! ```text
//! X.weight                            U8 [ceil(n / 2), 1], or the same bytes as F32, F16 or BF16 (`quant_storage`):
//!                                     two codes a byte, the first one in the high half
//! X.weight.absmax                     F32 [g], or U8 [g] where scales are nested
//! X.weight.quant_map                  F32 [16], the values of the codes
//! X.weight.nested_absmax              F32 [ceil(g / 256)]
//! X.weight.nested_quant_map           F32 [256]
//! X.weight.quant_state.bitsandbytes__nf4 (or fp4)    U8: JSON with the block, the shape, the offset of nested scales
//!
//! X.weight                            I8 [out, in]
//! X.SCB                               F32 [out], the largest magnitude of each row
//! X.weight_format                     U8, 0: row by row
//! ```
//!
//! Letters: `n` weights, `g` blocks of the flattened weight.

mod levels;
mod stack;
mod write;

pub(super) use write::writer;

use std::sync::Arc;

use firebox_kernels::{
    arith::pack,
    format::{Blocks, Format},
    formats::nested::{self, MAP},
};
use serde::Deserialize;

use self::levels::{QuantType, block};
use super::{
    Adopt, Assembly, CodesAndScales, Dialect, DialectError, Files, Parts, lookup::Lookup,
    names::Excepted, stack::PackedStack,
};
use crate::{
    config::To,
    model::{Role, Slot, fields::Fields},
    source::{Catalog, StoredType, TensorInfo, json},
};

pub(super) const NAME: &str = To::BitsAndBytes.name();
const SKIP: &str = "llm_int8_skip_modules";
/// What `quant_storage` may be.
const STORAGE: [StoredType; 4] = [
    StoredType::U8,
    StoredType::F32,
    StoredType::F16,
    StoredType::BF16,
];
/// Words for what tensors and configuration say.
const BITS: [&str; 2] = ["4 bits", "8 bits"];
const SCALES: [&str; 2] = ["plain scales", "nested scales"];

/// What `quantization_config` declares.
#[derive(Debug)]
enum BitsAndBytes {
    Bits4 {
        quant_type: QuantType,
        nested: bool,
        excepted: Option<Excepted>,
    },
    Int8 {
        excepted: Option<Excepted>,
    },
}

pub(super) fn declared(config: Fields<'_>) -> Result<Arc<dyn Dialect>, DialectError> {
    let flag = |field: &str| config.flag(field).map(|flag| flag.unwrap_or(false));
    let listed = config.get(SKIP).is_some();
    let excepted = listed.then(|| Excepted::new(config, SKIP)).transpose()?;
    let declared = match (flag("load_in_4bit")?, flag("load_in_8bit")?) {
        (true, false) => {
            let field = "bnb_4bit_quant_type";
            let quant_type = config.text(field)?.unwrap_or("fp4");
            let found = |levels: &QuantType| levels.name() == quant_type;
            let quant_type = QuantType::ALL
                .into_iter()
                .find(found)
                .ok_or_else(|| config.unsupported(field, quant_type, "nf4 or fp4"))?;
            let nested = flag("bnb_4bit_use_double_quant")?;
            BitsAndBytes::Bits4 {
                quant_type,
                nested,
                excepted,
            }
        }
        (false, true) => BitsAndBytes::Int8 { excepted },
        (both, _) => {
            let found = if both { "both true" } else { "both false" };
            let expected = "one of them true";
            return Err(config
                .value("load_in_4bit` and `load_in_8bit", found, expected)
                .into());
        }
    };
    Ok(Arc::new(declared))
}

impl Dialect for BitsAndBytes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight_of(
        &self,
        tensor: &TensorInfo,
        files: &Files<'_>,
    ) -> Result<Option<(String, Vec<usize>)>, DialectError> {
        let name = &tensor.name;
        let module = name.strip_suffix(".weight").unwrap_or(name);
        if tensor.dtype == StoredType::I8 && files.has(&format!("{module}.SCB")) {
            return Ok(Some((name.to_string(), tensor.shape.clone())));
        }
        let state = QuantType::ALL.into_iter().find_map(|levels| {
            let state = format!("{name}.quant_state.bitsandbytes__{}", levels.name());
            files.has(&state).then_some(state)
        });
        let Some(state) = state else {
            return Ok(None);
        };
        let said: QuantState =
            json::read(&files.bytes(&state)?).map_err(|error| DialectError::Unreadable {
                tensor: state,
                reason: error.to_string(),
            })?;
        Ok(Some((name.to_string(), said.shape)))
    }

    fn adopt_matrix(&self, lookup: &Lookup<'_>) -> Result<Option<Adopt>, DialectError> {
        let (Self::Bits4 { excepted, .. } | Self::Int8 { excepted }) = self;
        let excepted = match excepted {
            Some(excepted) => lookup.is_excepted(excepted),
            // transformers keeps the head by itself.
            None => lookup.slot.role == Role::Head,
        };
        let adopt = match self {
            Self::Bits4 {
                quant_type, nested, ..
            } => bits4(lookup, *quant_type, *nested)?,
            Self::Int8 { .. } => int8(lookup)?,
        };
        match adopt {
            Some(_) if excepted => Err(lookup.excepted(SKIP)),
            Some(_) => Ok(adopt),
            None => lookup.plain(lookup.weight(), excepted, SKIP).map(|()| None),
        }
    }

    fn stack(&self, slot: &Slot, catalog: &Catalog) -> Result<Option<PackedStack>, DialectError> {
        stack::stack(slot, catalog)
    }

    fn leaves_out(&self, tensor: &str) -> bool {
        // Always 0, and compared where it is there.
        tensor.ends_with(".weight_format")
    }
}

fn bits4(
    lookup: &Lookup<'_>,
    levels: QuantType,
    nested: bool,
) -> Result<Option<Adopt>, DialectError> {
    let state_of = |levels: QuantType| {
        let name = format!("weight.quant_state.bitsandbytes__{}", levels.name());
        lookup.beside(&name).map(|state| (levels, state))
    };
    let mut states = QuantType::ALL.into_iter().filter_map(state_of);
    let Some((found, state)) = states.next() else {
        if let Some(scb) = lookup.beside("SCB") {
            lookup.agree(scb, BITS[1], "load_in_4bit", BITS[0])?;
        }
        // Codes and scales without their description.
        return match lookup.beside("weight.absmax") {
            Some(_) => {
                let name = format!("weight.quant_state.bitsandbytes__{}", levels.name());
                Err(lookup.need(&name).expect_err("it was looked for"))
            }
            None => Ok(None),
        };
    };
    if let Some((_, second)) = states.next() {
        return Err(DialectError::Value {
            tensor: second.name.to_string(),
            found: "a second state".to_owned(),
            expected: format!("one, and {} is there", state.name),
        });
    }
    lookup.agree(state, found.name(), "bnb_4bit_quant_type", levels.name())?;

    let n = lookup.weights();
    let weight = lookup.need("weight")?;
    lookup.dtype(weight, &STORAGE)?;
    let (bytes, size) = (n.div_ceil(2), weight.dtype.bits() as usize / 8);
    if !bytes.is_multiple_of(size) {
        let expected = format!("{bytes} bytes of codes");
        return Err(shape_error(lookup, weight, expected));
    }
    lookup.shape(weight, &[&[bytes / size, 1]])?;

    let absmax = lookup.need("weight.absmax")?;
    let has = absmax.dtype == StoredType::U8 || lookup.beside("weight.nested_absmax").is_some();
    let [has, declared] = [has, nested].map(|nested| SCALES[usize::from(nested)]);
    lookup.agree(absmax, has, "bnb_4bit_use_double_quant", declared)?;
    lookup.dtype(
        absmax,
        &[if nested {
            StoredType::U8
        } else {
            StoredType::F32
        }],
    )?;
    let g = absmax.elements() as usize;
    let block = block(n, g).ok_or_else(|| {
        let expected = "a scale for each block of 32, 64, … 4096 weights".to_owned();
        shape_error(lookup, absmax, expected)
    })?;
    lookup.shape(absmax, &[&[g]])?;
    let map = lookup.need("weight.quant_map")?;
    lookup.dtype(map, &[StoredType::F32])?;
    lookup.shape(map, &[&[16]])?;
    lookup.dtype(state, &[StoredType::U8])?;

    let mut parts = vec![weight, absmax, map, state];
    if nested {
        let upper = lookup.need("weight.nested_absmax")?;
        lookup.dtype(upper, &[StoredType::F32])?;
        lookup.shape(upper, &[&[g.div_ceil(nested::BLOCK)]])?;
        let map = lookup.need("weight.nested_quant_map")?;
        lookup.dtype(map, &[StoredType::F32])?;
        lookup.shape(map, &[&[MAP.len()]])?;
        parts.extend([upper, map]);
    }

    let blocks = Blocks { block, nested };
    let parts = parts.into_iter().cloned().collect();
    Ok(Some(Adopt::new(
        levels.format(blocks),
        parts,
        Assembly::BitsAndBytes4 { experts: 1 },
    )))
}

fn shape_error(lookup: &Lookup<'_>, tensor: &TensorInfo, expected: String) -> DialectError {
    DialectError::Shape {
        tensor: tensor.name.to_string(),
        found: tensor.shape.clone(),
        weight: lookup.shape,
        expected,
        dialect: NAME,
    }
}

/// The JSON of `quant_state`. bitsandbytes too refuses keys that it does not know.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuantState {
    quant_type: String,
    blocksize: usize,
    #[expect(
        dead_code,
        reason = "the type that the weight had, which is the caller's choice here"
    )]
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

/// Places in `Adopt::parts`.
const WEIGHT: usize = 0;
const ABSMAX: usize = 1;
const QUANT_MAP: usize = 2;
const STATE: usize = 3;
const NESTED_ABSMAX: usize = 4;
const NESTED_MAP: usize = 5;

pub(super) fn assemble4(
    parts: &mut Parts<'_>,
    format: Format,
    blocks: Blocks,
    experts: usize,
) -> Result<CodesAndScales, DialectError> {
    let shape = parts.whole;
    let levels = match format {
        Format::Fp4(_) => QuantType::Fp4,
        _ => QuantType::Nf4,
    };
    let wrong = |found: String, expected: String| parts.wrong(STATE, found, expected);
    let state: QuantState = json::read(parts.bytes(STATE)).map_err(|error| {
        let found = format!("JSON that cannot be read ({error})");
        wrong(found, "a quantization state".to_owned())
    })?;
    if state.quant_type != levels.name() {
        return Err(wrong(state.quant_type, levels.name().to_owned()));
    }
    let said = match state.shape[..] {
        [rows, cols] => Some([rows, cols]),
        [said, rows, cols] if experts > 1 => (said == experts).then_some([rows, cols]),
        [experts, rows, cols] => experts.checked_mul(rows).map(|rows| [rows, cols]),
        _ => None,
    };
    if said != Some(shape) {
        return Err(wrong(
            format!("shape {:?}", state.shape),
            format!("{shape:?}, which config.json implies"),
        ));
    }
    // With one block there are several that give one scale, and they all mean the same.
    let n = shape[0] * shape[1];
    let one = blocks.count(n) == 1 && state.blocksize >= n;
    if state.blocksize != blocks.block && !one {
        return Err(wrong(
            format!("blocksize {}", state.blocksize),
            format!("{}, by the number of scales", blocks.block),
        ));
    }
    if let (false, Some(offset)) = (blocks.nested, state.nested_offset) {
        return Err(wrong(
            format!("nested_offset {offset}"),
            "none, since the file has plain scales".to_owned(),
        ));
    }
    table(parts, QUANT_MAP, levels.values(), 1e-4)?;

    let mut scales = parts.take(ABSMAX);
    if blocks.nested {
        let wrong = |found: String, expected: &str| parts.wrong(STATE, found, expected);
        let Some(offset) = state.nested_offset else {
            return Err(wrong(
                "no nested_offset".to_owned(),
                "the mean of the scales",
            ));
        };
        if !(offset as f32).is_finite() {
            return Err(wrong(
                format!("nested_offset {offset:e}"),
                "a number within f32",
            ));
        }
        let nested_block = state.nested_blocksize.unwrap_or(nested::BLOCK);
        if nested_block != nested::BLOCK {
            return Err(wrong(format!("nested_blocksize {nested_block}"), "256"));
        }
        if let Some(dtype) = state.nested_dtype.filter(|dtype| dtype != "float32") {
            return Err(wrong(format!("nested_dtype {dtype}"), "float32"));
        }
        table(parts, NESTED_MAP, &MAP, 0.0)?;
        scales.extend(parts.take(NESTED_ABSMAX));
        scales.push((offset as f32).to_bits());
    }
    // A file may have an odd code more than the weight.
    let n = parts.shape().iter().product();
    Ok((pack::from_bitsandbytes(parts.bytes(WEIGHT), n), scales))
}

/// Refuses a table that is not the library's, rounded by up to `rounded`: releases up to 0.49 wrote FP4's with
/// four digits, and computed with the full ones.
fn table(
    parts: &Parts<'_>,
    part: usize,
    expected: &[f32],
    rounded: f32,
) -> Result<(), DialectError> {
    let found = parts.floats(part).into_iter().map(f32::from_bits);
    let pairs = found.zip(expected).enumerate();
    match pairs.into_iter().find(|(_, (found, expected))| {
        let near = (found - **expected).abs() <= rounded.max(1e-5 * expected.abs());
        !near
    }) {
        None => Ok(()),
        Some((k, (found, expected))) => Err(parts.wrong(
            part,
            format!("{found} as the value of code {k}"),
            format!("{expected}: other codes than bitsandbytes'"),
        )),
    }
}

fn int8(lookup: &Lookup<'_>) -> Result<Option<Adopt>, DialectError> {
    let Some(scb) = lookup.beside("SCB") else {
        if let Some(absmax) = lookup.beside("weight.absmax") {
            lookup.agree(absmax, BITS[0], "load_in_8bit", BITS[1])?;
        }
        return match lookup.weight() {
            Some(weight) if weight.dtype == StoredType::I8 => {
                Err(lookup.need("SCB").expect_err("it was looked for"))
            }
            _ => Ok(None),
        };
    };
    let weight = lookup.need("weight")?;
    lookup.dtype(weight, &[StoredType::I8])?;
    lookup.shape(weight, &[&lookup.slot.shape])?;
    lookup.dtype(scb, &[StoredType::F32])?;
    lookup.shape(scb, &[&[lookup.shape[0]]])?;
    let mut parts = vec![weight.clone(), scb.clone()];
    if let Some(format) = lookup.beside("weight_format") {
        lookup.dtype(format, &[StoredType::U8])?;
        lookup.shape(format, &[&[], &[1]])?;
        parts.push(format.clone());
    }
    Ok(Some(Adopt::new(
        Format::Int8,
        parts,
        Assembly::BitsAndBytes8,
    )))
}

pub(super) fn assemble8(parts: &mut Parts<'_>) -> Result<CodesAndScales, DialectError> {
    if parts.tensors.len() > 2 && parts.bytes(2) != [0] {
        let found = format!("weight format {}", parts.bytes(2)[0]);
        return Err(parts.wrong(2, found, "0, row by row; the others are of single GPUs"));
    }
    Ok((parts.take(0), parts.take(1)))
}
