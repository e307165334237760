//! The device half of choosing 8-bit floats.
//!
//! First one kernel finds the scale of every tile, then one chooses the codes, a unit for each run of eight weights. A
//! quotient comes as a product with the scale's reciprocal, off by at most two units in the last place; where that may
//! decide about the code it is computed again, exactly, as is everything under a scale far from 1 and next to values that
//! are not finite.

use cubecl::{client::Client, prelude::*};

use super::{Recipe, epsilon};
use crate::arith::exact;
use crate::arith::float::DType;
use crate::arith::float::pack_cube::{
    BlockRows, RUN, Sharing, largest_of_share, largest_together, plane, read_one, read_run,
};
use crate::arith::launch::{self, Buffer};
use crate::arith::pack::CODES8;
use crate::format::{Fp8Kind, Tile};

/// The bits of 1.
const ONE: u32 = 127 << 23;

/// Words that the kernels pass on for each tile: the factor of its weights, and its reciprocal.
const SCALING: usize = 2;

/// How a weight is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    /// Divided, then rounded to a type.
    Divide(DType),
    Multiply,
}

/// How a scale follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ScaleRule {
    CompressedTensors,
    FineGrained { ue8m0: bool },
    Fixed,
}

impl ScaleRule {
    fn new(recipe: Recipe) -> Self {
        match recipe {
            Recipe::CompressedTensors => Self::CompressedTensors,
            Recipe::FineGrained { ue8m0 } => Self::FineGrained { ue8m0 },
            Recipe::Fixed(_) => Self::Fixed,
        }
    }
}

/// The scale of a tile and the factor of its weights, from its largest magnitude or, where fixed, from the scale.
#[cube]
fn scaling(
    amax: u32,
    largest: u32,
    #[comptime] rule: ScaleRule,
    #[comptime] source: DType,
) -> (u32, u32) {
    let mut scale = amax;
    let mut by = amax;
    match rule {
        ScaleRule::Fixed => {}
        ScaleRule::CompressedTensors => {
            scale = round_to(exact::div(amax, largest), source);
            if scale == 0u32 {
                scale = comptime!(epsilon(source).to_bits()).runtime();
            }
            by = scale;
        }
        ScaleRule::FineGrained { ue8m0 } => {
            by = exact::mul(exact::div(ONE.runtime(), amax), largest);
            if amax == 0u32 || amax > exact::INFINITY || by >= exact::INFINITY {
                by = ONE.runtime();
            }
            scale = exact::div(ONE.runtime(), by);
            if ue8m0 && scale != exact::INFINITY {
                scale = power_above(scale);
                by = exact::div(ONE.runtime(), scale);
            }
        }
    }
    (scale, by)
}

/// The power of two that `ue8m0` takes for a positive finite scale, as bits: `2^ceil(f32(log2(scale)))`.
///
/// With `scale = 2^e (1 + m / 2^23)` the logarithm is a little above `e`, and rounds down to it where `m / 2^23 / ln 2`
/// is at most half a step of `f32` beside `e`. The step above `2^l` is `2^(l - 23)`, so that this is `m <= ln 2 * 2^(l -
/// 1)`, of which the whole part is 22 for `l = 6` and halves with each `l` less. Below 0 the neighbour is nearer to 0,
/// which is in another binade where `|e|` is a power of two.
#[cube]
fn power_above(scale: u32) -> u32 {
    let scale = scale.max(1u32 << 23u32);
    let exponent = scale >> 23u32;
    let (above, below) = (exponent - 127u32, 126u32 - exponent);
    let binade = 31u32
        - select(exponent > 127u32, above, below)
            .max(1u32)
            .leading_zeros();
    let zero = exponent == 127u32 || exponent == 126u32;
    let kept = select(zero, 0u32, 22u32 >> (6u32 - binade.min(6u32)));
    let up = u32::cast_from((scale & 0x7f_ffffu32) > kept);
    (exponent + up) << 23u32
}

#[cube]
fn round_to(bits: u32, #[comptime] to: DType) -> u32 {
    match to {
        DType::F32 => bits,
        DType::F16 => exact::round_f16(bits),
        DType::Bf16 => exact::round_bf16(bits),
    }
}

/// Where the weights of a scale lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Cut {
    source: DType,
    /// Whether a run lies in one row and in one tile.
    even: bool,
    /// Whether units exchange the magnitudes that they find.
    together: bool,
}

impl Cut {
    const fn sharing(self) -> Sharing {
        Sharing {
            source: self.source,
            runs: self.even,
            one_row: false,
            each: 0,
        }
    }
}

/// Sides of a weight and of its tiles, in words so that they can be arguments.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Sides {
    /// Rows of the weight.
    o: u32,
    /// Columns of the weight.
    i: u32,
    /// Rows of a tile.
    rows: u32,
    /// Columns of a tile.
    cols: u32,
    /// Tiles beside each other.
    across: u32,
}

/// Scales of tiles, `2^units_log2` units each.
#[cube(launch)]
fn scales_kernel<N: Size>(
    source: &[Vector<u32, N>],
    amax: &[u32],
    scales: &mut [u32],
    scalings: &mut [u32],
    sides: Sides,
    units_log2: u32,
    most: u32,
    #[comptime] cut: Cut,
    #[comptime] rule: ScaleRule,
    #[comptime] given: bool,
) {
    let units = 1usize << units_log2 as usize;
    let tile = ABSOLUTE_POS >> units_log2 as usize;
    let place = ABSOLUTE_POS & (units - 1);
    let mut largest = 0u32;
    if given {
        largest = amax[0];
    } else if tile < scales.len() {
        let (i, across) = (sides.i as usize, sides.across as usize);
        let (r, c) = (
            tile / across * sides.rows as usize,
            tile % across * sides.cols as usize,
        );
        let rows = (sides.o as usize - r).min(sides.rows as usize);
        let cols = (i - c).min(sides.cols as usize);
        let weights = BlockRows {
            first: r * i + c,
            rows,
            cols,
            stride: i,
        };
        largest = largest_of_share::<N>(source, &weights, place, units, comptime!(cut.sharing()));
    }
    largest = largest_together(largest, units as u32, cut.together);
    if tile < scales.len() && place == 0 {
        let (scale, by) = scaling(largest, most, rule, cut.source);
        scales[tile] = scale;
        scalings[tile * SCALING] = by;
        scalings[tile * SCALING + 1] = exact::div(ONE.runtime(), by);
    }
}

/// Mantissa bits and bias of a float.
fn layout(kind: Fp8Kind) -> (u32, u32) {
    match kind {
        Fp8Kind::E4m3 => (3, 7),
        Fp8Kind::E5m2 => (2, 15),
    }
}

/// The code of a magnitude that is clamped and no NaN, without its sign.
///
/// Adding a power of two, whose last place is one step of the codes beside the magnitude, lets the adder round. The
/// steps below the smallest normal are those above it.
#[cube]
fn cast(magnitude: u32, #[comptime] kind: Fp8Kind) -> u32 {
    let (mantissa, bias) = comptime!(layout(kind));
    let cut = comptime!(23 - mantissa);
    let exponent = (magnitude & exact::INFINITY).max(comptime!((128 - bias) << 23));
    let step = exponent + comptime!(cut << 23);
    let sum = u32::reinterpret(f32::reinterpret(magnitude) + f32::reinterpret(step));
    sum - step + (step >> cut) - comptime!((128 - bias + cut) << mantissa)
}

/// The code of a weight, exactly and for every scale.
#[cube]
fn exact_code(weight: u32, by: u32, #[comptime] way: Way, #[comptime] kind: Fp8Kind) -> u32 {
    let scaled = match way {
        Way::Multiply => exact::mul(weight, by),
        Way::Divide(to) => round_to(exact::div(weight, by), to),
    };
    let magnitude = scaled & 0x7fff_ffffu32;
    let code = cast(magnitude.min(comptime!(kind.largest().to_bits())), kind);
    let sign = (scaled & exact::SIGN) >> 24u32;
    select(magnitude > exact::INFINITY, 0x7fu32, code) | sign
}

/// The code of a finite weight under a scale between 2^-96 and 2^96.
#[cube]
fn quick_code(
    weight: u32,
    by: u32,
    factor: u32,
    #[comptime] way: Way,
    #[comptime] kind: Fp8Kind,
) -> u32 {
    let magnitude = weight & 0x7fff_ffffu32;
    let product = u32::reinterpret(f32::reinterpret(magnitude) * f32::reinterpret(factor));
    let largest = comptime!(kind.largest().to_bits());
    let code = match way {
        Way::Multiply => cast(product.min(largest), kind),
        Way::Divide(DType::Bf16) => {
            // Both have eight bits, so that a quotient is in the middle between two bf16, or differs from it by one
            // part in 2^17 or more. A quotient within 2^-20 is the middle.
            let odd = (product >> 11u32) & 0x20u32;
            let rounded = (product + 0x7ff0u32 + odd) & 0xffff_0000u32;
            cast(rounded.min(largest), kind)
        }
        Way::Divide(to) => {
            // Where rounding decides, in either type, the last bits are zero.
            let last = comptime!(match to {
                DType::F16 => 0xfffu32,
                _ => 0x7_ffffu32,
            });
            let mut code = cast(round_to(product, to).min(largest), kind);
            if ((product + 3u32) & last) <= 6u32 {
                code = exact_code(magnitude, by, way, kind);
            }
            code
        }
    };
    code | ((weight & exact::SIGN) >> 24u32)
}

/// Whether `bits` lie between 2^-96 and 2^96.
#[cube]
fn moderate(bits: u32) -> bool {
    bits - (31u32 << 23u32) <= (192u32 << 23u32)
}

/// Codes, a run of eight for each unit.
#[cube(launch)]
fn codes_kernel<N: Size>(
    source: &[Vector<u32, N>],
    scalings: &[u32],
    words: &mut [u32],
    sides: Sides,
    #[comptime] cut: Cut,
    #[comptime] kind: Fp8Kind,
    #[comptime] way: Way,
) {
    let i = sides.i as usize;
    let n = sides.o as usize * i;
    let first = ABSOLUTE_POS * RUN;
    if first < n {
        let across = sides.across as usize;
        let (rows, cols) = (sides.rows as usize, sides.cols as usize);
        let mut quick = false;
        let mut low = 0u32;
        let mut high = 0u32;
        if comptime!(cut.even) {
            let tile = first / i / rows * across + first % i / cols;
            let (by, reciprocal) = (scalings[tile * SCALING], scalings[tile * SCALING + 1]);
            let factor = match way {
                Way::Multiply => by,
                Way::Divide(_) => reciprocal,
            };
            let weights = read_run::<N>(source, first, cut.source);
            let mut largest = 0u32;
            #[unroll]
            for k in 0..RUN {
                largest = largest.max(*weights.index(k) & 0x7fff_ffffu32);
            }
            quick = moderate(by) && largest < exact::INFINITY;
            if quick {
                #[unroll]
                for k in 0..CODES8 {
                    let shift = comptime!(8 * k as u32);
                    low |= quick_code(*weights.index(k), by, factor, way, kind) << shift;
                    let k = comptime!(CODES8 + k);
                    high |= quick_code(*weights.index(k), by, factor, way, kind) << shift;
                }
            }
        }
        if !quick {
            for k in 0..(n - first).min(RUN) {
                let at = first + k;
                let tile = at / i / rows * across + at % i / cols;
                let weight = read_one::<N>(source, at, cut.source);
                let code = exact_code(weight, scalings[tile * SCALING], way, kind);
                if k < CODES8 {
                    low |= code << (8u32 * k as u32);
                } else {
                    high |= code << (8u32 * (k - CODES8) as u32);
                }
            }
        }
        let word = first / CODES8;
        words[word] = low;
        if word + 1 < words.len() {
            words[word + 1] = high;
        }
    }
}

/// How a packing is done, in one value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fp8Plan {
    pub(crate) kind: Fp8Kind,
    pub(crate) tile: Tile,
    pub(crate) recipe: Recipe,
}

/// Words and scales of a tile of `shape` `[rows, i]`.
pub(crate) fn quantize(
    client: &Client,
    Fp8Plan { kind, tile, recipe }: Fp8Plan,
    shape: [usize; 2],
    source: DType,
    bytes: &Buffer,
    amax: Option<&Buffer>,
) -> (Buffer, Buffer) {
    let [o, i] = shape;
    let n = o * i;
    let ([rows, cols], [down, across]) = (tile.sides(shape), tile.grid(shape));
    let tiles = down * across;
    let words = Buffer::empty(client, n.div_ceil(CODES8), 4);
    let scales = Buffer::empty(client, tiles, 4);
    if tiles == 0 {
        return (words, scales);
    }

    // Nothing to read still wants something to bind.
    let bytes = if n == 0 {
        &Buffer::upload(client, &[0])
    } else {
        bytes
    };
    let fixed = match recipe {
        Recipe::Fixed(scale) => Some(Buffer::upload(client, &[scale.to_bits()])),
        _ => None,
    };
    let whole = match (tile, fixed.as_ref()) {
        (_, Some(fixed)) => Some(fixed),
        (Tile::Tensor, None) => Some(amax.expect("the largest magnitude of the whole weight")),
        _ => None,
    };
    let units_log2 = match plane(client) {
        Some(units) if whole.is_none() => units.ilog2(),
        _ => 0,
    };
    let cut = Cut {
        source,
        together: units_log2 != 0,
        even: n != 0 && i.is_multiple_of(RUN) && cols.min(i).is_multiple_of(RUN),
    };
    // Rows of whole runs are whole vectors.
    let vector = if cut.even { 4 } else { 1 };
    let rule = ScaleRule::new(recipe);
    let way = match recipe {
        Recipe::CompressedTensors => Way::Divide(source),
        Recipe::FineGrained { .. } => Way::Multiply,
        Recipe::Fixed(_) => Way::Divide(DType::F32),
    };
    let sides = || {
        // A tile larger than the weight is as large as the weight.
        SidesLaunch::new(
            launch::count(o),
            launch::count(i),
            launch::count(rows.min(o.max(1))),
            launch::count(cols.min(i.max(1))),
            launch::count(across),
        )
    };

    let scalings = Buffer::empty(client, tiles * SCALING, 4);
    let (count, dim) = launch::grid(client, tiles << units_log2);
    scales_kernel::launch(
        client,
        count,
        dim,
        vector,
        bytes.arg(vector),
        whole.unwrap_or(&scalings).arg(1),
        scales.arg(1),
        scalings.arg(1),
        sides(),
        units_log2,
        kind.largest().to_bits(),
        cut,
        rule,
        whole.is_some(),
    );
    if n != 0 {
        let (count, dim) = launch::grid(client, n.div_ceil(RUN));
        codes_kernel::launch(
            client,
            count,
            dim,
            vector,
            bytes.arg(vector),
            scalings.arg(1),
            words.arg(1),
            sides(),
            cut,
            kind,
            way,
        );
    }
    (words, scales)
}
