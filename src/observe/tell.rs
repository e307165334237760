//! Telling: every observer, one that fails too.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Event, Flow, Observer, trace::trace};
use crate::{
    error::Error,
    pipeline::PipelineError,
    source::{CheckpointError, SourceError},
};

/// Tells `observer`, when `done` of `total` tensors are finished.
///
/// # Errors
///
/// [`PipelineError::Cancelled`] where it wants to stop, [`PipelineError::Observer`] where it fails or panics.
pub(crate) fn tell(
    observer: &dyn Observer,
    event: &Event<'_>,
    done: usize,
    total: usize,
) -> Result<(), PipelineError> {
    match caught(observer, event) {
        Ok(Flow::Continue) => Ok(()),
        Ok(Flow::Cancel) => Err(PipelineError::Cancelled {
            at: event.name(),
            done,
            total,
        }),
        Err(reason) => Err(failed(event, reason)),
    }
}

/// What `observer` answers; an error where it fails or panics.
fn caught(observer: &dyn Observer, event: &Event<'_>) -> Result<Flow, String> {
    // It is told nothing more afterwards: whatever state the panic left it in is nobody's concern.
    let told = catch_unwind(AssertUnwindSafe(|| {
        let flow = observer.observe(event);
        let failure = (flow == Flow::Cancel).then(|| observer.failure()).flatten();
        (flow, failure)
    }));
    match told {
        Ok((flow, None)) => Ok(flow),
        Ok((_, Some(failure))) => Err(failure),
        Err(panic) => Err(format!("it panicked: {}", said(&*panic))),
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a word")
}

fn failed(event: &Event<'_>, reason: String) -> PipelineError {
    PipelineError::Observer {
        event: event.kind(),
        at: event.name(),
        reason,
    }
}

/// Several observers as one; `tracing` is always one more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observers {
    each: Vec<Arc<dyn Observer>>,
    shared: Arc<Shared>,
}

/// What all clones have together: a source that downloads has one since it was opened.
#[derive(Debug, Default)]
struct Shared {
    /// Observers that came later.
    late: Mutex<Vec<Arc<dyn Observer>>>,
    /// Why they cancelled, until somebody asks: a download knows only that it is to stop.
    failed: Mutex<Option<Failed>>,
}

#[derive(Debug)]
struct Failed {
    event: &'static str,
    at: String,
    reason: String,
}

impl Observers {
    pub(crate) fn push(&mut self, observer: Arc<dyn Observer>) {
        self.each.push(observer);
    }

    /// These, and one more.
    pub(crate) fn and(mut self, observer: Arc<dyn Observer>) -> Self {
        self.push(observer);
        self
    }

    /// These, sharing nothing with those of other loads.
    pub(crate) fn apart(self) -> Self {
        let shared = Arc::default();
        Self { shared, ..self }
    }

    /// One more, of every clone.
    pub(crate) fn join(&self, observer: Arc<dyn Observer>) {
        lock(&self.shared.late).push(observer);
    }

    /// A download that an observer's failure has stopped as that failure; any other error as it is.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let stopped = match &error {
            Error::Source(source)
            | Error::Checkpoint(CheckpointError::Source(source))
            | Error::Pipeline(PipelineError::Read { source, .. }) => source,
            _ => return error,
        };
        if !matches!(stopped, SourceError::Cancelled { .. }) {
            return error;
        }
        match self.failed().take() {
            None => error,
            Some(Failed { event, at, reason }) => {
                PipelineError::Observer { event, at, reason }.into()
            }
        }
    }

    fn failed(&self) -> MutexGuard<'_, Option<Failed>> {
        lock(&self.shared.failed)
    }
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells everybody; one who wants to stop stops it for all.
impl Observer for Observers {
    fn observe(&self, event: &Event<'_>) -> Flow {
        trace(event);
        let mut flow = Flow::Continue;
        // The handle of a load first, so that it knows what others dawdle over.
        let late = lock(&self.shared.late).clone();
        for each in late.iter().chain(&self.each) {
            match caught(&**each, event) {
                Ok(Flow::Continue) => {}
                Ok(Flow::Cancel) => flow = Flow::Cancel,
                Err(reason) => {
                    flow = Flow::Cancel;
                    let (event, at) = (event.kind(), event.name());
                    self.failed().get_or_insert(Failed { event, at, reason });
                }
            }
        }
        flow
    }

    fn failure(&self) -> Option<String> {
        self.failed().take().map(|failed| failed.reason)
    }
}
