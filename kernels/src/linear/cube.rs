//! The device half of products with a packed weight.
//!
//! A *team* of units multiplies a few rows. Neighbouring units take neighbouring eights, or as many as a wide read has, so that they
//! read neighbouring words and inputs. Inputs come from the cache, once for all rows of a team. A unit loads enough before it computes to
//! keep the memory busy. A team adds up its sums at the end.

use cubecl::{client::Client, features::Plane, prelude::*};

use crate::arith::float::DType;
use crate::arith::launch::{self, Buffer};

use crate::device::read::{self, EIGHT, EightCodes, ScaleAndOffset, StoredBuffers};
use crate::device::{DeviceWeight, widest};
use crate::format::Format;
use crate::formats::bits4;

/// The most inputs that [`DeviceWeight::linear`] takes together.
pub const INPUTS: usize = 8;

/// Rows from which a weight has enough teams for a device when each takes more of them.
const MANY_ROWS: usize = 16384;

impl DeviceWeight {
    /// `y = x * transpose(w)`, with `x` `[m, i]` and `y` `[m, o]`, both in the type `x_type`.
    ///
    /// Unpacks and multiplies at once, and sums in `f32`. The order of a sum depends on the device's planes,
    /// neither on `m` nor on the run.
    ///
    /// # Panics
    ///
    /// When a buffer's length does not fit the shape, or `m` is above [`INPUTS`]: with more inputs it is
    /// faster to dequantize the weight.
    pub fn linear(&self, client: &Client, x: &Buffer, x_type: DType, m: usize) -> Buffer {
        let [o, i] = self.shape;
        assert!(m <= INPUTS, "{m} inputs");
        assert_eq!(x.len(), m * i, "{m} inputs to {:?}", self.shape);
        let (stored, levels) = self.stored(client);
        if i == 0 {
            return Buffer::zeros(client, m * o, x_type.size());
        }
        let out = Buffer::empty(client, m * o, x_type.size());
        if out.is_empty() {
            return out;
        }
        let eights = read::in_eights(self.format, i);
        let vector = if eights { widest(client, x_type) } else { 1 };
        let planes = client.properties().features.plane.contains(Plane::Ops);
        let team = match (planes, launch::shares_memory(client)) {
            (true, _) => Team::Plane,
            (false, true) => Team::Cube,
            (false, false) => Team::Unit,
        };
        let units = match team {
            Team::Plane => client.properties().hardware.plane_size_max as usize,
            Team::Cube => UNITS as usize,
            Team::Unit => 1,
        };
        let wide = eights && is_wide(client, self.format, i, units);
        let plan = LinearPlan {
            team,
            inputs: m,
            rows: if m == 1 && o >= MANY_ROWS { 4 } else { 2 },
            // One where a device runs so few units that it does not matter.
            reads: match (eights, team) {
                (false, _) => 0,
                (true, Team::Plane) if m == 1 && !wide => 4,
                (true, Team::Plane | Team::Cube) if m == 1 => 2,
                (true, _) => 1,
            },
            wide,
            levels,
        };
        let units = o.div_ceil(plan.rows) * units;
        let (count, dim) = launch::grid_of(client, units, UNITS);
        // SAFETY: as above, and `x` holds `m` rows.
        unsafe {
            linear::launch_unchecked(
                client,
                count,
                dim,
                vector,
                stored,
                x.arg(vector),
                launch::count(o),
                out.arg(1),
                plan,
                launch::elem(x_type),
            );
        }
        out
    }
}

/// Whether rows of `cols` weights are whole wide reads, and enough of them for all `units` of a team.
fn is_wide(client: &Client, format: Format, cols: usize, units: usize) -> bool {
    let run = read::eights_of_wide(format) * EIGHT;
    let mut sizes = client.io_optimized_vector_sizes(size_of::<u32>());
    run > 0
        && cols.is_multiple_of(run)
        && cols / run >= units
        && sizes.any(|size| size == read::WIDE)
}

/// Units of a cube: several planes everywhere, and few enough that small weights have cubes for all of a
/// device.
const UNITS: u32 = 128;

/// Which units are a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Team {
    /// A plane.
    Plane,
    /// A cube, adding up in memory that it shares.
    Cube,
    /// Each alone, where a device has neither.
    Unit,
}

/// The facts that the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct LinearPlan {
    /// Which units work together.
    team: Team,
    /// Inputs, `m`.
    inputs: usize,
    /// Rows of the weight that a team multiplies at a time.
    rows: usize,
    /// Reads of a row that a unit has under way at a time; 0 where rows are not whole eights.
    reads: usize,
    /// Whether each is a wide one, and not of one eight.
    wide: bool,
    /// Bits of the levels that a cube keeps.
    levels: Option<[u32; 16]>,
}

/// `y = x * transpose(w)`, with `x` `[m, i]` and `y` `[m, o]`, where `o` is `rows`.
#[cube(launch_unchecked)]
fn linear<F: Numeric, N: Size>(
    stored: &StoredBuffers,
    x: &[Vector<F, N>],
    rows: u32,
    y: &mut [F],
    #[comptime] plan: LinearPlan,
    #[define(F)] _dtype: ElemType,
) {
    if comptime!(plan.levels.is_some()) {
        let levels = bits4::cube::levels(comptime!(plan.levels.unwrap()));
        linear_with::<F, N>(stored, &levels, x, rows as usize, y, plan);
    } else {
        linear_with::<F, N>(stored, &stored.levels, x, rows as usize, y, plan);
    }
}

#[cube]
fn linear_with<F: Numeric, N: Size>(
    stored: &StoredBuffers,
    levels: &[f32],
    x: &[Vector<F, N>],
    rows: usize,
    y: &mut [F],
    #[comptime] plan: LinearPlan,
) {
    let (cols, step) = (stored.cols as usize, comptime!(plan.rows));
    let (team, teams, unit, units) = place(plan.team);
    let mut first = team * step;
    while first < rows {
        let mut sums = Array::<f32>::new(comptime!(plan.rows * plan.inputs));
        #[unroll]
        for s in 0..comptime!(plan.rows * plan.inputs) {
            sums[s] = 0.0f32;
        }
        let mut at = unit;
        if comptime!(plan.reads == 0) {
            while at < cols {
                column::<F, N>(stored, levels, x, first, rows, at, &mut sums, plan);
                at += units;
            }
        } else {
            let end = cols / comptime!(EIGHT * eights_of_read(stored.format, plan));
            if comptime!(plan.reads > 1) {
                let reads = comptime!(plan.reads);
                let last = units * comptime!(plan.reads - 1);
                while at + last < end {
                    span::<F, N>(
                        stored, levels, x, first, rows, at, units, &mut sums, reads, plan,
                    );
                    at += units * reads;
                }
            }
            while at < end {
                span::<F, N>(
                    stored, levels, x, first, rows, at, units, &mut sums, 1usize, plan,
                );
                at += units;
            }
        }
        #[unroll]
        for m in 0..comptime!(plan.inputs) {
            #[unroll]
            for r in 0..step {
                let sum = total(sums[comptime!(r * plan.inputs + m)], plan.team);
                // A last team that has fewer rows multiplied its last one several times.
                if unit == 0 && first + r < rows {
                    y[m * rows + first + r] = F::cast_from(sum);
                }
            }
        }
        first += teams * step;
    }
}

/// Which team this is and of how many, and which unit of the team and of how many.
#[cube]
fn place(#[comptime] team: Team) -> (usize, usize, usize, usize) {
    match team {
        Team::Plane => {
            let planes = (CUBE_DIM / PLANE_DIM) as usize;
            let plane = (UNIT_POS / PLANE_DIM) as usize;
            let unit = (UNIT_POS % PLANE_DIM) as usize;
            (
                CUBE_POS * planes + plane,
                CUBE_COUNT * planes,
                unit,
                PLANE_DIM as usize,
            )
        }
        Team::Cube => (CUBE_POS, CUBE_COUNT, UNIT_POS as usize, CUBE_DIM as usize),
        Team::Unit => (
            ABSOLUTE_POS,
            CUBE_COUNT * CUBE_DIM as usize,
            0usize.runtime(),
            1usize.runtime(),
        ),
    }
}

/// The sum of a team's sums, at least in its unit 0.
#[cube]
fn total(sum: f32, #[comptime] team: Team) -> f32 {
    match team {
        Team::Plane => plane_sum(sum),
        Team::Cube => {
            let mut sums = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
            let unit = UNIT_POS as usize;
            sync_cube();
            sums[unit] = sum;
            sync_cube();
            let mut half = comptime!(UNITS as usize / 2).runtime();
            while half > 0 {
                if unit < half {
                    sums[unit] += sums[unit + half];
                }
                sync_cube();
                half /= 2;
            }
            sums[0]
        }
        Team::Unit => sum,
    }
}

/// Eights of a read.
const fn eights_of_read(format: Format, plan: LinearPlan) -> usize {
    if plan.wide {
        read::eights_of_wide(format)
    } else {
        1
    }
}

/// Adds `reads` reads of each row, `apart` from each other, from the read `at` of the row on.
#[cube]
fn span<F: Numeric, N: Size>(
    stored: &StoredBuffers,
    levels: &[f32],
    x: &[Vector<F, N>],
    first: usize,
    rows: usize,
    at: usize,
    apart: usize,
    sums: &mut Array<f32>,
    #[comptime] reads: usize,
    #[comptime] plan: LinearPlan,
) {
    let (cols, size) = (stored.cols as usize, N::value());
    let eights = comptime!(eights_of_read(stored.format, plan));
    let scales_of_read = comptime!(if read::share_scale(stored.format, eights) {
        1
    } else {
        eights
    });
    // All loads of codes and scales come first, so that they are under way together.
    let mut codes = Sequence::<EightCodes>::new();
    let mut scales = Sequence::<ScaleAndOffset>::new();
    #[unroll]
    for n in 0..reads {
        #[unroll]
        for r in 0..comptime!(plan.rows) {
            let row = (first + r).min(rows - 1);
            let c = (at + n * apart) * comptime!(eights * EIGHT);
            let k = row * cols + c;
            if comptime!(plan.wide) {
                let wide = stored.wide[k / comptime!(eights * EIGHT)];
                #[unroll]
                for e in 0..eights {
                    codes.push(read::codes_in(wide, e, stored.format));
                }
            } else {
                codes.push(read::codes(stored, k / EIGHT));
            }
            #[unroll]
            for e in 0..scales_of_read {
                scales.push(read::scale(stored, row, c + e * EIGHT, k + e * EIGHT));
            }
        }
    }
    #[unroll]
    for n in 0..reads {
        #[unroll]
        for e in 0..eights {
            let c = (at + n * apart) * comptime!(eights * EIGHT) + e * EIGHT;
            let mut inputs = Array::<f32>::new(comptime!(plan.inputs * EIGHT));
            #[unroll]
            for m in 0..comptime!(plan.inputs) {
                #[unroll]
                for v in 0..comptime!(EIGHT / size) {
                    let vector = x[(m * cols + c) / size + v];
                    #[unroll]
                    for lane in 0..size {
                        inputs[comptime!(m * EIGHT + v * size + lane)] =
                            f32::cast_from(vector.extract(lane));
                    }
                }
            }
            #[unroll]
            for r in 0..comptime!(plan.rows) {
                let of_read = comptime!(n * plan.rows + r);
                let codes = codes.index(comptime!(of_read * eights + e));
                let scale = scales.index(comptime!(of_read * scales_of_read + e % scales_of_read));
                #[unroll]
                for t in 0..EIGHT {
                    let number = read::number(codes, t, levels, stored.format);
                    let weight = read::scaled(stored, number, scale);
                    #[unroll]
                    for m in 0..comptime!(plan.inputs) {
                        let s = comptime!(r * plan.inputs + m);
                        sums[s] = fma(weight, inputs[comptime!(m * EIGHT + t)], sums[s]);
                    }
                }
            }
        }
    }
}

/// Adds column `c` of each row.
#[cube]
fn column<F: Numeric, N: Size>(
    stored: &StoredBuffers,
    levels: &[f32],
    x: &[Vector<F, N>],
    first: usize,
    rows: usize,
    c: usize,
    sums: &mut Array<f32>,
    #[comptime] plan: LinearPlan,
) {
    #[unroll]
    for r in 0..comptime!(plan.rows) {
        let row = (first + r).min(rows - 1);
        let weight = read::weight(stored, levels, row, c);
        #[unroll]
        for m in 0..comptime!(plan.inputs) {
            let s = comptime!(r * plan.inputs + m);
            let input = f32::cast_from(x[m * stored.cols as usize + c].extract(0usize));
            sums[s] = fma(weight, input, sums[s]);
        }
    }
}
