//! Work with a source of which the bytes are fetched before they are read, where each read is a request to a server.

use std::thread::{self, Scope};

use super::{
    ahead::{Ahead, StepReads},
    error::PipelineError,
    in_flight::{Account, InFlight},
};
use crate::source::{Source, SourceExt};

/// A source, of which the bytes may be fetched before they are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchedSource<'a> {
    source: &'a dyn Source,
    ahead: Option<&'a Ahead<'a>>,
}

impl<'a> FetchedSource<'a> {
    /// The source to read.
    pub(crate) fn source(&self) -> &'a dyn Source {
        match self.ahead {
            Some(ahead) => ahead,
            None => self.source,
        }
    }

    /// Lets go of what no step after `step` reads.
    pub(crate) fn finished(&self, step: usize) {
        if let Some(ahead) = self.ahead {
            ahead.finished(step);
        }
    }
}

/// Does `work`, which reads what `steps` say, in their order, while threads fetch ahead of it: at most `bytes` of the bytes in
/// flight, which are set aside. A source that wants no large reads is read as it is.
pub(crate) fn fetching<'p, R, E: From<PipelineError>>(
    source: &dyn Source,
    steps: impl Iterator<Item = StepReads<'p>>,
    (in_flight, bytes): (&InFlight, u64),
    work: impl FnOnce(FetchedSource<'_>) -> Result<R, E>,
) -> Result<R, E> {
    let ahead = match source.request_bytes() {
        Some(_) => Ahead::new(source, &steps.collect::<Vec<_>>(), bytes),
        None => None,
    };
    let Some(ahead) = &ahead else {
        let ahead = None;
        return work(FetchedSource { source, ahead });
    };
    let _aside = Account::set_aside(in_flight, bytes);
    thread::scope(|scope| {
        let _ending = ahead.close_on_drop();
        for _ in 0..ahead.fetchers() {
            spawn(scope, "firebox-fetch", || ahead.fetch())?;
        }
        let ahead = Some(ahead);
        work(FetchedSource { source, ahead })
    })
}

/// Starts a thread.
pub(super) fn spawn<'s>(
    scope: &'s Scope<'s, '_>,
    name: &str,
    run: impl FnOnce() + Send + 's,
) -> Result<(), PipelineError> {
    let thread = thread::Builder::new().name(name.to_owned());
    match thread.spawn_scoped(scope, run) {
        Ok(_) => Ok(()),
        Err(error) => Err(PipelineError::Workers {
            count: 1,
            reason: error.to_string(),
        }),
    }
}
