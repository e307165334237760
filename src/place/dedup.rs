//! Several models at once: one bound on the bytes in flight, and weights that are equal held once.
//!
//! A base model and its fine-tunes have most tensors in common, and some checkpoints store a tied head twice. Which are
//! equal is decided by their contents when they are finished, and not by their names: a digest finds candidates, whose
//! values are then compared.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use burn::tensor::Device;
use firebox_kernels::format::{Format, Half, Packed};

use crate::{
    model::Weight,
    pipeline::{Finished, InFlight, SinkError},
    plan::Step,
    quant::{Layout, PackedWeight},
    target::ToBurn,
};

/// State that several loads share. Clones share it too.
///
/// It holds the weights of all its loads, so that a later load finds them: drop it when the last model is loaded.
///
/// ```no_run
/// use firebox::{Cpu, LoadConfig, Shared, model::CausalLm};
///
/// let shared = Shared::new(256 << 20);
/// let models = ["base", "tuned"].map(LoadConfig::new);
/// let loaded = shared.load::<Cpu, CausalLm>(models)?;
/// println!("{} bytes are held once instead of twice", shared.bytes_saved());
/// # Ok::<(), firebox::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Shared(Arc<SharedInner>);

#[derive(Debug)]
struct SharedInner {
    in_flight: Arc<InFlight>,
    seen: Mutex<HashMap<u64, Vec<(Device, Weight)>>>,
    saved: AtomicU64,
}

impl Shared {
    /// All loads together have at most `in_flight` bytes of source data in host memory.
    pub fn new(in_flight: u64) -> Self {
        Self(Arc::new(SharedInner {
            in_flight: Arc::new(InFlight::new(in_flight)),
            seen: Mutex::default(),
            saved: AtomicU64::new(0),
        }))
    }

    /// The bytes in flight.
    pub fn in_flight(&self) -> &Arc<InFlight> {
        &self.0.in_flight
    }

    /// Bytes of finished weights that are not held because an equal weight is.
    pub fn bytes_saved(&self) -> u64 {
        self.0.saved.load(Ordering::Relaxed)
    }

    /// The weight that `finished` becomes: an equal weight that is on `device` already, or the result of `place`.
    /// Loads wait for each other here; otherwise two of them could place the same weight at once.
    pub(crate) fn settle(
        &self,
        step: &Step,
        finished: Finished,
        device: &Device,
        place: impl FnOnce(Finished) -> Result<Weight, SinkError>,
    ) -> Result<Weight, SinkError> {
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry(digest(&finished)).or_default();
        let held = seen
            .iter()
            .find(|(on, held)| on == device && equal(step, &finished, held));
        if let Some((_, held)) = held {
            self.0
                .saved
                .fetch_add(step.bytes_finished(), Ordering::Relaxed);
            return Ok(held.again());
        }
        let weight = place(finished)?;
        seen.push((device.clone(), weight.again()));
        Ok(weight)
    }
}

fn digest(finished: &Finished) -> u64 {
    let mut hasher = DefaultHasher::new();
    match finished {
        Finished::Dense(dense) => hasher.write(dense.bytes()),
        Finished::Packed(packed) => add(packed, &mut hasher),
        Finished::Carried(bytes) => hasher.write(bytes),
        Finished::Share(share) => {
            hasher.write(&share.values);
            hasher.write(&share.scales);
        }
        Finished::Placed(parts) => parts
            .iter()
            .for_each(|part| add(&part.to_host(), &mut hasher)),
    }
    hasher.finish()
}

fn add(packed: &Packed, hasher: &mut DefaultHasher) {
    packed.format.hash(hasher);
    packed.shape.hash(hasher);
    hasher.write(bytemuck::cast_slice(&packed.words));
    hasher.write(bytemuck::cast_slice(&packed.scales));
}

fn equal(step: &Step, finished: &Finished, held: &Weight) -> bool {
    match (finished, held) {
        (Finished::Dense(dense), Weight::Dense(parts, shape)) => {
            let mut rest = dense.bytes();
            let same = parts.iter().all(|part| {
                let data = part.clone().into_data();
                let (here, after) = rest.split_at(data.as_bytes().len().min(rest.len()));
                rest = after;
                data.dtype() == dense.dtype().burn().into() && data.as_bytes() == here
            });
            same && rest.is_empty() && *shape == step.slot.shape
        }
        // Halves that stay so: padding ends a part.
        (Finished::Dense(dense), Weight::Packed(parts)) => {
            let (size, mut rest) = (dense.dtype().size(), dense.bytes());
            let same = parts.iter().all(|part| {
                let Layout { format, shape } = part.layout();
                let len = (shape[0] * shape[1] * size).min(rest.len());
                let (here, after) = rest.split_at(len);
                rest = after;
                let words = part.words.val().into_data();
                let of_type = Half::of(dense.dtype()).map(Format::Half) == Some(format);
                of_type && words.as_bytes().get(..len) == Some(here)
            });
            same && rest.is_empty() && step.matrix()[0] == rows(parts)
        }
        (Finished::Packed(packed), Weight::Packed(parts)) => {
            let mut first = 0;
            let same = parts.iter().all(|part| {
                let rows = first..first + part.layout().shape[0];
                first = rows.end;
                let whole = first == packed.shape[0] && parts.len() == 1;
                let held = part.to_host();
                if whole {
                    held == *packed
                } else {
                    held == packed.part(rows)
                }
            });
            same && first == packed.shape[0]
        }
        (Finished::Placed(placed), Weight::Packed(parts)) => {
            let mut pairs = placed.iter().zip(parts);
            placed.len() == parts.len() && pairs.all(|(a, b)| a.to_host() == b.to_host())
        }
        _ => false,
    }
}

fn rows(parts: &[PackedWeight]) -> usize {
    parts.iter().map(|part| part.layout().shape[0]).sum()
}
