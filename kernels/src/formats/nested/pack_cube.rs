//! The device half of nesting scales: the mean of all, then an upper scale for each 256, then the codes.

use cubecl::{client::Client, prelude::*};

use super::{BLOCK, MAP};
use crate::arith::exact;
use crate::arith::float::pack_cube::{largest_together, plane};
use crate::arith::launch::{self, Buffer};
use crate::arith::pack::CODES8;
use crate::arith::reduce::pack_cube::mean;

/// The magnitude that a block of scales is divided by: that of the scale furthest from the offset.
#[cube(launch)]
fn upper_kernel(absmax: &[u32], nested: &mut [u32], units_log2: u32, #[comptime] together: bool) {
    let units = 1usize << units_log2 as usize;
    let block = ABSOLUTE_POS >> units_log2 as usize;
    let place = ABSOLUTE_POS & (units - 1);
    let first = block * BLOCK;
    let offset = nested[nested.len() - 1];
    let mut largest = 0u32;
    if first < absmax.len() {
        let count = (absmax.len() - first).min(BLOCK);
        for k in range_stepped(place, count, units) {
            let apart = exact::add(absmax[first + k], offset ^ exact::SIGN);
            largest = largest.max(apart & 0x7fff_ffffu32);
        }
    }
    largest = largest_together(largest, units as u32, together);
    if first < absmax.len() && place == 0 {
        nested[absmax.len().div_ceil(CODES8) + block] = largest;
    }
}

/// Bits in the order of the floats they are; both zeros are one.
#[cube]
fn key(bits: u32) -> u32 {
    let positive = bits | exact::SIGN;
    let key = select(bits < exact::SIGN, positive, !bits);
    select((bits & 0x7fff_ffffu32) == 0u32, exact::SIGN.runtime(), key)
}

/// The code whose value is nearest.
#[cube]
fn nearest(value: u32, map: &[u32]) -> u32 {
    // How many values are not above: a number of eight bits, and one more.
    let mut above = 0usize;
    #[unroll]
    for bit in 0..8usize {
        let half = comptime!(128usize >> bit);
        if key(map[above + half - 1]) <= key(value) {
            above += half;
        }
    }
    if key(map[above]) <= key(value) {
        above += 1;
    }
    let below = above.max(1) - 1;
    let mut code = below;
    if above < 256 {
        let up = exact::add(value, map[above] ^ exact::SIGN) & 0x7fff_ffffu32;
        let down = exact::add(value, map[below] ^ exact::SIGN) & 0x7fff_ffffu32;
        if up < down {
            code = above;
        }
    }
    // NaN is not above anything.
    select(
        (value & 0x7fff_ffffu32) > exact::INFINITY,
        0u32,
        code as u32,
    )
}

/// Codes, four for each unit.
#[cube(launch)]
fn codes_kernel(absmax: &[u32], map: &[u32], nested: &mut [u32]) {
    let words = absmax.len().div_ceil(CODES8);
    if ABSOLUTE_POS < words {
        let offset = nested[nested.len() - 1];
        let first = ABSOLUTE_POS * CODES8;
        let upper = nested[words + first / BLOCK];
        let mut word = 0u32;
        if upper != 0u32 {
            for k in 0..(absmax.len() - first).min(CODES8) {
                let apart = exact::add(absmax[first + k], offset ^ exact::SIGN);
                word |= nearest(exact::div(apart, upper), map) << (8u32 * k as u32);
            }
        }
        nested[ABSOLUTE_POS] = word;
    }
}

/// The words of nested scales from the plain ones.
pub(crate) fn nest(client: &Client, absmax: &Buffer) -> Buffer {
    let g = absmax.len();
    let nested = Buffer::empty(client, super::words_len(g), 4);
    if g == 0 {
        return Buffer::upload(client, &[0]);
    }
    mean(client, absmax, &nested);

    let units = plane(client).unwrap_or(1).min(BLOCK);
    let (count, dim) = launch::grid(client, g.div_ceil(BLOCK) * units);
    upper_kernel::launch(
        client,
        count,
        dim,
        absmax.arg(1),
        nested.arg(1),
        units.ilog2(),
        units > 1,
    );
    let map = Buffer::upload(client, &MAP.map(f32::to_bits));
    let (count, dim) = launch::grid(client, g.div_ceil(CODES8));
    codes_kernel::launch(client, count, dim, absmax.arg(1), map.arg(1), nested.arg(1));
    nested
}
