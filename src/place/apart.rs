//! Weights of which each rank has some bytes: matrices come together for their products, all others at once.

use burn::tensor::Device;
use firebox_kernels::format::{Format, Half, Packed};

use super::module::ModuleSink;
use crate::{
    collective::Together,
    config::Role,
    model::{
        Weight,
        stream::{Ring, RingLimits, Shelved, StreamedBytes, StreamedWeight},
    },
    pipeline::{Dense, Finished, SinkError, WeightShare},
    plan::{Action, Step},
    quant::Layout,
    target::DType,
};

/// Bytes of a word.
const WORD: usize = size_of::<u32>();

/// Brings weights together that ranks have some bytes of each.
struct Rejoining<'t> {
    together: &'t Together,
    /// Fetches nothing ahead: all ranks ask for the same weight at the same time.
    ring: Ring,
    device: Device,
}

impl ModuleSink<'_> {
    /// Makes weights of the shares that came, by name: all ranks do it in one order.
    pub(crate) fn bring_together(&mut self, together: &Together) -> Result<(), SinkError> {
        let device = self.weights.device().clone();
        let limits = RingLimits {
            ahead: 0,
            bytes: None,
            experts: 0,
        };
        let apart = Rejoining {
            together,
            ring: Ring::new(&device, limits),
            device,
        };
        for (name, (step, share)) in core::mem::take(&mut self.shares) {
            let weight = match step.slot.role {
                Role::Linear | Role::Expert | Role::Head | Role::Embedding
                    if step.slot.is_matrix() =>
                {
                    apart.streamed(&step, share, self.weights.dtype())?
                }
                _ => self.weight(&step, apart.whole(&step, &share)?)?,
            };
            self.weights.insert(name, weight);
        }
        Ok(())
    }
}

impl Rejoining<'_> {
    /// A matrix that comes together for each product.
    fn streamed(&self, step: &Step, share: WeightShare, dtype: DType) -> Result<Weight, SinkError> {
        let shelved = |mine, len| Shelved::Apart {
            mine,
            len,
            together: self.together.clone(),
        };
        let shape = step.matrix();
        let packed = |format: Format, share: WeightShare| StreamedBytes::Packed {
            layout: Layout { format, shape },
            words: shelved(share.values, format.words_len(shape) * WORD),
            scales: shelved(share.scales, format.scales_len(shape) * WORD),
        };
        let stored = match step.action {
            Action::Pack(_, format) | Action::Adopt(format) => packed(format, share),
            Action::Dense(stored) => match Half::of(stored).filter(|_| stored != dtype) {
                // As a matrix of halves that one rank has.
                Some(half) => packed(Format::Half(half), share),
                None => StreamedBytes::Dense {
                    dtype: stored,
                    shape,
                    values: shelved(share.values, shape[0] * shape[1] * stored.size()),
                },
            },
            Action::Carry => return Err(no_values(step)),
        };
        let streamed =
            StreamedWeight::new(&step.slot.name, false, stored, &self.ring, &self.device);
        Ok(Weight::Streamed(vec![streamed]))
    }

    /// The whole weight, on every rank.
    fn whole(&self, step: &Step, share: &WeightShare) -> Result<Finished, SinkError> {
        let shape = step.matrix();
        let words = |mine: &[u8], len| -> Vec<u32> {
            bytemuck::pod_collect_to_vec(&self.together.joined(mine, len * WORD))
        };
        match step.action {
            Action::Pack(_, format) | Action::Adopt(format) => {
                let values = words(&share.values, format.words_len(shape));
                let scales = words(&share.scales, format.scales_len(shape));
                let packed = Packed::new(format, shape, values, scales);
                packed
                    .map(Finished::Packed)
                    .map_err(|error| SinkError::new(&*step.slot.name, error))
            }
            Action::Dense(dtype) => {
                let len = shape[0] * shape[1] * dtype.size();
                let bytes = self.together.joined(&share.values, len);
                Ok(Finished::Dense(Dense::copied(dtype, &bytes)))
            }
            Action::Carry => Err(no_values(step)),
        }
    }
}

fn no_values(step: &Step) -> SinkError {
    SinkError::new(
        &*step.slot.name,
        "is carried over as it is stored, which no module takes",
    )
}
