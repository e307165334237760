//! The keys of the types of a file.

use std::collections::BTreeMap;

use firebox_kernels::format::Gguf;

use super::tensor::GgufWeight;
use crate::source::{
    StoredType,
    gguf::{GgufKeys, GgufType},
};

/// The version of the layouts of blocks.
const QUANTIZATION_VERSION: u32 = 2;

/// What the file consists of mostly, in the words of llama.cpp.
pub(super) fn of_types(keys: &mut GgufKeys, weights: &[GgufWeight<'_>]) {
    let mut values: BTreeMap<u32, usize> = BTreeMap::new();
    for weight in weights.iter().filter(|weight| weight.shape.len() > 1) {
        if let Some(number) = weight.kind.ok().and_then(file_type) {
            *values.entry(number).or_default() += weight.shape.iter().product::<usize>();
        }
    }
    let most = values.into_iter().max_by_key(|(_, values)| *values);
    if let Some((number, _)) = most {
        keys.u32("general.file_type", number);
    }
    keys.u32("general.quantization_version", QUANTIZATION_VERSION);
}

/// `enum llama_ftype` of llama.cpp for a file that consists of one type mostly.
const fn file_type(kind: GgufType) -> Option<u32> {
    Some(match kind {
        GgufType::Plain(StoredType::F32) => 0,
        GgufType::Plain(StoredType::F16) => 1,
        GgufType::Plain(StoredType::BF16) => 32,
        GgufType::Plain(_) => return None,
        GgufType::Blocks(kind) => match kind {
            Gguf::Q4_0 => 2,
            Gguf::Q4_1 => 3,
            Gguf::Q8_0 => 7,
            Gguf::Q5_0 => 8,
            Gguf::Q5_1 => 9,
            Gguf::Q2K => 10,
            Gguf::Q3K => 11,
            Gguf::Q4K => 14,
            Gguf::Q5K => 16,
            Gguf::Q6K => 18,
            Gguf::Iq2Xxs => 19,
            Gguf::Iq2Xs => 20,
            Gguf::Iq3Xxs => 23,
            Gguf::Iq1S => 24,
            Gguf::Iq4Nl => 25,
            Gguf::Iq3S => 26,
            Gguf::Iq2S => 28,
            Gguf::Iq4Xs => 30,
            Gguf::Iq1M => 31,
            Gguf::Tq1_0 => 36,
            Gguf::Tq2_0 => 37,
            Gguf::Mxfp4 => 38,
            Gguf::Nvfp4 | Gguf::Q1_0 | Gguf::Q2_0 => return None,
        },
    })
}
