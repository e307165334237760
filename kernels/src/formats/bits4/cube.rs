//! The device half of the 4-bit formats.

use cubecl::prelude::*;

/// The sixteen levels in memory that the units of a cube share. Ends in a barrier.
///
/// A 4-bit code takes a level from memory rather than by arithmetic: fifteen selections for each weight
/// would take longer than the weight's bytes. Sixteen floats lie in sixteen banks, so that units with
/// different codes never wait for each other, and those with the same code read the same word; a table of
/// pairs, one for each byte, would save half of the loads and pay three times for their conflicts.
#[cube]
pub(crate) fn levels(#[comptime] levels: [u32; 16]) -> Shared<[f32]> {
    let mut table = Shared::<[f32]>::new_slice(16usize);
    if UNIT_POS < 16 {
        let mut bits = 0u32;
        #[unroll]
        for k in 0..16u32 {
            let level = comptime!(levels[k as usize]);
            bits = select(UNIT_POS == k, level, bits);
        }
        table[UNIT_POS as usize] = f32::reinterpret(bits);
    }
    sync_cube();
    table
}
