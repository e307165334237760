//! The types that values are dequantized to: `f32`, or a half, to which each value is rounded where it is computed.
//!
//! Writing takes most of the time of unpacking, and a half is half as much to write.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::arith::float::DType;
use crate::arith::halves::narrow_f16;
use crate::arith::lanes::{LANES, Lanes};

/// `f32`, f16 or bf16. Values are rounded to the nearest, ties to even, to the bits that the crate `half` gives.
pub trait Number: Copy {
    /// The slice as one of the three types.
    #[doc(hidden)]
    fn room(out: &mut [Self]) -> Room<'_>;
}

/// A slice that values are written to. Its type is one of these three, so that code for each is compiled in this crate.
#[derive(Debug)]
pub enum Room<'a> {
    /// Not rounded.
    F32(&'a mut [f32]),
    /// IEEE half.
    F16(&'a mut [f16]),
    /// The upper half of an IEEE single.
    Bf16(&'a mut [bf16]),
}

impl Number for f32 {
    fn room(out: &mut [Self]) -> Room<'_> {
        Room::F32(out)
    }
}

impl Number for f16 {
    fn room(out: &mut [Self]) -> Room<'_> {
        Room::F16(out)
    }
}

impl Number for bf16 {
    fn room(out: &mut [Self]) -> Room<'_> {
        Room::Bf16(out)
    }
}

impl Room<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(out) => out.len(),
            Self::F16(out) => out.len(),
            Self::Bf16(out) => out.len(),
        }
    }
}

/// How a [`Number`] is made.
pub(crate) trait Narrow: Copy + Send {
    /// Of one value, without branches, so that a loop becomes vector code.
    fn of(value: f32) -> Self;

    /// Of sixteen.
    fn store<L: Lanes>(lanes: L, values: L::Floats, to: &mut [Self; LANES]);

    /// Stores the values that `make` writes, for values that are computed in several steps. `make` gets `out` itself or
    /// `scratch`, which has to be as long.
    #[inline(always)]
    fn through<L: Lanes>(
        lanes: L,
        out: &mut [Self],
        scratch: &mut [f32],
        make: impl FnOnce(&mut [f32]),
    ) {
        let values = &mut scratch[..out.len()];
        make(values);
        let (vectors, tail) = out.as_chunks_mut::<LANES>();
        let (values, rest) = values.as_chunks::<LANES>();
        for (to, values) in vectors.iter_mut().zip(values) {
            Self::store(lanes, lanes.load(values), to);
        }
        for (to, value) in tail.iter_mut().zip(rest) {
            *to = Self::of(*value);
        }
    }
}

impl Narrow for f32 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, values: L::Floats, to: &mut [Self; LANES]) {
        lanes.store(values, to);
    }

    #[inline(always)]
    fn through<L: Lanes>(_: L, out: &mut [Self], _: &mut [f32], make: impl FnOnce(&mut [f32])) {
        make(out);
    }
}

impl Narrow for f16 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        Self::from_bits(narrow_f16(value))
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, values: L::Floats, to: &mut [Self; LANES]) {
        to.reinterpret_cast_mut()
            .copy_from_slice(&lanes.f16(values));
    }
}

impl Narrow for bf16 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        Self::from_bits(DType::Bf16.to_bits(value) as u16)
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, values: L::Floats, to: &mut [Self; LANES]) {
        to.reinterpret_cast_mut()
            .copy_from_slice(&lanes.bf16(values));
    }
}
