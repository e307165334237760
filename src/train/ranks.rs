//! The ranks of a run: one that has all rows of each batch, or several that have some each.

use core::time::Duration;
use std::sync::Arc;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Tensor, TensorData},
};
use burn_optim::GradientsParams;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    batch::{Batch, BatchPart},
    config::FinetuneConfig,
    error::TrainError,
};
use crate::{
    collective::{self, Collective, CollectiveError},
    config::{Parallel, Ranks},
    error::Error,
    model::decoder::Spec,
    observe::Flow,
    place::folder::difference,
    ranks::{RankError, check_messages},
};

/// For a rank that loads or saves something large. One that fails or ends meanwhile is noticed before.
const WAIT: Duration = Duration::from_secs(3600);

/// The ranks of a run, of which this process is one.
#[derive(Debug, Clone, Default)]
pub(super) struct RunRanks(Option<Arc<dyn Collective>>);

/// Sums over the rows of some batches.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PassSums {
    /// Losses of trained tokens.
    pub(super) loss: f64,
    /// Tokens.
    pub(super) tokens: u64,
    /// Trained tokens.
    pub(super) trained: u64,
}

impl RunRanks {
    pub(super) fn new(ranks: Option<Arc<dyn Collective>>) -> Self {
        Self(ranks.filter(|ranks| ranks.size() > 1))
    }

    /// How many there are.
    pub(super) fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |ranks| ranks.size())
    }

    /// The number of this one.
    pub(super) fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |ranks| ranks.rank())
    }

    /// Whether this one writes the folder of the run.
    pub(super) fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Tells the others of an error that ends the run here.
    pub(super) fn told<V>(&self, done: Result<V, TrainError>) -> Result<V, TrainError> {
        if let (Some(ranks), Err(error)) = (&self.0, &done)
            // All ranks stop together.
            && !matches!(error, TrainError::Stopped { .. })
        {
            ranks.fail(&error.to_string());
        }
        done
    }

    /// The run stops where one rank is asked to. Where the others cannot be asked it stops too: the next thing that is done together
    /// is the error.
    pub(super) fn agreed(&self, flow: Flow) -> Flow {
        let stops = matches!(flow, Flow::Cancel);
        match &self.0 {
            Some(ranks) if collective::any(&**ranks, stops).unwrap_or(true) => Flow::Cancel,
            _ => flow,
        }
    }

    /// The values of all ranks, in their order.
    pub(super) fn gather<V>(&self, mine: V) -> Result<Vec<V>, CollectiveError>
    where
        V: Serialize + DeserializeOwned,
    {
        match &self.0 {
            Some(ranks) => collective::gather_json(&**ranks, &mine),
            None => Ok(vec![mine]),
        }
    }

    /// What the first rank makes.
    pub(super) fn share<V>(&self, make: impl FnOnce() -> V) -> Result<V, CollectiveError>
    where
        V: Serialize + DeserializeOwned,
    {
        match &self.0 {
            Some(ranks) => collective::share_json(&**ranks, make),
            None => Ok(make()),
        }
    }

    /// Refuses ranks that are not those of the messages, and divisions of the base that cannot be trained on.
    pub(super) fn check_division(
        &self,
        said: Ranks,
        config: &FinetuneConfig,
        spec: &Spec,
    ) -> Result<(), TrainError> {
        let Ranks {
            rank,
            world_size,
            parallel,
        } = said;
        let check = || {
            if world_size > 1 && self.0.is_none() {
                return Err(RankError::Alone { parallel });
            }
            check_messages([rank, world_size], [self.rank(), self.size()])?;
            let unsupported = |what, instead| {
                Err(RankError::Unsupported {
                    what,
                    parallel,
                    instead,
                })
            };
            // A layer that lends its keys is not computed again: its backward pass fetches the experts of this rank's tokens alone.
            let mut layers = spec.layers.iter().enumerate();
            let apart = layers.any(|(nth, layer)| spec.lends(nth) && layer.experts().is_some());
            match parallel {
                Parallel::Replicate => Ok(()),
                Parallel::Shard if !config.trains_adapter() => unsupported(
                    "training of whole tensors",
                    "a share of a matrix takes no gradient: train an adapter, or give each rank the whole base (`--parallel replicate`)",
                ),
                Parallel::Shard if apart => unsupported(
                    "training of experts in layers that lend their keys",
                    "ranks with other tokens go through other experts: give each rank the whole base (`--parallel replicate`)",
                ),
                Parallel::Shard => Ok(()),
                Parallel::Layers | Parallel::Tensor => unsupported(
                    "training",
                    "gradients do not go from one rank to another there: give each rank the whole base (`--parallel replicate`) or a share of \
                     every weight (`--parallel shard`), or spread the layers over the devices of one process (`--devices 0,1`)",
                ),
            }
        };
        check().map_err(|error| Error::from(error).into())
    }

    /// Waits until all ranks are here, also those that load or save something large.
    pub(super) fn wait(&self) -> Result<(), CollectiveError> {
        match &self.0 {
            Some(ranks) => ranks.barrier(WAIT),
            None => Ok(()),
        }
    }

    /// Refuses ranks whose runs differ.
    pub(super) fn check(&self, identity: &Value) -> Result<(), TrainError> {
        let all = self.gather(identity.clone())?;
        let others = all.iter().enumerate().skip(1);
        let mut differences = others.filter_map(|(rank, of_rank)| {
            let difference = difference("", &all[0], of_rank)?;
            Some((rank, difference))
        });
        match differences.next() {
            Some((rank, difference)) => Err(TrainError::Differs {
                rank,
                difference: Box::new(difference),
            }),
            None => Ok(()),
        }
    }

    /// The rows of a batch that are this rank's: as many as the others', or one more where they do not divide.
    pub(super) fn part(&self, batch: Batch) -> BatchPart {
        match self.size() {
            1 => BatchPart::whole(batch),
            size => {
                let [rows, _] = batch.shape();
                let [first, end] = [self.rank(), self.rank() + 1].map(|rank| rows * rank / size);
                BatchPart::of(&batch, first..end)
            }
        }
    }

    /// The sums over all ranks, in their order.
    pub(super) fn sums(&self, mine: PassSums) -> Result<PassSums, CollectiveError> {
        // As its bits: a number that is parsed may be its neighbour.
        let mine = (mine.loss.to_bits(), mine.tokens, mine.trained);
        let all = self.gather(mine)?.into_iter();
        let sums = PassSums::default();
        Ok(all.fold(sums, |sums, (loss, tokens, trained)| PassSums {
            loss: sums.loss + f64::from_bits(loss),
            tokens: sums.tokens + tokens,
            trained: sums.trained + trained,
        }))
    }

    /// Adds up the gradients of all ranks, parameter by parameter. A parameter that has a gradient on one rank has one on all.
    pub(super) fn sum_gradients<M: Module>(
        &self,
        model: &M,
        gradients: &mut GradientsParams,
    ) -> Result<(), CollectiveError> {
        let Some(ranks) = &self.0 else {
            return Ok(());
        };
        let mut has = HasGradient {
            gradients,
            found: Vec::new(),
        };
        model.visit(&mut has);
        let all = self.gather(has.found)?;
        let count = all[0].len();
        let has = (0..count).map(|nth| all.iter().any(|found| found.get(nth) == Some(&true)));
        let has: Vec<bool> = has.collect();
        let mut sums = SumGradients {
            gradients,
            ranks: &**ranks,
            has: has.into_iter(),
            done: Ok(()),
        };
        model.visit(&mut sums);
        sums.done
    }
}

/// Whether each trained parameter has a gradient.
struct HasGradient<'a> {
    gradients: &'a GradientsParams,
    found: Vec<bool>,
}

impl ModuleVisitor for HasGradient<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.val().is_require_grad() {
            let gradient = self.gradients.get::<D>(param.id);
            self.found.push(gradient.is_some());
        }
    }
}

struct SumGradients<'a> {
    gradients: &'a mut GradientsParams,
    ranks: &'a dyn Collective,
    /// Whether some rank has a gradient of each trained parameter.
    has: std::vec::IntoIter<bool>,
    done: Result<(), CollectiveError>,
}

impl ModuleVisitor for SumGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if !value.is_require_grad() || self.has.next() != Some(true) || self.done.is_err() {
            return;
        }
        let (gradient, device) = match self.gradients.remove::<D>(param.id) {
            Some(gradient) => {
                let device = gradient.device();
                (gradient.cast(DType::F32), device)
            }
            None => {
                let device = value.device().inner();
                (Tensor::zeros(value.dims(), (&device, DType::F32)), device)
            }
        };
        let shape = gradient.dims();
        let values = gradient.into_data().try_into_vec::<f32>();
        let mut values = values.expect("they were cast to f32");
        self.done = self.ranks.all_reduce_f32(&mut values);
        let sum = TensorData::new(values, shape);
        let sum = Tensor::<D>::from_data(sum, (&device, DType::F32));
        self.gradients.register(param.id, sum);
    }
}
