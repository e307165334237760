//! Documents in a row, of every family: each answers as if it were alone.

use firebox::model::{Documents, DocumentsError, PassError};
use firebox::target::DType;

use super::common::{Golden, ids, max_abs_difference, models, values};

/// Documents of unequal lengths in two rows, and where each token's begins: the second row is filled up with two tokens.
const LENGTHS: [&[usize]; 2] = [&[9, 1, 14, 8], &[23, 7, 1, 1]];

fn starts() -> Vec<u32> {
    let row = |lengths: &[usize]| -> Vec<u32> {
        let mut first = 0;
        let starts = lengths.iter().flat_map(|len| {
            first += len;
            vec![(first - len) as u32; *len]
        });
        starts.collect()
    };
    LENGTHS.into_iter().flat_map(row).collect()
}

/// Tokens without a pattern.
fn tokens() -> Vec<u32> {
    (0..64).map(|nth| (nth * 83 + 29) % 251 + 3).collect()
}

/// Catches positions that go on through a row, a mask that lets a document see the one before, windows and chunks that are
/// counted from the beginning of the row, a state or a convolution that goes on, and frequencies of the row's length.
#[test]
fn packed_documents_of_every_family_answer_as_each_alone() {
    let tokens = tokens();
    for golden in models() {
        let model = golden.load(DType::F32);
        let documents = Documents::new(&starts(), [2, 32]).expect("documents");
        assert!(!documents.is_whole());

        let x = model.hidden(&tokens, &documents, false).expect(golden.0);
        let packed = model.logits(x).flatten::<2>(0, 1);

        for range in documents.ranges() {
            let alone = model.forward(ids(&[tokens[range.clone()].to_vec()]));
            let found = packed.clone().narrow(0, range.start, range.len());
            let error = max_abs_difference(&values(found), &values(alone));
            let near = golden.tolerance();
            assert!(error < near, "{} {range:?}: {error}", golden.0);
        }
    }
}

/// Catches a row that is taken for several documents, and the other way round.
#[test]
fn whole_rows_answer_as_an_ordinary_pass() {
    for golden in ["llama4_bf16", "qwen3_5_bf16", "gemma4_ple_bf16"].map(Golden) {
        let model = golden.load(DType::F32);
        let rows: Vec<Vec<u32>> = tokens().chunks(32).map(<[u32]>::to_vec).collect();
        let expected = values(model.forward(ids(&rows)));
        let zeros = Documents::new(&[0; 64], [2, 32]).expect("documents");
        for documents in [Documents::whole([2, 32]), zeros] {
            assert!(documents.is_whole());
            let x = model.hidden(&rows.concat(), &documents, false);
            let found = values(model.logits(x.expect(golden.0)));
            assert_eq!(found, expected, "{}", golden.0);
        }
    }
}

/// Each message names the place and both numbers.
#[test]
fn documents_that_cannot_be_are_refused() {
    let of = |starts: &[u32]| Documents::new(starts, [2, 3]);
    let count = DocumentsError::Count {
        found: 5,
        rows: 2,
        tokens: 3,
    };
    assert_eq!(of(&[0; 5]), Err(count));
    let start = |row, token, start, before| DocumentsError::Start {
        row,
        token,
        start,
        before,
    };
    assert_eq!(of(&[0, 0, 0, 1, 1, 1]), Err(start(1, 0, 1, 0)));
    assert_eq!(of(&[0, 1, 0, 0, 0, 0]), Err(start(0, 2, 0, 1)));
    assert_eq!(of(&[0, 2, 2, 0, 0, 0]), Err(start(0, 1, 2, 0)));
    let ranges: Vec<_> = of(&[0, 1, 1, 0, 0, 2])
        .expect("documents")
        .ranges()
        .collect();
    assert_eq!(ranges, [0..1, 1..3, 3..5, 5..6]);
}

/// Catches tokens that are looked up beyond the table, and documents whose last positions are noise.
#[test]
fn tokens_that_the_model_has_not_are_refused() {
    let model = Golden("mistral_bf16").load(DType::F32);
    let whole = Documents::whole([2, 150]);
    let mut some = vec![7; 300];
    assert!(model.hidden(&some, &whole, false).is_ok());
    let long = model.hidden(&some, &Documents::whole([1, 300]), false);
    let positions = PassError::Positions {
        row: 0,
        tokens: 300,
        positions: 256,
    };
    assert_eq!(long.map(|_| ()), Err(positions));
    let halves = [[0; 150], [150; 150]].concat();
    let halves = Documents::new(&halves, [1, 300]).expect("documents");
    assert!(model.hidden(&some, &halves, false).is_ok());

    let vocabulary = model.spec.vocabulary;
    some[151] = vocabulary as u32;
    let unknown = PassError::Vocabulary {
        what: "id",
        row: 1,
        token: 1,
        id: vocabulary as u32,
        vocabulary,
    };
    assert_eq!(model.hidden(&some, &whole, false).map(|_| ()), Err(unknown));
    let few = PassError::Count {
        what: "ids",
        found: 300,
        rows: 1,
        tokens: 150,
    };
    let short = model.hidden(&some, &Documents::whole([1, 150]), false);
    assert_eq!(short.map(|_| ()), Err(few));
}
