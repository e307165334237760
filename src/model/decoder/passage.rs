//! What the layers of a decoder share while tokens pass through them.

use crate::model::layers::Rotation;

/// What the layers of a decoder share while tokens pass through them; [`CausalLm::enter`](super::CausalLm::enter) makes
/// one.
#[derive(Debug, Clone)]
pub struct Passage {
    /// The rotations of [`CausalLm::ropes`](super::CausalLm::ropes) at the positions of the tokens.
    pub rotations: Vec<Rotation>,
}
