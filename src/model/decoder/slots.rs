//! The places of a decoder that tensors go to.

use super::{check::Unsupported, names::Part, spec::Spec, visit::Visit, walk};
use crate::model::{
    layers::NormSpec,
    slot::{Role, Slot},
};

/// Every tensor of a checkpoint, in the order in which a token meets them.
///
/// # Errors
///
/// [`Unsupported`] for a word that the forward pass does not compute yet.
pub fn slots(spec: &Spec) -> Result<Vec<Slot>, Unsupported> {
    let mut slots = Slots(Vec::new());
    walk::walk(spec, &mut slots)?;
    Ok(slots.0)
}

/// Tensors that older files have and no decoder reads.
pub(super) fn leaves_out(spec: &Spec, tensor: &str) -> bool {
    // A table that is computed, and the second copy of a tied head.
    let head = || spec.names.path(None, Part::Head);
    tensor.ends_with(".rotary_emb.inv_freq")
        || (spec.head.tied && tensor.strip_suffix(".weight") == Some(&head()))
}

struct Slots(Vec<Slot>);

impl Visit for Slots {
    type Table = ();
    type Matrix = ();
    type Norm = ();
    type Error = Unsupported;

    fn table(&mut self, path: String, shape: [usize; 2]) -> Result<(), Unsupported> {
        self.matrix(path, Role::Embedding, shape, false)
    }

    fn matrix(
        &mut self,
        path: String,
        role: Role,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<(), Unsupported> {
        self.0
            .push(Slot::new(format!("{path}.weight"), shape, role));
        if bias {
            self.0.push(Slot::bias(format!("{path}.bias"), shape[0]));
        }
        Ok(())
    }

    fn norm(&mut self, path: String, shape: &[usize], spec: NormSpec) -> Result<(), Unsupported> {
        self.0
            .push(Slot::new(format!("{path}.weight"), shape, Role::Norm));
        if spec.bias {
            self.0
                .push(Slot::new(format!("{path}.bias"), shape, Role::Bias));
        }
        Ok(())
    }
}
