//! Finished weights become tensors on the device, or are stored to be streamed there; a module is built of both.

use std::collections::BTreeMap;

use burn::tensor::Device;
use firebox_kernels::format::Half;

use super::{dedup::Shared, stream::Streamer};
use crate::{
    model::{Weight, Weights},
    pipeline::{
        self, Dense, Finished, PipelineError, Settings, Sink, SinkError, WeightShare, cut_packed,
    },
    plan::Step,
    quant::PackedWeight,
};

pub(crate) struct ModuleSink<'a> {
    pub(crate) weights: Weights,
    /// The devices of the plan.
    pub(crate) devices: &'a [Device],
    pub(crate) settings: &'a Settings<'a>,
    pub(crate) shared: Option<&'a Shared>,
    pub(crate) stream: Option<Streamer>,
    /// What this rank has of weights whose other bytes are on other ranks.
    pub(crate) shares: BTreeMap<String, (Step, WeightShare)>,
}

impl Sink for ModuleSink<'_> {
    fn place(&mut self, step: &Step, finished: Finished) -> Result<(), SinkError> {
        let finished = match finished {
            Finished::Share(share) => {
                let name = step.slot.name.clone();
                self.shares.insert(name, (step.clone(), share));
                return Ok(());
            }
            finished => finished,
        };
        check_scales(step, &finished)?;
        let device = self.device(step);
        let weight = match (self.shared, self.stream.as_ref()) {
            (_, Some(stream)) if step.streams() => self.store(stream, step, finished),
            (Some(shared), _) => shared.settle(step, finished, device, |finished| {
                self.weight(step, finished)
            }),
            (None, _) => self.weight(step, finished),
        };
        self.weights.insert(step.slot.name.clone(), weight?);
        Ok(())
    }
}

impl ModuleSink<'_> {
    /// The device that the weight lives on, or comes to.
    fn device(&self, step: &Step) -> &Device {
        self.devices
            .get(step.device)
            .unwrap_or_else(|| self.weights.device())
    }

    /// The type of a matrix of halves that stay as they are stored, in a module that computes in another type.
    fn stays(&self, step: &Step, dense: &Dense) -> Option<Half> {
        let other = dense.dtype() != self.weights.dtype();
        Half::of(dense.dtype()).filter(|_| other && step.slot.is_matrix())
    }

    /// The weight on its device.
    pub(super) fn weight(&self, step: &Step, finished: Finished) -> Result<Weight, SinkError> {
        let device = self.device(step);
        Ok(match finished {
            Finished::Placed(parts) => Weight::Packed(parts),
            Finished::Carried(_) | Finished::Share(_) => return Err(no_weight(step)),
            Finished::Packed(packed) => {
                let parts = cut_packed(packed, self.settings.allocation_max);
                let placed = parts
                    .into_iter()
                    .map(|part| PackedWeight::from_host(part, device));
                Weight::Packed(placed.collect())
            }
            Finished::Dense(dense) => {
                if let Some(half) = self.stays(step, &dense) {
                    let parts = pipeline::upload_halves(step, half, dense, device, self.settings)?;
                    return Ok(Weight::Packed(parts));
                }
                let parts = pipeline::upload(step, dense, device, self.settings)?;
                Weight::Dense(parts, step.slot.shape.clone())
            }
        })
    }

    /// The weight in host memory or on disk, from where it is streamed. A weight that a device has packed is there
    /// already, and stays.
    fn store(
        &self,
        stream: &Streamer,
        step: &Step,
        finished: Finished,
    ) -> Result<Weight, SinkError> {
        let largest = self.settings.allocation_max;
        let stored = match finished {
            Finished::Packed(packed) => stream.packed(step, packed, largest),
            Finished::Dense(dense) => match self.stays(step, &dense) {
                Some(half) => stream.halves(step, half, dense, largest),
                None => stream.dense(step, dense, largest),
            },
            Finished::Placed(parts) => return Ok(Weight::Packed(parts)),
            Finished::Carried(_) | Finished::Share(_) => return Err(no_weight(step)),
        };
        stored.map_err(|error| SinkError::new(&*step.slot.name, error))
    }
}

/// Refuses a weight whose scales would lose every value of it.
fn check_scales(step: &Step, finished: &Finished) -> Result<(), PipelineError> {
    let checked = match finished {
        Finished::Packed(packed) => packed.check_scales(),
        // Parts have the same mean.
        Finished::Placed(parts) => parts.first().map_or(Ok(()), PackedWeight::check_scales),
        Finished::Dense(_) | Finished::Carried(_) | Finished::Share(_) => Ok(()),
    };
    checked.map_err(|source| PipelineError::Format {
        tensor: step.slot.name.clone(),
        source,
    })
}

/// The error of bytes that are no whole weight: a plan that was made to be saved, or a share of one of several ranks.
fn no_weight(step: &Step) -> SinkError {
    SinkError::new(
        &*step.slot.name,
        "it is carried over as it is stored, or one rank's share of it, which a module does not take",
    )
}
