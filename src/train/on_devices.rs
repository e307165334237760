//! A run over several devices of one process: each has a rank, which is a thread.

use std::{sync::Arc, thread};

use super::{config::FinetuneConfig, error::TrainError, open::Run};
use crate::{
    collective::{Collective, ThreadRanks},
    config::Parallel,
    error::Error,
    loader::{LoadRequest, device_indices},
    observe::Flow,
    ranks::{RankError, started},
    target::Target,
};

/// Calls `first` with the request of a rank on the first device, while ranks on the others run beside it: they do what
/// [`Run::open`], [`load`](Run::load) and [`train`](super::LoadedRun::train) do, with the same `config` and `resume`, as `first` has to.
/// Their errors are errors of the first rank too.
///
/// Each device has [`FinetuneConfig::batch`] rows of every batch, and the base: all of it with [`Parallel::Replicate`], a share with
/// [`Parallel::Shard`]. Gradients are added up through host memory, as Burn moves them between devices. So the run is that of one device
/// with a batch as large as all of them.
///
/// A request without a [division](crate::LoadConfig::parallel), with one device, or in a process that is one of several ranks goes to
/// `first` as it is: layers are spread over its devices.
///
/// ```no_run
/// use firebox::{Cpu, LoadConfig, config::Parallel, observe::Flow, train::{FinetuneConfig, Run, on_devices}};
///
/// let request = LoadConfig::new("assets/tinyrust").devices([0, 1]).parallel(Parallel::Replicate);
/// let config = FinetuneConfig { data: "texts.jsonl".into(), out: "run".into(), ..FinetuneConfig::default() };
/// let report = on_devices::<Cpu, _>(request, &config, false, |request| {
///     Run::<Cpu>::open(request, config.clone(), false)?.load()?.train(&mut |_| Flow::Continue)
/// })??;
/// println!("{report}");
/// # Ok::<(), firebox::train::TrainError>(())
/// ```
///
/// # Errors
///
/// [`TrainError::Load`] where devices are in a map or are named twice.
pub fn on_devices<T: Target, R>(
    request: impl Into<LoadRequest>,
    config: &FinetuneConfig,
    resume: bool,
    first: impl FnOnce(LoadRequest) -> R,
) -> Result<R, TrainError> {
    let request = request.into();
    let Some((parallel, devices)) = division(&request)? else {
        return Ok(first(request));
    };
    let world_size = devices.len();
    let members = ThreadRanks::new(world_size, request.config.ranks.deadline());
    let mut requests = members.into_iter().zip(devices).map(|(member, device)| {
        let rank = member.rank();
        let request = request.clone().with(|config| {
            let config = config.device(device).parallel(parallel);
            config.rank(rank).world_size(world_size)
        });
        request.ranks(Arc::new(member))
    });
    let own = requests.next().expect("more than one device");
    Ok(thread::scope(|scope| {
        for request in requests {
            let request = request.unwatched();
            scope.spawn(move || {
                let run = Run::<T>::open(request, config.clone(), resume)?;
                if run.ended()?.is_none() {
                    run.load()?.train(&mut |_| Flow::Continue)?;
                }
                Ok::<_, TrainError>(())
            });
        }
        first(own)
    }))
}

/// How ranks of this process are to hold the base, and the devices that have one each.
fn division(request: &LoadRequest) -> Result<Option<(Parallel, Vec<usize>)>, TrainError> {
    let (place, ranks) = (&request.config.place, &request.config.ranks);
    let alone = request.ranks.is_none() && ranks.rank.is_none() && ranks.world_size.is_none();
    let Some(parallel) = ranks.parallel.filter(|_| alone && place.devices.len() > 1) else {
        return Ok(None);
    };
    if started().map_err(Error::from)? > 1 {
        return Ok(None);
    }
    if place.max_memory.is_some() || place.device_map.is_some() {
        let error = RankError::Unsupported {
            what: "a map of the devices (`--device-map`, `--max-memory`)",
            parallel,
            instead: "each device has a rank of its own; leave `--parallel` out to spread layers by the map",
        };
        return Err(Error::from(error).into());
    }
    Ok(Some((
        parallel,
        device_indices(place).map_err(Error::from)?,
    )))
}
