//! Headers that lie: each way is refused by name, before anything is allocated for it.

use firebox::source::gguf::{self, GgufError, GgufHeader, GgufParsed, GgufValue};

use super::file::{BOOL, FileTensor, GgufFile, LIST, TEXT, U32, list, text};

/// The header of a file whose bytes are all there.
fn parse(bytes: &[u8]) -> Result<GgufHeader, GgufError> {
    match gguf::parse("model.gguf", bytes, bytes.len() as u64)? {
        GgufParsed::Header(header) => Ok(header),
        GgufParsed::More(end) => panic!("byte {end} of {}", bytes.len()),
    }
}

#[test]
fn a_right_header_says_every_key_and_tensor() {
    let mut file = GgufFile::right();
    let two = [text("a"), text("bc")].concat();
    file.say("tokens", LIST, &list(TEXT, 2, &two));
    file.say("yes", BOOL, &[1]);
    let header = parse(&file.bytes()).expect("a header");
    assert_eq!(header.keys.len(), file.keys.len());
    assert_eq!(
        header.keys["general.architecture"],
        GgufValue::Text("llama".to_owned())
    );
    assert_eq!(header.keys["yes"], GgufValue::Bool(true));
    let list = gguf::GgufList::Texts(vec!["a".to_owned(), "bc".to_owned()]);
    assert_eq!(header.keys["tokens"], GgufValue::List(list));
    let down = &header.tensors[9];
    assert_eq!(down.name, "blk.0.ffn_down.weight");
    // Outermost first, and 18 bytes for 32 values.
    assert_eq!(down.shape, [32, 64]);
    assert_eq!(down.range.end - down.range.start, 32 * 2 * 18);
    assert!(down.range.start.is_multiple_of(32));
}

/// Any length of the first bytes asks for more, never for less, and in the end gives the same.
#[test]
fn a_header_is_read_from_any_first_bytes() {
    let bytes = GgufFile::right().bytes();
    let whole = parse(&bytes).expect("a header");
    let mut asked = 0;
    for len in 0..bytes.len() {
        match gguf::parse("model.gguf", &bytes[..len], bytes.len() as u64) {
            Ok(GgufParsed::More(least)) => {
                assert!(least > len as u64, "{least} after {len}");
                asked += 1;
            }
            Ok(GgufParsed::Header(header)) => assert_eq!(header, whole),
            Err(error) => panic!("{len}: {error}"),
        }
    }
    assert!(asked > 500, "{asked} asked for more");
}

/// A way in which a file lies, and what the error says.
type Lie = (fn(&mut GgufFile), &'static [&'static str]);

#[test]
fn every_lie_is_refused_by_name() {
    let lies: &[Lie] = &[
        (|f| f.magic = *b"GGML", &["GGUF", "71, 71, 77, 76"]),
        (|f| f.version = 1, &["version 1", "2 and 3"]),
        (
            |f| f.version = 3 << 24,
            &["3 with the bytes of a big-endian"],
        ),
        (
            |f| f.tensor_count = Some(1 << 63),
            &["tensors", "9223372036854775808"],
        ),
        (
            |f| f.key_count = Some(u64::MAX),
            &["keys", "18446744073709551615"],
        ),
        (|f| f.key_count = Some(1 << 20), &["keys", "1048576"]),
        (
            |f| f.say("long", TEXT, &u64::MAX.to_le_bytes()),
            &["long", "18446744073709551615"],
        ),
        (
            |f| f.say("list", LIST, &list(U32, 1 << 62, &[])),
            &["elements of list", "4611686018427387904"],
        ),
        // More elements of eight bytes than the file has room for, and fewer than it has bytes.
        (
            |f| f.say("list", LIST, &list(10, 2000, &[0; 800])),
            &["elements of list", "2000"],
        ),
        (
            |f| f.say("nested", LIST, &list(LIST, 1, &list(U32, 0, &[]))),
            &["nested", "type 9", "lists of lists"],
        ),
        (|f| f.say("kind", 13, &[0]), &["kind", "type 13"]),
        (|f| f.say("truth", BOOL, &[2]), &["truth", "byte 2"]),
        (
            |f| {
                f.say(
                    "utf8",
                    TEXT,
                    &[&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat(),
                );
            },
            &["utf8", "UTF-8"],
        ),
        (
            |f| f.keys.push(f.keys[0].clone()),
            &["general.architecture", "twice"],
        ),
        (
            |f| f.tensors.push(f.tensors[0].clone()),
            &["token_embd.weight", "twice"],
        ),
        (
            |f| f.say("general.alignment", U32, &0u32.to_le_bytes()),
            &["general.alignment is 0"],
        ),
        (
            |f| f.say("general.alignment", U32, &48u32.to_le_bytes()),
            &["general.alignment is 48"],
        ),
        (
            |f| f.say("general.alignment", U32, &(1u32 << 30).to_le_bytes()),
            &["1073741824", "65536"],
        ),
        (
            |f| f.say("general.alignment", TEXT, &text("32")),
            &["general.alignment is \"32\""],
        ),
        (
            |f| f.tensors[0].name = "n".repeat(64),
            &["64 bytes", "63 at most"],
        ),
        (
            |f| f.tensors[0].sides = vec![],
            &["token_embd.weight", "0 dimensions"],
        ),
        (
            |f| f.tensors[0].sides = vec![1; 5],
            &["token_embd.weight", "5 dimensions"],
        ),
        (
            |f| f.tensors[0].sides = vec![32, 0],
            &["token_embd.weight", "[0, 32]"],
        ),
        (
            |f| f.tensors[0].sides = vec![1 << 33, 1 << 33],
            &["token_embd.weight", "more than can be counted"],
        ),
        // 2^64 values, whose product is 0.
        (
            |f| f.tensors[0].sides = vec![1 << 32, 1 << 32],
            &["token_embd.weight", "more than can be counted"],
        ),
        // The values can be counted, and their bytes cannot.
        (
            |f| {
                f.tensors[1].sides = vec![1 << 62];
            },
            &["blk.0.attn_norm.weight", "more than can be counted"],
        ),
        (
            |f| f.tensors[0].sides = vec![u64::MAX, 1],
            &["token_embd.weight"],
        ),
        (
            |f| f.tensors[0].sides = vec![33, 10],
            &["token_embd.weight", "33 values", "blocks of 32"],
        ),
        (
            |f| f.tensors[0].number = 4,
            &["token_embd.weight", "type 4"],
        ),
        (
            |f| f.tensors[0].number = u32::MAX,
            &["token_embd.weight", "type 4294967295"],
        ),
        (
            |f| f.tensors[1].offset = Some(0),
            &["blk.0.attn_norm.weight", "begins 0 bytes"],
        ),
        (
            |f| f.tensors[1].offset = Some(u64::MAX),
            &["blk.0.attn_norm.weight", "18446744073709551615"],
        ),
        (
            |f| f.tensors[0].sides = vec![32, 1 << 40],
            &["token_embd.weight", "cut short"],
        ),
    ];
    let right = GgufFile::right();
    parse(&right.bytes()).expect("a right file");
    for (k, (lie, words)) in lies.iter().enumerate() {
        let mut file = right.clone();
        lie(&mut file);
        let error = parse(&file.bytes())
            .expect_err(&format!("lie {k}"))
            .to_string();
        for word in [&["model.gguf"], *words].concat() {
            assert!(error.contains(word), "{k}: no {word:?} in: {error}");
        }
    }
}

/// A file that ends anywhere: in the header or in the last tensor.
#[test]
fn a_file_that_is_cut_short_says_so() {
    let file = GgufFile::right();
    let bytes = file.bytes();
    let padding = 32;
    for len in 0..bytes.len() - padding {
        let error = parse(&bytes[..len]).expect_err("is cut").to_string();
        let counted = error.contains("at most can be there");
        assert!(error.contains("cut short") || counted, "{len}: {error}");
    }
}

/// What the largest file of today has in its header is below the limits; a name of 63 bytes is one.
#[test]
fn what_is_at_the_limits_is_read() {
    let mut file = GgufFile::right();
    let padding = vec![0; 1 << 16];
    file.alignment = 1 << 16;
    file.say("general.alignment", U32, &(1u32 << 16).to_le_bytes());
    file.tensors.push(FileTensor {
        name: "n".repeat(63),
        sides: vec![1 << 16, 1, 1, 1],
        number: 24,
        offset: None,
        bytes: padding,
    });
    let header = parse(&file.bytes()).expect("a header");
    assert_eq!(
        header.tensors.last().expect("tensors").shape,
        [1, 1, 1, 1 << 16]
    );
}
