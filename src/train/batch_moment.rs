//! What a batch takes at one moment.

/// What is there beside values and moments at one moment of a batch, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BatchMoment {
    pub(super) activations: u64,
    pub(super) backward: u64,
    pub(super) logits: u64,
    pub(super) gradients: u64,
}

impl BatchMoment {
    fn bytes(&self) -> u64 {
        let parts = [self.activations, self.backward, self.logits, self.gradients];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// The one of both that takes more.
    pub(super) fn most(self, other: Self) -> Self {
        match other.bytes() > self.bytes() {
            true => other,
            false => self,
        }
    }
}
