//! `x^-0.3` with the bits that PyTorch gives on x86-64 with AVX2 or AVX-512.
//!
//! PyTorch takes the vector `powf` of SLEEF (Shibata and Petrogalli, "SLEEF: A Portable Vectorized Library of C
//! Standard Mathematical Functions", 2020), good to one unit in the last place: logarithm, product and
//! exponential as unevaluated sums of two `f32` (Dekker 1971), with fused products. Another way to compute the
//! power, even one that rounds correctly, differs in one result of seventy.

/// Lanes that are computed together.
pub(crate) const LANES: usize = 16;

/// The exponent, `0.7 - 1` as Python computes it.
const EXPONENT: f64 = 0.7 - 1.0;

/// Elements of PyTorch's vector loop on a machine with AVX-512: the rest of a tensor after whole ones is
/// computed by the C library, in `f64`.
const VECTOR: usize = 32;

/// How many of `n` weights go through the vector loop: the first ones.
pub(crate) const fn vectored(n: usize) -> usize {
    n / VECTOR * VECTOR
}

/// Replaces the elements of a tensor, none negative, by their powers: one thread's order of work in PyTorch.
pub fn powers(values: &mut [f32]) {
    let (vectors, tail) = values.split_at_mut(vectored(values.len()));
    for lanes in vectors.as_chunks_mut::<LANES>().0 {
        *lanes = power(lanes);
    }
    for value in tail {
        *value = scalar_power(*value);
    }
}

/// The power of an element after the last whole vector.
pub(crate) fn scalar_power(x: f32) -> f32 {
    f64::from(x).powf(EXPONENT) as f32
}

/// Powers of lanes that are not negative.
#[inline(always)]
pub(crate) fn power(x: &[f32; LANES]) -> [f32; LANES] {
    let mut powers = [0.0; LANES];
    for (to, x) in powers.iter_mut().zip(x) {
        *to = one(*x);
    }
    powers
}

/// A sum of two numbers, the second below half a unit of the first.
#[derive(Clone, Copy)]
struct Pair(f32, f32);

/// `a * b + c`, rounding once.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// `a + b` of any two numbers.
#[inline(always)]
fn two_sum(a: f32, b: f32) -> Pair {
    let sum = a + b;
    let of_b = sum - a;
    Pair(sum, (a - (sum - of_b)) + (b - of_b))
}

impl Pair {
    #[inline(always)]
    fn plus(self, b: f32) -> Self {
        let sum = two_sum(self.0, b);
        Self(sum.0, sum.1 + self.1)
    }

    #[inline(always)]
    fn plus_pair(self, b: Self) -> Self {
        let sum = two_sum(self.0, b.0);
        Self(sum.0, sum.1 + (self.1 + b.1))
    }

    /// `self + b` where `b` is not larger.
    #[inline(always)]
    fn plus_smaller(self, b: Self) -> Self {
        let sum = self.0 + b.0;
        Self(sum, (((self.0 - sum) + b.0) + self.1) + b.1)
    }

    #[inline(always)]
    fn times(self, b: f32) -> Self {
        let product = self.0 * b;
        Self(product, fused(self.1, b, fused(self.0, b, -product)))
    }

    #[inline(always)]
    fn times_pair(self, b: Self) -> Self {
        let product = self.0 * b.0;
        let below = fused(self.1, b.0, fused(self.0, b.0, -product));
        Self(product, fused(self.0, b.1, below))
    }

    #[inline(always)]
    fn squared(self) -> Self {
        let square = self.0 * self.0;
        let below = fused(self.0, self.0, -square);
        Self(square, fused(self.0 + self.0, self.1, below))
    }

    #[inline(always)]
    fn over(self, by: Self) -> Self {
        let inverse = 1.0 / by.0;
        let quotient = self.0 * inverse;
        let lost = fused(inverse, self.0, -quotient);
        let off = fused(-by.1, inverse, fused(-by.0, inverse, 1.0));
        Self(quotient, fused(quotient, off, fused(self.1, inverse, lost)))
    }
}

/// Bits below the exponent.
const MANTISSA: u32 = 23;

/// The power of a number that is not negative.
#[inline(always)]
fn one(x: f32) -> f32 {
    // Subnormals move up by 2^64.
    let small = x < f32::MIN_POSITIVE;
    let scaled = if small {
        x * f32::from_bits((127 + 64) << MANTISSA)
    } else {
        x
    };
    // scaled = m * 2^e with m from 0.75 to 1.5
    let e = ((scaled * (1.0f32 / 0.75)).to_bits() >> MANTISSA) as i32 - 127;
    let m = f32::from_bits(scaled.to_bits().wrapping_sub((e as u32) << MANTISSA));
    let e = if small { e - 64 } else { e };

    // log x = e * log 2 + 2 * atanh r with r = (m - 1) / (m + 1)
    let r = two_sum(-1.0, m).over(two_sum(1.0, m));
    let square = r.squared();
    let t = fused(0.240_320_35, square.0, 0.285_112_68);
    let t = fused(t, square.0, 0.400_008);
    let series = square.times(t).plus_pair(Pair(0.666_666_6, 3.691_838_7e-9));
    let log = Pair(core::f32::consts::LN_2, -1.904_654_3e-9)
        .times(e as f32)
        .plus_smaller(Pair(2.0 * r.0, 2.0 * r.1))
        .plus_smaller(square.times_pair(r).times_pair(series));

    // x^y = 2^whole * exp rest
    let product = log.times(EXPONENT as f32);
    // At 1.5 * 2^23 an f32 steps by 1.
    const WHOLE: f32 = 12_582_912.0;
    let shifted = (product.0 + product.1) * core::f32::consts::LOG2_E + WHOLE;
    let whole = shifted - WHOLE;
    let rest = product
        .plus(whole * -0.693_145_75)
        .plus(whole * -1.428_606_8e-6);
    let sum = rest.0 + rest.1;
    let rest = Pair(sum, (rest.0 - sum) + rest.1);
    let u = fused(0.001_363_246_5, rest.0, 0.008_365_969);
    let u = fused(u, rest.0, 0.041_671_082);
    let u = fused(u, rest.0, 0.166_665_52);
    let u = fused(u, rest.0, 0.499_999_85);
    let exp = Pair(1.0, 0.0).plus_smaller(rest.plus_smaller(rest.squared().times(u)));
    let power = (exp.0 + exp.1).to_bits();
    // Whole numbers lie in the low bits; the result is far from subnormal.
    let whole = shifted.to_bits().wrapping_sub(WHOLE.to_bits());
    let power = f32::from_bits(power.wrapping_add(whole << MANTISSA));

    let power = if x == 0.0 { f32::INFINITY } else { power };
    let power = if x == f32::INFINITY { 0.0 } else { power };
    if x.is_nan() { x } else { power }
}
