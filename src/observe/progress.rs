//! The progress of a load, from its events.

use super::Event;

/// The progress of a load: source bytes, tensors, and the current tensor. Made by [`Progress::default`], fed by
/// [`observe`](Self::observe).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Source bytes of the tensors that are finished, and of the others what has been read. A tensor that is read twice
    /// counts once.
    pub bytes: u64,
    /// Source bytes of the plan; 0 before there is one.
    pub bytes_total: u64,
    /// Tensors that are finished.
    pub tensors: usize,
    /// Tensors of the plan; 0 before there is one.
    pub tensors_total: usize,
    /// The tensor of the last event.
    pub current: Option<String>,
    /// Whether the load has ended.
    pub finished: bool,
    /// Tensors that are begun and not finished, and the bytes read of each.
    begun: Vec<(String, u64)>,
}

impl Progress {
    /// Takes an event.
    pub fn observe(&mut self, event: &Event<'_>) {
        match event {
            Event::Planned { plan } => {
                let totals = plan.totals();
                *self = Self {
                    bytes_total: totals.bytes_source,
                    tensors_total: totals.tensors,
                    ..Self::default()
                };
            }
            Event::Started { step } => {
                self.begun.push((step.slot.name.clone(), 0));
                self.current = Some(step.slot.name.clone());
            }
            Event::Read { step, bytes, .. } => {
                if let Some((_, read)) = self.begun(&step.slot.name) {
                    let new = (*bytes).min(step.bytes_source() - *read);
                    *read += new;
                    self.bytes += new;
                }
            }
            Event::Placed { step, .. } => {
                let begun = self
                    .begun
                    .iter()
                    .position(|(name, _)| *name == step.slot.name);
                let read = begun.map_or(0, |place| self.begun.swap_remove(place).1);
                self.bytes += step.bytes_source() - read;
                self.tensors += 1;
            }
            Event::Finished { .. } => {
                self.current = None;
                self.finished = true;
            }
            _ => {}
        }
    }

    /// Part of the bytes, from 0 to 1; 0 before there is a plan.
    pub fn fraction(&self) -> f64 {
        if self.finished {
            1.0
        } else {
            self.bytes as f64 / self.bytes_total.max(1) as f64
        }
    }

    fn begun(&mut self, name: &str) -> Option<&mut (String, u64)> {
        self.begun.iter_mut().find(|(begun, _)| begun == name)
    }
}
