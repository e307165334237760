//! The safetensors header: what the reference writer writes is read back, and each lie that a file
//! can tell is refused by name, with the file, the tensor and both numbers in the message.

mod tensors;
mod text;

use std::collections::{BTreeMap, HashMap};

use firebox::source::{
    Entry, Header, HeaderError, StoredType,
    header::{header_len, parse},
};
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
    assert_eq!(StoredType::ALL.len(), DTYPES.len());
    for (name, bits, theirs) in DTYPES {
        let dtype = StoredType::from_name(name).expect(name);
        assert_eq!(dtype.bits(), bits, "{name}");
        assert_eq!(dtype.bits(), theirs.bitsize() as u64, "{name}");
        assert_eq!(dtype.to_string(), theirs.to_string());
    }
    for name in ["", "f32", "F8", "BF16 ", "E4M3"] {
        assert_eq!(StoredType::from_name(name), None, "{name:?}");
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
                entry("a", StoredType::F32, &[], 0, 4),
                entry("none", StoredType::I64, &[0], 4, 4),
                entry("b", StoredType::BF16, &[2, 3], 4, 16),
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
