//! Which weight is multiplied in which arithmetic.

use std::collections::BTreeMap;

use firebox_kernels::{
    format::{Format, Half},
    linear::Compute,
};

use super::{Action, Plan, PlanError, Step, bind::Request};

impl Plan {
    /// How many matrices are multiplied in which arithmetic. An embedding counts, as a head may be the same.
    pub fn computes(&self) -> BTreeMap<Compute, usize> {
        let mut computes = BTreeMap::new();
        for compute in self.steps.iter().filter_map(|step| step.compute(self)) {
            *computes.entry(compute).or_default() += 1;
        }
        computes
    }
}

impl Step {
    /// The arithmetic of products with it, where it is a matrix: that which `plan` asks for, or `f32` where that does not suit
    /// it. Matrices in the type of the activations are Burn's to multiply.
    pub fn compute(&self, plan: &Plan) -> Option<Compute> {
        let kept = self.kept();
        let shape: [usize; 2] = kept.slot.shape.as_slice().try_into().ok()?;
        let format = match self.action {
            Action::Carry => return None,
            Action::Dense(dtype) if dtype != plan.dtype => Half::of(dtype).map(Format::Half),
            Action::Dense(_) => None,
            Action::Pack(_, format) | Action::Adopt(format) => Some(format),
        };
        Some(format.map_or(Compute::F32, |format| plan.compute.of(format, shape)))
    }
}

impl Request<'_> {
    /// Refuses an arithmetic of host targets on a device.
    pub(super) fn check_compute(&self) -> Result<(), PlanError> {
        if !self.is_device || self.compute == Compute::F32 {
            return Ok(());
        }
        let target = self.devices.first().map(|device| device.target.clone());
        Err(PlanError::Compute {
            compute: self.compute,
            target: target.unwrap_or_default(),
        })
    }
}
