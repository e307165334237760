//! Weights given back: packed words in, `f32` or halves out.

use std::sync::{Arc, Mutex};

use firebox_kernels::arith::float::DType;
use firebox_kernels::arith::number::Number;
use firebox_kernels::format::{Affine, Along, Format, Fp8Kind, Half, Micro, Offset, Packed, Tile};
use firebox_kernels::formats::fp8::Recipe;
use firebox_kernels::{
    arith::pack,
    formats::{
        affine,
        bits4::{
            self,
            levels::{FP4, NF4},
        },
        fp8, int8, micro,
    },
};

use half::{bf16, f16};

use crate::common::{Random, fed};
use crate::{Case, Kind, Wanted, memory};

/// The weight that peers were measured with.
const SHAPE: [usize; 2] = [4096, 11008];

/// The formats, as they are asked for.
pub(crate) const FORMATS: [&str; 18] = [
    "nf4",
    "nf4:nested",
    "fp4",
    "affine:2",
    "affine:3",
    "affine:4",
    "affine:5",
    "affine:6",
    "affine:8",
    "affine:4,strided",
    "affine:4,ordered",
    "int8",
    "fp8:e4m3",
    "mxfp4",
    "nvfp4",
    "mxfp8",
    "bf16",
    "f16",
];

/// A weight in one of the formats, in groups of 64 where there is a choice.
pub(crate) fn packed(format: &str, shape: [usize; 2]) -> Packed {
    let source = DType::Bf16;
    let affine = |bits| affine::packer(shape, source, bits, 64);
    let packer = match format {
        "nf4" => bits4::nf4(shape, source, 64, false),
        "nf4:nested" => bits4::nf4(shape, source, 64, true),
        "fp4" => bits4::fp4(shape, source, 64, false),
        "affine:2" => affine(2),
        "affine:3" => affine(3),
        "affine:4" => affine(4),
        "affine:5" => affine(5),
        "affine:6" => affine(6),
        "affine:8" => affine(8),
        "affine:4,strided" => return other_order(shape, Along::Strided),
        "affine:4,ordered" => return other_order(shape, Along::Ordered),
        "int8" => int8::packer(shape, source),
        "fp8:e4m3" => {
            let recipe = Recipe::FineGrained { ue8m0: false };
            fp8::packer(shape, source, Fp8Kind::E4m3, Tile::Row, recipe)
        }
        "mxfp4" => micro::packer(shape, source, Micro::Mxfp4),
        "nvfp4" => micro::packer(shape, source, Micro::Nvfp4 { global: false }),
        "mxfp8" => micro::packer(shape, source, Micro::Mxfp8),
        "bf16" => return halves(shape, Half::Bf16),
        "f16" => return halves(shape, Half::F16),
        other => unreachable!("{other} is in no list"),
    };
    let packer = packer.expect("the shape fits every format");
    let bytes = Random(7).weights(shape[0] * shape[1], source);
    fed(packer, &bytes, shape[1] * source.size(), 0)
}

/// Nobody packs halves.
fn halves(shape: [usize; 2], half: Half) -> Packed {
    let bytes = Random(7).weights(shape[0] * shape[1], half.dtype());
    let words = pack::from_bytes(&bytes);
    Packed::new(Format::Half(half), shape, words, Vec::new()).expect("it fits")
}

/// Groups that packers of this crate do not make alone: HQQ's first axis, and GPTQ's order of columns.
fn other_order(shape: [usize; 2], along: Along) -> Packed {
    let affine = Affine::new(4, 64, along, Offset::Zero, DType::F16).expect("it exists");
    let format = Format::Affine(affine);
    let mut random = Random(3);
    let words = (0..format.words_len(shape))
        .map(|_| random.next() as u32)
        .collect();
    let pairs = affine.groups(shape);
    let scale = f16::from_f32(0.01).to_bits();
    let zero = f16::from_f32(7.5).to_bits();
    let mut scales = affine.join(&vec![scale.into(); pairs], &vec![zero.into(); pairs]);
    if along == Along::Ordered {
        scales.extend((0..shape[1]).map(|c| (c * 37 % shape[1] / 64) as u32));
    }
    Packed::new(format, shape, words, scales).expect("it fits")
}

pub(crate) fn cases(wanted: &Wanted, each: &mut dyn FnMut(Case)) {
    for format in FORMATS {
        let names = ["f32", "bf16", "f16"].map(|to| format!("unpack {format} to {to}"));
        if !names.iter().any(|name| wanted(name)) {
            continue;
        }
        let packed = Arc::new(packed(format, SHAPE));
        let makers = [case::<f32>, case::<bf16>, case::<f16>];
        for (name, make) in names.into_iter().zip(makers) {
            if wanted(&name) {
                each(make(name, &packed));
            }
        }
    }
}

/// What weights are given back in.
pub(crate) trait Value: Number + Send + 'static {
    fn of(value: f32) -> Self;
    fn bits(self) -> u32;
}

impl Value for f32 {
    fn of(value: f32) -> Self {
        value
    }

    fn bits(self) -> u32 {
        self.to_bits()
    }
}

impl Value for f16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}

impl Value for bf16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}

fn case<T: Value>(name: String, packed: &Arc<Packed>) -> Case {
    let (copies, packed) = (copies(packed), Arc::clone(packed));
    let [o, i] = packed.shape;
    let out = Arc::new(Mutex::new(vec![T::of(0.0); o * i]));
    let answer = Arc::clone(&out);
    Case {
        name,
        packed: packed.bytes(),
        floats: size_of::<T>() * o * i,
        kind: Kind::Unpack,
        run: Box::new(move |k| {
            let mut out = out.lock().expect("no run panics");
            give_back(&copies[k % copies.len()], &mut out);
        }),
        check: Box::new(move || {
            let mut out = answer.lock().expect("no run panics");
            out.fill(T::of(f32::NAN));
            give_back(&packed, &mut out);
            let rows = [0, 1, o / 2, o - 1];
            let mut rows = rows.into_iter().map(|r| (r, &out[r * i..][..i]));
            rows.try_for_each(|(r, row)| check_row(&packed, r, row))
        }),
    }
}

fn give_back<T: Value>(packed: &Packed, out: &mut [T]) {
    let Packed {
        format,
        shape,
        ref words,
        ref scales,
    } = *packed;
    format.dequantize_rows(shape, words, scales, 0..shape[0], out);
}

/// Compares bits of row `r`.
pub(crate) fn check_row<T: Value>(packed: &Packed, r: usize, row: &[T]) -> Result<(), String> {
    for (c, found) in row.iter().enumerate() {
        let right = weight(packed, r, c);
        let (found, bits) = (found.bits(), T::of(right).bits());
        if found != bits {
            return Err(format!(
                "row {r}, column {c}: {found:#x}, not {bits:#x} of {right:e}"
            ));
        }
    }
    Ok(())
}

/// Copies of a weight that no cache holds together.
pub(crate) fn copies(packed: &Packed) -> Vec<Packed> {
    vec![packed.clone(); memory::BYTES.div_ceil(2 * packed.bytes())]
}

/// One weight, by the formulas of the formats and nothing of how the crate unpacks.
pub(crate) fn weight(packed: &Packed, r: usize, c: usize) -> f32 {
    let Packed {
        format,
        shape,
        words,
        scales,
    } = packed;
    let (i, k) = (shape[1], r * shape[1] + c);
    match *format {
        Format::Nf4(blocks) | Format::Fp4(blocks) => {
            let levels = match format {
                Format::Nf4(_) => &NF4.levels,
                _ => &FP4.levels,
            };
            let scales = bits4::Scales::new(blocks, shape[0] * i, scales);
            levels[pack::code4(words, k) as usize] * scales.get(k / blocks.block)
        }
        Format::Affine(affine) => {
            let (scale, offset) = affine.params(scales, affine.group_of(*shape, scales, [r, c]));
            let code = pack::code(words, affine.bits, k) as f32;
            match affine.form {
                Offset::Bias => code * scale + offset,
                Offset::Zero => (code - offset) * scale,
            }
        }
        Format::Int8 => {
            f32::from(pack::code8(words, k) as i8) * f32::from_bits(scales[r]) * int8::STEP
        }
        Format::Fp8(kind, _) => {
            kind.values()[pack::code8(words, k) as usize] * f32::from_bits(scales[r])
        }
        Format::Micro(micro) => {
            let code = match micro {
                Micro::Mxfp8 => Fp8Kind::E4m3.values()[pack::code8(words, k) as usize],
                _ => micro::E2M1[pack::code4(words, k) as usize],
            };
            code * micro.scale(scales, k / micro.group())
        }
        Format::Half(half) => {
            let bits = words[k / pack::HALVES] >> (16 * (k % pack::HALVES)) & 0xffff;
            half.dtype().from_bits(bits)
        }
        other => unreachable!("{other} is in no list"),
    }
}
