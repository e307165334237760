//! The parts of a decoder that stay together on a device.

use super::{
    names::Part,
    slots::{layer_of, slots},
    spec::Spec,
};
use crate::model::unit::Unit;

/// The embedding, each layer, the last norm and the head, in the order in which a token meets them. A tied head is the embedding.
pub(super) fn units(spec: &Spec) -> Vec<Unit> {
    let unit = |name, layer| Unit {
        name,
        layer,
        slots: Vec::new(),
    };
    let before = unit(spec.path(None, Part::Embedding), None);
    let layers = (0..spec.layers.len()).map(|nth| unit(spec.layer_path(nth), Some(nth)));
    let ends = [Part::Norm, Part::Head].map(|part| spec.path(None, part));
    let after = ends.iter().map(|end| unit(end.clone(), None));
    let mut units: Vec<Unit> = [before].into_iter().chain(layers).chain(after).collect();
    // A model that no slots can be made of has no units either.
    for slot in slots(spec).unwrap_or_default() {
        let is_of = |end: &String| {
            let rest = slot.name.strip_prefix(&**end);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        let nth = match layer_of(spec, &slot.name) {
            Some(layer) => 1 + layer,
            None => {
                let end = ends.iter().position(is_of);
                end.map_or(0, |end| 1 + spec.layers.len() + end)
            }
        };
        units[nth].slots.push(slot.name);
    }
    units.retain(|unit| !unit.slots.is_empty());
    units
}
