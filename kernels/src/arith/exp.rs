//! Exponentials of whole arrays: polynomials without branches, so that loops over them become vector code.
//!
//! Those of the Cephes library (`expf`, `tanhf`), within two units in the last place of `f32`, and without fused
//! steps, so that every processor has the same bits.

#![allow(
    clippy::excessive_precision,
    reason = "factors are written as in Cephes"
)]

/// `e` to the power of `x`. What `f32` has no normal number for is 0 or infinite; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// The upper part of the logarithm of 2, whose products with small whole numbers are exact, and the rest.
    const LN_2: [f32; 2] = [0.693_359_375, -2.121_944_40e-4];
    /// Added and subtracted, it rounds to a whole number, which its lowest bits hold in between.
    const ROUND: f32 = 12_582_912.0;
    // Comparisons that are false for NaN leave it as it is.
    let x = if x < -88.0 { -88.0 } else { x };
    let x = if x > 88.8 { 88.8 } else { x };
    let shifted = x * core::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = x - whole * LN_2[0] - whole * LN_2[1];
    let mut power = 1.987_569_150_0e-4;
    for factor in [
        1.398_199_950_7e-3,
        8.333_451_907_3e-3,
        4.166_579_589_4e-2,
        1.666_666_545_9e-1,
        5.000_000_120_1e-1,
    ] {
        power = power * rest + factor;
    }
    let power = power * rest * rest + rest + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    power * f32::from_bits(exponent.wrapping_add(127) << 23)
}

/// The hyperbolic tangent of `x`.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let (square, magnitude) = (x * x, x.abs());
    let mut small = -5.704_988_727_45e-3;
    for factor in [
        2.063_908_879_54e-2,
        -5.373_971_555_31e-2,
        1.333_144_220_36e-1,
        -3.333_328_194_22e-1,
    ] {
        small = small * square + factor;
    }
    let small = small * square * x + x;
    let large = 1.0 - 2.0 / (exp(magnitude + magnitude) + 1.0);
    if magnitude < 0.625 {
        small
    } else {
        large.copysign(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far `found` is from `exact`, in units in the last place of it.
    fn units(found: f32, exact: f64) -> f64 {
        let unit = f64::from(f32::from_bits((exact as f32).abs().to_bits() + 1))
            - f64::from((exact as f32).abs());
        (f64::from(found) - exact).abs() / unit
    }

    #[test]
    fn exponentials_are_those_of_f64() {
        for step in -8700..8800 {
            let x = step as f32 / 100.0;
            let off = units(exp(x), f64::from(x).exp());
            assert!(off < 2.0, "exp({x}): {off}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tangents_are_those_of_f64() {
        for step in -2000..2000 {
            let x = step as f32 / 200.0;
            let off = units(tanh(x), f64::from(x).tanh());
            assert!(off < 2.5, "tanh({x}): {off}");
        }
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert!(tanh(f32::NAN).is_nan());
    }
}
