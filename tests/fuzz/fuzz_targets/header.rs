//! The header of a safetensors file: tensors that are read tile the data of the file.
//!
//! Input: the file.

#![cfg_attr(fuzzing, no_main)]

use firebox::source::header::{header_len, parse};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

pub(crate) fn run(file: &[u8]) {
    let file_len = file.len() as u64;
    let Ok(len) = header_len("file", file, file_len) else {
        return;
    };
    let data_start = 8 + len;
    let Ok(header) = parse("file", &file[8..data_start as usize], file_len) else {
        return;
    };
    let mut end = data_start;
    for entry in &header.entries {
        assert_eq!(entry.range.start, end, "a gap before {}", entry.name);
        end = entry.range.end;
        let values: u128 = entry.shape.iter().map(|side| *side as u128).product();
        let bits = u128::from(entry.range.end - entry.range.start) * 8;
        assert_eq!(bits, values * u128::from(entry.dtype.bits()), "{entry:?}");
    }
    assert_eq!(end, file_len, "bytes of no tensor");
}
