//! A safetensors file from lines, one for each tensor: see `checkpoint.rs`.

use firebox::source::StoredType;
use serde_json::{Map, json};

/// The most bytes of a tensor: enough for every family, and quick.
const TENSOR_MAX: usize = 1 << 18;

/// A file of the tensors that the lines list.
pub(crate) fn safetensors<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
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
