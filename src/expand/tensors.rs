//! The tensors of an expanded checkpoint: the stored tensors under new names, and tensors of zeros.

use std::{collections::HashSet, sync::Arc};

use firebox_kernels::arith::float::DType;

use super::{ExpandError, Expansion, ends::Ends};
use crate::{
    dialect::{dtype, plain},
    model::{Architecture, CausalLm, Origin, Role, Slot, decoder::Spec},
    source::{Catalog, TensorInfo, ZEROS, ones},
};

/// The layers of a checkpoint, as its files name them.
#[derive(Debug)]
pub(super) struct NamedLayers<'s> {
    /// What comes before the number of a layer: `model.layers.`
    prefix: String,
    spec: &'s Spec,
    ends: Ends,
}

impl<'s> NamedLayers<'s> {
    /// Finds the layers by a norm, which every layer has and which is never packed.
    pub(super) fn find(spec: &'s Spec, catalog: &Catalog, at: &str) -> Result<Self, ExpandError> {
        let named = CausalLm::named(spec.clone(), &|name| catalog.get(name).is_some());
        let layers = format!("{}.", spec.names.layers);
        let own = format!("{}{layers}", named.prefixes.body);
        let first = format!("{own}0.");
        let slots = CausalLm::slots(&named);
        let mut norms = slots.iter().filter(|slot| slot.role == Role::Norm);
        let norm = norms.find_map(|slot| slot.name.strip_prefix(&first));
        let end = format!("{layers}0.{}", norm.unwrap_or_default());
        let found = catalog.iter().filter_map(|tensor| {
            let before = tensor.name.strip_suffix(&end)?;
            let whole = before.is_empty() || before.ends_with('.');
            whole.then(|| format!("{before}{layers}"))
        });
        let found: Vec<String> = found.collect();
        let prefix = match &found[..] {
            [prefix] => prefix.clone(),
            several if several.contains(&own) => own,
            _ => {
                return Err(ExpandError::Names {
                    at: at.to_owned(),
                    end,
                    found: found.len(),
                });
            }
        };
        Ok(Self {
            prefix,
            spec,
            ends: Ends::of(spec),
        })
    }

    /// The number of the layer of a tensor, and its name in the layer.
    fn place<'n>(&self, tensor: &'n str) -> Option<(usize, &'n str)> {
        let (number, rest) = tensor.strip_prefix(&*self.prefix)?.split_once('.')?;
        Some((number.parse().ok()?, rest))
    }

    /// How many layers have tensors.
    pub(super) fn count(&self, catalog: &Catalog) -> usize {
        let numbers = catalog.iter().filter_map(|tensor| self.place(&tensor.name));
        numbers.map(|(number, _)| number + 1).max().unwrap_or(0)
    }

    /// The tensors of the expanded model, whose configuration is `new`; zeros that take the place of packed weights are of
    /// `float`.
    pub(super) fn expanded(
        &self,
        catalog: &Catalog,
        expansion: Expansion,
        new: &Spec,
        float: DType,
    ) -> Catalog {
        let packed = self.packed(catalog);
        let (mut tensors, mut made) = (Vec::with_capacity(catalog.len()), Vec::new());
        for tensor in catalog {
            let Some((old, rest)) = self.place(&tensor.name) else {
                tensors.push(tensor.clone());
                continue;
            };
            let named = |new: usize| -> Arc<str> { format!("{}{new}.{rest}", self.prefix).into() };
            tensors.push(TensorInfo {
                name: named(expansion.place(old)),
                ..tensor.clone()
            });
            let Some(copy) = expansion.copy(old) else {
                continue;
            };
            let copied = TensorInfo {
                name: named(copy),
                ..tensor.clone()
            };
            match self.ends.module(rest) {
                // A layer is multiplied by it whole.
                None if rest == self.ends.scalar => {
                    let float = plain(tensor.dtype).unwrap_or(DType::F32);
                    made.push(made_up(copied, ones(float), float));
                }
                None => tensors.push(copied),
                Some(module) if packed.contains(&(old, module)) && !is_bias(rest) => {}
                Some(_) => {
                    let float = plain(tensor.dtype).unwrap_or(float);
                    made.push(made_up(copied, ZEROS, float));
                }
            }
        }
        if !packed.is_empty() {
            let there: Catalog = tensors.iter().chain(&made).cloned().collect();
            let slots = self.unpacked(&there, expansion, new);
            made.extend(slots.into_iter().filter_map(|(name, slot)| {
                let like = tensors.first()?;
                let is_turned = |origin: &Origin| origin.transposed && origin.tensor == slot.name;
                let mut shape = slot.shape.clone();
                if slot.from.iter().any(is_turned) {
                    shape.reverse();
                }
                let zeros = TensorInfo {
                    name: name.into(),
                    shape,
                    ..like.clone()
                };
                Some(made_up(zeros, ZEROS, float))
            }));
        }
        tensors.extend(made);
        tensors.into_iter().collect()
    }

    /// The modules that end halves and are packed, with the old number of their layer.
    fn packed<'c>(&self, catalog: &'c Catalog) -> HashSet<(usize, &'c str)> {
        let packed = catalog.iter().filter_map(|tensor| {
            let (old, rest) = self.place(&tensor.name)?;
            let module = self.ends.module(rest)?;
            plain(tensor.dtype).is_none().then_some((old, module))
        });
        packed.collect()
    }

    /// The slots in new blocks that end a half and have no tensor in `there`, and their names in the files.
    fn unpacked(&self, there: &Catalog, expansion: Expansion, new: &Spec) -> Vec<(String, Slot)> {
        let named = CausalLm::named(new.clone(), &|name| there.get(name).is_some());
        let own = format!("{}{}.", named.prefixes.body, self.spec.names.layers);
        let copies = expansion.new_blocks();
        let slots = CausalLm::slots(&named).into_iter().filter_map(|slot| {
            let (number, rest) = slot.name.strip_prefix(&own)?.split_once('.')?;
            let copy: usize = number.parse().ok()?;
            let name = format!("{}{copy}.{rest}", self.prefix);
            let has = |origin: &str| {
                let origin = origin.strip_prefix(&own);
                origin
                    .is_some_and(|origin| there.get(&format!("{}{origin}", self.prefix)).is_some())
            };
            let absent = !slot.from.iter().any(|origin| has(&origin.tensor));
            let ends = self.ends.module(rest).is_some() && copies.contains(&copy);
            (ends && absent).then_some((name, slot))
        });
        slots.collect()
    }
}

fn is_bias(rest: &str) -> bool {
    rest.ends_with(".bias") || rest.ends_with("_bias")
}

/// The tensor with the values of a file that repeats one.
fn made_up(tensor: TensorInfo, file: &'static str, float: DType) -> TensorInfo {
    let bytes = tensor.elements() * float.size() as u64;
    TensorInfo {
        file: file.into(),
        dtype: dtype(float),
        range: 0..bytes,
        ..tensor
    }
}
