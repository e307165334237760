//! The file of the state of an optimizer.
//!
//! Tensors are named by the path of the parameter and the part of its state: `layers.0.mlp.up.weight.exp_avg`. A parameter that
//! had no gradient so far has its `step` alone, which is 0.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use burn::tensor::{DType as BurnDType, Device, TensorData};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};

use super::{
    error::OptimizerError,
    moments::{Moments, STEP, StatePart},
};

pub(super) use super::moments::UnfitMoments;

/// Parameters of a file, by their path, and the tensors of their states.
pub(super) struct StoredStates {
    tensors: BTreeMap<String, BTreeMap<String, TensorData>>,
}

impl StoredStates {
    /// How many parameters have a state.
    pub(super) fn parameters(&self) -> usize {
        self.tensors.len()
    }

    /// The moments of a parameter; `None` where there has been no step.
    pub(super) fn take(
        &mut self,
        parameter: &str,
        device: &Device,
    ) -> Result<Option<Moments>, UnfitMoments> {
        let parts = self
            .tensors
            .get_mut(parameter)
            .ok_or(UnfitMoments::Missing(STEP))?;
        let moments = Moments::read(|name| parts.remove(name), device)?;
        if parts.is_empty() {
            self.tensors.remove(parameter);
        }
        Ok(moments)
    }

    /// The first tensor that was not taken.
    pub(super) fn left(&self) -> Option<String> {
        let (parameter, parts) = self.tensors.first_key_value()?;
        let (part, _) = parts.first_key_value()?;
        Some(format!("{parameter}.{part}"))
    }
}

/// Reads a file.
pub(super) fn read(file: &Path) -> Result<StoredStates, OptimizerError> {
    let bytes = fs::read(file).map_err(|source| OptimizerError::File {
        file: file.to_owned(),
        source,
    })?;
    let damaged = |source| OptimizerError::Tensors {
        file: file.to_owned(),
        source,
    };
    let found = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let mut tensors = BTreeMap::<String, BTreeMap<String, TensorData>>::new();
    for (name, view) in found.iter() {
        let dtype = match view.dtype() {
            Dtype::F32 => BurnDType::F32,
            Dtype::U8 => BurnDType::U8,
            Dtype::I64 => BurnDType::I64,
            dtype => {
                return Err(damaged(SafeTensorError::InvalidTensorView(
                    dtype,
                    view.shape().to_vec(),
                    view.data().len(),
                )));
            }
        };
        let (parameter, part) = name.rsplit_once('.').unwrap_or(("", name));
        let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape(), dtype);
        let parts = tensors.entry(parameter.to_owned()).or_default();
        parts.insert(part.to_owned(), data);
    }
    Ok(StoredStates { tensors })
}

/// Writes a file by its part, so that nobody reads half of it.
pub(super) fn write(
    file: &Path,
    states: &BTreeMap<String, Option<Moments>>,
) -> Result<(), OptimizerError> {
    let parts = states.iter().flat_map(|(parameter, moments)| {
        let parts = match moments {
            Some(moments) => moments.parts(),
            None => vec![StatePart::step(0)],
        };
        let named = parts.into_iter();
        named.map(move |part| (format!("{parameter}.{}", part.name), part))
    });
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = safetensors::serialize_to_file(parts, None, &part);
    let written = written.map_err(|error| match error {
        SafeTensorError::IoError(source) => source,
        error => io::Error::other(error),
    });
    let kept = written.and_then(|()| fs::File::open(&part)?.sync_all());
    kept.and_then(|()| fs::rename(&part, file))
        .map_err(|source| {
            let _ = fs::remove_file(&part);
            OptimizerError::File {
                file: file.to_owned(),
                source,
            }
        })
}

impl View for StatePart<'_> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            BurnDType::U8 => Dtype::U8,
            BurnDType::I64 => Dtype::I64,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.bytes())
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}
