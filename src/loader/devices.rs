//! The devices of a load: those that were asked for, opened, and what all of them can do.

use burn::tensor::Device;

use crate::{
    config::PlaceConfig,
    error::Error,
    plan::{MapError, PlanError},
    target::{Capabilities, Target},
};

/// Open devices of one target, one at least.
#[derive(Debug, Clone)]
pub(super) struct OpenDevices {
    pub(super) all: Vec<Device>,
    /// Index and abilities of each.
    pub(super) each: Vec<(usize, Capabilities)>,
}

impl OpenDevices {
    /// Opens the devices that `place` asks for.
    pub(super) fn open<T: Target>(place: &PlaceConfig) -> Result<Self, Error> {
        let indices = device_indices(place)?;
        let all = indices.iter().map(|index| T::device(*index));
        let all = all.collect::<Result<Vec<_>, _>>()?;
        Ok(Self::of::<T>(indices, all))
    }

    /// The first of them is open; the others record gradients if it does.
    pub(super) fn beside<T: Target>(first: Device, place: &PlaceConfig) -> Result<Self, Error> {
        let indices = device_indices(place)?;
        let others = indices.iter().skip(1).map(|index| {
            let other = T::device(*index)?;
            Ok(match first.is_autodiff() {
                true => other.autodiff(),
                false => other,
            })
        });
        let others = others.collect::<Result<Vec<_>, Error>>()?;
        let all = [first].into_iter().chain(others).collect();
        Ok(Self::of::<T>(indices, all))
    }

    /// Devices that are not here: plans are made for them.
    pub(super) fn stated(any: Device, each: impl Iterator<Item = (usize, Capabilities)>) -> Self {
        Self {
            all: vec![any],
            each: each.collect(),
        }
    }

    fn of<T: Target>(indices: Vec<usize>, all: Vec<Device>) -> Self {
        let each = indices.into_iter().zip(all.iter().map(T::capabilities));
        Self {
            each: each.collect(),
            all,
        }
    }

    /// What all of them can do, under the name of the first.
    pub(super) fn common(&self) -> Capabilities {
        let mut common = self.each[0].1.clone();
        for (_, other) in &self.each[1..] {
            common.dtypes.retain(|dtype| other.dtypes.contains(dtype));
            let limits = [common.largest_allocation, other.largest_allocation];
            common.largest_allocation = limits.into_iter().flatten().min();
        }
        common
    }
}

/// The indices that are asked for, each once.
pub(crate) fn device_indices(place: &PlaceConfig) -> Result<Vec<usize>, PlanError> {
    let indices = place.resolved_devices();
    let mut rest = &indices[..];
    while let [first, others @ ..] = rest {
        if others.contains(first) {
            return Err(MapError::DeviceTwice { index: *first }.into());
        }
        rest = others;
    }
    Ok(indices)
}
