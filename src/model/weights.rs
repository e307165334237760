//! Finished weights, handed to an architecture by name while it builds its module.

use std::collections::BTreeMap;

use burn::{
    module::{Param, ParamId},
    tensor::{Device, Tensor},
};
use firebox_kernels::{format::Format, linear::Compute};

use super::stream::StreamedWeight;
use super::{
    decoder::Unsupported,
    layers::{Embedding, Linear, Matrix, Place},
};
use crate::{
    config::{KvCacheDtype, Role},
    quant::{PackedWeight, ops},
    target::{DType, ToBurn},
};

/// A finished weight on its device.
#[derive(Debug, Clone)]
pub enum Weight {
    /// Plain numbers, flattened; the second field is the shape. Several tensors hold rows one after
    /// another, where a device has no allocation large enough for all.
    Dense(Vec<Tensor<1>>, Vec<usize>),
    /// Packed words, of rows one after another; or a matrix of halves, which are multiplied as they are stored.
    Packed(Vec<PackedWeight>),
    /// Matrices that come to the device when they are needed, of rows one after another.
    Streamed(Vec<StreamedWeight>),
}

impl Weight {
    /// The same numbers in the same memory, for another module: parameters are its own.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Dense(parts, shape) => Self::Dense(parts.clone(), shape.clone()),
            Self::Packed(parts) => Self::Packed(parts.iter().map(PackedWeight::again).collect()),
            Self::Streamed(parts) => Self::Streamed(parts.clone()),
        }
    }

    fn shape(&self) -> Vec<usize> {
        match self {
            Self::Dense(_, shape) => shape.clone(),
            Self::Packed(parts) => {
                let [_, cols] = parts[0].layout().shape;
                vec![parts.iter().map(|part| part.layout().shape[0]).sum(), cols]
            }
            Self::Streamed(parts) => {
                let [_, cols] = parts[0].shape();
                vec![parts.iter().map(|part| part.shape()[0]).sum(), cols]
            }
        }
    }
}

/// Every finished weight of a checkpoint, by the name of its slot.
///
/// Building takes weights out, so that two modules cannot own one by accident.
#[derive(Debug)]
pub struct Weights {
    device: Device,
    dtype: DType,
    kv_cache: Option<KvCacheDtype>,
    compute: Compute,
    by_name: BTreeMap<String, Weight>,
}

/// A module asked for a weight that is not what it expects. Slots and `build` of an architecture
/// disagree: a bug in the architecture, whoever wrote it, and never a reason to panic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No weight of this name, or it was taken before.
    #[error("{name}: no such weight is left; name it once in `slots` and take it once in `build`")]
    Missing {
        /// The name asked for.
        name: String,
    },
    /// Nobody took it.
    #[error("{name}: `slots` names it and `build` takes it nowhere ({count} such weights)")]
    Left {
        /// The first such weight.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// Another shape than expected.
    #[error("{name}: has shape {found:?}, expected {wanted} dimensions")]
    Rank {
        /// The weight.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// Dimensions expected.
        wanted: usize,
    },
    /// Packed, where the module needs plain numbers.
    #[error(
        "{name}: is packed as {format}, and the module needs it dense; give it another role or a rule `{name}=none`"
    )]
    Packed {
        /// The weight.
        name: String,
        /// How it is packed.
        format: Format,
    },
    /// The module cannot be built from any weights.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

impl Weights {
    /// An empty set for `device`, whose dense weights will be in `dtype`.
    pub fn new(device: Device, dtype: DType) -> Self {
        Self {
            device,
            dtype,
            kv_cache: None,
            compute: Compute::F32,
            by_name: BTreeMap::new(),
        }
    }

    /// The same, for a model whose caches keep keys and values in another type than that of activations.
    pub fn with_kv_cache(self, kv_cache: Option<KvCacheDtype>) -> Self {
        Self { kv_cache, ..self }
    }

    /// The type that caches of the model keep keys and values in; that of activations where there is none.
    pub fn kv_cache(&self) -> Option<KvCacheDtype> {
        self.kv_cache
    }

    /// The arithmetic of products with the matrices that are taken from now on; `f32` if not given.
    pub fn computing(mut self, compute: Compute) -> Self {
        self.compute = compute;
        self
    }

    /// Adds a finished weight under the name of its slot.
    pub fn insert(&mut self, name: String, weight: Weight) {
        self.by_name.insert(name, weight);
    }

    /// Refuses weights that nobody took.
    ///
    /// # Errors
    ///
    /// [`BuildError::Left`]: a module without one of its weights would compute something else.
    pub fn finish(self) -> Result<(), BuildError> {
        match self.by_name.keys().next() {
            None => Ok(()),
            Some(first) => Err(BuildError::Left {
                name: first.clone(),
                count: self.by_name.len(),
            }),
        }
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type dense weights are in and activations should be in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Names not taken yet, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Takes a weight as it is.
    ///
    /// # Errors
    ///
    /// [`BuildError::Missing`].
    pub fn take(&mut self, name: &str) -> Result<Weight, BuildError> {
        self.by_name
            .remove(name)
            .ok_or_else(|| BuildError::Missing {
                name: name.to_owned(),
            })
    }

    /// Takes a dense weight of `D` dimensions, in the checkpoint's own shape.
    ///
    /// # Errors
    ///
    /// [`BuildError`] when it is missing, packed, or of another rank.
    pub fn tensor<const D: usize>(&mut self, name: &str) -> Result<Tensor<D>, BuildError> {
        let (parts, shape) = self.dense(name)?;
        let dims: [usize; D] = shape.try_into().map_err(|found| BuildError::Rank {
            name: name.to_owned(),
            found,
            wanted: D,
        })?;
        Ok(Tensor::cat(parts, 0).reshape(dims))
    }

    /// Takes a dense weight: its flat parts and its shape.
    fn dense(&mut self, name: &str) -> Result<(Vec<Tensor<1>>, Vec<usize>), BuildError> {
        let weight = self.take(name)?;
        let shape = weight.shape();
        let packed = |format| BuildError::Packed {
            name: name.to_owned(),
            format,
        };
        let parts = match weight {
            Weight::Packed(parts) => match parts[0].layout().format {
                // Dense values all the same, which become a tensor of the type of the others.
                Format::Half(_) => {
                    let parts = parts.iter();
                    let wide = parts.map(|part| ops::dequantize(part, self.dtype.burn()));
                    wide.map(|part| part.flatten(0, 1)).collect()
                }
                format => return Err(packed(format)),
            },
            Weight::Dense(parts, _) => parts,
            // Who asks for it as a tensor has it on the device from now on.
            Weight::Streamed(parts) => {
                let dense = parts.iter().map(|part| match part.format() {
                    None | Some(Format::Half(_)) => {
                        Ok(part.to_dense(self.dtype.burn()).flatten(0, 1))
                    }
                    Some(format) => Err(packed(format)),
                });
                dense.collect::<Result<_, _>>()?
            }
        };
        Ok((parts, shape))
    }

    /// Takes a dense weight of `D` dimensions as a module parameter.
    ///
    /// # Errors
    ///
    /// As [`tensor`](Self::tensor).
    pub fn param<const D: usize>(&mut self, name: &str) -> Result<Param<Tensor<D>>, BuildError> {
        Ok(Param::initialized(ParamId::new(), self.tensor(name)?))
    }

    /// Takes a dense weight of any dimensions as a flat parameter, row after row.
    pub(super) fn flat_param(&mut self, name: &str) -> Result<Param<Tensor<1>>, BuildError> {
        let parts = self.dense(name)?.0;
        Ok(Param::initialized(ParamId::new(), Tensor::cat(parts, 0)))
    }

    /// Takes `{path}.weight`, dense or packed, and `{path}.bias` if there is one.
    ///
    /// # Errors
    ///
    /// [`BuildError`] when the weight is missing or not a matrix.
    pub fn linear(&mut self, path: &str) -> Result<Linear, BuildError> {
        let name = format!("{path}.weight");
        let weight = self.matrix(&name)?;
        let bias = format!("{path}.bias");
        let bias = if self.by_name.contains_key(&bias) {
            Some(self.param(&bias)?)
        } else {
            None
        };
        Ok(Linear::new(weight, bias).named(Place::new(path, Role::Linear)))
    }

    /// Takes `{path}.weight`, dense or packed, as a table of rows.
    ///
    /// # Errors
    ///
    /// [`BuildError`] when the weight is missing or not a matrix.
    pub fn embedding(&mut self, path: &str) -> Result<Embedding, BuildError> {
        let dtype = self.dtype;
        let table = self.matrix(&format!("{path}.weight"))?;
        Ok(Embedding::new(table, dtype).named(Place::new(path, Role::Embedding)))
    }

    /// Takes a weight of two dimensions, dense or packed.
    pub(super) fn matrix(&mut self, name: &str) -> Result<Matrix, BuildError> {
        let weight = self.take(name)?;
        let found = weight.shape();
        match (weight, found.as_slice()) {
            (Weight::Packed(parts), _) => {
                let parts = parts.into_iter().map(|part| part.computing(self.compute));
                Ok(Matrix::of_parts(parts.map(Matrix::Packed)))
            }
            (Weight::Streamed(parts), _) => {
                let parts = parts.into_iter().map(|part| part.computing(self.compute));
                Ok(Matrix::of_parts(parts.map(Matrix::Streamed)))
            }
            (Weight::Dense(parts, _), &[_, cols]) => {
                Ok(Matrix::of_parts(parts.into_iter().map(|part| {
                    let rows = part.dims()[0] / cols.max(1);
                    Matrix::Dense(Param::initialized(
                        ParamId::new(),
                        part.reshape([rows, cols]),
                    ))
                })))
            }
            _ => Err(BuildError::Rank {
                name: name.to_owned(),
                found,
                wanted: 2,
            }),
        }
    }
}
