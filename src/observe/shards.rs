//! The files of a plan, each reported once.

use std::collections::HashMap;

use crate::plan::{Plan, Step};

/// Files that no tensor has been taken from yet, and the bytes that a plan wants of each.
#[derive(Debug)]
pub(crate) struct Shards(HashMap<String, u64>);

impl Shards {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut wanted: HashMap<String, u64> = HashMap::new();
        for (file, range) in plan.steps.iter().flat_map(Step::reads) {
            let bytes = range.end - range.start;
            match wanted.get_mut(file) {
                Some(wanted) => *wanted += bytes,
                None => {
                    wanted.insert(file.to_owned(), bytes);
                }
            }
        }
        Self(wanted)
    }

    /// Files that `step` is the first to take from.
    pub(crate) fn opened(&mut self, step: &Step) -> Vec<(String, u64)> {
        let files = step.reads().map(|(file, _)| file);
        files.filter_map(|file| self.0.remove_entry(file)).collect()
    }
}
