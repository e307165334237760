//! The gradients of one step: summed over batches, measured, scaled and clipped.

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::{DType as BurnDType, Tensor},
};
use burn_optim::GradientsParams;
use firebox_kernels::adamw;

use crate::{target::in_host_memory, train::param_path::ParamPath};

/// Gradients that no step can be made with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GradientError {
    /// No gradient at all.
    #[error(
        "no parameter of the model has a gradient, so nothing would be trained: add an adapter, or load the model for training (`adapter::trainable`)"
    )]
    None,
    /// A value that is no number, or too large for one.
    #[error(
        "the gradient of `{parameter}` is not finite (the sum of its squares is {squares}): lower the learning rate, or look for the step at which the loss jumps"
    )]
    NotFinite {
        /// The parameter, by its path in the model.
        parameter: String,
        /// The sum of the squares of its gradient.
        squares: f64,
    },
}

/// Sums of gradients over the batches of one step, in `f32` and in the order of the batches, so that a run that is repeated
/// has the same bits.
#[derive(Debug, Default)]
pub struct GradientSum {
    grads: GradientsParams,
}

impl GradientSum {
    /// Adds the gradients of a batch. Those of other modules than `model` are dropped.
    pub fn add<M: Module>(&mut self, model: &M, grads: GradientsParams) {
        model.visit(&mut AddGradients {
            sum: &mut self.grads,
            grads,
        });
    }

    /// The sums. The next ones begin at 0.
    pub fn take(&mut self) -> GradientsParams {
        std::mem::take(&mut self.grads)
    }
}

struct AddGradients<'a> {
    sum: &'a mut GradientsParams,
    grads: GradientsParams,
}

impl ModuleVisitor for AddGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(new) = self.grads.remove::<D>(param.id) {
            let new = new.cast(BurnDType::F32);
            let sum = match self.sum.remove(param.id) {
                Some(sum) => sum + new,
                None => new,
            };
            self.sum.register(param.id, sum);
        }
    }
}

/// Multiplies all gradients of `model` by `scale`, and, where the norm of all of them together is then above `max_norm`, by
/// `max_norm / (norm + 1e-6)`, as `torch.nn.utils.clip_grad_norm_` does. Gives the norm after scaling and before clipping.
///
/// With sums of losses, `scale` is 1 over the number of tokens that were trained on. Squares are summed in the order of the
/// module, and on the host in `f64`, so the norm is the same in every run.
///
/// # Errors
///
/// [`GradientError`] for gradients that are not finite, and where there are none.
///
/// # Panics
///
/// When the device fails.
pub fn clip<M: Module>(
    model: &M,
    grads: &mut GradientsParams,
    scale: f64,
    max_norm: Option<f64>,
) -> Result<f64, GradientError> {
    let mut squares = GradientSquares {
        grads,
        path: ParamPath::default(),
        parameters: Vec::new(),
        on_devices: Vec::new(),
    };
    model.visit(&mut squares);
    let (parameters, squares) = squares.read();
    if parameters.is_empty() {
        return Err(GradientError::None);
    }
    for (parameter, squares) in parameters.into_iter().zip(&squares) {
        if !squares.is_finite() {
            return Err(GradientError::NotFinite {
                parameter,
                squares: *squares,
            });
        }
    }
    let norm = squares.iter().sum::<f64>().sqrt() * scale.abs();
    let clipped = max_norm.map_or(1.0, |largest| (largest / (norm + 1e-6)).min(1.0));
    let factor = (scale * clipped) as f32;
    if factor != 1.0 {
        model.visit(&mut ScaleGradients { grads, factor });
    }
    Ok(norm)
}

/// The sums of the squares of all gradients.
struct GradientSquares<'a> {
    grads: &'a mut GradientsParams,
    path: ParamPath,
    /// Paths and, where they are known already, sums.
    parameters: Vec<(String, Option<f64>)>,
    /// The other sums, in their order: read at once, so that devices are waited for once.
    on_devices: Vec<Tensor<1>>,
}

impl GradientSquares<'_> {
    fn read(self) -> (Vec<String>, Vec<f64>) {
        let sums = self.on_devices.into_iter();
        // Parameters of a model may be on several devices.
        let mut groups: Vec<Vec<Tensor<1>>> = Vec::new();
        for sum in sums {
            match groups.last_mut() {
                Some(group) if group[0].device() == sum.device() => group.push(sum),
                _ => groups.push(vec![sum]),
            }
        }
        let read = groups.into_iter().flat_map(|group| {
            let sums = Tensor::cat(group, 0).into_data();
            sums.iter::<f64>().collect::<Vec<_>>()
        });
        let mut read = read.collect::<Vec<_>>().into_iter();
        let known = |sum: Option<f64>| sum.or_else(|| read.next()).unwrap_or_default();
        let (parameters, sums): (_, Vec<_>) = self.parameters.into_iter().unzip();
        (parameters, sums.into_iter().map(known).collect())
    }
}

impl ModuleVisitor for GradientSquares<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.leave();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(grad) = self.grads.remove::<D>(param.id) else {
            return;
        };
        let grad = grad.cast(BurnDType::F32);
        let device = grad.device();
        let (grad, squares) = match in_host_memory(&device) {
            true => {
                let grad = grad.into_data();
                let squares = adamw::squares(grad.as_slice().expect("cast to f32"));
                (
                    Tensor::from_data(grad, (&device, BurnDType::F32)),
                    Some(squares),
                )
            }
            false => {
                self.on_devices.push(grad.clone().square().sum());
                (grad, None)
            }
        };
        self.grads.register(param.id, grad);
        self.parameters.push((self.path.path(), squares));
    }
}

struct ScaleGradients<'a> {
    grads: &'a mut GradientsParams,
    factor: f32,
}

impl ModuleVisitor for ScaleGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let id: ParamId = param.id;
        if let Some(grad) = self.grads.remove::<D>(id) {
            self.grads.register(id, grad * self.factor);
        }
    }
}
