//! Files whose header is cut, too long or no JSON, or says a thing twice.

use firebox::source::{
    HeaderError,
    header::{HEADER_BYTES_MAX, header_len},
};

use super::{FILE, file, refused};

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
