//! Golden files: tensors as the reference libraries wrote them, and the cases they belong to.

#![allow(dead_code, reason = "each test file uses its part")]

use firebox_kernels::arith::float::DType;
use firebox_kernels::format::Packed;
use firebox_kernels::packer::{Packer, pack_whole};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// One golden file.
pub(crate) struct Golden {
    bytes: Vec<u8>,
    /// Parameters of every case, in order.
    pub(crate) cases: Vec<Value>,
}

/// One tensor of a golden file.
pub(crate) struct Tensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Golden {
    /// Opens `tests/golden/vectors/<name>.safetensors` and asserts that it holds `cases` cases.
    pub(crate) fn open(name: &str, cases: usize) -> Self {
        // The folder is another where tests are carried to another machine.
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
        let folder = std::env::var("FIREBOX_GOLDEN").unwrap_or_else(|_| here.to_owned());
        let path = format!("{folder}/vectors/{name}.safetensors");
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let text = &header.metadata().as_ref().unwrap()["cases"];
        let found: Vec<Value> = serde_json::from_str(text).unwrap();
        assert_eq!(found.len(), cases, "cases of {name}");
        Self {
            bytes,
            cases: found,
        }
    }

    pub(crate) fn try_get(&self, name: &str) -> Option<Tensor> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).ok()?;
        let (dtype, shape, bytes) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        Some(Tensor {
            dtype,
            shape,
            bytes,
        })
    }

    pub(crate) fn get(&self, name: &str) -> Tensor {
        self.try_get(name)
            .unwrap_or_else(|| panic!("no tensor {name}"))
    }
}

impl Tensor {
    pub(crate) fn source(&self) -> DType {
        match self.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            other => panic!("{other:?} is no float of a weight"),
        }
    }

    /// Values of a float tensor, widened.
    pub(crate) fn floats(&self) -> Vec<f32> {
        let source = self.source();
        let mut values = vec![0.0; self.bytes.len() / source.size()];
        source.widen(&self.bytes, &mut values);
        values
    }

    /// `[o, i]`: leading dimensions are rows, a vector is one row.
    pub(crate) fn matrix(&self) -> [usize; 2] {
        let i = *self.shape.last().unwrap();
        [self.shape.iter().product::<usize>() / i, i]
    }
}

/// A string parameter of a case.
pub(crate) fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} of {case}"))
}

/// A size parameter of a case.
pub(crate) fn size(case: &Value, key: &str) -> usize {
    case[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} of {case}")) as usize
}

/// Compares bits, except that a NaN equals a NaN.
#[track_caller]
pub(crate) fn assert_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "values of {what}");
    for (k, (found, expected)) in found.iter().zip(expected).enumerate() {
        let equal = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(
            equal,
            "{what}: value {k} is {found:e}, and should be {expected:e}"
        );
    }
}

#[track_caller]
pub(crate) fn assert_bytes(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "bytes of {what}");
    for (k, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(
            found, expected,
            "{what}: byte {k}, {found:#04x} against {expected:#04x}"
        );
    }
}

/// What a weight gives back, once that agrees with what it gives back in halves: each the nearest to its `f32`.
#[track_caller]
pub(crate) fn in_all_types(packed: &Packed) -> Vec<f32> {
    let Packed {
        format,
        shape,
        words,
        scales,
    } = packed;
    let values = packed.dequantize();
    // In parts, which begin anywhere in a word or a group.
    let cut = shape[0] / 3;
    let (mut f16s, mut bf16s) = (vec![f16::ONE; values.len()], vec![bf16::ONE; values.len()]);
    for rows in [0..cut, cut..shape[0]] {
        let at = rows.start * shape[1]..rows.end * shape[1];
        format.dequantize_rows(*shape, words, scales, rows.clone(), &mut f16s[at.clone()]);
        format.dequantize_rows(*shape, words, scales, rows, &mut bf16s[at]);
    }
    for (k, value) in values.iter().enumerate() {
        let found = [f16s[k].to_bits(), bf16s[k].to_bits()];
        let expected = [
            f16::from_f32(*value).to_bits(),
            bf16::from_f32(*value).to_bits(),
        ];
        assert_eq!(found, expected, "{format} {shape:?}: value {k}, {value:e}");
    }
    values
}

/// Rounds to the type that a golden value is stored in.
pub(crate) fn rounded(values: &[f32], to: DType) -> Vec<f32> {
    values.iter().map(|value| to.round(*value)).collect()
}

/// Words as the floats whose bits they are.
pub(crate) fn as_floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|word| f32::from_bits(*word)).collect()
}

/// Feeds a whole weight in tiles of `tiles * tile_rows` rows, into words that hold something else; 0 for
/// [`pack_whole`].
pub(crate) fn fed(
    mut packer: Box<dyn Packer>,
    bytes: &[u8],
    row_bytes: usize,
    tiles: usize,
) -> Packed {
    if tiles == 0 {
        return pack_whole(packer, bytes);
    }
    let (format, shape) = (packer.format(), packer.shape());
    let step = tiles * packer.tile_rows();
    let mut words = vec![0xdead_beef; format.words_len(shape)];
    let tile_words = format.words_len([step, shape[1]]);
    for pass in 0..packer.passes() {
        let last = pass + 1 == packer.passes();
        for (tile, bytes) in bytes.chunks(step * row_bytes).enumerate() {
            let from = words.len().min(tile * tile_words);
            let to = words.len().min(from + tile_words);
            let words = if last { &mut words[from..to] } else { &mut [] };
            packer.feed(pass, tile * step, bytes, words);
        }
    }
    Packed {
        format,
        shape,
        words,
        scales: packer.finish(),
    }
}

/// A small generator, so that inputs are the same everywhere (xorshift, Marsaglia 2003).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Between -1 and 1, denser around 0.
    pub(crate) fn weight(&mut self) -> f32 {
        let uniform = (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        uniform * uniform * uniform
    }

    /// `n` weights in the bytes of `source`.
    pub(crate) fn weights(&mut self, n: usize, source: DType) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(n * source.size());
        for _ in 0..n {
            let weight = self.weight();
            match source {
                DType::F32 => bytes.extend(weight.to_le_bytes()),
                DType::F16 => bytes.extend(f16::from_f32(weight).to_le_bytes()),
                DType::Bf16 => bytes.extend(bf16::from_f32(weight).to_le_bytes()),
            }
        }
        bytes
    }
}
