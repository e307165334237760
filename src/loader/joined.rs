//! A module that computes with those of other ranks.

use core::time::Duration;
use std::{collections::HashSet, sync::Arc};

use burn::tensor::Tensor;

use super::engine::Engine;
use crate::{
    collective::{self, Collective, ThreadRanks, Together},
    config::{Parallel, Ranks},
    error::Error,
    model::{Architecture, Divided, Weight},
    pipeline::PipelineError,
    place::{ModuleSink, folder::difference},
    plan::Plan,
    ranks::{RankError, check_messages},
    target::ToBurn,
};

/// For a rank that reads more than others.
const LOADS: Duration = Duration::from_secs(3600);

impl Engine {
    /// The other ranks, where the model is divided among several.
    pub(super) fn divided(&self) -> Result<Option<(Ranks, Together)>, Error> {
        let Some(ranks) = self
            .ranks()
            .filter(|ranks| ranks.parallel != Parallel::Replicate)
        else {
            return Ok(None);
        };
        let Ranks {
            rank,
            world_size,
            parallel,
        } = ranks;
        let messages = match &self.messages {
            _ if world_size == 1 => alone(),
            None => return Err(RankError::Alone { parallel }.into()),
            Some(messages) => Arc::clone(messages),
        };
        check_messages([rank, world_size], [messages.rank(), messages.size()])?;
        let adapters = !self.config.adapters.is_empty();
        if adapters && parallel != Parallel::Shard {
            return Err(RankError::Unsupported {
                what: "adapters beside the weights",
                parallel,
                instead: "merge them (`firebox merge`), and load what was saved",
            }
            .into());
        }
        Ok(Some((ranks, Together::new(messages))))
    }

    /// Refuses ranks that load something else, before a weight is read.
    pub(super) fn compare_ranks<A: Architecture>(
        &self,
        ranks: Ranks,
        together: &Together,
    ) -> Result<(), Error> {
        let facts = self.facts::<A>(ranks)?;
        let all = collective::gather_json(together.ranks(), &facts)?;
        let mut others = all.iter().enumerate();
        let differs =
            others.find_map(|(other, theirs)| Some((other, difference("", theirs, &facts)?)));
        match differs {
            None => Ok(()),
            Some((other, difference)) => Err(RankError::Differs {
                rank: ranks.rank,
                other,
                field: difference.field,
                theirs: difference.was,
                ours: difference.now,
            }
            .into()),
        }
    }

    /// Builds the module of the weights that came, and joins it with those of the other ranks.
    pub(super) fn build<A: Architecture>(
        &self,
        config: &A::Config,
        plan: &Plan,
        mut module: ModuleSink<'_>,
        divided: Option<(Ranks, Together)>,
    ) -> Result<A, Error> {
        let Some((ranks, together)) = divided else {
            let mut weights = module.weights;
            let model = A::build(config, &mut weights)?;
            weights.finish()?;
            return Ok(model);
        };
        // All have read what they read: from here on nobody waits long.
        together.ranks().barrier(LOADS)?;
        let (config, how) = match ranks.parallel {
            Parallel::Tensor => {
                let part = A::of_rank(config, ranks.rank, ranks.world_size);
                let (part, _) = part.map_err(|source| RankError::Heads {
                    source,
                    largest: None,
                })?;
                (part, Divided::Tensor)
            }
            Parallel::Layers => {
                let layers = plan.ranks.as_ref().and_then(|share| share.layers.clone());
                let layers = layers.unwrap_or_default();
                let stages = collective::gather_json(together.ranks(), &layers)?;
                add_empty::<A>(config, plan, &mut module);
                (config.clone(), Divided::Layers(stages))
            }
            Parallel::Shard | Parallel::Replicate => {
                module
                    .bring_together(&together)
                    .map_err(PipelineError::from)?;
                (config.clone(), Divided::Shard)
            }
        };
        together.check()?;
        let mut weights = module.weights;
        let mut model = A::build(&config, &mut weights)?;
        weights.finish()?;
        together.check()?;
        let joined = model.join(&together, how);
        joined.map_err(|source| RankError::Heads {
            source,
            largest: None,
        })?;
        Ok(model)
    }
}

/// What a process that is alone computes with.
fn alone() -> Arc<dyn Collective> {
    let ranks = ThreadRanks::new(1, LOADS);
    Arc::new(ranks.into_iter().next().expect("one rank"))
}

/// Weights without values for all that other ranks have.
fn add_empty<A: Architecture>(config: &A::Config, plan: &Plan, module: &mut ModuleSink<'_>) {
    let here: HashSet<&str> = plan.steps.iter().map(|step| &*step.slot.name).collect();
    let device = module.weights.device().clone();
    let dtype = module.weights.dtype();
    for slot in A::slots(config) {
        if here.contains(&*slot.name) {
            continue;
        }
        let mut shape = slot.shape;
        if let Some(first) = shape.first_mut() {
            *first = 0;
        }
        let dtype = burn::tensor::DType::from(dtype.burn());
        let none = Tensor::zeros([0], (&device, dtype));
        module
            .weights
            .insert(slot.name, Weight::Dense(vec![none], shape));
    }
}
