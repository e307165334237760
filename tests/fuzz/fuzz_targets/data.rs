//! Training data: rows hold what they promise, and batches go on at every position.
//!
//! Input: a digit for the kind of file, a letter for how rows are made, and the file.

#![cfg_attr(fuzzing, no_main)]

use std::{
    fs,
    sync::{Arc, LazyLock},
};

use firebox::{
    text::{Tokenizer, TokenizerFiles},
    train::{Batch, Data, DataConfig, DataOrder, DataPosition, RowPacking},
};
use serde_json::json;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

const KINDS: [&str; 3] = ["data.txt", "data.jsonl", "data.json"];

/// Templates that mark answers and one that does not, so that answers are found.
const TEMPLATES: [&str; 2] = [
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    "{% for m in messages %}<{{ m.role }}>{% generation %}{{ m.content }}</s>{% endgeneration %}{% endfor %}",
];

static TOKENIZERS: LazyLock<[Arc<Tokenizer>; 2]> = LazyLock::new(|| {
    TEMPLATES.map(|template| {
        let tokenizer = Tokenizer::from_bytes(TokenizerFiles {
            tokenizer_json: Some(include_bytes!("../../../assets/tinyrust/tokenizer.json")),
            config: Some(include_bytes!(
                "../../../assets/tinyrust/tokenizer_config.json"
            )),
            model_config: Some(&json!({"eos_token_id": 1})),
            chat_template_jinja: Some(template.as_bytes()),
            ..TokenizerFiles::default()
        });
        Arc::new(tokenizer.expect("the tokenizer that is shipped"))
    })
});

pub(crate) fn run(data: &[u8]) {
    let &[kind, flags, ref file @ ..] = data else {
        return;
    };
    let flag = |bit: u8| flags & bit != 0;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(KINDS[usize::from(kind) % KINDS.len()]);
    fs::write(&path, file).expect("written");
    let config = DataConfig {
        length: if flag(1) { 5 } else { 64 },
        batch: if flag(2) { 1 } else { 3 },
        packing: if flag(4) {
            RowPacking::None
        } else {
            RowPacking::BestFit
        },
        order: if flag(8) {
            DataOrder::AsWritten
        } else {
            DataOrder::Shuffled { seed: 7 }
        },
        workers: 0,
        ..DataConfig::new([path])
    };
    let length = config.length;
    let tokenizer = Arc::clone(&TOKENIZERS[usize::from(flag(16))]);
    let opened = Data::open(config, tokenizer).and_then(|data| Ok((data.summary()?, data)));
    let (summary, data) = match opened {
        Ok(opened) => opened,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };

    let (mut rows, mut trained) = (0, 0);
    for batch in data.pass().expect("a start") {
        let (batch, _) = batch.expect("all tokens were made for the summary");
        rows += batch.shape()[0];
        trained += batch.trained();
        check(&batch, length);
    }
    let counts = summary.counts;
    assert_eq!([rows as u64, trained as u64], [counts.rows, counts.trained]);

    let from = |position: DataPosition| {
        let batches = data.batches(position).expect("a position of these data");
        batches.take(5).map(|batch| batch.expect("a batch"))
    };
    let whole: Vec<_> = from(DataPosition::default()).collect();
    for (nth, (_, position)) in whole.iter().enumerate() {
        let rest = &whole[nth + 1..];
        let again: Vec<_> = from(*position).take(rest.len()).collect();
        assert_eq!(again, rest, "after batch {nth}");
    }
}

/// Rows are no longer than they may be; a label is the next token of its document, where the row has it.
fn check(batch: &Batch, length: usize) {
    let [rows, tokens] = batch.shape();
    assert!((1..=length).contains(&tokens), "a row of {tokens} tokens");
    for row in 0..rows {
        let places = row * tokens..(row + 1) * tokens;
        let [ids, starts] = [batch.ids(), batch.starts()].map(|all| &all[places.clone()]);
        let labels = &batch.labels()[places];
        for place in 0..tokens {
            let start = starts[place] as usize;
            assert!(start <= place && starts[start] == starts[place]);
            if let (Some(label), Some(next)) = (labels[place], ids.get(place + 1))
                && starts[place + 1] == starts[place]
            {
                assert_eq!(label, *next);
            }
        }
    }
}
