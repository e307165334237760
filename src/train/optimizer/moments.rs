//! The moments of the gradients of one parameter.

use burn::tensor::{DType as BurnDType, Device, Int, Tensor, TensorData};
use burn_optim::{RecordState, StateSink, StateSource};
use firebox_kernels::{
    adamw::codes::BLOCK,
    arith::pack::{self, CODES8},
};

use super::config::MomentForm;

/// Parameters with fewer values have their moments in `f32` always, as in bitsandbytes.
const LEAST_BLOCKS: usize = 4096;

/// The two moments of the gradients of one parameter, and the number of steps that made them.
///
/// In a record they are `step` with `exp_avg` and `exp_avg_sq`, as PyTorch has them, or with `state1`, `absmax1`, `state2`
/// and `absmax2`, as bitsandbytes has them: codes are `u8` in the shape of the parameter.
#[derive(Debug, Clone)]
pub struct Moments {
    pub(super) time: u64,
    pub(super) shape: Vec<usize>,
    /// The moments of the gradient and of its square.
    pub(super) both: [Moment; 2],
}

/// One moment of all values of a parameter.
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "handles of tensors, of which a parameter has two"
)]
pub(super) enum Moment {
    /// In `f32`, `[n]`.
    Full(Tensor<1>),
    /// In 8 bits.
    Blocks {
        /// Four codes a word, filled up to whole blocks, `u32`.
        codes: Tensor<1, Int>,
        /// The absolute maximum of each block.
        absmax: Tensor<1>,
    },
}

/// Moments that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UnfitMoments {
    /// A tensor is missing.
    Missing(&'static str),
    /// A tensor has other values than moments have.
    Wrong {
        /// The name of the tensor after that of the parameter.
        tensor: &'static str,
        /// Type and shape.
        found: String,
        /// Type and shape.
        expected: String,
    },
}

/// The names of the parts of both moments.
const FULL: [&str; 2] = ["exp_avg", "exp_avg_sq"];
const CODES: [&str; 2] = ["state1", "state2"];
const ABSMAX: [&str; 2] = ["absmax1", "absmax2"];
/// The name of the number of steps.
pub(super) const STEP: &str = "step";

/// A tensor of a record.
#[derive(Debug)]
pub(super) struct StatePart<'a> {
    pub(super) name: &'static str,
    pub(super) dtype: BurnDType,
    pub(super) shape: Vec<usize>,
    values: PartValues<'a>,
}

#[derive(Debug)]
enum PartValues<'a> {
    Step(u64),
    Floats(&'a Tensor<1>),
    Codes(&'a Tensor<1, Int>),
}

impl StatePart<'_> {
    /// The number of steps.
    pub(super) fn step(time: u64) -> Self {
        Self {
            name: STEP,
            dtype: BurnDType::I64,
            shape: Vec::new(),
            values: PartValues::Step(time),
        }
    }

    /// Bytes, least significant first.
    ///
    /// # Panics
    ///
    /// When the device fails.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self.values {
            PartValues::Step(time) => time.to_le_bytes().into(),
            PartValues::Floats(tensor) => {
                let data = tensor.clone().into_data();
                let values = data.as_slice::<f32>().expect("moments are f32");
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect()
            }
            PartValues::Codes(tensor) => {
                let words: Vec<u32> = words(tensor.clone());
                pack::to_bytes(&words, self.shape.iter().product())
            }
        }
    }
}

impl Moments {
    /// Moments before the first step of a parameter.
    pub(super) fn new(form: MomentForm, shape: &[usize], device: &Device) -> Self {
        let n = shape.iter().product();
        let one = || match form_of(form, n) {
            MomentForm::Full => Moment::Full(Tensor::zeros([n], (device, BurnDType::F32))),
            MomentForm::Blocks => {
                let blocks = n.div_ceil(BLOCK);
                let words = [blocks * BLOCK / CODES8];
                Moment::Blocks {
                    codes: Tensor::zeros(words, (device, BurnDType::U32)),
                    absmax: Tensor::zeros([blocks], (device, BurnDType::F32)),
                }
            }
        };
        Self {
            time: 0,
            shape: shape.to_vec(),
            both: [one(), one()],
        }
    }

    /// Steps so far.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// Whether these are as this configuration has them.
    pub(super) fn is(&self, form: MomentForm) -> bool {
        self.in_blocks() == (form_of(form, self.shape.iter().product()) == MomentForm::Blocks)
    }

    /// Whether these are codes.
    pub(super) fn in_blocks(&self) -> bool {
        matches!(self.both[0], Moment::Blocks { .. })
    }

    /// The name of the first moment in a record.
    pub(super) fn name(&self) -> &'static str {
        match self.in_blocks() {
            true => CODES[0],
            false => FULL[0],
        }
    }

    /// Bytes of both moments.
    pub fn bytes(&self) -> u64 {
        let bytes = self.both.iter().map(|moment| match moment {
            Moment::Full(values) => values.dims()[0] * size_of::<f32>(),
            Moment::Blocks { codes, absmax } => {
                codes.dims()[0] * size_of::<u32>() + absmax.dims()[0] * size_of::<f32>()
            }
        });
        bytes.sum::<usize>() as u64
    }

    /// The tensors of a record.
    pub(super) fn parts(&self) -> Vec<StatePart<'_>> {
        let mut parts = vec![StatePart::step(self.time)];
        for (k, moment) in self.both.iter().enumerate() {
            let shape = self.shape.clone();
            match moment {
                Moment::Full(values) => parts.push(StatePart {
                    name: FULL[k],
                    dtype: BurnDType::F32,
                    shape,
                    values: PartValues::Floats(values),
                }),
                Moment::Blocks { codes, absmax } => parts.extend([
                    StatePart {
                        name: CODES[k],
                        dtype: BurnDType::U8,
                        shape,
                        values: PartValues::Codes(codes),
                    },
                    StatePart {
                        name: ABSMAX[k],
                        dtype: BurnDType::F32,
                        shape: absmax.dims().into(),
                        values: PartValues::Floats(absmax),
                    },
                ]),
            }
        }
        parts
    }

    /// Moments from the tensors of a record; `None` where there has been no step.
    pub(super) fn read(
        mut take: impl FnMut(&'static str) -> Option<TensorData>,
        device: &Device,
    ) -> Result<Option<Self>, UnfitMoments> {
        let mut find = |name| take(name).ok_or(UnfitMoments::Missing(name));
        let step = find(STEP)?;
        check(STEP, &step, BurnDType::I64, &[])?;
        let time = u64::from_le_bytes(step.as_bytes().try_into().expect("an I64 has 8 bytes"));
        if time == 0 {
            return Ok(None);
        }
        let (mut shape, mut both) = (None, Vec::new());
        for k in 0..2 {
            let full = find(FULL[k]);
            let (name, dtype, values) = match full {
                Ok(values) => (FULL[k], BurnDType::F32, values),
                Err(missing) => match find(CODES[k]) {
                    Ok(codes) => (CODES[k], BurnDType::U8, codes),
                    Err(_) => return Err(missing),
                },
            };
            let shape = shape.get_or_insert_with(|| values.shape().to_vec());
            check(name, &values, dtype, shape)?;
            both.push(match dtype {
                BurnDType::F32 => Moment::Full(floats(&values, device)),
                _ => {
                    let blocks = values.num_elements().div_ceil(BLOCK);
                    let absmax = find(ABSMAX[k])?;
                    check(ABSMAX[k], &absmax, BurnDType::F32, &[blocks])?;
                    let mut words = pack::from_bytes(values.as_bytes());
                    words.resize(blocks * BLOCK / CODES8, 0);
                    let len = words.len();
                    let words = TensorData::new(words, [len]);
                    Moment::Blocks {
                        codes: Tensor::from_data(words, (device, BurnDType::U32)),
                        absmax: floats(&absmax, device),
                    }
                }
            });
        }
        let both: [Moment; 2] = both.try_into().expect("two were pushed");
        if let [Moment::Full(_), Moment::Blocks { .. }] | [Moment::Blocks { .. }, Moment::Full(_)] =
            both
        {
            return Err(UnfitMoments::Missing(FULL[0]));
        }
        Ok(Some(Self {
            time,
            shape: shape.unwrap_or_default(),
            both,
        }))
    }

    /// The same on another device.
    pub(super) fn on_device(self, device: &Device) -> Self {
        let both = self.both.map(|moment| match moment {
            Moment::Full(values) => Moment::Full(values.to_device(device)),
            Moment::Blocks { codes, absmax } => Moment::Blocks {
                codes: codes.to_device(device),
                absmax: absmax.to_device(device),
            },
        });
        Self { both, ..self }
    }
}

/// Records of Burn's own `ModuleOptimizer`, with the types that moments have. It begins anew, without a word, where they do
/// not fit; [`Optimizer::load`](super::Optimizer::load) refuses them.
impl RecordState for Moments {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        for part in self.parts() {
            let data = TensorData::from_bytes_vec(part.bytes(), part.shape.clone(), part.dtype);
            out.push_tensor(prefix, part.name, data);
        }
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        Self::read(|name| src.take_tensor(prefix, name), device).ok()?
    }
}

/// The form of the moments of `n` values.
fn form_of(form: MomentForm, n: usize) -> MomentForm {
    match n < LEAST_BLOCKS {
        true => MomentForm::Full,
        false => form,
    }
}

fn check(
    tensor: &'static str,
    data: &TensorData,
    dtype: BurnDType,
    shape: &[usize],
) -> Result<(), UnfitMoments> {
    match data.dtype() == dtype && data.shape().as_slice() == shape {
        true => Ok(()),
        false => Err(UnfitMoments::Wrong {
            tensor,
            found: format!("{:?} {:?}", data.dtype(), data.shape().as_slice()),
            expected: format!("{dtype:?} {shape:?}"),
        }),
    }
}

/// The values of a record, which may begin at any byte.
fn floats(data: &TensorData, device: &Device) -> Tensor<1> {
    let (bytes, _) = data.as_bytes().as_chunks::<4>();
    let values: Vec<f32> = bytes.iter().copied().map(f32::from_le_bytes).collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), (device, BurnDType::F32))
}

fn words(codes: Tensor<1, Int>) -> Vec<u32> {
    let words = codes.into_data().try_into_vec();
    words.expect("codes are in words of u32")
}
