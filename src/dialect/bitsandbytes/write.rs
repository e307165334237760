//! The half that writes.

use firebox_kernels::{
    arith::float::DType,
    format::{Format, Packed},
    formats::nested::{self, MAP},
};
use serde_json::{Value, json};

use super::{
    super::{
        DialectError, PackedSlot, Tensor, Writer,
        types::module,
        write::{Codes, Matrices, torch},
    },
    NAME, SKIP,
    levels::QuantType,
};
use crate::{
    model::{Role, Slot},
    source::StoredType,
};

/// Writes every packed weight with the same levels, plain or nested, or as signed bytes.
#[derive(Debug)]
struct BitsAndBytesWriter {
    kind: Kind,
    source: DType,
    /// What is not packed, where that is more than the head.
    excepted: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bits4(QuantType, bool),
    Int8,
}

pub(in super::super) fn writer(
    matrices: &Matrices,
    source: DType,
) -> Result<Box<dyn Writer>, DialectError> {
    let kind = |weight: &PackedSlot| match weight.format {
        Format::Nf4(blocks) => Some(Kind::Bits4(QuantType::Nf4, blocks.nested)),
        Format::Fp4(blocks) => Some(Kind::Bits4(QuantType::Fp4, blocks.nested)),
        Format::Int8 => Some(Kind::Int8),
        _ => None,
    };
    let kind = matrices.kind(NAME, kind)?;
    // What transformers leaves alone by itself.
    let excepted = matrices.excepted();
    let is_module = |slot: &Slot| !matches!(slot.role, Role::Head | Role::Embedding);
    let only_head = !matrices.plain.iter().any(is_module)
        && matrices.packed.iter().all(|weight| is_module(&weight.slot));
    Ok(Box::new(BitsAndBytesWriter {
        kind,
        source,
        excepted: (!only_head).then(|| excepted.into_iter().map(str::to_owned).collect()),
    }))
}

impl Writer for BitsAndBytesWriter {
    fn config(&self) -> Vec<(&'static str, Value)> {
        let bits4 = self.kind != Kind::Int8;
        let (levels, nested) = match self.kind {
            Kind::Bits4(levels, nested) => (levels, nested),
            // The defaults.
            Kind::Int8 => (QuantType::Fp4, false),
        };
        let compute = if bits4 { torch(self.source) } else { "float32" };
        let config = json!({
            "_load_in_4bit": bits4,
            "_load_in_8bit": !bits4,
            "bnb_4bit_compute_dtype": compute,
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": levels.name(),
            "bnb_4bit_use_double_quant": nested,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            SKIP: self.excepted,
            "llm_int8_threshold": 6.0,
            "load_in_4bit": bits4,
            "load_in_8bit": !bits4,
            "quant_method": NAME,
        });
        vec![("quantization_config", config)]
    }

    fn codes(&self, slot: &Slot, format: Format) -> Option<Codes> {
        let n = slot.shape.iter().product::<usize>();
        Some(match self.kind {
            Kind::Int8 => Codes::new(slot, StoredType::I8, &slot.shape, format),
            Kind::Bits4(levels, _) => Codes::new(slot, StoredType::U8, &[n.div_ceil(2), 1], format)
                .high_first(levels.zero()),
        })
    }

    fn tensors(&self, slot: &Slot, mut packed: Packed, source: DType) -> Vec<Tensor> {
        let ([o, _], n) = (packed.shape, packed.shape[0] * packed.shape[1]);
        let codes = self.codes(slot, packed.format);
        let codes = codes.map(|codes| codes.unless_written(core::mem::take(&mut packed.words)));
        let mut tensors = codes.unwrap_or_default();
        let Kind::Bits4(levels, _) = self.kind else {
            let scb = format!("{}.SCB", module(slot));
            let format = format!("{}.weight_format", module(slot));
            tensors.push(Tensor::words(scb, StoredType::F32, &[o], packed.scales));
            tensors.push(Tensor::new(format, StoredType::U8, &[], vec![0]));
            return tensors;
        };
        let (Format::Nf4(blocks) | Format::Fp4(blocks)) = packed.format else {
            unreachable!("the plan's formats were looked at");
        };
        let name = |suffix: &str| format!("{}.{suffix}", slot.name);
        let floats = |suffix: &str, values: &[u32]| {
            Tensor::words(
                name(suffix),
                StoredType::F32,
                &[values.len()],
                values.to_vec(),
            )
        };
        let g = blocks.count(n);
        tensors.push(floats("quant_map", &levels.values().map(f32::to_bits)));
        let mut state = format!(
            "{{\"quant_type\": \"{}\", \"blocksize\": {}, \"dtype\": \"{}\", \"shape\": {:?}",
            levels.name(),
            blocks.block,
            torch(source),
            slot.shape
        );
        if blocks.nested {
            let (codes, rest) = packed.scales.split_at(g.div_ceil(4));
            let (upper, offset) = rest.split_at(g.div_ceil(nested::BLOCK));
            tensors.push(Tensor::words(
                name("absmax"),
                StoredType::U8,
                &[g],
                codes.to_vec(),
            ));
            tensors.push(floats("nested_absmax", upper));
            tensors.push(floats("nested_quant_map", &MAP.map(f32::to_bits)));
            let offset = python(f64::from(f32::from_bits(offset[0])));
            state +=
                ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": ";
            state += &offset;
        } else {
            tensors.push(floats("absmax", &packed.scales));
        }
        state.push('}');
        let key = format!("quant_state.bitsandbytes__{}", levels.name());
        let len = state.len();
        tensors.push(Tensor::new(
            name(&key),
            StoredType::U8,
            &[len],
            state.into_bytes(),
        ));
        tensors
    }
}

/// A number as Python prints it: the fewest digits that read back, with an exponent of two digits from 1e16
/// on and below 1e-4.
fn python(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').expect("it was asked for");
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{number:?}")
}

#[cfg(test)]
mod tests {
    use super::python;

    /// Python 3's own `repr` of these numbers.
    #[test]
    fn numbers_are_printed_as_python_does() {
        for (number, expected) in [
            (0.18923313915729523, "0.18923313915729523"),
            (1.0, "1.0"),
            (0.0, "0.0"),
            (0.0001, "0.0001"),
            (0.00001234, "1.234e-05"),
            (-2.5e-7, "-2.5e-07"),
            (1e-120, "1e-120"),
            (1e16, "1e+16"),
            (123456789012345.0, "123456789012345.0"),
        ] {
            assert_eq!(python(number), expected);
        }
    }
}
