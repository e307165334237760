//! A load or a save on its own thread, and a handle to it.

use core::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{Loaded, Loader};
use crate::{
    config::SaveConfig,
    error::Error,
    model::Architecture,
    observe::{Event, Flow, Observer, Progress},
    pipeline::PipelineError,
    report::Saved,
    target::Target,
};

/// A load that runs. See [`Running`].
pub type Loading<A> = Running<Loaded<A>>;

/// A save that runs. See [`Running`].
pub type Saving = Running<Saved>;

/// Work on its own thread. The handle reports its progress, waits for it, cancels it, and can be awaited in any runtime.
///
/// Dropping it cancels the work and waits until its thread has ended, so that no work goes on without a
/// handle. That takes as long as the tile or download that is under way.
///
/// ```no_run
/// use firebox::{Cpu, LoadConfig, Loader, model::CausalLm};
///
/// let loading = Loader::<Cpu>::new(LoadConfig::new("assets/tinyrust"))?.start::<CausalLm>();
/// while !loading.is_finished() {
///     println!("{:.0} %", 100.0 * loading.progress().fraction());
///     std::thread::sleep(std::time::Duration::from_millis(100));
/// }
/// let loaded = loading.wait()?;
/// # Ok::<(), firebox::Error>(())
/// ```
pub struct Running<R> {
    shared: Arc<RunShared<R>>,
    /// `None` after it was joined, and where the system had no thread.
    thread: Option<JoinHandle<()>>,
}

struct RunShared<R> {
    watch: Arc<Watch>,
    state: Mutex<RunState<R>>,
}

struct RunState<R> {
    /// `None` before the end, and after it was taken.
    outcome: Option<Outcome<R>>,
    finished: bool,
    /// Wakes the task that awaits the handle.
    waker: Option<Waker>,
}

/// The result; the outer error is a panic.
type Outcome<R> = thread::Result<Result<R, Error>>;

/// Listens to the work, and stops it.
#[derive(Default)]
struct Watch {
    progress: Mutex<Progress>,
    cancelled: AtomicBool,
}

impl Observer for Watch {
    fn observe(&self, event: &Event<'_>) -> Flow {
        lock(&self.progress).observe(event);
        if self.cancelled.load(Ordering::Relaxed) {
            Flow::Cancel
        } else {
            Flow::Continue
        }
    }
}

impl<T: Target> Loader<T> {
    /// [`load`](Self::load) on its own thread; the handle returns the result.
    pub fn start<A: Architecture + Send + 'static>(self) -> Loading<A> {
        self.running(|loader| loader.load::<A>())
    }

    /// [`save`](Self::save) on its own thread.
    pub fn start_save<A: Architecture>(self, to: SaveConfig) -> Saving {
        self.running(move |loader| loader.save::<A>(&to))
    }

    fn running<R: Send + 'static>(
        self,
        work: impl FnOnce(&Self) -> Result<R, Error> + Send + 'static,
    ) -> Running<R> {
        let shared = Arc::new(RunShared {
            watch: Arc::default(),
            state: Mutex::new(RunState {
                outcome: None,
                finished: false,
                waker: None,
            }),
        });
        self.engine.observers.join(shared.watch.clone());
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("firebox-run".to_owned())
            .spawn(move || {
                // A panic goes on in the thread that takes the outcome.
                theirs.finish(catch_unwind(AssertUnwindSafe(|| work(&self))));
            });
        if let Err(error) = &thread {
            let (count, reason) = (1, error.to_string());
            shared.finish(Ok(Err(PipelineError::Workers { count, reason }.into())));
        }
        Running {
            shared,
            thread: thread.ok(),
        }
    }
}

impl<R> RunShared<R> {
    fn finish(&self, outcome: Outcome<R>) {
        let mut state = lock(&self.state);
        state.outcome = Some(outcome);
        state.finished = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<R> Running<R> {
    /// The progress of the work.
    pub fn progress(&self) -> Progress {
        lock(&self.shared.watch.progress).clone()
    }

    /// Whether [`wait`](Self::wait) would return at once.
    pub fn is_finished(&self) -> bool {
        lock(&self.shared.state).finished
    }

    /// Asks the work to stop at its next event, and returns at once. The work ends with
    /// [`PipelineError::Cancelled`], unless it has ended before.
    pub fn cancel(&self) {
        self.shared.watch.cancelled.store(true, Ordering::Relaxed);
    }

    /// Waits until the work has ended.
    ///
    /// # Errors
    ///
    /// Those of [`Loader::load`] or [`Loader::save`].
    ///
    /// # Panics
    ///
    /// If the work has panicked.
    pub fn wait(mut self) -> Result<R, Error> {
        self.join();
        self.take()
            .expect("its thread has ended, and left what it made")
    }

    /// The result, once.
    fn take(&self) -> Option<Result<R, Error>> {
        let outcome = lock(&self.shared.state).outcome.take()?;
        Some(outcome.unwrap_or_else(|panic: Box<dyn Any + Send>| resume_unwind(panic)))
    }

    fn join(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        // An observer may own the handle, and so drop it on the thread of the work itself.
        if thread.thread().id() != thread::current().id() {
            // Its panics are caught inside.
            let _ = thread.join();
        }
    }
}

/// Ready when the work has ended. Polling does no work; the thread wakes the task that polled last.
///
/// # Panics
///
/// If the work has panicked, and when it is polled after it was ready.
impl<R> Future for Running<R> {
    type Output = Result<R, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.shared.state);
        if !state.finished {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        Poll::Ready(self.take().expect("polled after it was ready"))
    }
}

impl<R> Drop for Running<R> {
    fn drop(&mut self) {
        self.cancel();
        self.join();
    }
}

impl<R> fmt::Debug for Running<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut running = f.debug_struct("Running");
        running.field("progress", &self.progress());
        running.finish_non_exhaustive()
    }
}

/// A panic never leaves these values half-written, so a poisoned lock is safe to use.
fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
