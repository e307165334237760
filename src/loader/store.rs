//! A checkpoint as a store of `burn-store`, from which any module of Burn takes its tensors.

use core::fmt;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use burn::tensor::{BoolStore, DType as BurnDType, Shape, TensorData};
use burn_store::{
    ApplyError, ApplyResult, KeyRemapper, ModuleAdapter, ModuleSnapshot, ModuleStore, PathFilter,
    PyTorchToBurnAdapter, bridge,
    burn_pack::{Error as PackError, Tensor as PackTensor},
};

use super::engine::Engine;
use crate::{
    error::Error,
    pipeline::{self, Finished, PipelineError, Settings, Sink, SinkError},
    place::folder,
    plan::{Action, Home, Plan, Step},
    quant::QuantSpec,
    source::{Checkpoint, SourceExt, StoredType},
    target::ToBurn,
};

/// A checkpoint as a store of `burn-store`: `module.load_from(&mut store)` fills any module of Burn.
///
/// ```no_run
/// use burn_store::{ModuleSnapshot, ModuleStore};
/// use firebox::{Cpu, LoadConfig, Loader};
///
/// let mut store = Loader::<Cpu>::new(LoadConfig::new("org/model"))?.store()?;
/// for (name, tensor) in store.get_all_tensors()? {
///     println!("{name} {:?} {:?}", tensor.dtype, tensor.shape);
/// }
/// // module.load_from(&mut store.with_remap_pattern("^model\\.", "")?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Whatever the loader reads is such a store: shards, files of PyTorch, Burn and llama.cpp, the hub, a source of one's own. Packed
/// weights are dequantized when they are drawn. A tensor is read when a module takes it, and memory holds one at a time. Tensors keep the
/// type that they are stored in, unless [`LoadConfig::dtype`](crate::LoadConfig::dtype) asks for another.
///
/// Names are those of the files, and linear weights are `[out, in]`, as in transformers. By default
/// [`PyTorchToBurnAdapter`] turns those that a `Linear` of `burn-nn` takes, and knows the names of its norms.
pub struct Store {
    shared: Arc<StoreShared>,
    filter: Option<PathFilter>,
    remapper: KeyRemapper,
    adapter: Box<dyn ModuleAdapter>,
    skip_enum_variants: bool,
    allow_missing: bool,
    allow_unused: bool,
    tensors: Option<BTreeMap<String, PackTensor>>,
}

/// What the tensors of a store are made from.
struct StoreShared {
    engine: Engine,
    plan: Plan,
    /// The first error of reading; `burn-store` keeps texts alone.
    failed: Mutex<Option<(String, Error)>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("model", &self.shared.plan.model)
            .field("tensors", &self.shared.plan.steps.len())
            .finish_non_exhaustive()
    }
}

/// A module that does not take the tensors of a store, or the other way round.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The checkpoint contradicts itself, or its files are incomplete.
    #[error(transparent)]
    Checkpoint(Box<Error>),

    /// The configuration asks for what a store does not do.
    #[error(
        "a store gives the tensors of the files, dense, and the configuration asks for {what}; take that out, or load a model"
    )]
    Asked {
        /// What it asks for.
        what: &'static str,
    },

    /// A tensor could not be read.
    #[error("{tensor}: {source}")]
    Read {
        /// The tensor, by its name in the store.
        tensor: String,
        /// The reason.
        source: Box<Error>,
    },

    /// The module has parameters that the checkpoint lacks.
    #[error(
        "the checkpoint lacks {}; rename its tensors (`with_remap_pattern`), or keep what the module has (`allow_partial`)",
        few(parameters)
    )]
    Missing {
        /// The parameters, by their paths in the module.
        parameters: Vec<String>,
    },

    /// The checkpoint has tensors that the module does not take.
    #[error(
        "the module does not take {}; leave them out (`with_filter`), or allow them (`allow_unused`)",
        few(tensors)
    )]
    Unused {
        /// The tensors, by their names in the store.
        tensors: Vec<String>,
    },

    /// The module wants a tensor whose type Burn does not have.
    #[error("{tensor}: is {dtype}, which Burn does not have")]
    Type {
        /// The tensor, by its name in the store.
        tensor: String,
        /// Its type.
        dtype: StoredType,
    },

    /// Tensors have other shapes or types than the parameters of the module.
    #[error("{}", reasons.join("; "))]
    Mismatch {
        /// The reasons, a parameter each.
        reasons: Vec<String>,
    },

    /// A name that two tensors would get.
    #[error("two tensors get the name {name}; rename one of them otherwise")]
    Twice {
        /// The name.
        name: String,
    },

    /// A pattern that is none.
    #[error("the pattern {pattern:?} is none: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The reason.
        reason: String,
    },

    /// The folder for a file of Burn has files already.
    #[error("{} is not empty; name a folder that is, or does not exist", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
    },

    /// A file of Burn could not be written.
    #[error("{}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },

    /// A checkpoint is read here, not written.
    #[error(
        "{model}: a checkpoint is read here, not written; save the module with Burn, or with `Loader::save_module`"
    )]
    ReadOnly {
        /// The checkpoint.
        model: String,
    },
}

impl Store {
    /// A store of all tensors of an opened checkpoint.
    ///
    /// # Errors
    ///
    /// [`StoreError::Checkpoint`], and [`StoreError::Asked`] for a quantization or an adapter.
    pub(super) fn new(mut engine: Engine) -> Result<Self, StoreError> {
        let pack = &mut engine.config.pack;
        if !pack.policy.rules.is_empty() || pack.policy.linear != QuantSpec::None {
            return Err(StoreError::Asked {
                what: "a quantization",
            });
        }
        if !engine.config.adapters.is_empty() {
            return Err(StoreError::Asked { what: "adapters" });
        }
        pack.dequantize = true;
        let plan = engine.bind_tensors(&[]);
        let mut plan = plan.map_err(|error| StoreError::Checkpoint(Box::new(error)))?;
        let dtype = engine.config.pack.dtype;
        folder::as_stored(&mut plan);
        plan.give_back(dtype.unwrap_or_else(|| engine.checkpoint().float_dtype()));
        if let Some(dtype) = dtype {
            plan.merge_in(dtype);
        }
        plan.send(Home::Sink);
        let failed = Mutex::new(None);
        Ok(Self {
            shared: Arc::new(StoreShared {
                engine,
                plan,
                failed,
            }),
            filter: None,
            remapper: KeyRemapper::new(),
            adapter: Box::new(PyTorchToBurnAdapter),
            skip_enum_variants: true,
            allow_missing: false,
            allow_unused: true,
            tensors: None,
        })
    }

    /// Fills only the parameters that `filter` names.
    #[must_use]
    pub fn with_filter(mut self, filter: PathFilter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Renames tensors, in place of what was said before.
    #[must_use]
    pub fn remap(mut self, remapper: KeyRemapper) -> Self {
        self.remapper = remapper;
        self.tensors = None;
        self
    }

    /// Renames tensors: what `from` matches in a name becomes `to`, as `burn-store` has it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Pattern`] for a pattern that is none.
    pub fn with_remap_pattern(self, from: &str, to: &str) -> Result<Self, StoreError> {
        let remapper = self.remapper.clone().add_pattern(from, to);
        let remapper = remapper.map_err(|error| StoreError::Pattern {
            pattern: from.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(self.remap(remapper))
    }

    /// How tensors become those of modules, in place of [`PyTorchToBurnAdapter`].
    #[must_use]
    pub fn with_from_adapter(mut self, adapter: impl ModuleAdapter + 'static) -> Self {
        self.adapter = Box::new(adapter);
        self
    }

    /// Whether the names of enum variants are left out of the paths in a module, as in files of PyTorch; they are by default.
    #[must_use]
    pub fn skip_enum_variants(mut self, skip: bool) -> Self {
        self.skip_enum_variants = skip;
        self
    }

    /// Whether parameters that the checkpoint lacks keep what they are; an error by default.
    #[must_use]
    pub fn allow_partial(mut self, allow: bool) -> Self {
        self.allow_missing = allow;
        self
    }

    /// Whether the checkpoint may have tensors that the module does not take; it may by default.
    #[must_use]
    pub fn allow_unused(mut self, allow: bool) -> Self {
        self.allow_unused = allow;
        self
    }

    pub(super) fn all(&mut self) -> Result<&BTreeMap<String, PackTensor>, StoreError> {
        let tensors = match self.tensors.take() {
            Some(tensors) => tensors,
            None => self.renamed()?,
        };
        Ok(self.tensors.insert(tensors))
    }

    fn renamed(&self) -> Result<BTreeMap<String, PackTensor>, StoreError> {
        let steps = self.shared.plan.steps.iter().enumerate();
        let tensors = steps.filter_map(|(nth, step)| {
            let dtype = burn_type(step).ok()?;
            let shared = Arc::clone(&self.shared);
            let shape = Shape::from(step.slot.shape.clone());
            let (name, of_error) = (step.slot.name.clone(), step.slot.name.clone());
            let draw = move || {
                shared
                    .draw(nth)
                    .map_err(|error| shared.fail(&of_error, error))
            };
            Some(bridge::deferred(name, dtype, shape, None, draw))
        });
        let (tensors, _) = self.remapper.remap(tensors.collect());
        let mut all = BTreeMap::new();
        for tensor in tensors {
            let name = tensor.name.clone();
            if all.insert(name.clone(), tensor).is_some() {
                return Err(StoreError::Twice { name });
            }
        }
        Ok(all)
    }

    pub(super) fn checkpoint(&self) -> &Checkpoint {
        self.shared.engine.checkpoint()
    }

    /// The error of reading, if there was one since this was last asked.
    pub(super) fn failed(&self) -> Result<(), StoreError> {
        let failed = self.shared.failed.lock();
        match failed.unwrap_or_else(PoisonError::into_inner).take() {
            Some((tensor, error)) => Err(StoreError::Read {
                tensor,
                source: Box::new(error),
            }),
            None => Ok(()),
        }
    }

    /// Tensors of types that Burn does not have, by their names in the store.
    pub(super) fn unread(&self) -> BTreeMap<String, StoredType> {
        let steps = self.shared.plan.steps.iter();
        let unread = steps.filter_map(|step| Some((step, burn_type(step).err()?)));
        let unread = unread.map(|(step, dtype)| {
            let named = bridge::from_data(TensorData::from([0_u8]), step.slot.name.clone(), None);
            let (renamed, _) = self.remapper.remap(vec![named]);
            let name = renamed.into_iter().next().map(|tensor| tensor.name);
            (name.unwrap_or_default(), dtype)
        });
        unread.collect()
    }
}

impl StoreShared {
    /// Reads a tensor.
    fn draw(&self, nth: usize) -> Result<TensorData, Error> {
        let step = &self.plan.steps[nth];
        let plan = Plan {
            steps: vec![step.clone()],
            ..self.plan.clone()
        };
        let allowance = self.engine.allowance(&plan, &|_| false)?;
        let settings = Settings {
            devices: &[],
            ..self.engine.settings_for(allowance, &self.engine.observers)
        };
        let mut drawn = DrawnTensor(None);
        let source = self.engine.checkpoint().source();
        pipeline::run(&plan, &**source, &mut drawn, &settings)?;
        source.unchanged()?;
        // A plan of one step places one weight.
        drawn.0.ok_or_else(|| {
            let reason = "it was not placed";
            PipelineError::from(SinkError::new(&*step.slot.name, reason)).into()
        })
    }

    /// Keeps an error, and says it in the words of `burn-store`.
    fn fail(&self, tensor: &str, error: Error) -> PackError {
        let said = error.to_string();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert_with(|| (tensor.to_owned(), error));
        PackError::ValidationError(said)
    }
}

/// A tensor that was drawn.
struct DrawnTensor(Option<TensorData>);

impl Sink for DrawnTensor {
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        let shape = step.slot.shape.clone();
        let failed = |error: &dyn fmt::Display| SinkError::new(&*step.slot.name, error.to_string());
        let data = match weight {
            Finished::Dense(dense) => {
                let (dtype, data) = dense.into_data();
                TensorData::try_from_bytes(data.into_bytes(), shape, dtype.burn().into())
            }
            Finished::Carried(bytes) => {
                let dtype = burn_type(step).map_err(|dtype| failed(&dtype))?;
                TensorData::try_from_bytes_vec(bytes, shape, dtype)
            }
            Finished::Packed(_) | Finished::Placed(_) | Finished::Share(_) => {
                return Err(failed(&"a store gives whole dense tensors"));
            }
        };
        self.0 = Some(data.map_err(|error| failed(&error))?);
        Ok(())
    }
}

/// The type of a tensor in Burn, or the stored one where Burn has none.
fn burn_type(step: &Step) -> Result<BurnDType, StoredType> {
    if let Action::Dense(dtype) = step.action {
        return Ok(dtype.burn().into());
    }
    let stored = step
        .tensors()
        .next()
        .map_or(StoredType::U8, |tensor| tensor.dtype);
    Ok(match stored {
        StoredType::F64 => BurnDType::F64,
        StoredType::F32 => BurnDType::F32,
        StoredType::F16 => BurnDType::F16,
        StoredType::BF16 => BurnDType::BF16,
        StoredType::I64 => BurnDType::I64,
        StoredType::I32 => BurnDType::I32,
        StoredType::I16 => BurnDType::I16,
        StoredType::I8 => BurnDType::I8,
        StoredType::U64 => BurnDType::U64,
        StoredType::U32 => BurnDType::U32,
        StoredType::U16 => BurnDType::U16,
        StoredType::U8 => BurnDType::U8,
        StoredType::Bool => BurnDType::Bool(BoolStore::Native),
        other => return Err(other),
    })
}

impl ModuleStore for Store {
    type Error = StoreError;

    fn collect_from<M: ModuleSnapshot>(&mut self, _: &M) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly {
            model: self.shared.plan.model.clone(),
        })
    }

    fn apply_to<M: ModuleSnapshot>(&mut self, module: &mut M) -> Result<ApplyResult, StoreError> {
        let tensors: Vec<PackTensor> = self.all()?.values().cloned().collect();
        let adapter = Some(self.adapter.clone());
        let result = module.apply(
            tensors,
            self.filter.clone(),
            adapter,
            self.skip_enum_variants,
        );
        self.failed()?;
        if !result.errors.is_empty() {
            let reasons = result.errors.iter().map(ApplyError::to_string);
            return Err(StoreError::Mismatch {
                reasons: reasons.collect(),
            });
        }
        let unread = self.unread();
        let missing = || result.missing.iter().map(|(path, _)| path.clone());
        if let Some(tensor) = missing().find(|path| unread.contains_key(path)) {
            let dtype = unread[&tensor];
            return Err(StoreError::Type { tensor, dtype });
        }
        if !self.allow_missing && !result.missing.is_empty() {
            return Err(StoreError::Missing {
                parameters: missing().collect(),
            });
        }
        let unused: BTreeSet<&String> = result.unused.iter().chain(unread.keys()).collect();
        if !self.allow_unused && !unused.is_empty() {
            return Err(StoreError::Unused {
                tensors: unused.into_iter().cloned().collect(),
            });
        }
        Ok(result)
    }

    fn get_tensor(&mut self, name: &str) -> Result<Option<&PackTensor>, StoreError> {
        Ok(self.all()?.get(name))
    }

    fn get_all_tensors(&mut self) -> Result<&BTreeMap<String, PackTensor>, StoreError> {
        self.all()
    }

    fn keys(&mut self) -> Result<Vec<String>, StoreError> {
        Ok(self.all()?.keys().cloned().collect())
    }
}

/// The first names of a list, and how many more there are.
fn few(names: &[String]) -> String {
    const FEW: usize = 5;
    match names.len().saturating_sub(FEW) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..FEW].join(", ")),
    }
}
