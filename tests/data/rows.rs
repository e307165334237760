//! Tokens, labels and rows.

use firebox::{
    text::SpecialTokens,
    train::{Batch, Data, DataConfig, RowPacking},
};

use crate::{Files, lines, pass, tokenizer};

fn encoded(text: &str) -> Vec<u32> {
    let mut ids = tokenizer()
        .encode(text, SpecialTokens::Include)
        .expect("ids");
    // The end of a document.
    ids.push(1);
    ids
}

#[test]
fn a_text_is_its_tokens_and_an_end() {
    let text = "fn main() {\n    println!(\"hi\");\n}\n";
    let files = Files::new().with("a.txt", text);
    let data = files.open(512).expect("data");
    let [batch] = &pass(&data)[..] else {
        panic!("more than a batch");
    };
    let ids = encoded(text);
    let len = ids.len() - 1;
    assert_eq!(batch.shape(), [1, len]);
    assert_eq!(batch.ids(), &ids[..len]);
    let labels: Vec<_> = ids[1..].iter().copied().map(Some).collect();
    assert_eq!(batch.labels(), labels);
    assert_eq!(batch.starts(), vec![0; len]);
}

/// Each label comes once, in order, and follows its token, however short the rows are.
#[test]
fn a_long_text_is_cut_into_rows_and_loses_nothing() {
    let text = include_str!("../../assets/tinyrust-sample.txt");
    assert!(text.len() < 64 << 10);
    let files = Files::new().with("a.md", text);
    let data = files.open(100).expect("data");
    let ids = encoded(text);
    let (mut inputs, mut labels): (Vec<u32>, Vec<u32>) = Default::default();
    for batch in pass(&data) {
        assert!(batch.shape()[1] <= 100);
        inputs.extend_from_slice(batch.ids());
        labels.extend(batch.labels().iter().flatten());
    }
    assert_eq!(inputs, ids[..ids.len() - 1]);
    assert_eq!(labels, ids[1..]);
    let counts = data.summary().expect("a summary").counts;
    assert_eq!((counts.documents, counts.cut), (1, 1));
    assert_eq!(counts.tokens, ids.len() as u64 - 1);
    assert_eq!(counts.trained, counts.tokens);
    assert_eq!(counts.rows, counts.tokens.div_ceil(100));
}

/// A text file is read in parts of 64 KiB that end at line breaks. The first one has the beginning, the last one the end.
#[test]
fn a_text_of_several_parts_is_one_document() {
    let text = include_str!("../../assets/tinyrust-sample.txt").repeat(3);
    let files = Files::new().with("a.txt", &text);
    let data = files.open(1000).expect("data");

    let mut expected = Vec::new();
    let mut rest = &text[..];
    while !rest.is_empty() {
        let len = match rest.len() > 64 << 10 {
            true => rest[..64 << 10].rfind('\n').expect("a line") + 1,
            false => rest.len(),
        };
        let (part, after) = rest.split_at(len);
        let special = match rest.len() == text.len() {
            true => SpecialTokens::Include,
            false => SpecialTokens::Omit,
        };
        let mut ids = tokenizer().encode(part, special).expect("ids");
        if after.is_empty() {
            ids.push(1);
        }
        let inputs = ids[..ids.len() - 1].chunks(1000).zip(ids[1..].chunks(1000));
        expected.extend(inputs.map(|(inputs, labels)| (inputs.to_vec(), labels.to_vec())));
        rest = after;
    }
    assert_eq!(data.records(), 3);
    let mut found: Vec<_> = pass(&data).iter().flat_map(documents).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    let counts = data.summary().expect("a summary").counts;
    assert_eq!((counts.documents, counts.cut), (1, 1));
}

/// The documents of the first row of a batch: tokens and labels of each, of which all are trained on.
fn documents(batch: &Batch) -> Vec<(Vec<u32>, Vec<u32>)> {
    let [_, length] = batch.shape();
    let (ids, labels, starts) = (batch.ids(), batch.labels(), batch.starts());
    let mut found = Vec::new();
    let mut at = 0;
    while at < length {
        let len = starts[at..length]
            .iter()
            .take_while(|start| **start == at as u32)
            .count();
        let label = |label: &Option<u32>| label.expect("a label");
        let labels = labels[at..at + len].iter().map(label).collect();
        found.push((ids[at..at + len].to_vec(), labels));
        at += len;
    }
    found
}

/// A line of JSON with the same text gives the same tokens as the text of a file, whatever its length.
#[test]
fn lines_and_lists_are_the_same_documents() {
    let records: Vec<String> = lines(50).lines().map(str::to_owned).collect();
    let list = format!("\u{feff} [\n  {}\n]\n", records.join(",\n  "));
    let spaced = records.join("\r\n\n  \n");
    let forms = [
        ("a.jsonl", records.join("\n")),
        ("a.jsonl", spaced),
        ("a.json", records.join("\n")),
        ("a.json", list.clone()),
        ("a.json", list.replace('\n', "")),
    ];
    let [first, others @ ..] = forms.map(|(name, text)| {
        let files = Files::new().with(name, text);
        let data = files.open(300).expect("data");
        assert_eq!(data.records(), 50, "{name}");
        pass(&data)
    });
    for other in others {
        assert_eq!(first, other);
    }
}

/// Of every row: all tokens of a document that is in it, and no label across documents.
#[test]
fn packing_keeps_documents_whole_and_apart() {
    let text = lines(400);
    let files = Files::new().with("a.jsonl", &text);
    let length = 300;
    let config = files.config(length);
    let data = Data::open(config.clone(), tokenizer()).expect("data");
    let mut found: Vec<_> = pass(&data).iter().flat_map(documents).collect();
    let mut expected: Vec<_> = (0..400)
        .map(|nth| {
            let ids = encoded_line(&text, nth);
            (ids[..ids.len() - 1].to_vec(), ids[1..].to_vec())
        })
        .collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);

    let packed = data.summary().expect("a summary");
    assert!(packed.fill() > 0.97, "{packed}");
    let config = DataConfig {
        packing: RowPacking::None,
        batch: 3,
        ..config
    };
    let data = Data::open(config, tokenizer()).expect("data");
    let alone = data.summary().expect("a summary");
    assert_eq!(alone.counts.rows, 400);
    assert_eq!(alone.counts.trained, packed.counts.trained);
    let batches = pass(&data);
    assert_eq!(batches.len(), 134);
    assert_eq!(batches[133].shape()[0], 1);
    // Places that fill a row up see themselves alone and are not trained on.
    let [rows, longest] = batches[0].shape();
    assert_eq!(rows, 3);
    for row in 0..rows {
        let document = &encoded_line(&text, row);
        let row = row * longest..(row + 1) * longest;
        let (labels, starts) = (&batches[0].labels()[row.clone()], &batches[0].starts()[row]);
        let len = document.len() - 1;
        assert!(labels[..len].iter().all(Option::is_some));
        assert!(labels[len..].iter().all(Option::is_none));
        let own: Vec<u32> = (len as u32..longest as u32).collect();
        assert_eq!(starts[len..], own);
    }
}

fn encoded_line(text: &str, nth: usize) -> Vec<u32> {
    let record: serde_json::Value =
        serde_json::from_str(text.lines().nth(nth).expect("a line")).expect("JSON");
    encoded(record["text"].as_str().expect("a text"))
}

#[test]
fn an_example_shows_what_is_trained_on() {
    let files = Files::new().with("a.jsonl", "{\"text\": \"fn main\"}\n{\"text\": \"é ü\"}\n");
    let data = files.open(100).expect("data");
    let example = data.example().expect("an example");
    assert_eq!(example, "<|begin|>⟦fn main<|end|>⟧\n<|begin|>⟦é ü<|end|>⟧");
}
