//! The modules of a model, by the names that adapters have for them.
//!
//! | who | calls a module of Gemma 3 | its head | a module of GPT-2 |
//! |---|---|---|---|
//! | transformers 5, and peft with it | `model.language_model.layers.0.mlp` | `lm_head` | `transformer.h.0.mlp` |
//! | transformers 4 | `language_model.model.layers.0.mlp` | `language_model.lm_head` | `transformer.h.0.mlp` |
//! | files | either | either | `h.0.mlp` |
//!
//! Adapters are read by any of these names, and written by the first.

use std::collections::{BTreeMap, HashMap};

use super::{
    error::AdapterError,
    file::{AdapterFile, ModuleTensors},
};
use crate::{
    config::Role,
    model::{Adaptable, INSIDE, Slot, TIED_HEAD},
};

/// A module that adapters can change: a linear layer, a table or a norm.
#[derive(Debug)]
pub(super) struct Site {
    /// Its name in the checkpoint.
    path: String,
    /// Its name in transformers.
    pub(super) module: String,
    pub(super) role: Role,
    /// Rows of its matrix; a norm has none.
    pub(super) rows: Option<usize>,
}

/// All modules of a model.
#[derive(Debug)]
pub(super) struct Sites {
    all: Vec<Site>,
    by_name: HashMap<String, usize>,
}

/// Parts of the names of modules that read pictures and sounds.
const BESIDE: [&str; 4] = ["vision", "visual", "multi_modal", "audio"];

/// What a file has for a module, under the name that the file has for it.
pub(super) type Tensors<'f> = (&'f str, &'f ModuleTensors);

/// What a file has for the modules of a model.
#[derive(Debug)]
pub(super) struct Resolved<'f> {
    /// For each module of the model.
    pub(super) found: Vec<Option<Tensors<'f>>>,
    /// Modules that lie beside the text model: what reads pictures.
    pub(super) beside: Vec<&'f str>,
}

impl Sites {
    /// Those of a model, in the order of `places`.
    pub(super) fn of_model(places: &[Adaptable<'_>]) -> Self {
        let all = places.iter().map(|place| Site {
            path: place.path().to_owned(),
            module: place.module().to_owned(),
            role: place.role(),
            rows: place.matrix().map(|matrix| matrix.shape()[0]),
        });
        Self::new(all.collect())
    }

    /// Those of slots, each with the number of the slot of its weight. `module_of` gives the name in transformers.
    pub(super) fn of_slots(
        slots: &[&Slot],
        module_of: &dyn Fn(&str) -> String,
    ) -> (Self, Vec<usize>) {
        let sites = slots.iter().enumerate().filter_map(|(nth, slot)| {
            let path = slot.name.strip_suffix(".weight")?;
            let rows = match (slot.role, &slot.shape[..]) {
                (Role::Norm, _) => None,
                (_, [rows, _]) => Some(*rows),
                _ => None,
            };
            let site = Site {
                path: path.to_owned(),
                module: module_of(path),
                role: slot.role,
                rows,
            };
            Some((site, nth))
        });
        let (all, numbers) = sites.unzip();
        (Self::new(all), numbers)
    }

    fn new(all: Vec<Site>) -> Self {
        let mut by_name = HashMap::new();
        for (nth, site) in all.iter().enumerate() {
            by_name.insert(site.path.clone(), nth);
            by_name.insert(site.module.clone(), nth);
        }
        Self { all, by_name }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Site> {
        self.all.iter()
    }

    /// The number of the module that an adapter calls so.
    pub(super) fn find(&self, module: &str) -> Option<usize> {
        let found = self.by_name.get(module);
        let found = found.or_else(|| self.by_name.get(&of_today(module)?));
        found.copied()
    }

    /// What `file` has for each module. Modules that `is_known` names may be in no place.
    ///
    /// # Errors
    ///
    /// [`AdapterError::NoModule`].
    pub(super) fn resolve<'f>(
        &self,
        file: &'f AdapterFile,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<Resolved<'f>, AdapterError> {
        let mut found: Vec<Option<Tensors<'f>>> = vec![None; self.all.len()];
        let (mut beside, mut missing) = (Vec::new(), Vec::new());
        for (module, tensors) in &file.modules {
            match self.find(module).map(|nth| &mut found[nth]) {
                Some(place @ None) => *place = Some((module, tensors)),
                None if is_known(module) => {}
                None if self.is_beside(module) => beside.push(&**module),
                // Tensors under a second name of the same module have no place left.
                Some(Some(_)) | None => missing.push(module),
            }
        }
        match missing.first() {
            None => Ok(Resolved { found, beside }),
            Some(first) => Err(self.no_module(file, first, missing.len())),
        }
    }

    /// The error that the model does not have `count` modules, of which `module` is the first.
    pub(super) fn no_module(&self, file: &AdapterFile, module: &str, count: usize) -> AdapterError {
        AdapterError::NoModule {
            adapter: file.name.clone(),
            module: module.to_owned(),
            count,
            nearest: self.nearest(module),
        }
    }

    /// Whether a module that is not here is one of a multimodal model, whose text model is here.
    pub(super) fn is_beside(&self, module: &str) -> bool {
        let mut sites = self.all.iter();
        let inside = sites.any(|site| site.module.starts_with(INSIDE));
        self.find(module).is_none() && inside && BESIDE.iter().any(|part| module.contains(part))
    }

    /// The module whose name shares the longest end, and then the longest beginning, with another.
    fn nearest(&self, module: &str) -> String {
        let common = |one: &mut dyn Iterator<Item = char>,
                      other: &mut dyn Iterator<Item = char>| {
            one.zip(other)
                .take_while(|(one, other)| one == other)
                .count()
        };
        let likeness = |path: &str| {
            let end = common(&mut path.chars().rev(), &mut module.chars().rev());
            (end, common(&mut path.chars(), &mut module.chars()))
        };
        let paths = self.all.iter();
        let paths: BTreeMap<_, _> = paths
            .map(|site| (likeness(&site.path), &*site.path))
            .collect();
        let nearest = paths.last_key_value();
        nearest.map_or("none", |(_, path)| path).to_owned()
    }
}

/// Whether an adapter means the head by this name.
pub(super) fn is_head(module: &str) -> bool {
    module == TIED_HEAD || of_today(module).as_deref() == Some(TIED_HEAD)
}

/// The name in transformers 5 of a module that transformers 4 calls so.
fn of_today(module: &str) -> Option<String> {
    match module.strip_prefix("language_model.")? {
        head @ TIED_HEAD => Some(head.to_owned()),
        rest => Some(format!("{INSIDE}{}", rest.strip_prefix("model.")?)),
    }
}

/// The first number in the name of a module: that of its layer.
pub(super) fn layer(module: &str) -> Option<usize> {
    module.split('.').find_map(|part| part.parse().ok())
}
