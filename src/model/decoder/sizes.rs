//! Refuses a [`Spec`] whose tensors no file could have, before anything is allocated for them.
//!
//! Numbers of a `config.json` are bounded one by one where they are read. Their products are bounded here, so that all later
//! arithmetic over shapes is exact.

use super::{
    spec::{FeedForwardSpec, Spec},
    visit::Visit,
    walk,
};
use crate::{
    config::Role,
    model::{error::ConfigError, layers::NormSpec},
};

/// More tensors than any model has, an expert's matrices counted one by one: the largest today have 70,000.
const TENSORS_MAX: usize = 1 << 17;

/// More values than any tensor has: half a petabyte of bf16.
const VALUES_MAX: usize = 1 << 48;

/// Counts the tensors of a model, and multiplies their shapes.
///
/// # Errors
///
/// [`ConfigError`] for too many tensors, a tensor that is too large, and a word that the forward pass does not compute.
pub(in crate::model) fn check_sizes(spec: &Spec) -> Result<(), ConfigError> {
    // An expert has two matrices at least; without a walk, since a name is made for each.
    let experts = spec.layers.iter().map(|layer| match &layer.feed_forward {
        FeedForwardSpec::Mlp(_) => 0,
        FeedForwardSpec::Experts(experts) | FeedForwardSpec::Both { experts, .. } => experts.count,
    });
    let matrices = experts.fold(0_usize, |all, count| all.saturating_add(2 * count));
    if matrices > TENSORS_MAX {
        return Err(ConfigError::TooManyTensors { max: TENSORS_MAX });
    }
    walk::walk(spec, &mut Sizes { tensors: 0 })?;
    Ok(())
}

/// Keeps nothing of a tensor.
struct Sizes {
    tensors: usize,
}

impl Sizes {
    fn count(&mut self, tensor: String, shape: &[usize]) -> Result<(), ConfigError> {
        self.tensors += 1;
        if self.tensors > TENSORS_MAX {
            return Err(ConfigError::TooManyTensors { max: TENSORS_MAX });
        }
        let values = shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d));
        match values.is_some_and(|values| values <= VALUES_MAX) {
            true => Ok(()),
            false => Err(ConfigError::TooLarge {
                tensor,
                shape: shape.to_vec(),
                max: VALUES_MAX,
            }),
        }
    }
}

impl Visit for Sizes {
    type Table = ();
    type Matrix = ();
    type Norm = ();
    type Values = ();
    type Error = ConfigError;

    fn table(&mut self, path: String, shape: [usize; 2]) -> Result<(), ConfigError> {
        self.count(path, &shape)
    }

    fn matrix(
        &mut self,
        path: String,
        _: Role,
        shape: [usize; 2],
        _: bool,
    ) -> Result<(), ConfigError> {
        self.count(path, &shape)
    }

    fn norm(&mut self, path: String, shape: &[usize], _: NormSpec) -> Result<(), ConfigError> {
        self.count(path, shape)
    }

    fn values(&mut self, name: String, shape: &[usize]) -> Result<(), ConfigError> {
        self.count(name, shape)
    }
}
