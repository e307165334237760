//! The runtime that `object_store` needs: its waits and the threads that requests are sent from.
//!
//! A source is read from ordinary threads, each of which carries its own read out; the runtime has one thread beside them. It lives
//! as long as the process: one that belonged to a source could be dropped inside of another runtime, which is a panic.

use std::future::Future;
use std::io;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();

/// Carries `future` out on this thread.
///
/// # Errors
///
/// When the system starts no thread for the runtime.
pub(crate) fn block_on<F>(future: F) -> io::Result<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        let builder = builder.worker_threads(1).thread_name("firebox-remote");
        builder
            .enable_time()
            .build()
            .map_err(|error| error.to_string())
    });
    let runtime = runtime
        .as_ref()
        .map_err(|error| io::Error::other(error.clone()))?;
    if Handle::try_current().is_err() {
        return Ok(runtime.block_on(future));
    }
    // A caller that is inside of a runtime already may not wait in it for another one.
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().spawn_scoped(scope, || runtime.block_on(future))?;
        thread
            .join()
            .map_err(|_| io::Error::other("a thread that reads has panicked"))
    })
}
