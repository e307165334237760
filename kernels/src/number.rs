//! What weights are given back in: `f32`, or a half that each is rounded to where it is computed.
//!
//! Writing takes most of the time of unpacking, and a half is half as much to write.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::float::FloatBits;
use crate::lanes::{LANES, Lanes};

/// `f32`, or what it rounds to: to nearest even, to the bit as `half` does.
pub trait Number: Copy {
    /// Which of them.
    #[doc(hidden)]
    fn room(out: &mut [Self]) -> Room<'_>;
}

/// Where weights go. Of these three only, so that code for each is compiled in this crate.
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
    /// Without branches, so that a loop becomes vector code.
    fn of(value: f32) -> Self;

    /// [`of`](Self::of) all.
    fn store<L: Lanes>(lanes: L, values: L::Floats, to: &mut [Self; LANES]);

    /// What `make` writes, for values that are not made in one step.
    fn through(out: &mut [Self], scratch: &mut Vec<f32>, make: impl FnOnce(&mut [f32]));
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
    fn through(out: &mut [Self], _: &mut Vec<f32>, make: impl FnOnce(&mut [f32])) {
        make(out);
    }
}

impl Narrow for f16 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        Self::from_bits(FloatBits::F16.to_bits(value) as u16)
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, values: L::Floats, to: &mut [Self; LANES]) {
        to.reinterpret_cast_mut()
            .copy_from_slice(&lanes.f16(values));
    }

    #[inline(always)]
    fn through(out: &mut [Self], scratch: &mut Vec<f32>, make: impl FnOnce(&mut [f32])) {
        through(out, scratch, make);
    }
}

impl Narrow for bf16 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        Self::from_bits(FloatBits::Bf16.to_bits(value) as u16)
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, values: L::Floats, to: &mut [Self; LANES]) {
        to.reinterpret_cast_mut()
            .copy_from_slice(&lanes.bf16(values));
    }

    #[inline(always)]
    fn through(out: &mut [Self], scratch: &mut Vec<f32>, make: impl FnOnce(&mut [f32])) {
        through(out, scratch, make);
    }
}

#[inline(always)]
fn through<T: Narrow>(out: &mut [T], scratch: &mut Vec<f32>, make: impl FnOnce(&mut [f32])) {
    scratch.resize(out.len(), 0.0);
    make(scratch);
    for (to, value) in out.iter_mut().zip(&*scratch) {
        *to = T::of(*value);
    }
}
