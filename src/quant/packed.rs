//! A packed weight inside a Burn module.

use core::fmt;

use burn::{
    module::{
        Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
        Param, ParamId,
    },
    tensor::{DType as BurnDType, Device, Int, Tensor, TensorData},
};
use firebox_kernels::{
    format::{Format, FormatError, Packed},
    formats::nested,
    linear::Compute,
};

/// The meaning of the words of a packed weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Codes and scales.
    pub format: Format,
    /// `[out, in]` of the weight, not of the words.
    pub shape: [usize; 2],
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            format,
            shape: [out, r#in],
        } = self;
        write!(f, "{format},{out}x{in}")
    }
}

/// A packed weight on a device: codes and scales as `u32` words.
///
/// Scales are bit patterns in an integer parameter, not floats: Burn's optimizers, LoRA, casts and
/// quantizers act on every float parameter they find, and none of them may touch these.
///
/// The path of both parameters in a record names format and shape
/// (`q_proj.weight.Packed.nf4:block=64,128x64.words`), so that Burn refuses a record of other words than the module's.
/// [`num_params`](Module::num_params) counts the values of the weight, not its words.
#[derive(Debug, Clone)]
pub struct PackedWeight {
    /// Codes, `[words]`.
    pub words: Param<Tensor<1, Int>>,
    /// Everything else the format needs, `[words]`.
    pub scales: Param<Tensor<1, Int>>,
    layout: Layout,
    compute: Compute,
}

impl PackedWeight {
    /// From words that are on their device already.
    pub(crate) fn new(words: Tensor<1, Int>, scales: Tensor<1, Int>, layout: Layout) -> Self {
        let [words, scales] =
            [words, scales].map(|tensor| Param::initialized(ParamId::new(), tensor));
        Self {
            words,
            scales,
            layout,
            compute: Compute::F32,
        }
    }

    /// The same words, multiplied in another arithmetic on a host target; `f32` if not given. A weight that it does not suit
    /// ([`Compute::of`]) stays in `f32`.
    pub fn computing(mut self, compute: Compute) -> Self {
        self.compute = compute;
        self
    }

    /// The arithmetic that is asked for.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// From halves that are on their device already.
    pub(crate) fn halves(words: Tensor<1, Int>, layout: Layout) -> Self {
        let none = TensorData::new(Vec::<u32>::new(), [0]);
        let scales = Tensor::from_data(none, (&words.device(), BurnDType::U32));
        Self::new(words, scales, layout)
    }

    /// The device that the words are on.
    pub fn device(&self) -> Device {
        self.words.val().device()
    }

    /// The same words in the same memory, as parameters of their own.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.words.val(), self.scales.val(), self.layout).computing(self.compute)
    }

    /// Places a packed weight on `device`. On a host target the words are moved, not copied.
    pub fn from_host(packed: Packed, device: &Device) -> Self {
        let layout = Layout {
            format: packed.format,
            shape: packed.shape,
        };
        let place = |words: Vec<u32>| {
            let len = words.len();
            Tensor::from_data(TensorData::new(words, [len]), (device, BurnDType::U32))
        };
        Self::new(place(packed.words), place(packed.scales), layout)
    }

    /// Copies the packed weight to the host.
    ///
    /// # Panics
    ///
    /// When the device fails.
    pub fn to_host(&self) -> Packed {
        let [words, scales] = [&self.words, &self.scales].map(|tensor| {
            let words = tensor.val().into_data().try_into_vec();
            words.expect("words are u32")
        });
        let Layout { format, shape } = self.layout;
        Packed {
            format,
            shape,
            words,
            scales,
        }
    }

    /// Refuses scales by which every value of the weight is lost, as [`Packed::check_scales`] does. Reads one word of the
    /// device where scales are nested.
    ///
    /// # Errors
    ///
    /// [`FormatError::NestedMean`].
    ///
    /// # Panics
    ///
    /// When the device fails.
    pub(crate) fn check_scales(&self) -> Result<(), FormatError> {
        let scales = self.scales.val();
        let [len] = scales.dims();
        if !self.layout.format.is_nested() || len == 0 {
            return Ok(());
        }
        let mean = scales.narrow(0, len - 1, 1).into_data();
        let mean: Vec<u32> = mean.try_into_vec().expect("words are u32");
        nested::check(mean[0])
    }

    /// The meaning of the words.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The two tensors, outside of any graph: integers have no gradient, and outside of a graph they go with tensors of every
    /// one, whatever its strategy of checkpointing.
    pub(super) fn parts(&self) -> [Tensor<1, Int>; 2] {
        [&self.words, &self.scales].map(|part| part.val().without_autodiff())
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.layout.format.packed_bytes(self.layout.shape)
    }
}

/// The type of the container that records give for the words.
const CONTAINER: &str = "Struct:PackedWeight";

impl PackedWeight {
    /// The same weight whose words went through `f`.
    fn each(self, mut f: impl FnMut(Param<Tensor<1, Int>>) -> Param<Tensor<1, Int>>) -> Self {
        Self {
            words: f(self.words),
            scales: f(self.scales),
            layout: self.layout,
            compute: self.compute,
        }
    }
}

impl Module for PackedWeight {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.scales
            .collect_devices(self.words.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        self.each(|words| words.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(|words| words.to_device(device))
    }

    fn train(self) -> Self {
        self.each(Module::train)
    }

    fn valid(&self) -> Self {
        self.clone().each(|words| words.valid())
    }

    fn materialize(self) -> Self {
        self.each(Module::materialize)
    }

    fn num_params(&self) -> usize {
        self.layout.shape.iter().product()
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        let layout = self.layout.to_string();
        visitor.enter_module(&layout, CONTAINER);
        for (name, words) in [("words", &self.words), ("scales", &self.scales)] {
            visitor.enter_module(name, CONTAINER);
            words.visit(visitor);
            visitor.exit_module(name, CONTAINER);
        }
        visitor.exit_module(&layout, CONTAINER);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let layout = self.layout.to_string();
        mapper.enter_module(&layout, CONTAINER);
        let mut names = ["words", "scales"].into_iter();
        let mapped = self.each(|words| {
            let name = names.next().expect("a packed weight has two parameters");
            mapper.enter_module(name, CONTAINER);
            let words = Module::map(words, mapper);
            mapper.exit_module(name, CONTAINER);
            words
        });
        mapper.exit_module(&layout, CONTAINER);
        mapped
    }
}

impl ModuleDisplayDefault for PackedWeight {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&self.layout).optional()
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for PackedWeight {}
