//! Values of a `config.json` that no model has: every field of every family's golden file, with values far from those of any
//! model.
//!
//! One test, so that nothing else is counted.

#![cfg(feature = "cpu")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/counting.rs"]
mod counting;

use std::{
    error::Error,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

use common::{Golden, models};
use counting::COUNTING;
use firebox::{
    Cpu, LoadConfig, Loader,
    model::{Architecture, CausalLm, decoder::Spec},
    source::{Local, Source, SourceError},
};
use serde_json::{Value, json};

/// Bytes that a file of a few hundred may make a plan take.
const MOST: u64 = 100 << 20;

/// A golden folder with another `config.json`.
#[derive(Debug)]
struct Changed {
    folder: Arc<Local>,
    config: Vec<u8>,
}

impl Source for Changed {
    fn describe(&self) -> String {
        self.folder.describe()
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        match file {
            "config.json" => Ok(self.config.len() as u64),
            _ => self.folder.size(file),
        }
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        match file {
            "config.json" => {
                into.copy_from_slice(&self.config[offset as usize..][..into.len()]);
                Ok(())
            }
            _ => self.folder.read_at(file, offset, into),
        }
    }
}

/// JSON pointers to every value that is no object, and to every object but the whole.
fn places(json: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match json {
        Value::Object(fields) => fields.iter().map(|(name, v)| (name.clone(), v)).collect(),
        // The first entry stands for all.
        Value::Array(list) => list
            .first()
            .map(|v| ("0".to_owned(), v))
            .into_iter()
            .collect(),
        _ => Vec::new(),
    };
    for (name, value) in children {
        let place = format!("{at}/{name}");
        found.push(place.clone());
        places(value, &place, found);
    }
}

/// Values that a count, a factor, a list or a word may be replaced by.
fn extremes() -> Vec<Value> {
    let mut all = vec![
        json!(0),
        json!(1),
        json!(2),
        json!(3),
        json!(7),
        json!(-1),
        json!(65_536),
        json!(100_000_000),
        json!(2_147_483_646),
        json!(2_147_483_647_u64),
        json!(4_294_967_296_u64),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(1e-45),
        json!(1e-38),
        json!(3e38),
        json!(1e300),
        json!(-1e300),
        json!(-0.0),
        json!(""),
        json!("4096"),
        json!("NaN"),
        json!(null),
        json!(true),
        json!(false),
        json!([]),
        json!([0]),
        json!([2_147_483_647]),
        json!([1e300, -1]),
        json!({}),
    ];
    all.push(json!(vec![1; 100_000]));
    all.push(json!("sliding_attention".repeat(10_000)));
    all
}

/// Refused by an error with a short message, or read as a model, within [`MOST`]; another model than that of the `golden`
/// file is planned and, where its tensors are those of the file, computed. Whether it was.
fn check(golden: Golden, folder: &Arc<Local>, known: &Spec, config: &Value, what: &str) -> bool {
    let refused = |error: &dyn Error| {
        let text = error.to_string();
        assert!(
            text.len() < 4000,
            "{}: {what}: a message of {}",
            golden.0,
            text.len()
        );
    };
    let within = |run: &mut dyn FnMut() -> bool| {
        let (done, most) = COUNTING.peak(|| panic::catch_unwind(AssertUnwindSafe(run)));
        assert!(most < MOST, "{}: {what}: {most} bytes", golden.0);
        done.unwrap_or_else(|_| panic!("{}: {what}: panicked", golden.0))
    };
    let differs = within(&mut || match CausalLm::config(config) {
        Ok(spec) => spec != *known,
        Err(error) => {
            refused(&error);
            false
        }
    });
    differs
        && within(&mut || {
            let changed = Changed {
                folder: Arc::clone(folder),
                config: serde_json::to_vec(config).expect("JSON"),
            };
            let request = LoadConfig::new(golden.0).source(Arc::new(changed));
            let loader = Loader::<Cpu>::new(request);
            match loader.and_then(|loader| loader.load::<CausalLm>()) {
                Ok(loaded) => {
                    // What no shape depends on has to be computed with.
                    loaded.model.forward(common::ids(&[vec![1, 2, 3]]));
                    true
                }
                Err(error) => {
                    refused(&error);
                    false
                }
            }
        })
}

/// Catches a number that is allocated for, multiplied or divided by before it is bounded, and a message that repeats a
/// long value.
#[test]
fn numbers_that_no_model_has_are_refused_or_computed_with() {
    let (mut tried, mut ran) = (0, 0);
    for golden in models() {
        let folder = Arc::new(Local::open(golden.path("")).expect("a folder"));
        let config = golden.json("config.json");
        let known = CausalLm::config(&config).expect(golden.0);
        let mut found = Vec::new();
        places(&config, "", &mut found);
        for place in found {
            for value in extremes() {
                let mut changed = config.clone();
                let text = value.to_string();
                let what = format!("{place} = {}", &text[..text.len().min(40)]);
                *changed.pointer_mut(&place).expect("a place") = value;
                ran += usize::from(check(golden, &folder, &known, &changed, &what));
                tried += 1;
            }
        }
    }
    assert!(tried > 10_000 && ran > 100, "{tried} tried, {ran} ran");
}
