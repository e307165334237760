//! Several models at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{LoadRequest, Loaded, Loader};
use crate::{
    error::Error,
    model::Architecture,
    observe::{Event, Flow},
    pipeline::PipelineError,
    place::Shared,
    target::Target,
};

impl Shared {
    /// Loads several models at once, each as its request says, and returns them in the order of `requests`.
    ///
    /// # Errors
    ///
    /// The first [`Error`] in the order of `requests`. The other loads are cancelled then.
    pub fn load<T: Target, A: Architecture + Send>(
        &self,
        requests: impl IntoIterator<Item = impl Into<LoadRequest>>,
    ) -> Result<Vec<Loaded<A>>, Error> {
        let failed = Arc::new(AtomicBool::new(false));
        let loads: Vec<Loader<T>> = requests
            .into_iter()
            .map(|request| {
                let failed = Arc::clone(&failed);
                let stop = move |_: &Event<'_>| match failed.load(Ordering::Relaxed) {
                    true => Flow::Cancel,
                    false => Flow::Continue,
                };
                Loader::new(request.into().share(self).observer(stop))
            })
            .collect::<Result<_, _>>()?;
        let ended: Vec<Result<Loaded<A>, Error>> = thread::scope(|scope| {
            let started: Vec<_> = (loads.iter())
                .map(|loader| {
                    scope.spawn(|| {
                        let loaded = loader.load();
                        failed.fetch_or(loaded.is_err(), Ordering::Relaxed);
                        loaded
                    })
                })
                .collect();
            let ended = started.into_iter().map(|load| {
                load.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            ended.collect()
        });
        let cancelled = |loaded: &Result<_, Error>| {
            matches!(
                loaded,
                Err(Error::Pipeline(PipelineError::Cancelled { .. }))
            )
        };
        // Loads that were cancelled come after the load that failed.
        let (mut ended, others): (Vec<_>, Vec<_>) =
            ended.into_iter().partition(|end| !cancelled(end));
        ended.extend(others);
        ended.into_iter().collect()
    }
}
