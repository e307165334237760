//! The order of documents, and positions in it.

use firebox::train::{Batch, Data, DataConfig, DataError, DataOrder, DataPosition, RowPacking};

use crate::{Files, lines, pass, tokenizer};

fn open(files: &Files, config: DataConfig) -> Data {
    let config = DataConfig {
        files: files.config(1).files,
        ..config
    };
    Data::open(config, tokenizer()).expect("data")
}

fn take(data: &Data, position: DataPosition, count: usize) -> Vec<(Batch, DataPosition)> {
    let batches = data.batches(position).expect("a start").take(count);
    batches.map(|batch| batch.expect("a batch")).collect()
}

/// From every position that a run passes, in every configuration and with any number of threads, the same batches follow.
#[test]
fn a_run_goes_on_as_if_it_was_not_interrupted() {
    let files = Files::new()
        .with("a.jsonl", lines(90))
        .with(
            "b.txt",
            &include_str!("../../assets/tinyrust-sample.txt")[..20_000],
        )
        .with("c.jsonl", lines(50));
    let mut epochs = 0;
    for (seed, length, batch, packing) in [
        (1, 64, 3, RowPacking::BestFit),
        (2, 200, 1, RowPacking::BestFit),
        (3, 1000, 2, RowPacking::BestFit),
        (4, 100, 16, RowPacking::None),
    ] {
        let config = DataConfig {
            length,
            batch,
            packing,
            order: DataOrder::Shuffled { seed },
            workers: 0,
            ..DataConfig::default()
        };
        let data = open(&files, config.clone());
        let rows = data.summary().expect("a summary").counts.rows;
        // Into the third epoch.
        let count = 2 * rows as usize / batch + 5;
        let all = take(&data, DataPosition::default(), count);
        epochs += all[count - 1].1.epoch;
        for workers in [1, 3] {
            let data = open(
                &files,
                DataConfig {
                    workers,
                    ..config.clone()
                },
            );
            assert_eq!(
                take(&data, DataPosition::default(), count),
                all,
                "{workers} threads"
            );
        }
        for after in (0..count - 1).step_by(1 + count / 19) {
            let position = serde_json::to_string(&all[after].1).expect("JSON");
            let position: DataPosition = serde_json::from_str(&position).expect("JSON");
            let workers = after % 3;
            let data = open(
                &files,
                DataConfig {
                    workers,
                    ..config.clone()
                },
            );
            let rest = (count - 1 - after).min(12);
            let found = take(&data, position, rest);
            assert_eq!(found, all[after + 1..][..rest], "from {position:?}");
        }
    }
    assert_eq!(epochs, 8);
}

/// Each epoch has the same documents in another order; so have other seeds.
#[test]
fn epochs_and_seeds_have_orders_of_their_own() {
    let files = Files::new().with("a.jsonl", lines(300));
    let epoch = |seed: u64, epoch: u64| {
        let config = DataConfig {
            packing: RowPacking::None,
            order: DataOrder::Shuffled { seed },
            ..DataConfig::default()
        };
        let start = DataPosition {
            epoch,
            ..DataPosition::default()
        };
        let rows = take(&open(&files, config), start, 300);
        assert_eq!(
            rows[299].1,
            DataPosition {
                epoch: epoch + 1,
                ..start
            }
        );
        let rows = rows.into_iter().map(|(batch, _)| batch.ids().to_vec());
        rows.collect::<Vec<_>>()
    };
    let orders = [epoch(1, 0), epoch(1, 1), epoch(2, 0), epoch(2, 1)];
    let sorted = |order: &Vec<Vec<u32>>| {
        let mut order = order.clone();
        order.sort();
        order
    };
    for (nth, one) in orders.iter().enumerate() {
        for other in &orders[nth + 1..] {
            let same = one.iter().zip(other).filter(|(a, b)| a == b).count();
            assert!(same < 20, "{same} of 300 at the same place");
            assert_eq!(sorted(one), sorted(other));
        }
    }
}

/// The rows of a window are shuffled too: the longest documents do not come first.
#[test]
fn rows_of_a_window_are_shuffled() {
    let files = Files::new().with("a.txt", include_str!("../../assets/tinyrust-sample.txt"));
    let order = |order| {
        let data = open(
            &files,
            DataConfig {
                length: 500,
                order,
                ..DataConfig::default()
            },
        );
        pass(&data)
            .iter()
            .map(|batch| batch.ids().to_vec())
            .collect::<Vec<_>>()
    };
    let written = order(DataOrder::AsWritten);
    let shuffled = order(DataOrder::Shuffled { seed: 5 });
    assert_ne!(written, shuffled);
    let mut sorted = [written, shuffled];
    sorted.iter_mut().for_each(|rows| rows.sort());
    assert_eq!(sorted[0], sorted[1]);
}

#[test]
fn positions_of_other_data_are_refused() {
    let files = Files::new().with("a.jsonl", lines(30));
    let data = files.open(200).expect("data");
    let at = |document, row| DataPosition {
        epoch: 0,
        document,
        row,
    };
    let fault = |position| data.batches(position).expect_err("refused").to_string();
    assert_eq!(
        fault(at(30, 0)),
        "the position is document 30, and the data have 30; it was saved with other data or another configuration"
    );
    assert!(matches!(
        data.batches(at(0, 999)),
        Err(DataError::Position {
            field: "row",
            value: 999,
            ..
        })
    ));
}

/// What a run compares before it goes on.
#[test]
fn the_fingerprint_is_that_of_the_bytes() {
    let print = |files: Files| files.open(100).expect("data").fingerprint();
    let text = lines(30);
    let first = print(Files::new().with("a.jsonl", &text));
    assert_eq!(first, print(Files::new().with("b.jsonl", &text)));
    assert_ne!(
        first,
        print(Files::new().with("a.jsonl", text.replace("x1", "x2")))
    );
    let half = text.match_indices('\n').nth(10).expect("a line").0 + 1;
    let (front, back) = text.split_at(half);
    assert_ne!(
        first,
        print(Files::new().with("a.jsonl", front).with("b.jsonl", back))
    );
}
