//! Files of Burn that lie.

use burn_store::burn_pack::{Bytes, DType, Tensor, Writer};

use super::file::memory;

fn right() -> Vec<u8> {
    let tensor = |name: &str, dtype: DType, shape: [usize; 2]| {
        let bytes = vec![1; shape[0] * shape[1] * dtype.size()];
        Tensor::new(
            name.to_owned(),
            dtype,
            shape.to_vec(),
            None,
            Bytes::from_bytes_vec(bytes),
        )
    };
    let tensors = vec![
        tensor("a", DType::F32, [2, 3]),
        tensor("b", DType::BF16, [4, 5]),
    ];
    Writer::new(tensors).into_bytes().expect("written").to_vec()
}

fn open(bytes: &[u8]) -> Result<usize, String> {
    let checkpoint = memory("model.bpk", bytes)
        .open()
        .map_err(|error| error.to_string())?;
    for tensor in checkpoint.catalog().iter() {
        super::file::values_of(&checkpoint, &tensor.name);
    }
    Ok(checkpoint.catalog().len())
}

/// Replaces some bytes of the header, as many by as many.
fn changed(from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = right();
    let at = bytes.windows(from.len()).position(|window| window == from);
    bytes[at.expect("is there")..][..to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn files_that_lie_are_refused() {
    assert_eq!(open(&right()), Ok(2));
    let end = right().len();
    let cases: &[(Vec<u8>, &[&str])] = &[
        (b"BURN".to_vec(), &["begins with \"BURN\"", "NRUB"]),
        (changed(b"NRUB\x01", b"NRUB\x09"), &["version 9"]),
        (right()[..8].to_vec(), &["byte 10", "has 8"]),
        (right()[..20].to_vec(), &["has 20", "cut short"]),
        (right()[..end - 1].to_vec(), &["cut short"]),
        (
            changed(b"\x82\x02\x03", b"\x82\x02\x04"),
            &["tensor a", "[2, 4]", "F32"],
        ),
        (
            changed(b"\x82\x04\x05", b"\x82\x04\x17"),
            &["tensor b", "[4, 23]", "BF16"],
        ),
        (changed(b"F32", b"F64"), &["tensor a", "F64"]),
        (
            changed(b"\x82\x00\x18\x18", b"\x82\x09\x18\x18"),
            &["tensor a", "from 9 to 24"],
        ),
        (
            changed(b"\xa1gtensors", b"\xa1gtensory"),
            &["does not parse", "tensors"],
        ),
    ];
    for (nth, (bytes, words)) in cases.iter().enumerate() {
        let error = open(bytes).expect_err(&format!("lie {nth}"));
        for word in words.iter().chain([&"model.bpk"]) {
            assert!(
                error.contains(word),
                "lie {nth}: {word:?} is not in: {error}"
            );
        }
    }
}

#[test]
fn damaged_files_are_read_or_refused() {
    let right = right();
    for at in 0..right.len().min(256) {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = right.clone();
            changed[at] = value;
            drop(open(&changed));
        }
    }
}
