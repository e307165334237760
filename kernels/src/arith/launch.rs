//! How device halves are launched: buffers that carry their length, and grids that every device takes.

use cubecl::{client::Client, ir::ElemType, prelude::*, server::Handle};

/// A buffer on a device: `len` elements, whose type the caller of the kernel knows.
#[derive(Debug, Clone)]
pub struct Buffer {
    handle: Handle,
    len: usize,
}

impl Buffer {
    /// The first `len` elements behind `handle`.
    ///
    /// # Safety
    ///
    /// The handle holds at least `len` elements, without gaps, of the type that the operation it is given
    /// to states: kernels do not check again.
    pub const unsafe fn new(handle: Handle, len: usize) -> Self {
        Self { handle, len }
    }

    /// `words` copied to the device.
    pub fn upload(client: &Client, words: &[u32]) -> Self {
        Self {
            handle: client.create_from_slice(u32::as_bytes(words)),
            len: words.len(),
        }
    }

    /// Room for `len` elements of `size` bytes.
    pub fn empty(client: &Client, len: usize, size: usize) -> Self {
        // An empty binding is refused by some drivers.
        Self {
            handle: client.empty((len * size).max(4)),
            len,
        }
    }

    /// `len` elements of `size` bytes, all zero bits.
    pub(crate) fn zeros(client: &Client, len: usize, size: usize) -> Self {
        Self {
            handle: client.create_from_slice(&vec![0; (len * size).max(4)]),
            len,
        }
    }

    /// Elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The handle of its memory.
    pub fn into_handle(self) -> Handle {
        self.handle
    }

    /// As a kernel's argument, each element read as `words` elements of `u32`.
    pub(crate) fn words(&self, words: usize) -> BufferArg {
        // SAFETY: `new` requires that the handle holds `len` elements.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.len * words) }
    }

    /// As a kernel's argument, in vectors of `size` elements, of which `len` is a multiple.
    pub(crate) fn arg(&self, size: usize) -> BufferArg {
        assert!(self.len.is_multiple_of(size), "{} in {size}s", self.len);
        // SAFETY: `new` requires that the handle holds `len` elements.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.len / size) }
    }

    /// As a kernel's argument, in as many whole vectors of `size` elements as there are.
    pub(crate) fn whole(&self, size: usize) -> BufferArg {
        // SAFETY: as above.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.len / size) }
    }
}

/// `n` as a kernel's argument: kernels count in `u32`.
///
/// # Panics
///
/// When there are more. Weights are cut into parts with fewer values before ([`Format::cut`](crate::format::Format::cut)).
pub(crate) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or_else(|_| panic!("{n} is more than kernels count to"))
}

/// Units of a cube where a kernel does not need another number: a whole number of planes everywhere.
pub(crate) const UNITS: u32 = 256;

/// Cubes and their size for at least `units` units. No dimension of the grid is longer than a device
/// allows (65,535 cubes on wgpu), so that there may be more units than asked for: kernels leave those out.
pub(crate) fn grid(client: &Client, units: usize) -> (CubeCount, CubeDim) {
    grid_of(client, units, UNITS)
}

/// [`grid`] in cubes of `dim` units.
pub(crate) fn grid_of(client: &Client, units: usize, dim: u32) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new_1d(dim);
    (
        cubecl::calculate_cube_count_elemwise(client, units, dim),
        dim,
    )
}

/// Whether the units of a cube can share memory.
///
/// CubeCL 0.11.3 declares it wrongly in SPIR-V for drivers without `VK_KHR_workgroup_memory_explicit_layout`
/// (as a pointer to a pointer), which ends the process inside the driver; no property tells which those are.
pub(crate) fn shares_memory(client: &Client) -> bool {
    !client.name().contains("spirv")
}

/// A float type that a kernel writes, chosen at run time.
pub(crate) fn elem(bits: crate::arith::float::DType) -> ElemType {
    use crate::arith::float::DType;
    match bits {
        DType::F32 => f32::elem_type_native(),
        DType::F16 => half::f16::elem_type_native(),
        DType::Bf16 => half::bf16::elem_type_native(),
    }
}

/// `value`, rounded to an `f32` here: no compiler may fuse the product it is with a later addition, or add or
/// multiply in another order (Mesa does both), because none knows that the argument `zero` is 0.
#[cube]
pub(crate) fn rounded(value: f32, zero: u32) -> f32 {
    f32::reinterpret(u32::reinterpret(value) | zero)
}
