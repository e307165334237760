//! A file of PyTorch: whatever it says is read or refused, and every tensor of one that is read lies in the file.
//!
//! Input: a zip archive, or the pickle of the tensors of an older file, which is put between the other parts.

#![cfg_attr(fuzzing, no_main)]

use std::sync::Arc;

use firebox::{
    LoadConfig, LoadRequest,
    source::{Memory, SourceExt},
};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

/// The number, the version and the system that a file begins with.
const BEFORE: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.";

/// The list of storages, of which there is one, named 0.
const AFTER: &[u8] = b"\x80\x02]X\x01\x00\x00\x000a.";

pub(crate) fn run(input: &[u8]) {
    const NAME: &str = "pytorch_model.bin";
    let file = match input.starts_with(b"PK") {
        true => input.to_vec(),
        false => {
            let storage = [&6_u64.to_le_bytes()[..], &[7; 24]].concat();
            [BEFORE, input, AFTER, &storage].concat()
        }
    };
    let source = Memory::new().with(NAME, &file[..]);
    let request = LoadRequest::from(LoadConfig::new("memory").bare());
    let Ok(checkpoint) = request.source(Arc::new(source)).open() else {
        return;
    };
    let source = checkpoint.source();
    for tensor in checkpoint.catalog().iter() {
        assert!(tensor.bytes() <= file.len() as u64, "{tensor:?}");
        let mut bytes = vec![0; tensor.bytes() as usize];
        let read = source.read_at(&tensor.file, tensor.range.start, &mut bytes);
        read.unwrap_or_else(|error| panic!("{tensor:?}: {error}"));
        let half = bytes.len() / 2;
        let mut part = vec![0; bytes.len() - half];
        let at = tensor.range.start + half as u64;
        let read = source.peek(&tensor.file, at, &mut part);
        read.unwrap_or_else(|error| panic!("{tensor:?}: {error}"));
        assert_eq!(part, bytes[half..], "{tensor:?}");
    }
}
