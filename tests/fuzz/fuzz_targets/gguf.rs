//! The header of a GGUF file: tensors lie in the file one after another, and more first bytes are asked for only where the file has
//! more.
//!
//! Input: the file.

#![cfg_attr(fuzzing, no_main)]

use firebox::source::gguf::{GgufParsed, GgufType, parse};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

pub(crate) fn run(file: &[u8]) {
    let file_len = file.len() as u64;
    let header = match parse("file", file, file_len) {
        Ok(GgufParsed::Header(header)) => header,
        Ok(GgufParsed::More(end)) => panic!("byte {end} of {file_len} is asked for"),
        Err(_) => return,
    };
    let mut end = 0;
    for tensor in &header.tensors {
        assert!(tensor.range.start >= end, "{tensor:?} begins before {end}");
        end = tensor.range.end;
        assert!(end <= file_len, "{tensor:?} of {file_len}");
        let values: u128 = tensor.shape.iter().map(|side| *side as u128).product();
        let (block, bytes) = match tensor.kind {
            GgufType::Plain(dtype) => (1, dtype.bits() / 8),
            GgufType::Blocks(kind) => (kind.block() as u64, kind.bytes() as u64),
        };
        let len = u128::from(tensor.range.end - tensor.range.start);
        assert_eq!(
            len * u128::from(block),
            values * u128::from(bytes),
            "{tensor:?}"
        );
    }
    // Any part of the file that is enough for the header gives the same.
    let mut wanted = 0;
    while let Ok(GgufParsed::More(least)) = parse("file", &file[..wanted], file_len) {
        assert!(
            least > wanted as u64 && least <= file_len,
            "{least} after {wanted}"
        );
        wanted = least as usize;
    }
    let again = parse("file", &file[..wanted], file_len);
    // In words: a NaN among the metadata is not itself.
    assert_eq!(
        format!("{:?}", again.ok()),
        format!("{:?}", Some(GgufParsed::Header(header))),
        "the first {wanted} bytes"
    );
}
