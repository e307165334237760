//! AdamW, with the moments in `f32` or in 8 bits.

use burn::tensor::{DType as BurnDType, Device, Tensor, TensorData};
use burn_optim::{LearningRate, Optimizer};
use firebox_kernels::adamw::{self, AdamwStep};

use super::{
    config::OptimizerConfig,
    device,
    moments::{Moment, Moments},
};
use crate::target::in_host_memory;

/// AdamW as an optimizer of Burn: `ModuleOptimizer::from(AdamW::new(config))` trains any module.
///
/// A step is computed in `f32`, whatever the type of the parameter. With moments in `f32` it is that of
/// `torch.optim.AdamW`; with moments in 8 bits that of bitsandbytes' blockwise AdamW, whose parameters move by the moments
/// before those are encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    config: OptimizerConfig,
}

impl AdamW {
    /// AdamW with these settings.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config }
    }

    /// The settings.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }
}

impl Optimizer for AdamW {
    type State<const D: usize> = Moments;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Moments>,
    ) -> (Tensor<D>, Option<Moments>) {
        let (dtype, shape, device) = (tensor.dtype(), tensor.dims(), tensor.device());
        let mut moments =
            state.unwrap_or_else(|| Moments::new(self.config.moments, &shape, &device));
        assert_eq!(
            moments.shape, shape,
            "the moments are those of another parameter"
        );
        moments.time += 1;
        let step = AdamwStep::new(self.config.settings(D), lr, moments.time);
        let n = shape.iter().product::<usize>();
        let [p, g] = [tensor, grad].map(|tensor| tensor.cast(BurnDType::F32).reshape([n]));
        let (p, both) = match in_host_memory(&device) {
            true => on_host(step, p, g, moments.both),
            false => device::step(step, p, g, moments.both),
        };
        moments.both = both;
        (p.reshape(shape).cast(dtype), Some(moments))
    }

    fn to_device<const D: usize>(state: Moments, device: &Device) -> Moments {
        state.on_device(device)
    }
}

/// A step in the memory of the tensors, which is changed in place where nothing else holds it.
fn on_host(
    step: AdamwStep,
    p: Tensor<1>,
    g: Tensor<1>,
    both: [Moment; 2],
) -> (Tensor<1>, [Moment; 2]) {
    let device = p.device();
    let placed = |data| Tensor::from_data(data, (&device, BurnDType::F32));
    let (mut p, g) = (p.into_data(), g.into_data());
    let (values, gradients) = (floats_mut(&mut p), g.as_slice().expect("cast to f32"));
    let both = match both {
        [Moment::Full(m), Moment::Full(v)] => {
            let [mut m, mut v] = [m, v].map(Tensor::into_data);
            adamw::step(
                step,
                values,
                gradients,
                floats_mut(&mut m),
                floats_mut(&mut v),
            );
            [m, v].map(|moment| Moment::Full(placed(moment)))
        }
        both => {
            let mut both = both.map(HostBlocks::of);
            let n = values.len();
            let [m, v] = both.each_mut().map(|blocks| blocks.lend(n));
            adamw::step_blocks(step, values, gradients, m, v);
            both.map(|HostBlocks { codes, absmax }| Moment::Blocks {
                codes: Tensor::from_data(codes, (&device, BurnDType::U32)),
                absmax: placed(absmax),
            })
        }
    };
    (placed(p), both)
}

/// A moment in 8 bits, in memory of its own.
struct HostBlocks {
    codes: TensorData,
    absmax: TensorData,
}

impl HostBlocks {
    fn of(moment: Moment) -> Self {
        match moment {
            Moment::Blocks { codes, absmax } => Self {
                codes: codes.into_data(),
                absmax: absmax.into_data(),
            },
            Moment::Full(_) => unreachable!("both moments of a parameter have one form"),
        }
    }

    /// The codes of `n` values.
    fn lend(&mut self, n: usize) -> adamw::CodedMoments<'_> {
        let words = self.codes.as_mut_slice::<u32>();
        let codes: &mut [u8] = bytemuck::cast_slice_mut(words.expect("codes are in words of u32"));
        adamw::CodedMoments {
            codes: &mut codes[..n],
            absmax: floats_mut(&mut self.absmax),
        }
    }
}

fn floats_mut(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice().expect("moments are f32")
}
