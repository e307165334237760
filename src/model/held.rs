//! The values of a module by the name of their slot: a module seen as a checkpoint.

use std::collections::HashMap;

use burn::{
    module::Param,
    tensor::{DType, FloatDType, Tensor},
};
use firebox_kernels::format::{Format, Packed};

use super::{
    Adaptable, Architecture,
    layers::{Adapter, Embedding, Linear, Matrix, Norm},
};

/// The values of one slot, where the module has them; adapters are merged when they are read.
#[derive(Debug, Clone)]
pub(crate) enum SlotValues {
    /// A matrix.
    Linear(Linear),
    /// A table.
    Table(Embedding),
    /// The scale of a norm.
    Scale(Norm),
    /// A bias, changes included.
    Bias(Tensor<1>),
    /// Values without changes.
    Plain(Param<Tensor<1>>),
}

/// The values of a module, by the name of their slot.
pub(crate) fn held<A: Architecture>(model: &mut A) -> HashMap<String, SlotValues> {
    let mut found = HashMap::new();
    for (name, values) in model.others() {
        found.insert(name, SlotValues::Plain(values.clone()));
    }
    for place in model.adaptable() {
        let path = place.path().to_owned();
        let (weight, bias) = match place {
            Adaptable::Linear(linear) => {
                (SlotValues::Linear(linear.clone()), linear.changed_bias())
            }
            Adaptable::Embedding(table) => (SlotValues::Table(table.clone()), None),
            Adaptable::Norm(norm) => (SlotValues::Scale(norm.clone()), norm.changed_bias()),
        };
        found.insert(format!("{path}.weight"), weight);
        let bias = bias.map(|bias| {
            (
                format!("{path}.bias"),
                SlotValues::Bias(bias.without_autodiff()),
            )
        });
        found.extend(bias);
    }
    found
}

impl SlotValues {
    fn matrix(&self) -> Option<(&Matrix, &[Adapter])> {
        match self {
            Self::Linear(linear) => Some((&linear.weight, &linear.adapters)),
            Self::Table(table) => Some((&table.table, &table.adapters)),
            Self::Scale(_) | Self::Bias(_) | Self::Plain(_) => None,
        }
    }

    /// The format of its words, where it is packed; halves count as dense.
    pub(crate) fn format(&self) -> Option<Format> {
        self.matrix()?.0.format()
    }

    /// Whether adapters change the matrix.
    pub(crate) fn is_changed(&self) -> bool {
        let adapters = self.matrix().map_or(&[][..], |(_, adapters)| adapters);
        adapters.iter().any(Adapter::changes_weight)
    }

    /// The matrix without changes, for a head that was tied to a table whose rows adapters change.
    pub(crate) fn unchanged(&self) -> Self {
        match self.matrix() {
            Some((matrix, _)) => Self::Linear(Linear::new(matrix.clone(), None)),
            None => self.clone(),
        }
    }

    /// `[out, in]` of the matrix; everything else is a column.
    pub(crate) fn shape(&self) -> [usize; 2] {
        match self.matrix() {
            Some((matrix, _)) => matrix.shape(),
            None => [self.len(), 1],
        }
    }

    /// How many values it has.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Linear(Linear { weight: matrix, .. })
            | Self::Table(Embedding { table: matrix, .. }) => matrix.shape().iter().product(),
            Self::Scale(norm) => norm.scale.val().shape().num_elements(),
            Self::Bias(bias) => bias.shape().num_elements(),
            Self::Plain(values) => values.val().shape().num_elements(),
        }
    }

    /// Its values, row after row.
    pub(crate) fn floats(&self) -> Vec<f32> {
        let flat = |rows: Tensor<2>| rows.without_autodiff().flatten(0, 1);
        let values: Tensor<1> = match self {
            Self::Linear(linear) => flat(linear.to_dense(FloatDType::F32)),
            Self::Table(table) => flat(table.to_dense(FloatDType::F32)),
            Self::Scale(norm) => norm.changed_scale(),
            Self::Bias(bias) => bias.clone(),
            Self::Plain(values) => values.val(),
        };
        let values = values.without_autodiff().cast(DType::F32).into_data();
        values.try_into_vec().expect("they were cast to f32")
    }

    /// Its words and scales; `None` where it is dense.
    pub(crate) fn packed(&self) -> Option<Packed> {
        self.matrix()?.0.to_packed()
    }
}
