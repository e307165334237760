//! What one of several ranks has of a model.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::engine::Engine;
use crate::{
    config::{Parallel, Ranks},
    error::Error,
    model::Architecture,
    pipeline::{Finished, Settings, Sink, SinkError, Timing},
    plan::{Order, Plan, RankShare, Step, Stored},
    quant::QuantSpec,
    ranks::{Meeting, RankError, RankSink, ReadLog, keep_slices, keep_stage, sharded},
    report::{LoadReport, RankReport},
};

/// The weights of one rank, without a module, and how they came about.
#[derive(Debug)]
pub struct LoadedPart {
    /// What the rank keeps, by slot. The step says how the weight is packed, of which rows and columns
    /// ([`Step::part`]), and where these came from; its slot has the shape of what is kept, or of the whole weight
    /// where the rank keeps a [share of its bytes](Finished::Share).
    pub weights: BTreeMap<String, (Step, Finished)>,
    /// Bytes, seconds, ranges, digests.
    pub report: LoadReport,
}

/// What no part of a model has beside it.
const ADAPTER: &str = "an adapter";

/// Keeps everything.
#[derive(Default)]
struct PartSink(BTreeMap<String, (Step, Finished)>);

impl Sink for PartSink {
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        self.0
            .insert(step.slot.name.clone(), (step.clone(), weight));
        Ok(())
    }
}

impl Engine {
    /// Which of several ranks this process is.
    pub(super) fn ranks(&self) -> Option<Ranks> {
        self.launched.as_ref().map(|launched| launched.ranks)
    }

    /// Leaves a plan what this rank has of it.
    pub(super) fn divide<A: Architecture>(
        &self,
        config: &A::Config,
        plan: &mut Plan,
    ) -> Result<(), Error> {
        let Some(ranks) = self.ranks() else {
            return Ok(());
        };
        let Ranks {
            rank,
            world_size,
            parallel,
        } = ranks;
        if parallel != Parallel::Replicate {
            self.check_whole(plan, parallel)?;
        }
        let (layers, bytes_shared) = match parallel {
            Parallel::Replicate => {
                let all = plan.totals().bytes_source;
                (None, if world_size > 1 { all } else { 0 })
            }
            Parallel::Layers => {
                let tied = A::tied(config).map(|[table, _]| table);
                let slots = A::slots(config);
                let (layers, shared) = keep_stage(plan, &slots, tied.as_deref(), ranks)?;
                (Some(layers), shared)
            }
            Parallel::Tensor => (None, keep_slices::<A>(config, plan, rank, world_size)?),
            Parallel::Shard => {
                let steps = plan
                    .steps
                    .iter()
                    .map(|step| sharded(step, rank, world_size));
                plan.steps = steps.collect();
                let shared = plan.steps.iter().filter(|_| world_size > 1).map(|step| {
                    let part = step.part.as_ref();
                    match (&step.stored, part.is_some_and(|part| part.from_whole)) {
                        (_, true) => step.bytes_source(),
                        (Stored::Packed(adopt), false) => adopt.bytes_of_all(),
                        _ => 0,
                    }
                });
                (None, shared.sum::<u64>())
            }
        };
        plan.ranks = Some(RankShare {
            ranks,
            layers,
            bytes_shared,
        });
        Ok(())
    }

    /// Refuses what needs all weights in one process.
    fn check_whole(&self, plan: &Plan, parallel: Parallel) -> Result<(), RankError> {
        let refused = |what, instead| RankError::Unsupported {
            what,
            parallel,
            instead,
        };
        let pack = &self.config.pack;
        let save = "save the model with it (`firebox quantize`), and load what was saved";
        match () {
            () if self.stated.is_none() && self.config.place.is_mapped() => Err(refused(
                "a map of devices (`--devices`, `--device-map`, `--max-memory`)",
                "each rank has one device (`--device`); leave `--parallel` out to spread the model over the devices of one process",
            )),
            () if !plan.links.is_empty() => Err(refused("balanced columns (`--presinq`)", save)),
            () if matches!(pack.policy.linear, QuantSpec::Auto(_)) => {
                Err(refused("a quantization chosen by measuring (`auto`)", save))
            }
            () if pack.verify.is_some() => Err(refused(
                "a comparison with the source",
                "compare in one process (`firebox verify`)",
            )),
            // A module of shares has whole weights when it needs them.
            () if self.has_adapters() && parallel != Parallel::Shard => Err(refused(ADAPTER, save)),
            () => Ok(()),
        }
    }

    fn has_adapters(&self) -> bool {
        !self.config.adapters.is_empty()
    }

    /// Refuses work that one process does for all.
    pub(super) fn check_alone(&self, what: &'static str) -> Result<(), RankError> {
        match self.ranks() {
            Some(Ranks {
                world_size,
                parallel,
                ..
            }) if world_size > 1 => Err(RankError::Unsupported {
                what,
                parallel,
                instead: "leave `--rank`, `--world-size` and `--parallel` out, in one process",
            }),
            _ => Ok(()),
        }
    }

    /// Carries a plan out for this rank, and tells what the rank has read and keeps.
    pub(super) fn run_as_rank(
        &self,
        plan: &mut Plan,
        sink: &mut dyn Sink,
        settings: &Settings<'_>,
    ) -> Result<(Vec<Timing>, Option<RankReport>), Error> {
        let Some(ranks) = self.ranks() else {
            return Ok((self.run(plan, sink, settings)?, None));
        };
        let source = ReadLog::new(&**self.checkpoint().source());
        let mut sink = RankSink::new(sink);
        let timings = self.run_from(&source, plan, &mut sink, settings)?;
        let (digest, weights) = sink.finish();
        let report = RankReport {
            ranks,
            layers: plan.ranks.as_ref().and_then(|share| share.layers.clone()),
            bytes_shared: plan.ranks.as_ref().map_or(0, |share| share.bytes_shared),
            ranges: source.ranges(),
            digest,
            weights,
        };
        Ok((timings, Some(report)))
    }

    /// Calls `load` when all ranks are there and agree about what they load, and tells them how it has ended.
    pub(super) fn together<A: Architecture, R>(
        &self,
        load: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        let (Some(launched), Some(folder)) = (&self.launched, &self.config.ranks.rendezvous) else {
            return load();
        };
        let facts = self.facts::<A>(launched.ranks)?;
        let deadline = self.config.ranks.deadline();
        let meeting = Meeting::join(folder, launched, facts, deadline)?;
        let loaded = load();
        let failure = loaded.as_ref().err().map(ToString::to_string);
        let ended = meeting.finish(failure);
        let loaded = loaded?;
        ended?;
        Ok(loaded)
    }

    /// What all ranks have to have the same.
    pub(super) fn facts<A: Architecture>(&self, ranks: Ranks) -> Result<Value, Error> {
        let Ranks {
            world_size,
            parallel,
            ..
        } = ranks;
        let mut facts = json!({ "world_size": world_size, "parallel": parallel });
        if let (Some(facts), Value::Object(identity)) =
            (facts.as_object_mut(), self.identity::<A>()?)
        {
            facts.extend(identity);
        }
        Ok(facts)
    }

    /// The weights of this rank, without a module.
    pub(super) fn load_part<A: Architecture>(&self) -> Result<LoadedPart, Error> {
        if self.has_adapters() {
            let ranks = self.ranks();
            let parallel = ranks.map_or(Parallel::Replicate, |ranks| ranks.parallel);
            return Err(RankError::Unsupported {
                what: ADAPTER,
                parallel,
                instead: "merge it (`firebox merge`), and load what was saved",
            }
            .into());
        }
        self.together::<A, _>(|| {
            let mut sink = PartSink::default();
            let config = self.model_config::<A>()?;
            let cached = match &self.config.pack.cache {
                Some(folder) => self.cached::<A>(&config, folder)?,
                None => None,
            };
            let engine = cached.as_ref().unwrap_or(self);
            let report = engine.run_with_alone::<A>(&Order::File, &mut sink)?;
            Ok(LoadedPart {
                weights: sink.0,
                report,
            })
        })
    }
}
