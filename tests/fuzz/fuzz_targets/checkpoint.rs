//! A checkpoint in memory from the input of `plan` and `load`, as lines:
//!
//! ```text
//! ab                              the quantization, and what else is asked for
//! {"model_type":…}                config.json
//! lm_head.weight|BF16|96,64       name, stored type and shape of a tensor; its bytes are made up
//! w.quant_map|F32|16|000080bf…    the same, with its bytes in hexadecimal
//! ```
//!
//! The header is made from the lines: what a file says about itself is consistent, and the other targets try the rest.

use std::sync::Arc;

use firebox::{
    Cpu, LoadConfig, Loader, Workers,
    source::{Memory, StoredType},
};
use serde_json::{Map, json};

const SPECS: [&str; 18] = [
    "none",
    "nf4",
    "nf4:block=64,nested",
    "fp4:block=32",
    "int8",
    "fp8:e4m3,scale=tensor",
    "fp8:e4m3,scale=channel",
    "fp8:e4m3,scale=block",
    "fp8:e4m3,scale=64x32,ue8m0",
    "fp8:e5m2,scale=0.05",
    "mlx:bits=3,group=32",
    "mlx:bits=4,group=64",
    "hqq:bits=4,group=64",
    "hqq:bits=3,group=line,axis=0",
    "wna16:bits=4,group=32,asymmetric",
    "mxfp4",
    "mxfp8",
    "nvfp4",
];

/// The most bytes of a tensor: enough for every family, and quick.
const TENSOR_MAX: usize = 1 << 18;

/// `None` where the input is no such file, or the checkpoint is refused when it is opened.
pub(crate) fn loader(data: &[u8]) -> Option<Loader<Cpu>> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let &[spec, flags] = lines.next()? else {
        return None;
    };
    let config = lines.next()?;
    let source = Memory::new()
        .with("config.json", config)
        .with("model.safetensors", safetensors(lines)?);
    let spec = SPECS[usize::from(spec.wrapping_sub(b'a')) % SPECS.len()];
    let flag = |bit: u8| flags & bit != 0;
    let config = LoadConfig::default()
        .quant(spec.parse().expect("a quantization"))
        .dequantize(flag(1))
        .presinq(flag(2))
        .requantize(flag(4))
        .workers(Workers::Count(1.try_into().expect("not zero")));
    let config = if flag(8) {
        let rule = |words: &str| words.parse().expect("a rule");
        config
            .rule(rule("role:embedding=nf4"))
            .rule(rule("lm_head=fp8:e4m3,scale=channel"))
    } else {
        config
    };
    Loader::new(config.source(Arc::new(source))).ok()
}

/// A file of the tensors that the lines list.
fn safetensors<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let line = core::str::from_utf8(line).ok()?;
        let mut parts = line.split('|');
        let (name, dtype, shape) = (parts.next()?, parts.next()?, parts.next()?);
        let sides = shape.split(',').filter(|side| !side.is_empty());
        let shape: Vec<u64> = sides.map(|side| side.parse().ok()).collect::<Option<_>>()?;
        let bits = StoredType::from_name(dtype)?.bits();
        let bits = shape
            .iter()
            .try_fold(bits, |bits, side| bits.checked_mul(*side))?;
        let bytes = usize::try_from(bits / 8)
            .ok()
            .filter(|bytes| *bytes <= TENSOR_MAX)?;
        let start = data.len();
        match parts.next() {
            Some(hex) => data.extend(
                from_hex(hex)?
                    .into_iter()
                    .chain([0].into_iter().cycle())
                    .take(bytes),
            ),
            None => data.extend(made_up(dtype).take(bytes)),
        }
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        if header.insert(name.to_owned(), entry).is_some() {
            return None;
        }
    }
    let header = serde_json::to_vec(&header).ok()?;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    Some(file)
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digit = |c: &u8| char::from(*c).to_digit(16);
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| Some((digit(&pair[0])? << 4 | pair.get(1).map_or(Some(0), digit)?) as u8))
        .collect()
}

/// Bytes that look random; as floats, numbers of ordinary size.
fn made_up(dtype: &str) -> impl Iterator<Item = u8> {
    let width = match dtype {
        "F32" => 4,
        "F16" | "BF16" => 2,
        _ => usize::MAX,
    };
    let mut state = 0x1234_5678_u32;
    (1_usize..).map(move |at| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        match at % width {
            // The sign and most of the exponent.
            0 => 0x3c | (state >> 24) as u8 & 0x81,
            _ => (state >> 24) as u8,
        }
    })
}
