//! Finished weights become tensors on the device, to be built into a module, or are kept to be streamed there.

use super::{dedup::Shared, stream::Stream};
use crate::{
    model::{Weight, Weights},
    pipeline::{self, Finished, Settings, Sink, SinkError},
    plan::Step,
    quant::PackedWeight,
};

pub(crate) struct ModuleSink<'a> {
    pub(crate) weights: Weights,
    pub(crate) settings: &'a Settings<'a>,
    pub(crate) shared: Option<&'a Shared>,
    pub(crate) stream: Option<Stream>,
}

impl Sink for ModuleSink<'_> {
    fn place(&mut self, step: &Step, finished: Finished) -> Result<(), SinkError> {
        let device = self.weights.device();
        let weight = match (self.shared, self.stream.as_ref()) {
            (_, Some(stream)) if step.streams() => self.keep(stream, step, finished),
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
    fn weight(&self, step: &Step, finished: Finished) -> Result<Weight, SinkError> {
        let device = self.weights.device();
        Ok(match finished {
            Finished::Placed(parts) => Weight::Packed(parts),
            Finished::Packed(packed) => {
                let cut = self.settings.allocation_max;
                let cut = cut.and_then(|largest| packed.format.cut(packed.shape, largest));
                Weight::Packed(match cut {
                    Some(parts) if parts.len() > 1 => parts
                        .into_iter()
                        .map(|rows| PackedWeight::from_host(packed.part(rows), device))
                        .collect(),
                    _ => vec![PackedWeight::from_host(packed, device)],
                })
            }
            Finished::Dense(dense) => {
                let parts = pipeline::upload(step, dense, device, self.settings);
                let parts = parts.map_err(|error| refused(step, error))?;
                Weight::Dense(parts, step.slot.shape.clone())
            }
            Finished::Pieces(_) => unreachable!("weights of a module are placed whole"),
        })
    }

    fn keep(&self, stream: &Stream, step: &Step, finished: Finished) -> Result<Weight, SinkError> {
        let (name, cut) = (&step.slot.name, self.settings.allocation_max);
        let kept = match finished {
            Finished::Packed(packed) => stream.packed(name, packed, cut),
            Finished::Dense(dense) => stream.dense(name, dense, step.matrix(), cut),
            Finished::Placed(_) => unreachable!("what is streamed is packed on the host"),
            Finished::Pieces(_) => unreachable!("weights of a module are placed whole"),
        };
        kept.map_err(|error| refused(step, error))
    }
}

fn refused(step: &Step, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SinkError {
    SinkError {
        tensor: step.slot.name.clone(),
        reason: error.into(),
    }
}
