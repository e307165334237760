//! One step of the half-quadratic solver for some lanes, each a weight with the scale and the zero of its group.

use super::power::{self, LANES};

/// The most steps.
pub(crate) const STEPS: usize = 20;

/// One over the penalty, `1 / beta`.
const INVERSE_PENALTY: f32 = 0.1;

/// Errors below this are shrunk to 0 whatever their power: `a < 0.1 * a^-0.3` up to 0.1701.
const SHRUNK: f32 = 0.16;

/// `clamp(rint(weight * scale + zero), 0, largest)`; 0 for NaN.
#[inline(always)]
pub(crate) fn code(weight: f32, scale: f32, zero: f32, largest: f32) -> f32 {
    let code = weight * scale + zero;
    // Bounds are whole, so clamping before rounding gives the same code; NaN compares false.
    let code = if code > 0.0 { code } else { 0.0 };
    let code = if code < largest { code } else { largest };
    // At 2^23 an f32 steps by 1: the adder rounds.
    const WHOLE: f32 = 8_388_608.0;
    (code + WHOLE) - WHOLE
}

/// One step for `weights`: writes each magnitude of the error with the present zero, and each term of the mean that
/// the next zero is. The powers of the first `vectored` lanes are those of PyTorch's vector loop.
#[inline(always)]
pub(crate) fn step(
    weights: &[f32; LANES],
    scales: &[f32; LANES],
    zeros: &[f32; LANES],
    largest: f32,
    vectored: usize,
    errors: &mut [f32; LANES],
    terms: &mut [f32; LANES],
) {
    let (mut codes, mut off) = ([0.0; LANES], [0.0; LANES]);
    let mut most = 0.0f32;
    for k in 0..LANES {
        codes[k] = code(weights[k], scales[k], zeros[k], largest);
        off[k] = weights[k] - (codes[k] - zeros[k]) / scales[k];
        errors[k] = off[k].abs();
        // As integers, where NaN is larger than all.
        most = f32::from_bits((most.to_bits() as i32).max(errors[k].to_bits() as i32) as u32);
    }
    if most < SHRUNK {
        for k in 0..LANES {
            terms[k] = codes[k] - weights[k] * scales[k];
        }
        return;
    }
    let mut powers = power::power(errors);
    for lane in vectored..LANES {
        powers[lane] = power::scalar_power(errors[lane]);
    }
    for k in 0..LANES {
        let shrunk = errors[k] - INVERSE_PENALTY * powers[k];
        let shrunk = if shrunk < 0.0 { 0.0 } else { shrunk };
        terms[k] = codes[k] - (weights[k] - shrunk.copysign(off[k])) * scales[k];
    }
}

/// After how many steps the solver stops, whose mean errors over the whole weight these are: with the first that
/// is not better than the best before it.
pub(crate) fn steps(errors: &[f32; STEPS]) -> usize {
    let mut best = f32::INFINITY;
    for (step, error) in errors.iter().enumerate() {
        // NaN is not better either.
        if *error < best {
            best = *error;
        } else {
            return step + 1;
        }
    }
    STEPS
}
