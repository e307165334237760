//! Events, and the trait of those who get them.

use core::fmt::Debug;
use std::{sync::Arc, time::Duration};

use firebox_kernels::compare::Stats;

use crate::{
    model::Link,
    plan::{Plan, Step},
    quant::QuantSpec,
};

/// Something that happened during a load.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A file of the hub is being downloaded. Sent when the download begins, about ten times a second, and when it
    /// ends; from the thread that reads, since nothing else happens meanwhile.
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
        /// The plan.
        plan: &'a Plan,
    },
    /// The columns of some matrices are balanced; no weight has been packed.
    Balanced {
        /// Which matrices.
        link: &'a Link,
    },
    /// The error of a candidate is measured; no weight has been packed for the model yet.
    Measured {
        /// The candidate.
        quant: &'a QuantSpec,
    },
    /// The first tensor of a file is next. Its bytes may have been read ahead already.
    ShardOpened {
        /// The file's name.
        file: &'a str,
        /// Bytes of it that the plan wants: over all files, [`Totals::bytes_source`](crate::plan::Totals).
        bytes: u64,
    },
    /// A tensor is next. Its bytes may have been read ahead already.
    Started {
        /// Its step of the plan.
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
    /// The tensor is converted and its source bytes are freed.
    Packed {
        /// Its step of the plan.
        step: &'a Step,
        /// Time the conversion took.
        seconds: Duration,
    },
    /// The finished weight is where it belongs.
    Placed {
        /// Its step of the plan.
        step: &'a Step,
        /// Time the placing took.
        seconds: Duration,
    },
    /// The finished weight is compared with its source. Sent while it is placed.
    Verified {
        /// Its step of the plan.
        step: &'a Step,
        /// Its distance from the source.
        stats: &'a Stats,
        /// Time the comparison took, which is part of the placing.
        seconds: Duration,
    },
    /// The model is built, or saved, or verified. An observer that cancels now still prevents the model from being
    /// returned; files that are written stay.
    Finished {
        /// Numbers of the whole run.
        totals: RunTotals,
    },
}

/// Numbers of a whole run.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RunTotals {
    /// Tensors of the plan.
    pub tensors: usize,
    /// Their bytes in the checkpoint.
    pub bytes_source: u64,
    /// Bytes read: more than the source has where a format needs to see it twice.
    pub bytes_read: u64,
    /// Bytes of the finished weights, packed and dense.
    pub bytes_finished: u64,
    /// Seconds from the plan to the end.
    pub seconds: f64,
    /// Most anonymous memory that the process held during the run; `None` where the system does not tell.
    pub peak_host_bytes: Option<u64>,
}

impl Event<'_> {
    /// The name of the event: `"download"`, `"planned"`, `"balanced"`, `"measured"`, `"shard"`, `"started"`,
    /// `"read"`, `"packed"`, `"placed"`, `"verified"` or `"finished"`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Download { .. } => "download",
            Self::Planned { .. } => "planned",
            Self::Balanced { .. } => "balanced",
            Self::Measured { .. } => "measured",
            Self::ShardOpened { .. } => "shard",
            Self::Started { .. } => "started",
            Self::Read { .. } => "read",
            Self::Packed { .. } => "packed",
            Self::Placed { .. } => "placed",
            Self::Verified { .. } => "verified",
            Self::Finished { .. } => "finished",
        }
    }

    /// The step of the tensor that the event is about.
    pub fn step(&self) -> Option<&Step> {
        match self {
            Self::Started { step }
            | Self::Read { step, .. }
            | Self::Packed { step, .. }
            | Self::Placed { step, .. }
            | Self::Verified { step, .. } => Some(step),
            _ => None,
        }
    }

    /// The tensor, file or quantization that the event is about, for messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Download { file, .. } | Self::ShardOpened { file, .. } => (*file).to_owned(),
            Self::Planned { .. } => "the plan".to_owned(),
            Self::Balanced { link } => link.to.first().cloned().unwrap_or_default(),
            Self::Measured { quant } => quant.to_string(),
            Self::Finished { .. } => "the end".to_owned(),
            Self::Started { step }
            | Self::Read { step, .. }
            | Self::Packed { step, .. }
            | Self::Placed { step, .. }
            | Self::Verified { step, .. } => step.slot.name.clone(),
        }
    }
}

/// Whether the load goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Stop: the load ends with [`PipelineError::Cancelled`](crate::pipeline::PipelineError::Cancelled).
    Cancel,
}

/// Gets every event.
///
/// Called from the thread that runs the pipeline, in order, so a slow observer slows the load; only
/// [`Event::Download`] comes from the thread that reads.
/// Every closure `Fn(&Event) -> Flow` is one. One that panics ends the load with
/// [`PipelineError::Observer`](crate::pipeline::PipelineError::Observer).
pub trait Observer: Send + Sync {
    /// Takes an event; the result may stop the load.
    fn observe(&self, event: &Event<'_>) -> Flow;

    /// Called after a [`Flow::Cancel`]: why the observer failed, or `None` if it only wants to stop. A failure ends the
    /// load with [`PipelineError::Observer`](crate::pipeline::PipelineError::Observer), which contains the text.
    fn failure(&self) -> Option<String> {
        None
    }
}

impl<F: Fn(&Event<'_>) -> Flow + Send + Sync> Observer for F {
    fn observe(&self, event: &Event<'_>) -> Flow {
        self(event)
    }
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn observe(&self, event: &Event<'_>) -> Flow {
        (**self).observe(event)
    }

    fn failure(&self) -> Option<String> {
        (**self).failure()
    }
}

impl Debug for dyn Observer + '_ {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Observer")
    }
}
