//! Weights that are made of rows of several tensors, some of them stored transposed, are those of a checkpoint that has
//! them whole: loaded, packed, verified and saved.

#[path = "common/tiny.rs"]
mod common;

use std::{fs, sync::Arc};

use common::{Entry, checkpoint, values};
use firebox::{
    Cpu, LoadConfig, Loader, SaveConfig, VerifyConfig,
    config::Limits,
    model::{Architecture, BuildError, ConfigError, Origin, Slot, Weights},
    pipeline::{self, Event, Finished, Flow, Settings, Sink, SinkError},
    plan::Step,
    source::Memory,
};
use serde_json::Value;
use tempfile::TempDir;

/// Columns of the matrices.
const COLS: usize = 96;
/// Rows of each piece: all of `first`, a matrix of the stack, some of `last`.
const ROWS: [usize; 3] = [64, 48, 33];
/// Matrices in the stack `[3, COLS, rows]`, and which of them is taken.
const STACK: [usize; 2] = [3, 1];
/// The first row that is taken of `last`, and how many it has.
const LAST: [usize; 2] = [5, 50];

fn slots(pieces: bool) -> Vec<Slot> {
    let mixed = Slot::linear("mixed.weight", ROWS.iter().sum(), COLS);
    let again = Slot::linear("again.weight", ROWS[0], COLS);
    let norm = Slot::norm("norm.weight", COLS);
    let scale = Slot::norm("scale.weight", ROWS[2]);
    if !pieces {
        return vec![mixed, again, norm, scale];
    }
    let matrix = STACK[1] * COLS..(STACK[1] + 1) * COLS;
    let rows = LAST[0]..LAST[0] + ROWS[2];
    vec![
        mixed.made_of([
            Origin::whole("first"),
            Origin::whole("stack").rows(matrix).transposed(),
            Origin::whole("last").rows(rows.clone()),
        ]),
        // A tensor may be read for several slots.
        again.made_of([Origin::whole("first")]),
        norm,
        scale.made_of([Origin::whole("scales").rows(rows)]),
    ]
}

/// The pieces, or what they make up.
fn entries(pieces: bool) -> Vec<Entry> {
    let [first, middle, last] = ROWS;
    let of_first = values(first * COLS, 1);
    let stack = values(STACK[0] * COLS * middle, 2);
    let of_last = values(LAST[1] * COLS, 3);
    let norm = ("norm.weight", vec![COLS], values(COLS, 4));
    let scales = values(LAST[1], 5);
    if pieces {
        return vec![
            ("last", vec![LAST[1], COLS], of_last),
            norm,
            ("scales", vec![LAST[1]], scales),
            ("stack", vec![STACK[0], COLS, middle], stack),
            ("first", vec![first, COLS], of_first),
        ];
    }
    let mut mixed = of_first.clone();
    for row in 0..middle {
        let column = |col: usize| stack[(STACK[1] * COLS + col) * middle + row];
        mixed.extend((0..COLS).map(column));
    }
    mixed.extend(&of_last[LAST[0] * COLS..(LAST[0] + last) * COLS]);
    vec![
        ("mixed.weight", vec![ROWS.iter().sum(), COLS], mixed),
        ("again.weight", vec![first, COLS], of_first),
        norm,
        (
            "scale.weight",
            vec![last],
            scales[LAST[0]..LAST[0] + last].to_vec(),
        ),
    ]
}

#[derive(Debug)]
struct Model<const PIECES: bool>;

impl<const PIECES: bool> Architecture for Model<PIECES> {
    type Config = ();
    fn config(_: &Value) -> Result<(), ConfigError> {
        Ok(())
    }
    fn slots((): &()) -> Vec<Slot> {
        slots(PIECES)
    }
    fn build((): &(), _: &mut Weights) -> Result<Self, BuildError> {
        Ok(Self)
    }
}

fn source<const PIECES: bool>() -> Memory {
    checkpoint(&entries(PIECES))
}

fn loader<const PIECES: bool>(quant: &str) -> Loader<Cpu> {
    let config = LoadConfig::default().quant(quant.parse().expect("a spec"));
    Loader::new(config.source(Arc::new(source::<PIECES>()))).expect("a checkpoint")
}

/// Every finished weight as bytes, by name.
fn finished<const PIECES: bool>(quant: &str, in_flight: u64) -> Vec<(String, Vec<u8>)> {
    struct Collect(Vec<(String, Vec<u8>)>);
    impl Sink for Collect {
        fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
            let name = &step.slot.name;
            let bytes = match weight {
                Finished::Dense(dense) => dense.bytes().to_vec(),
                Finished::Packed(packed) => {
                    let words = [packed.words, packed.scales].concat();
                    words.into_iter().flat_map(u32::to_le_bytes).collect()
                }
                Finished::Placed(_) | Finished::Carried(_) | Finished::Share(_) => {
                    panic!("{name}: other values")
                }
            };
            self.0.push((name.clone(), bytes));
            Ok(())
        }
    }
    let loader = loader::<PIECES>(quant);
    let plan = loader.plan::<Model<PIECES>>().expect("a plan");
    let mut collect = Collect(Vec::new());
    let observer = |_: &Event<'_>| Flow::Continue;
    let settings = Settings::new(2, in_flight, &observer);
    let source = &**loader.checkpoint().source();
    pipeline::run(&plan, source, &mut collect, &settings).expect("the plan is carried out");
    collect.0.sort();
    collect.0
}

/// Would catch rows of the wrong tensor or matrix, a piece that is not transposed, and tiles that end where a piece does.
#[test]
fn pieces_make_up_the_whole_weight() {
    for quant in [
        "none",
        "nf4",
        "mlx:bits=4,group=32",
        "fp8:e4m3,scale=tensor",
        "int8",
    ] {
        // The smallest budget cuts tiles everywhere.
        for in_flight in [1, 3000, 1 << 20] {
            let [whole, pieces] = [
                finished::<false>(quant, in_flight),
                finished::<true>(quant, in_flight),
            ];
            assert_eq!(whole.len(), 4);
            assert!(whole == pieces, "{quant}, {in_flight} bytes in flight");
        }
    }
}

/// Would catch a comparison that reads the first tensor alone.
#[test]
fn pieces_are_compared_with_what_they_were_packed_from() {
    let config = VerifyConfig::new(Limits::default());
    let [whole, pieces] = [
        loader::<false>("nf4").verify::<Model<false>>(&config),
        loader::<true>("nf4").verify::<Model<true>>(&config),
    ]
    .map(|report| {
        let mut tensors = report.expect("compares").tensors;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        tensors
    });
    assert_eq!(whole.len(), 2);
    for (whole, pieces) in whole.iter().zip(&pieces) {
        assert_eq!((&whole.name, whole.stats), (&pieces.name, pieces.stats));
    }
}

/// Would catch a save whose header has the pieces' names or shapes, and a comparison of two checkpoints by slots' names.
#[test]
fn a_save_has_the_whole_weights() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let to = |name: &str| SaveConfig::new(path(name));
    loader::<false>("nf4")
        .save::<Model<false>>(&to("whole"))
        .expect("saves");
    loader::<true>("nf4")
        .save::<Model<true>>(&to("pieces"))
        .expect("saves");
    let tensors = |name: &str| {
        let file = fs::read(path(name).join("model.safetensors")).expect("a file");
        let file = safetensors::SafeTensors::deserialize(&file).expect("safetensors");
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
            .iter()
            .map(|(name, tensor)| {
                let shape = tensor.shape().to_vec();
                (name.to_owned(), shape, tensor.data().to_vec())
            })
            .collect();
        tensors.sort();
        tensors
    };
    assert!(tensors("whole") == tensors("pieces"));
}
