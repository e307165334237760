//! The places of a decoder that tensors go to.

use super::{
    check::Unsupported,
    names::Part,
    spec::{LayerSpec, Spec},
    visit::{Stack, Visit},
    walk,
};
use crate::model::{
    layers::NormSpec,
    slot::{Origin, Role, Slot},
};

/// Every tensor of a checkpoint, in the order in which a token meets them.
///
/// # Errors
///
/// [`Unsupported`] for a word that the forward pass does not compute yet.
pub fn slots(spec: &Spec) -> Result<Vec<Slot>, Unsupported> {
    let mut slots = Slots {
        slots: Vec::new(),
        transposed: spec.transposed,
        table: spec.embedding.under_head.then(|| {
            let head = spec.path(None, Part::Head);
            (spec.path(None, Part::Embedding), format!("{head}.weight"))
        }),
    };
    walk::walk(spec, &mut slots)?;
    Ok(slots.slots)
}

/// Tensors that files have and the decoder does not read.
pub(super) fn leaves_out(spec: &Spec, tensor: &str) -> bool {
    // A table that is computed, and the second copy of a tied head.
    let head = || spec.path(None, Part::Head);
    let mut leftovers = spec.names.leftovers.iter();
    let mut beside = spec.names.beside.iter();
    leftovers.any(|end| tensor.ends_with(end))
        || beside.any(|beginning| tensor.starts_with(beginning))
        || spec.prefixes.is_beside(tensor)
        || (spec.head.tied && tensor.strip_suffix(".weight") == Some(&head()))
        || (spec.predicts_further && is_after_last_layer(spec, tensor))
        || is_of_unused_keys(spec, tensor)
}

/// A tensor of a layer after the last one.
fn is_after_last_layer(spec: &Spec, tensor: &str) -> bool {
    layer_of(spec, tensor).is_some_and(|layer| layer >= spec.layers.len())
}

/// The number of the layer that a tensor is named after.
pub(super) fn layer_of(spec: &Spec, tensor: &str) -> Option<usize> {
    let path = tensor.strip_prefix(spec.prefixes.body)?;
    let path = path.strip_prefix(spec.names.layers)?.strip_prefix('.')?;
    path.split('.').next()?.parse().ok()
}

/// A projection to keys or values in a layer that uses those of another one.
fn is_of_unused_keys(spec: &Spec, tensor: &str) -> bool {
    let Some(nth) = layer_of(spec, tensor) else {
        return false;
    };
    let attention = spec.layers.get(nth).and_then(LayerSpec::attention);
    let borrows = attention.is_some_and(|attention| attention.keys_of.is_some());
    let mut parts = [Part::K, Part::V, Part::KNorm].into_iter();
    borrows
        && parts.any(|part| {
            let rest = tensor.strip_prefix(&*spec.path(Some(nth), part));
            rest.is_some_and(|rest| rest.starts_with('.'))
        })
}

struct Slots {
    slots: Vec<Slot>,
    /// Matrices of layers are stored `[in, out]`.
    transposed: bool,
    /// A table that has another name in the file: its path, and the tensor.
    table: Option<(String, String)>,
}

impl Visit for Slots {
    type Table = ();
    type Matrix = ();
    type Norm = ();
    type Values = ();
    type Error = Unsupported;

    fn table(&mut self, path: String, shape: [usize; 2]) -> Result<(), Unsupported> {
        let Some((_, tensor)) = self.table.as_ref().filter(|(table, _)| *table == path) else {
            return self.matrix(path, Role::Embedding, shape, false);
        };
        let slot = Slot::new(format!("{path}.weight"), shape, Role::Embedding);
        self.slots.push(slot.made_of([Origin::whole(&**tensor)]));
        Ok(())
    }

    fn matrix(
        &mut self,
        path: String,
        role: Role,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<(), Unsupported> {
        let name = format!("{path}.weight");
        let slot = Slot::new(&*name, shape, role);
        self.slots
            .push(match role == Role::Linear && self.transposed {
                true => slot.made_of([Origin::whole(name).transposed()]),
                false => slot,
            });
        if bias {
            self.slots
                .push(Slot::bias(format!("{path}.bias"), shape[0]));
        }
        Ok(())
    }

    fn expert(
        &mut self,
        path: String,
        stack: Option<Stack>,
        shape @ [out, r#in]: [usize; 2],
        bias: bool,
    ) -> Result<(), Unsupported> {
        let weight = Slot::new(format!("{path}.weight"), shape, Role::Expert);
        let biases = bias.then(|| Slot::bias(format!("{path}.bias"), out));
        let Some(Stack {
            tensor,
            nth,
            transposed,
        }) = stack
        else {
            self.slots.extend([weight].into_iter().chain(biases));
            return Ok(());
        };
        // A row of biases is a column of one value each.
        let of_biases = Origin::whole(format!("{tensor}_bias")).rows(nth..nth + 1);
        let biases = biases.map(|biases| biases.made_of([of_biases.transposed()]));
        let stacked = Origin::whole(tensor);
        let of_weight = match transposed {
            true => stacked.rows(nth * r#in..(nth + 1) * r#in).transposed(),
            false => stacked.rows(nth * out..(nth + 1) * out),
        };
        self.slots.push(weight.made_of([of_weight]));
        self.slots.extend(biases);
        Ok(())
    }

    fn norm(&mut self, path: String, shape: &[usize], spec: NormSpec) -> Result<(), Unsupported> {
        self.slots
            .push(Slot::new(format!("{path}.weight"), shape, Role::Norm));
        if spec.bias {
            self.slots
                .push(Slot::new(format!("{path}.bias"), shape, Role::Bias));
        }
        Ok(())
    }

    fn values(&mut self, name: String, shape: &[usize]) -> Result<(), Unsupported> {
        self.slots.push(Slot::new(name, shape, Role::Other));
        Ok(())
    }
}
