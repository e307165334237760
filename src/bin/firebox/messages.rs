//! The ranks that mpirun or srun started this program as.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use firebox::{collective::Collective, ranks::started, train::TrainError};

use crate::{
    Failure, output,
    stops::{Signalled, Stops},
};

/// The messages between ranks, once they are there.
static JOINED: OnceLock<Arc<joined::Ranks>> = OnceLock::new();

/// How long a rank waits for the others in an operation, where nobody says.
const DEADLINE: Duration = Duration::from_secs(60);

/// Meets the other ranks, where several were started. `needs` is what needs messages between them, which wait `deadline` at most.
pub(crate) fn join(
    needs: &str,
    deadline: Option<Duration>,
) -> Result<Option<Arc<dyn Collective>>, Failure> {
    let size = started()?;
    if size < 2 {
        return Ok(None);
    }
    if JOINED.get().is_none() {
        let ranks = joined::start(needs, size, deadline.unwrap_or(DEADLINE))?;
        // A launcher that sees one rank end sends the others a signal, at which they would be gone before they know why.
        Stops::install();
        output::as_rank(ranks.rank());
        // A process has one thread that gets here.
        let _ = JOINED.set(Arc::new(ranks));
    }
    let joined = JOINED.get().cloned();
    Ok(joined.map(|ranks| ranks as Arc<dyn Collective>))
}

/// The signal that ended a run, on whichever rank it came. All ranks that were stopped ask together.
pub(crate) fn signal_of_any(own: Option<i32>) -> Option<i32> {
    let ranks = JOINED.get();
    let all = ranks.map(|ranks| ranks.all_gather_bytes(&own.unwrap_or(0).to_le_bytes()));
    let all = all.and_then(Result::ok).unwrap_or_default().into_iter();
    let all = all.filter_map(|bytes| Some(i32::from_le_bytes(bytes.try_into().ok()?)));
    own.or(all.max().filter(|signal| *signal != 0))
}

/// Ends the messages, after a failure was printed: the others have something to print too.
pub(crate) fn leave(failure: Option<&Failure>) {
    // Ranks that are stopped stop together, and none of them has failed.
    let failed = failure.filter(|failure| {
        let stopped = failure.downcast_ref::<TrainError>();
        let stopped = stopped.is_some_and(|error| matches!(error, TrainError::Stopped { .. }));
        !stopped && !failure.is::<Signalled>()
    });
    if let Some(ranks) = JOINED.get() {
        joined::finish(ranks, failed.map(|failure| output::chain(&**failure)));
    }
}

#[cfg(feature = "mpi")]
mod joined {
    use std::{
        env, process,
        sync::mpsc::{RecvTimeoutError, channel},
        thread,
        time::Duration,
    };

    use firebox::collective::{Collective, CollectiveError, MpiRanks};

    use crate::output;

    pub(super) type Ranks = MpiRanks;

    /// How long it waits at the end for those that failed too.
    const END: Duration = Duration::from_secs(2);

    /// Variables of launchers that start ranks of MPI, of which one is always there.
    const STARTED: [&str; 4] = [
        "OMPI_COMM_WORLD_SIZE",
        "PMIX_RANK",
        "PMI_RANK",
        "MV2_COMM_WORLD_SIZE",
    ];

    /// The same with the number of the rank.
    const NUMBERED: [&str; 4] = [
        "OMPI_COMM_WORLD_RANK",
        "PMIX_RANK",
        "PMI_RANK",
        "MV2_COMM_WORLD_RANK",
    ];

    pub(super) fn start(
        needs: &str,
        size: usize,
        deadline: Duration,
    ) -> Result<Ranks, CollectiveError> {
        let without = || CollectiveError::Unavailable {
            needs: needs.to_owned(),
            size,
            reason: "their launcher started them without MPI; start them with `mpirun -n N` or `srun --mpi=pmix`",
        };
        // MPI ends a process that a launcher of another kind has started.
        if !STARTED.iter().any(|name| env::var_os(name).is_some()) {
            return Err(without());
        }
        let rank = NUMBERED.iter().find_map(|name| env::var(name).ok());
        let rank = rank.and_then(|rank| rank.parse().ok()).unwrap_or(0);
        let (started, starts) = channel::<()>();
        // MPI waits for ever for a process that does not start it, and cannot be asked to stop.
        thread::spawn(move || {
            if starts.recv_timeout(deadline) == Err(RecvTimeoutError::Timeout) {
                output::failed(&CollectiveError::Late {
                    rank,
                    size,
                    operation: "start MPI",
                    waited: deadline,
                });
                process::exit(1);
            }
        });
        let ranks = MpiRanks::start(deadline);
        drop(started);
        let ranks = ranks?;
        match ranks.size() == size {
            true => Ok(ranks),
            false => Err(without()),
        }
    }

    pub(super) fn finish(ranks: &Ranks, failure: Option<String>) {
        let ended = match failure {
            Some(reason) => {
                ranks.fail(&reason);
                ranks.finish(END)
            }
            None => ranks.finish(super::DEADLINE),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "ends without the other ranks");
        }
    }
}

#[cfg(not(feature = "mpi"))]
mod joined {
    use std::time::Duration;

    use firebox::collective::{CollectiveError, ThreadRanks};

    pub(super) type Ranks = ThreadRanks;

    pub(super) fn start(needs: &str, size: usize, _: Duration) -> Result<Ranks, CollectiveError> {
        Err(CollectiveError::Unavailable {
            needs: needs.to_owned(),
            size,
            reason: "this program was built without the feature `mpi`; build it with `--features mpi`",
        })
    }

    pub(super) fn finish(_: &Ranks, _: Option<String>) {}
}
