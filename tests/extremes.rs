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
    model::{Architecture, CausalLm},
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

/// What a value may be replaced by: numbers where there is a number or a list, and a few of everything.
fn extremes(of: &Value) -> Vec<Value> {
    let mut all = vec![
        json!(null),
        json!(true),
        json!(-1),
        json!("NaN"),
        json!([]),
        json!([2_147_483_647, 0, -1, 1e300]),
        json!({}),
    ];
    if of.is_number() || of.is_array() || of.is_null() {
        let counts = [0, 1, 3, 65_536, 2_147_483_646, 2_147_483_647, 1 << 32];
        all.extend(counts.map(|count: u64| json!(count)));
        all.extend([json!(u64::MAX), json!(i64::MIN)]);
        all.extend([0.5, 1e-45, 3e38, 1e300].map(|number| json!(number)));
    }
    if of.is_array() {
        all.push(json!(vec![1; 100_000]));
    }
    if of.is_string() {
        all.push(json!("sliding_attention".repeat(1000)));
    }
    all
}

/// Runs within [`MOST`] bytes and without a panic; an error has a short message.
fn within<V, E: Error>(what: &str, run: impl FnOnce() -> Result<V, E>) -> Option<V> {
    let (done, most) = COUNTING.peak(|| panic::catch_unwind(AssertUnwindSafe(run)));
    assert!(most < MOST, "{what}: {most} bytes");
    let done = done.unwrap_or_else(|_| panic!("{what}: panicked"));
    done.map_err(|error| {
        let text = error.to_string();
        assert!(text.len() < 4000, "{what}: a message of {}", text.len());
    })
    .ok()
}

/// Loads and computes what no shape depends on.
fn compute(
    golden: Golden,
    folder: &Arc<Local>,
    config: &Value,
) -> Result<Vec<f32>, firebox::Error> {
    let changed = Changed {
        folder: Arc::clone(folder),
        config: serde_json::to_vec(config).expect("JSON"),
    };
    let request = LoadConfig::new(golden.0).source(Arc::new(changed));
    let loaded = Loader::<Cpu>::new(request)?.load::<CausalLm>()?;
    let logits = loaded.model.forward(common::ids(&[vec![1, 2, 3]]));
    Ok(common::values(logits))
}

/// Catches a number that is allocated for, multiplied or divided by before it is bounded, and a message that repeats a
/// long value.
#[test]
fn numbers_that_no_model_has_are_refused_or_computed_with() {
    let (mut tried, mut computed) = (0, 0);
    for golden in models() {
        let folder = Arc::new(Local::open(golden.path("")).expect("a folder"));
        let config = golden.json("config.json");
        let known = CausalLm::config(&config).expect(golden.0);
        let mut found = Vec::new();
        places(&config, "", &mut found);
        for place in found {
            // Other models than the golden one.
            let mut others = Vec::new();
            for value in extremes(config.pointer(&place).expect("a place")) {
                let text = value.to_string();
                let what = format!("{}: {place} = {}", golden.0, &text[..text.len().min(40)]);
                let mut changed = config.clone();
                *changed.pointer_mut(&place).expect("a place") = value;
                tried += 1;
                let spec = within(&what, || CausalLm::config(&changed));
                if spec.is_some_and(|spec| spec != known) {
                    others.push((what, changed));
                }
            }
            if let Some((what, changed)) = others.pop() {
                let run = || compute(golden, &folder, &changed);
                computed += usize::from(within(&what, run).is_some());
            }
        }
    }
    assert!(
        tried > 10_000 && computed > 150,
        "{tried} tried, {computed} computed"
    );
}
