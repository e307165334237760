//! Reporting events to every observer, and catching those that fail.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Event, Flow, Observer, trace::trace};

/// An observer ended the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It asked to stop.
    Cancelled {
        /// The tensor of the event.
        at: String,
        /// Tensors finished before.
        done: usize,
        /// Tensors of the plan.
        total: usize,
    },
    /// It failed or panicked.
    Failed(Failure),
}

/// An observer that failed, and at which event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// [`Event::kind`].
    pub(crate) event: &'static str,
    /// The tensor or file of the event.
    pub(crate) at: String,
    /// The observer's own words, or those of its panic.
    pub(crate) reason: String,
}

/// Reports an event to `observer`, when `done` of `total` tensors are finished.
///
/// # Errors
///
/// [`Stopped`] where the observer asks to stop, fails or panics.
pub(crate) fn tell(
    observer: &dyn Observer,
    event: &Event<'_>,
    done: usize,
    total: usize,
) -> Result<(), Stopped> {
    match caught(observer, event) {
        Ok(Flow::Continue) => Ok(()),
        Ok(Flow::Cancel) => Err(Stopped::Cancelled {
            at: event.name(),
            done,
            total,
        }),
        Err(reason) => Err(Stopped::Failed(Failure::new(event, reason))),
    }
}

/// The answer of `observer`; an error where it fails or panics.
fn caught(observer: &dyn Observer, event: &Event<'_>) -> Result<Flow, String> {
    // It gets no further event, so the state in which a panic left it does not matter.
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let flow = observer.observe(event);
        let failure = (flow == Flow::Cancel).then(|| observer.failure()).flatten();
        (flow, failure)
    }));
    match caught {
        Ok((flow, None)) => Ok(flow),
        Ok((_, Some(failure))) => Err(failure),
        Err(panic) => Err(format!("it panicked: {}", said(&*panic))),
    }
}

/// The text of a panic.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a word")
}

impl Failure {
    fn new(event: &Event<'_>, reason: String) -> Self {
        Self {
            event: event.kind(),
            at: event.name(),
            reason,
        }
    }
}

/// Several observers as one; `tracing` is always one more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observers {
    each: Vec<Arc<dyn Observer>>,
    common: Arc<Common>,
}

/// Common to all clones: a source that downloads holds a clone since it was opened.
#[derive(Debug, Default)]
struct Common {
    /// Observers that joined later.
    late: Mutex<Vec<Arc<dyn Observer>>>,
    /// The failure that cancelled the load, until it is taken: a download knows only that it has to stop.
    failed: Mutex<Option<Failure>>,
}

impl Observers {
    pub(crate) fn push(&mut self, observer: Arc<dyn Observer>) {
        self.each.push(observer);
    }

    /// These observers and one more.
    pub(crate) fn and(mut self, observer: Arc<dyn Observer>) -> Self {
        self.push(observer);
        self
    }

    /// These observers, for another load: failures and observers that join later are not common any more.
    pub(crate) fn apart(self) -> Self {
        let common = Arc::default();
        Self { common, ..self }
    }

    /// Adds an observer to every clone.
    pub(crate) fn join(&self, observer: Arc<dyn Observer>) {
        lock(&self.common.late).push(observer);
    }

    /// Why an observer failed, once: a download that it stopped knows only that it has to stop.
    pub(crate) fn take_failure(&self) -> Option<Failure> {
        self.failed().take()
    }

    fn failed(&self) -> MutexGuard<'_, Option<Failure>> {
        lock(&self.common.failed)
    }
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every observer gets the event; one that asks to stop stops the load.
impl Observer for Observers {
    fn observe(&self, event: &Event<'_>) -> Flow {
        trace(event);
        let mut flow = Flow::Continue;
        // The handle of a load comes first, so that its progress is right while another observer is slow.
        let late = lock(&self.common.late).clone();
        for each in late.iter().chain(&self.each) {
            match caught(&**each, event) {
                Ok(Flow::Continue) => {}
                Ok(Flow::Cancel) => flow = Flow::Cancel,
                Err(reason) => {
                    flow = Flow::Cancel;
                    self.failed().get_or_insert(Failure::new(event, reason));
                }
            }
        }
        flow
    }

    fn failure(&self) -> Option<String> {
        self.failed().take().map(|failed| failed.reason)
    }
}
