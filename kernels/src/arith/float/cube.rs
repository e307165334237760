//! Whole numbers as floats on a device.

use cubecl::prelude::*;

/// A whole number below 2^23. Next to 2^23 an `f32` steps by 1, and a subtraction takes a device less time
/// than its conversion, which may run on a fraction of its units.
#[cube]
pub(crate) fn whole(value: u32) -> f32 {
    f32::reinterpret(value | 0x4b00_0000) - 8_388_608.0
}
