//! The optimizer of a module: moments by the path of each parameter.

use std::{collections::BTreeMap, path::Path};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Device, Tensor},
};
use burn_optim::{GradientsParams, Optimizer as _};

use super::{adamw::AdamW, config::OptimizerConfig, error::OptimizerError, file, moments::Moments};
use crate::train::param_path::ParamPath;

/// AdamW with the moments of all parameters of a module.
///
/// Moments belong to the path of a parameter in the module (`blocks.0.mlp.up.adapters.0.low_rank.lora:rank=16,scale=2.a`), so that a state that was
/// saved goes on with a module that was loaded again.
#[derive(Debug, Clone)]
pub struct Optimizer {
    adamw: AdamW,
    /// `None` for a parameter that is trained and had no gradient so far.
    states: BTreeMap<String, Option<Moments>>,
}

/// A parameter that is trained.
struct TrainedParam {
    path: String,
    shape: Vec<usize>,
    device: Device,
}

impl Optimizer {
    /// An optimizer before its first step.
    pub fn new(config: OptimizerConfig) -> Self {
        Self {
            adamw: AdamW::new(config),
            states: BTreeMap::new(),
        }
    }

    /// The settings.
    pub fn config(&self) -> &OptimizerConfig {
        self.adamw.config()
    }

    /// Moves the parameters of `model` that have a gradient, with the learning rate `lr`.
    ///
    /// Gradients are used as they are: [`clip`](super::clip) refuses those that are not finite.
    ///
    /// # Panics
    ///
    /// When the device fails, or a parameter has another shape than in the step before.
    pub fn step<M: Module>(&mut self, lr: f64, model: M, grads: GradientsParams) -> M {
        model.map(&mut Stepper {
            optimizer: self,
            lr,
            grads,
            path: ParamPath::default(),
        })
    }

    /// Bytes of all moments.
    pub fn bytes(&self) -> u64 {
        let states = self.states.values().flatten();
        states.map(Moments::bytes).sum()
    }

    /// Writes the moments into a safetensors file: the same bytes for the same moments. One tensor at a time is copied from
    /// its device.
    ///
    /// # Errors
    ///
    /// [`OptimizerError::File`].
    ///
    /// # Panics
    ///
    /// When the device fails.
    pub fn save(&self, file: &Path) -> Result<(), OptimizerError> {
        file::write(file, &self.states)
    }

    /// Reads the moments of `model` from a file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// [`OptimizerError`] where the file cannot be read, or is not the state of such an optimizer for all parameters that
    /// the model trains and no others.
    pub fn load<M: Module>(
        config: OptimizerConfig,
        file: &Path,
        model: &M,
    ) -> Result<Self, OptimizerError> {
        let mut trained = TrainedParams::default();
        model.visit(&mut trained);
        let trained = trained.found;
        let mut states = file::read(file)?;
        let counts = (states.parameters(), trained.len());
        let mut read = BTreeMap::new();
        for TrainedParam {
            path,
            shape,
            device,
        } in &trained
        {
            let wrong = |tensor, found, expected| OptimizerError::Wrong {
                file: file.to_owned(),
                parameter: path.clone(),
                tensor,
                found,
                expected,
            };
            let moments = states.take(path, device);
            let moments = moments.map_err(|unfit| match unfit {
                file::UnfitMoments::Missing(tensor) => OptimizerError::Missing {
                    file: file.to_owned(),
                    parameter: path.clone(),
                    tensor,
                    found: counts.0,
                    trained: counts.1,
                },
                file::UnfitMoments::Wrong {
                    tensor,
                    found,
                    expected,
                } => wrong(tensor, found, expected),
            })?;
            if let Some(moments) = &moments {
                if moments.shape != *shape {
                    let [found, expected] =
                        [&moments.shape, shape].map(|shape| format!("{shape:?}"));
                    return Err(wrong(moments.name(), found, expected));
                }
                if !moments.is(config.moments) {
                    return Err(OptimizerError::Form {
                        file: file.to_owned(),
                        parameter: path.clone(),
                        eight_bits: moments.in_blocks(),
                        optimizer: config.to_string(),
                    });
                }
            }
            read.insert(path.clone(), moments);
        }
        match states.left() {
            Some(tensor) => Err(OptimizerError::Unused {
                file: file.to_owned(),
                tensor,
                found: counts.0,
                trained: counts.1,
            }),
            None => Ok(Self {
                adamw: AdamW::new(config),
                states: read,
            }),
        }
    }
}

struct Stepper<'a> {
    optimizer: &'a mut Optimizer,
    lr: f64,
    grads: GradientsParams,
    path: ParamPath,
}

impl ModuleMapper for Stepper<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.leave();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let Optimizer { adamw, states } = &mut *self.optimizer;
        let tensor = match self.grads.remove::<D>(id) {
            Some(grad) => {
                let state = states.entry(self.path.path()).or_default();
                let strategy = tensor.gradient_checkpointing_strategy();
                let trained = tensor.is_require_grad();
                let tensor = tensor.inner().to_device(&grad.device());
                let (tensor, moments) = adamw.step(self.lr, tensor, grad, state.take());
                *state = moments;
                // Back to the graph as it was: tensors of other strategies do not go together.
                let tensor = match strategy {
                    Some(strategy) => {
                        Tensor::from_inner(tensor).with_gradient_checkpointing_strategy(strategy)
                    }
                    None => tensor,
                };
                match trained {
                    true => tensor.require_grad(),
                    false => tensor,
                }
            }
            None => {
                if tensor.is_require_grad() {
                    states.entry(self.path.path()).or_default();
                }
                tensor
            }
        };
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// The parameters that a module trains.
#[derive(Default)]
struct TrainedParams {
    path: ParamPath,
    found: Vec<TrainedParam>,
}

impl ModuleVisitor for TrainedParams {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.leave();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        if tensor.is_require_grad() {
            self.found.push(TrainedParam {
                path: self.path.path(),
                shape: tensor.dims().into(),
                device: tensor.device().inner(),
            });
        }
    }
}
