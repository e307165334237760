//! In which order the weights of a plan are read.

use core::{cmp::Ordering, fmt};
use std::{collections::HashMap, sync::Arc};

use super::{Plan, Step};
use crate::model::Slot;

/// In which order weights are read, converted and handed to a [`Sink`](crate::pipeline::Sink).
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Order {
    /// By file and offset, so that reads only go forward.
    #[default]
    File,
    /// As the architecture lists its slots: for a Llama the order in which a token meets them.
    Model,
    /// By a comparison; equals stay in the order of the files.
    By(Arc<Compare>),
}

/// Which of two steps comes first.
pub type Compare = dyn Fn(&Step, &Step) -> Ordering + Send + Sync;

impl Order {
    /// By a comparison.
    pub fn by(compare: impl Fn(&Step, &Step) -> Ordering + Send + Sync + 'static) -> Self {
        Self::By(Arc::new(compare))
    }

    /// Sorts the steps of a plan for `slots`.
    pub(crate) fn sort(&self, plan: &mut Plan, slots: &[Slot]) {
        match self {
            Self::File => {}
            Self::Model => {
                let names = slots.iter().enumerate();
                let places: HashMap<_, _> = names.map(|(k, slot)| (&*slot.name, k)).collect();
                plan.steps.sort_by_key(|step| places.get(&*step.slot.name));
            }
            Self::By(compare) => plan.steps.sort_by(|a, b| compare(a, b)),
        }
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "File",
            Self::Model => "Model",
            Self::By(_) => "By(..)",
        })
    }
}
