//! The safetensors header: what the reference writer writes is read back, and each lie that a file
//! can tell is refused by name, with the file, the tensor and both numbers in the message.

use std::collections::{BTreeMap, HashMap};

use firebox::source::header::{HEADER_BYTES_MAX, header_len, parse};
use firebox::source::{Dtype, Entry, Header, HeaderError};
use safetensors::tensor::{Dtype as Theirs, TensorView};

const FILE: &str = "shard.safetensors";

/// A file: length, header, and `data_len` bytes of data.
fn file(header: &str, data_len: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data_len, 0);
    bytes
}

/// What a source does, on a file in memory.
fn read(bytes: &[u8]) -> Result<Header, HeaderError> {
    let file_len = bytes.len() as u64;
    let len = header_len(FILE, &bytes[..bytes.len().min(8)], file_len)? as usize;
    parse(FILE, &bytes[8..8 + len], file_len)
}

/// The error of a file, which must mention the file and each of `mentions`.
fn refused(bytes: &[u8], mentions: &[&str]) -> HeaderError {
    let error = read(bytes).expect_err("was accepted");
    let text = error.to_string();
    for mention in mentions.iter().chain([&FILE]) {
        assert!(text.contains(mention), "{mention:?} is not in: {text}");
    }
    error
}

/// Name, bits, and the dtype of the reference implementation.
const DTYPES: [(&str, u64, Theirs); 22] = [
    ("BOOL", 8, Theirs::BOOL),
    ("F4", 4, Theirs::F4),
    ("F6_E2M3", 6, Theirs::F6_E2M3),
    ("F6_E3M2", 6, Theirs::F6_E3M2),
    ("U8", 8, Theirs::U8),
    ("I8", 8, Theirs::I8),
    ("F8_E5M2", 8, Theirs::F8_E5M2),
    ("F8_E4M3", 8, Theirs::F8_E4M3),
    ("F8_E8M0", 8, Theirs::F8_E8M0),
    ("F8_E4M3FNUZ", 8, Theirs::F8_E4M3FNUZ),
    ("F8_E5M2FNUZ", 8, Theirs::F8_E5M2FNUZ),
    ("I16", 16, Theirs::I16),
    ("U16", 16, Theirs::U16),
    ("F16", 16, Theirs::F16),
    ("BF16", 16, Theirs::BF16),
    ("I32", 32, Theirs::I32),
    ("U32", 32, Theirs::U32),
    ("F32", 32, Theirs::F32),
    ("C64", 64, Theirs::C64),
    ("F64", 64, Theirs::F64),
    ("I64", 64, Theirs::I64),
    ("U64", 64, Theirs::U64),
];

/// Catches a dtype that is missing, misspelt or of the wrong width.
#[test]
fn every_dtype_has_the_reference_s_name_and_width() {
    assert_eq!(Dtype::ALL.len(), DTYPES.len());
    for (name, bits, theirs) in DTYPES {
        let dtype = Dtype::from_name(name).expect(name);
        assert_eq!(dtype.bits(), bits, "{name}");
        assert_eq!(dtype.bits(), theirs.bitsize() as u64, "{name}");
        assert_eq!(dtype.to_string(), theirs.to_string());
    }
    for name in ["", "f32", "F8", "BF16 ", "E4M3"] {
        assert_eq!(Dtype::from_name(name), None, "{name:?}");
    }
}

/// The reference writer, all dtypes, each with a matrix, a scalar-like row and an empty tensor.
#[test]
fn what_the_reference_writes_is_read_back() {
    let data: Vec<u8> = (0..=255).collect();
    let mut tensors = Vec::new();
    for (name, bits, theirs) in DTYPES {
        for shape in [vec![3, 8], vec![4], vec![2, 0, 5]] {
            let bytes = shape.iter().product::<usize>() * bits as usize / 8;
            let view = TensorView::new(theirs, shape.clone(), &data[..bytes]).unwrap();
            tensors.push((format!("{name}.{}", shape.len()), view));
        }
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(tensors.clone(), Some(metadata)).unwrap();

    let header = read(&bytes).unwrap();
    assert_eq!(
        header.metadata,
        BTreeMap::from([("format".to_owned(), "pt".to_owned())])
    );
    assert_eq!(header.entries.len(), tensors.len());
    assert!(
        header
            .entries
            .windows(2)
            .all(|pair| pair[0].range.end == pair[1].range.start),
        "not in the order of the bytes"
    );
    for (name, view) in tensors {
        let entry = header
            .entries
            .iter()
            .find(|entry| entry.name == name)
            .unwrap();
        assert_eq!(entry.dtype.to_string(), view.dtype().to_string(), "{name}");
        assert_eq!(entry.shape, view.shape(), "{name}");
        let range = entry.range.start as usize..entry.range.end as usize;
        assert_eq!(&bytes[range], view.data(), "{name}");
    }
}

/// Written out by hand: catches a range that does not count from the start of the file, and an
/// order that is the header's and not the bytes'.
#[test]
fn ranges_count_from_the_start_of_the_file() {
    let header = r#"{
        "b": {"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
        "a": {"dtype":"F32","shape":[],"data_offsets":[0,4]},
        "none": {"dtype":"I64","shape":[0],"data_offsets":[4,4]}
    }   "#;
    let start = 8 + header.len() as u64;
    let entry = |name: &str, dtype, shape: &[usize], from, to| Entry {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        range: start + from..start + to,
    };
    assert_eq!(
        read(&file(header, 16)).unwrap(),
        Header {
            entries: vec![
                entry("a", Dtype::F32, &[], 0, 4),
                entry("none", Dtype::I64, &[0], 4, 4),
                entry("b", Dtype::BF16, &[2, 3], 4, 16),
            ],
            metadata: BTreeMap::new(),
        }
    );
}

/// Some writers leave metadata empty or null, add keys of their own, or store no tensor at all.
#[test]
fn harmless_oddities_are_accepted() {
    for (header, data_len) in [
        ("{}", 0),
        (r#"{"__metadata__":null}"#, 0),
        (r#"{"__metadata__":{}}"#, 0),
        (
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"note":{"x":[1]}}}"#,
            1,
        ),
        (r#"{"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1),
    ] {
        assert!(read(&file(header, data_len)).is_ok(), "{header}");
    }
}

#[test]
fn a_file_too_short_for_a_length_is_refused() {
    for len in [0, 7] {
        let error = refused(&vec![1; len], &[&len.to_string(), "8"]);
        assert!(
            matches!(error, HeaderError::TooShort { .. }),
            "{len}: {error:?}"
        );
    }
}

#[test]
fn a_header_longer_than_the_file_is_refused() {
    let mut bytes = file("{}", 0);
    bytes[0] = 3;
    let error = refused(&bytes, &["claims 3 bytes", "has 10"]);
    assert!(matches!(
        error,
        HeaderError::HeaderPastEnd {
            header_len: 3,
            file_len: 10,
            ..
        }
    ));
}

/// Catches an allocation of what a length claims. The last one overflows when 8 is added.
#[test]
fn an_absurd_header_length_is_refused_before_it_is_allocated() {
    for (len, bound) in [(HEADER_BYTES_MAX + 1, "100000000"), (u64::MAX, "100000000")] {
        let error = refused(&len.to_le_bytes(), &[&len.to_string(), bound]);
        assert!(
            matches!(error, HeaderError::HeaderTooLarge { .. }),
            "{len}: {error:?}"
        );
    }
    // At the limit it is the file's length that decides.
    let first = HEADER_BYTES_MAX.to_le_bytes();
    assert!(header_len(FILE, &first, HEADER_BYTES_MAX + 8).is_ok());
    assert!(matches!(
        header_len(FILE, &first, HEADER_BYTES_MAX + 7).unwrap_err(),
        HeaderError::HeaderPastEnd { .. }
    ));
}

/// What is in the folder after a clone without git-lfs, and what a failed download leaves.
#[test]
fn a_text_file_in_place_of_weights_is_refused_with_a_hint() {
    for text in [
        "version https://git-lfs.github.com/spec/v1\n",
        "<!doctype html>",
    ] {
        refused(text.as_bytes(), &["git-lfs pointer"]);
    }
}

#[test]
fn a_header_that_is_not_utf_8_is_refused() {
    let mut bytes = file(r#"{"a": 1}"#, 0);
    bytes[8 + 2] = 0xff;
    let error = refused(&bytes, &["byte 10", "header of 8 bytes"]);
    assert!(matches!(error, HeaderError::NotUtf8 { .. }), "{error:?}");
}

#[test]
fn a_header_that_is_not_a_header_is_refused_and_names_the_tensor() {
    for (header, mentions) in [
        ("", vec![]),
        ("[]", vec![]),
        ("{", vec![]),
        (r#"{"a":1}"#, vec!["a: "]),
        (
            r#"{"a":{"shape":[1],"data_offsets":[0,1]}}"#,
            vec!["a: ", "dtype"],
        ),
        (
            r#"{"a":{"dtype":"U8","data_offsets":[0,1]}}"#,
            vec!["a: ", "shape"],
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[1]}}"#,
            vec!["a: ", "data_offsets"],
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
            vec!["a: ", "-1"],
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}"#,
            vec!["a: ", "1.0"],
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}"#,
            vec!["a: "],
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}"#,
            vec!["a: "],
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[1],"shape":[2],"data_offsets":[0,1]}}"#,
            vec!["a: ", "shape"],
        ),
        (r#"{"__metadata__":{"k":1}}"#, vec!["__metadata__", "k: "]),
        ("{} {}", vec![]),
    ] {
        let error = refused(&file(header, 1), &mentions);
        assert!(
            matches!(error, HeaderError::Json { .. }),
            "{header}: {error:?}"
        );
    }
}

/// A stack overflow is not an error that a caller can handle.
#[test]
fn nesting_without_end_is_refused() {
    let deep = format!(
        r#"{{"a":{{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":{}"#,
        "[".repeat(200_000)
    );
    let error = refused(&file(&deep, 1), &["a: "]);
    assert!(matches!(error, HeaderError::Json { .. }), "{error:?}");
}

/// Catches a map that keeps the last of two: the check would then see one tensor, and another
/// reader the other.
#[test]
fn a_tensor_that_is_there_twice_is_refused() {
    let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                     "a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let error = refused(&file(header, 1), &["tensor a"]);
    assert!(
        matches!(error, HeaderError::DuplicateTensor { .. }),
        "{error:?}"
    );
}

#[test]
fn metadata_that_is_there_twice_is_refused() {
    for (header, key) in [
        (r#"{"__metadata__":{"k":"1","k":"2"}}"#, "key k"),
        (
            r#"{"__metadata__":{},"__metadata__":{}}"#,
            "key __metadata__",
        ),
    ] {
        let error = refused(&file(header, 0), &[key]);
        assert!(
            matches!(error, HeaderError::DuplicateMetadata { .. }),
            "{error:?}"
        );
    }
}

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
