//! What a load tells while it runs, and how to stop it.

use core::fmt::Debug;
use std::{sync::Arc, time::Duration};

use crate::{
    model::Link,
    plan::{Plan, Step},
    quant::QuantSpec,
};

/// Something that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A file of the hub is on its way. Told when it begins, some ten times a second, and when it is
    /// there; from the thread that reads, since nothing else happens meanwhile.
    Download {
        /// Its name.
        file: &'a str,
        /// Bytes that are here.
        done: u64,
        /// Bytes there will be.
        total: u64,
    },
    /// The plan is made, no weight has been read.
    Planned {
        /// It.
        plan: &'a Plan,
    },
    /// The columns of some matrices are balanced; no weight has been packed.
    Balanced {
        /// Which matrices.
        link: &'a Link,
    },
    /// What a candidate would lose is measured; no weight has been packed to stay.
    Measured {
        /// The candidate.
        quant: &'a QuantSpec,
    },
    /// A tensor is next. Its bytes may have been read ahead already.
    Started {
        /// Which.
        step: &'a Step,
    },
    /// Some rows of the tensor have arrived.
    Read {
        /// Which tensor.
        step: &'a Step,
        /// Bytes that arrived.
        bytes: u64,
        /// Time the read took.
        seconds: Duration,
    },
    /// The tensor is converted and its source bytes are given back.
    Packed {
        /// Which.
        step: &'a Step,
        /// Time the conversion took.
        seconds: Duration,
    },
    /// The finished weight is where it belongs.
    Placed {
        /// Which.
        step: &'a Step,
        /// Time the placing took.
        seconds: Duration,
    },
}

impl Event<'_> {
    /// The tensor it is about, for messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Download { file, .. } => (*file).to_owned(),
            Self::Planned { .. } => "the plan".to_owned(),
            Self::Balanced { link } => link.to.first().cloned().unwrap_or_default(),
            Self::Measured { quant } => quant.to_string(),
            Self::Started { step }
            | Self::Read { step, .. }
            | Self::Packed { step, .. }
            | Self::Placed { step, .. } => step.slot.name.clone(),
        }
    }
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Stop: the load ends with [`PipelineError::Cancelled`](super::PipelineError::Cancelled).
    Cancel,
}

/// Somebody who is told of every event.
///
/// Called from the thread that runs the pipeline, in order, so a slow observer slows the load; only
/// [`Event::Download`] comes from the thread that reads.
/// Every closure `Fn(&Event) -> Flow` is one.
pub trait Observer: Send + Sync {
    /// Takes an event; the answer may stop the load.
    fn observe(&self, event: &Event<'_>) -> Flow;
}

impl<F: Fn(&Event<'_>) -> Flow + Send + Sync> Observer for F {
    fn observe(&self, event: &Event<'_>) -> Flow {
        self(event)
    }
}

impl Debug for dyn Observer + '_ {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Observer")
    }
}

/// Several observers as one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observers(pub(crate) Vec<Arc<dyn Observer>>);

/// Tells everybody; one who wants to stop stops it for all.
impl Observer for Observers {
    fn observe(&self, event: &Event<'_>) -> Flow {
        let cancelled = self
            .0
            .iter()
            .filter(|each| each.observe(event) == Flow::Cancel)
            .count()
            > 0;
        if cancelled {
            Flow::Cancel
        } else {
            Flow::Continue
        }
    }
}
