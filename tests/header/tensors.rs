//! Tensors that cannot be, or do not lie one after the other through the whole file.

use firebox::source::HeaderError;

use super::{file, read, refused};

/// One tensor over bytes 0 to 4.
fn one(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

#[test]
fn an_unknown_dtype_is_refused() {
    for dtype in ["F5", "f32", ""] {
        let error = refused(
            &file(&one(dtype, "[1]", "[0,4]"), 4),
            &["tensor w", &format!("{dtype:?}")],
        );
        assert!(
            matches!(error, HeaderError::UnknownDtype { .. }),
            "{error:?}"
        );
    }
}

/// 2^32 * 2^32 wraps to zero and 2^61 * 64 bits wraps, too: an unchecked product agrees with an
/// empty range.
#[test]
fn a_shape_that_overflows_is_refused() {
    for shape in [
        "[4294967296,4294967296]",
        "[2305843009213693952]",
        "[18446744073709551615,2]",
        // A zero at the end does not excuse what overflowed before.
        "[18446744073709551615,2,0]",
    ] {
        let error = refused(&file(&one("F32", shape, "[0,0]"), 0), &["tensor w", "F32"]);
        assert!(
            matches!(error, HeaderError::ShapeOverflow { .. }),
            "{shape}: {error:?}"
        );
    }
}

#[test]
fn elements_that_end_inside_a_byte_are_refused() {
    let error = refused(
        &file(&one("F4", "[3]", "[0,2]"), 2),
        &["tensor w", "F4", "12 bits"],
    );
    assert!(
        matches!(error, HeaderError::PartialByte { bits: 12, .. }),
        "{error:?}"
    );
}

#[test]
fn inverted_offsets_are_refused() {
    let error = refused(
        &file(&one("U8", "[4]", "[5,1]"), 5),
        &["tensor w", "5 to 1"],
    );
    assert!(
        matches!(
            error,
            HeaderError::Inverted {
                start: 5,
                end: 1,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn dtype_shape_and_offsets_that_disagree_are_refused() {
    for (dtype, shape, needed) in [("F32", "[2]", 8), ("BF16", "[1]", 2), ("U8", "[]", 1)] {
        let error = refused(
            &file(&one(dtype, shape, "[0,4]"), 4),
            &["tensor w", &format!("takes {needed} bytes"), "given 4"],
        );
        assert!(
            matches!(error, HeaderError::LengthMismatch { found: 4, .. }),
            "{error:?}"
        );
    }
}

#[test]
fn a_truncated_file_is_refused() {
    let header = one("F32", "[10]", "[0,40]");
    let whole = file(&header, 40);
    for cut in [1, 40] {
        let error = refused(
            &whole[..whole.len() - cut],
            &[
                "tensor w",
                &whole.len().to_string(),
                &(whole.len() - cut).to_string(),
                "fetch it again",
            ],
        );
        assert!(matches!(error, HeaderError::OutOfRange { .. }), "{error:?}");
    }
    // Cut inside the header.
    let error = refused(&whole[..20], &[&header.len().to_string(), "has 20"]);
    assert!(
        matches!(error, HeaderError::HeaderPastEnd { .. }),
        "{error:?}"
    );
}

/// Offsets whose sum with the header's length wraps around to the start of the file.
#[test]
fn a_tensor_out_of_range_is_refused() {
    let header = one("U8", "[4]", "[18446744073709551611,18446744073709551615]");
    let bytes = file(&header, 4);
    let error = refused(&bytes, &["tensor w", &bytes.len().to_string()]);
    assert!(matches!(error, HeaderError::OutOfRange { .. }), "{error:?}");
}

/// Two tensors: `a` over bytes 0 to 4 and `b` over the given ones.
fn two(b_shape: usize, b_offsets: &str) -> String {
    format!(
        r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},
            "b":{{"dtype":"U8","shape":[{b_shape}],"data_offsets":{b_offsets}}}}}"#
    )
}

/// Ten thousand tensors over the same bytes make a small file load as a large one.
#[test]
fn overlapping_tensors_are_refused() {
    for (shape, offsets, start) in [(4, "[3,7]", 3), (4, "[0,4]", 0), (1, "[2,3]", 2)] {
        let header = two(shape, offsets);
        let data = 8 + header.len();
        let error = refused(
            &file(&header, 7),
            &[
                "tensor b starts",
                &format!("byte {}", data + start),
                "inside a",
                &format!("ends at {}", data + 4),
            ],
        );
        assert!(matches!(error, HeaderError::Overlap { .. }), "{error:?}");
    }
}

#[test]
fn holes_are_refused() {
    let header = two(2, "[5,7]");
    let data = 8 + header.len();
    let error = refused(
        &file(&header, 7),
        &[
            "tensor b",
            &format!("byte {}", data + 5),
            &format!("ends at {}", data + 4),
        ],
    );
    assert!(matches!(error, HeaderError::Hole { .. }), "{error:?}");

    let header = one("U8", "[2]", "[2,4]");
    let error = refused(&file(&header, 4), &["tensor w"]);
    assert!(
        matches!(error, HeaderError::Hole { .. }),
        "before the first: {error:?}"
    );
}

#[test]
fn trailing_bytes_are_refused() {
    for header in ["{}".to_owned(), one("U8", "[4]", "[0,4]")] {
        let used = if header == "{}" { 0 } else { 4 };
        let end = 8 + header.len() + used;
        let error = refused(
            &file(&header, used + 3),
            &[&format!("ends at byte {end}"), &format!("has {}", end + 3)],
        );
        assert!(
            matches!(error, HeaderError::TrailingBytes { .. }),
            "{error:?}"
        );
    }
}

/// A small generator with a fixed seed, so that a failure can be had again.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Whatever a file says: no panic, and what is accepted tiles the file. Catches arithmetic that
/// trusts a number, as a panic (tests check overflow) or as a range out of the file.
#[test]
fn a_mutated_file_is_refused_or_tiles() {
    let header = r#"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"F4","shape":[4],"data_offsets":[24,26]},"c":{"dtype":"I64","shape":[0],"data_offsets":[26,26]}}"#;
    let whole = file(header, 26);
    read(&whole).unwrap();
    // Bytes that make other headers and not only broken ones.
    let alphabet = b"0123456789-.,:[]{}\" eE\\abcF\x00\xff";
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
    let mut accepted = 0;
    for round in 0..60_000 {
        let mut bytes = whole.clone();
        for _ in 0..=random.next() % 3 {
            let at = (random.next() % bytes.len() as u64) as usize;
            let to = (random.next() % 256) as usize;
            match random.next() % 5 {
                0 => bytes[at] = to as u8,
                1 => bytes[at] ^= 1 << (to % 8),
                2 => bytes.insert(at, alphabet[to % alphabet.len()]),
                3 => bytes.truncate(at.max(1)),
                _ => bytes[at] = alphabet[to % alphabet.len()],
            }
        }
        let Ok(header) = read(&bytes) else { continue };
        accepted += 1;
        let mut end = None;
        for entry in &header.entries {
            let elements: u64 = entry.shape.iter().map(|&side| side as u64).product();
            assert_eq!(
                (entry.range.end - entry.range.start) * 8,
                elements * entry.dtype.bits(),
                "round {round}"
            );
            assert!(
                end.is_none_or(|end| end == entry.range.start),
                "round {round}"
            );
            end = Some(entry.range.end);
        }
        assert!(
            end.is_none_or(|end| end == bytes.len() as u64),
            "round {round}"
        );
    }
    // A fuzz that never gets past the first check checks nothing.
    assert!(accepted > 1000, "only {accepted} were accepted");
}
