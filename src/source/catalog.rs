//! Every tensor of a checkpoint: file, byte range, dtype, shape. Headers and index in, no I/O.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::dtype::StoredType;
use super::header::Header;
use super::index::Index;
use firebox_kernels::arith::float::DType;

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Name in the checkpoint: `model.layers.0.mlp.up_proj.weight`.
    pub name: Arc<str>,
    /// The file that holds it.
    pub file: Arc<str>,
    /// What an element is. Elements are little-endian and row-major.
    pub dtype: StoredType,
    /// Outermost dimension first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
}

impl TensorInfo {
    /// Bytes in the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Elements: the product of the shape.
    #[must_use]
    pub fn elements(&self) -> u64 {
        // The header's check leaves products below 2^64, and a zero makes the rest harmless.
        self.shape.iter().fold(1, |elements: u64, &side| {
            elements.saturating_mul(side as u64)
        })
    }
}

/// Every tensor of a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// By file, then by offset.
    tensors: Vec<TensorInfo>,
    by_name: HashMap<Arc<str>, usize>,
    renaming: Option<Renaming>,
}

/// How the names in the files of a checkpoint begin, and how they begin in the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Renaming {
    /// In the files: `_orig_mod.`
    pub(crate) stored: String,
    /// In the catalog; often nothing.
    pub(crate) named: String,
}

/// Parts of paths that torch puts into them where it wraps a module, and that no module is called.
const WRAPPERS: [&str; 3] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

impl Catalog {
    /// A catalog of the tensors in `headers`, a header a file. A tensor that the index lists too must be in the file that it
    /// says; either may have tensors that the other lacks.
    ///
    /// # Errors
    ///
    /// [`CatalogError`], when files and index contradict each other. That happens when shards of
    /// two savings are mixed, and then any choice between them would be a guess.
    pub fn build(
        headers: impl IntoIterator<Item = (Arc<str>, Header)>,
        index: Option<&Index>,
    ) -> Result<Self, CatalogError> {
        let mut headers: Vec<_> = headers.into_iter().collect();
        headers.sort_by(|(left, _), (right, _)| left.cmp(right));

        // At once: growing would take twice the memory of a million tensors.
        let count = headers.iter().map(|(_, header)| header.entries.len()).sum();
        let mut catalog = Self {
            tensors: Vec::with_capacity(count),
            by_name: HashMap::with_capacity(count),
            ..Self::default()
        };
        for (file, header) in headers {
            for entry in header.entries {
                catalog.add(TensorInfo {
                    name: entry.name.into(),
                    file: Arc::clone(&file),
                    dtype: entry.dtype,
                    shape: entry.shape,
                    range: entry.range,
                })?;
            }
        }
        if let Some(index) = index {
            catalog.check_places(index)?;
        }
        Ok(catalog)
    }

    /// The float type that most bytes of plain floats are stored in; `f32` where there are none.
    pub(crate) fn float_dtype(&self) -> DType {
        let bytes = |wanted| {
            let of_type = self.tensors.iter().filter(|tensor| tensor.dtype == wanted);
            of_type.map(TensorInfo::bytes).sum::<u64>()
        };
        [
            (bytes(StoredType::F16), DType::F16),
            (bytes(StoredType::BF16), DType::Bf16),
            (bytes(StoredType::F32), DType::F32),
        ]
        .into_iter()
        .max_by_key(|(bytes, _)| *bytes)
        .map_or(DType::F32, |(_, dtype)| dtype)
    }

    fn add(&mut self, tensor: TensorInfo) -> Result<(), CatalogError> {
        let place = self.tensors.len();
        if let Some(earlier) = self.by_name.insert(Arc::clone(&tensor.name), place) {
            return Err(CatalogError::InTwoFiles {
                tensor: tensor.name.to_string(),
                first: self.tensors[earlier].file.to_string(),
                second: tensor.file.to_string(),
            });
        }
        self.tensors.push(tensor);
        Ok(())
    }

    fn check_places(&self, index: &Index) -> Result<(), CatalogError> {
        let mut tensors = self.tensors.iter();
        let elsewhere = tensors.find_map(|tensor| {
            let indexed = index.weight_map.get(&*tensor.name)?;
            (**indexed != *tensor.file).then(|| CatalogError::PlacedElsewhere {
                tensor: tensor.name.to_string(),
                found: tensor.file.to_string(),
                indexed: indexed.clone(),
            })
        });
        elsewhere.map_or(Ok(()), Err)
    }

    /// The same tensors, those that begin with `stored` under the name that begins with `named` in its place. `None` where two tensors
    /// would have one name.
    pub(crate) fn renamed(&self, renaming: Renaming) -> Option<Self> {
        let Renaming { stored, named } = &renaming;
        let catalog = self.with_names(|name| match name.strip_prefix(stored.as_str()) {
            Some(rest) => format!("{named}{rest}"),
            None => name.to_owned(),
        })?;
        Some(Self {
            renaming: Some(renaming),
            ..catalog
        })
    }

    /// The same tensors without what torch puts into the names of wrapped modules; `None` where no name has that, or where two tensors
    /// would have one name.
    pub(crate) fn unwrapped(&self) -> Option<Self> {
        let is_wrapper = |segment: &str| WRAPPERS.contains(&segment);
        let mut names = self.tensors.iter();
        names.find(|tensor| tensor.name.split('.').any(is_wrapper))?;
        self.with_names(|name| {
            let kept = name.split('.').filter(|segment| !is_wrapper(segment));
            kept.collect::<Vec<_>>().join(".")
        })
    }

    fn with_names(&self, name: impl Fn(&str) -> String) -> Option<Self> {
        let tensors = self.tensors.iter().map(|tensor| TensorInfo {
            name: name(&tensor.name).into(),
            ..tensor.clone()
        });
        let catalog: Self = tensors.collect();
        (catalog.by_name.len() == self.by_name.len()).then_some(catalog)
    }

    /// The name that a file has for a tensor or module, where it differs.
    pub(crate) fn as_stored(&self, name: &str) -> Option<String> {
        let Renaming { stored, named } = self.renaming.as_ref()?;
        let rest = name.strip_prefix(named.as_str())?;
        Some(format!("{stored}{rest}"))
    }

    /// The tensor of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&place| &self.tensors[place])
    }

    /// The tensors by file and offset: the order in which a disk likes to be read.
    pub fn iter(&self) -> core::slice::Iter<'_, TensorInfo> {
        self.tensors.iter()
    }

    /// How many tensors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
}

/// Tensors of different names.
impl FromIterator<TensorInfo> for Catalog {
    fn from_iter<I: IntoIterator<Item = TensorInfo>>(tensors: I) -> Self {
        let tensors: Vec<TensorInfo> = tensors.into_iter().collect();
        let by_name = tensors.iter().enumerate();
        let by_name = by_name.map(|(place, tensor)| (Arc::clone(&tensor.name), place));
        Self {
            by_name: by_name.collect(),
            tensors,
            renaming: None,
        }
    }
}

impl<'a> IntoIterator for &'a Catalog {
    type Item = &'a TensorInfo;
    type IntoIter = core::slice::Iter<'a, TensorInfo>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Files and index contradict each other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The index promises a tensor that its shard lacks.
    #[error(
        "the index places tensor {tensor} in {shard}, which does not have it; are index and shards \
         of one saving?"
    )]
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The shard that should have it.
        shard: String,
    },

    /// A shard has a tensor that the index places in another.
    #[error(
        "tensor {tensor} is in {found}, and the index places it in {indexed}; are they of one \
         saving?"
    )]
    PlacedElsewhere {
        /// The tensor.
        tensor: String,
        /// The shard that has it.
        found: String,
        /// The shard that the index names.
        indexed: String,
    },

    /// Two shards have the same tensor.
    #[error("tensor {tensor} is in {first} and in {second}; are the shards of one saving?")]
    InTwoFiles {
        /// The tensor.
        tensor: String,
        /// The file that comes first by name.
        first: String,
        /// The other.
        second: String,
    },
}
