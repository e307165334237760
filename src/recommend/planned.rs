//! A plan with the memory of a task.

use super::{RecommendError, Task, training::training};
use crate::{
    error::Error,
    loader::Planner,
    model::{CausalLm, PassSize},
    plan::{MemoryPlan, Plan},
};

/// A plan, and the memory that it takes with its task.
#[derive(Debug)]
#[non_exhaustive]
pub struct PlannedTask {
    /// The plan.
    pub plan: Plan,
    /// The memory.
    pub memory: MemoryPlan,
    /// The pass that is counted, where the task says its length or trains.
    pub size: Option<PassSize>,
    /// Why the load would be refused, if it would.
    pub refused: Option<Error>,
}

/// The plan of a configuration, and the memory that it takes with a task: of the load alone where the task says nothing.
///
/// # Errors
///
/// [`RecommendError::Task`] for sizes that the model has not, and errors of the model.
pub fn planned(planner: &Planner, task: &Task) -> Result<PlannedTask, RecommendError> {
    let spec = planner.config::<CausalLm>()?;
    let is_counted = task.length.is_some() || task.train.is_some();
    let size = is_counted.then(|| task.size(&spec)).transpose()?;
    let quant = planner.load_config().linear_quant().clone();
    let recompute = task.recompute.unwrap_or(false);
    let finetune = size.and_then(|size| task.finetune(&quant, size, recompute));
    let trained;
    let planner = match &finetune {
        Some(finetune) => {
            trained = planner.with(None, |config| finetune.load_config(config));
            &trained
        }
        None => planner,
    };
    let plan = planner.plan::<CausalLm>()?;
    let length = size.map_or(0, |size| size.length);
    let training = training(finetune.as_ref(), &plan, &spec, length)?;
    let memory = planner.memory::<CausalLm>(&plan, size, training)?;
    Ok(PlannedTask {
        refused: planner.check(&plan).err(),
        plan,
        memory,
        size,
    })
}
