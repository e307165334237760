//! Data larger than memory.

use std::io::Write;

use firebox::train::{Data, DataConfig, DataOrder, DataPosition};

use crate::{Files, counting::COUNTING, lines, tokenizer};

/// Files of 64 MB: an index of 8 bytes a record, and what two windows take.
#[test]
fn data_larger_than_memory_are_read() {
    let files = Files::new();
    let block = lines(2000);
    let mut file = std::fs::File::create(files.path("a.jsonl")).expect("writable");
    let (mut bytes, mut records) = (0, 0);
    while bytes < 32 << 20 {
        file.write_all(block.as_bytes()).expect("writable");
        bytes += block.len();
        records += 2000;
    }
    let text = include_str!("../../assets/tinyrust-sample.txt");
    let mut file = std::fs::File::create(files.path("b.txt")).expect("writable");
    for _ in 0..(32 << 20) / text.len() {
        file.write_all(text.as_bytes()).expect("writable");
    }
    drop(file);
    // What the tokenizer keeps of the words that it has seen is not counted.
    let tokenizer = tokenizer();
    tokenizer
        .encode(text, firebox::text::SpecialTokens::Omit)
        .expect("ids");

    for workers in [0, 2] {
        let config = DataConfig {
            length: 512,
            batch: 8,
            order: DataOrder::Shuffled { seed: 3 },
            workers,
            ..files.config(512)
        };
        let config = DataConfig {
            order: DataOrder::Shuffled { seed: 3 },
            ..config
        };
        let read = || {
            let data = Data::open(config, tokenizer.clone()).expect("data");
            let index = 8 * data.records();
            let batches = data.batches(DataPosition::default()).expect("a start");
            let trained: usize = batches
                .take(24)
                .map(|batch| batch.expect("a batch").0.trained())
                .sum();
            (trained, index)
        };
        let ((trained, index), peak) = COUNTING.peak(read);
        assert!(trained > 24 * 8 * 450, "{trained}");
        assert!(index > 8 * records);
        // The index doubles while it grows; the rest is the bound that the documentation of `Data` states.
        let bound = 3 * index + (16 << 20);
        assert!(
            peak < bound,
            "{peak} bytes with {workers} threads, at most {bound}"
        );
    }
}
