//! The packed weights of a module: words and scales as they lie in memory, in a checkpoint that is read from the module.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use firebox_kernels::{arith::float::DType, format::Format};

use super::{
    Adopt, Assembly, Dialect, DialectError, Files, Provenance, in_stack::InStack, lookup::Lookup,
    stack::PackedStack,
};
use crate::{
    model::Slot,
    source::{Catalog, TensorInfo},
};

/// The words of a weight have its name; this is the end of the name of its scales.
pub(crate) const SCALES: &str = ".scales";

/// The packed weights of a module, beside the tensors of its checkpoint that the module has not.
#[derive(Debug)]
pub(crate) struct HeldWeights {
    /// The dialect of the checkpoint.
    pub(crate) inner: Option<Arc<dyn Dialect>>,
    /// The packed weights, by name.
    pub(crate) packed: HashMap<String, HeldFormat>,
    /// The names of dense ones.
    pub(crate) dense: HashSet<String>,
}

/// How a packed weight of a module is packed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeldFormat {
    pub(crate) format: Format,
    /// The type of the values before they were packed.
    pub(crate) float: DType,
    /// Where the weight comes from, beyond its format.
    pub(crate) provenance: Provenance,
    /// How many matrices follow one another in it: 1, or those of a stack.
    pub(crate) experts: usize,
}

impl Dialect for HeldWeights {
    fn name(&self) -> &'static str {
        self.inner.as_ref().map_or("module", |inner| inner.name())
    }

    fn adopt(&self, slot: &Slot, catalog: &Catalog) -> Result<Option<Adopt>, DialectError> {
        let Some(held) = self.packed.get(&slot.name) else {
            return match &self.inner {
                Some(inner) if !self.dense.contains(&slot.name) => inner.adopt(slot, catalog),
                _ => Ok(None),
            };
        };
        let names = [slot.name.clone(), format!("{}{SCALES}", slot.name)];
        let parts = names.iter().filter_map(|name| catalog.get(name)).cloned();
        let provenance = Provenance {
            dtype: Some(held.float),
            ..held.provenance
        };
        let adopt = Adopt::new(held.format, parts.collect(), Assembly::Stored);
        Ok(Some(adopt.from(provenance)))
    }

    /// Is not asked: [`adopt`](Self::adopt) knows the tensors.
    fn adopt_matrix(&self, _: &Lookup<'_>) -> Result<Option<Adopt>, DialectError> {
        Ok(None)
    }

    fn stack(&self, slot: &Slot, _: &Catalog) -> Result<Option<PackedStack>, DialectError> {
        let [origin] = &slot.from[..] else {
            return Ok(None);
        };
        let place = InStack::by_origin(slot, origin.transposed);
        let found = place.and_then(|place| Some((self.packed.get(&place.stack)?, place)));
        Ok(found.map(|(held, place)| PackedStack {
            slot: place.slot(held.experts, slot),
            matrix: None,
        }))
    }

    fn weight_of(
        &self,
        tensor: &TensorInfo,
        files: &Files<'_>,
    ) -> Result<Option<(String, Vec<usize>)>, DialectError> {
        match &self.inner {
            Some(inner) => inner.weight_of(tensor, files),
            None => Ok(None),
        }
    }

    fn leaves_out(&self, tensor: &str) -> bool {
        let inner = self.inner.as_ref();
        inner.is_some_and(|inner| inner.leaves_out(tensor))
    }
}
