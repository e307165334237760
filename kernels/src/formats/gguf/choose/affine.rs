//! Blocks of 256 whose parts have a scale and a minimum: `q2_k`, `q4_k`, `q5_k`. The scale and the minimum of a part are
//! those of the least squares under its codes, over some first guesses of the codes. Then scales and minima are rounded,
//! and the codes are chosen again.

use super::super::k::{BLOCK, scale_and_min4, scale_and_min6, twos};
use super::super::parts::half;
use super::parts::{near, set_half};

/// Which codes are tried for a part.
struct Search {
    /// The greatest code.
    last: i32,
    /// The first guess spreads the values over so many codes more than there are.
    first: f32,
    /// Guesses after the first, each for a tenth of a code more.
    steps: usize,
    /// Errors count by their squares, or else by their magnitudes.
    squares: bool,
}

/// The codes of a part, its scale, and the minimum that is subtracted.
struct Fit<const N: usize> {
    codes: [u8; N],
    scale: f32,
    min: f32,
}

impl Search {
    /// The code of a value under an inverse scale.
    #[inline(always)]
    fn code(&self, by: f32, above: f32) -> u8 {
        near(by * above).clamp(0, self.last) as u8
    }

    /// The fit of a part with weights `w` of its errors.
    #[inline(always)]
    fn fit<const N: usize>(&self, x: &[f32; N], w: &[f32; N]) -> Fit<N> {
        let (mut least, mut most) = (x[0], x[0]);
        let (mut sum_w, mut sum_x) = (w[0], w[0] * x[0]);
        for (x, w) in x.iter().zip(w).skip(1) {
            if *x < least {
                least = *x;
            }
            if *x > most {
                most = *x;
            }
            sum_w += w;
            sum_x += w * x;
        }
        if least > 0.0 {
            least = 0.0;
        }
        if most == least {
            let (codes, scale, min) = ([0; N], 0.0, -least);
            return Fit { codes, scale, min };
        }
        let last = self.last as f32;
        let by = last / (most - least);
        let mut scale = 1.0 / by;
        let mut codes = x.map(|x| self.code(by, x - least));
        let mut best = self.error(x, w, &codes, scale, least);
        for step in 0..=self.steps {
            // The least value is that of the best fit so far.
            let by = (self.first + 0.1 * step as f32 + last) / (most - least);
            let tried = x.map(|x| self.code(by, x - least));
            let [mut sum_l, mut sum_ll, mut sum_xl] = [0.0; 3];
            for ((x, w), code) in x.iter().zip(w).zip(&tried) {
                let l = f32::from(*code);
                sum_l += w * l;
                sum_ll += w * l * l;
                sum_xl += w * l * x;
            }
            let determinant = sum_w * sum_ll - sum_l * sum_l;
            if determinant <= 0.0 || determinant.is_nan() {
                continue;
            }
            let mut fitted = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut lower = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
            if lower > 0.0 {
                (fitted, lower) = (sum_xl / sum_ll, 0.0);
            }
            let error = self.error(x, w, &tried, fitted, lower);
            if error < best {
                (best, scale, least, codes) = (error, fitted, lower, tried);
            }
        }
        let min = -least;
        Fit { codes, scale, min }
    }

    /// The sum of weighted errors.
    #[inline(always)]
    fn error<const N: usize>(
        &self,
        x: &[f32; N],
        w: &[f32; N],
        codes: &[u8; N],
        scale: f32,
        least: f32,
    ) -> f32 {
        let mut sum = 0.0;
        for ((x, w), code) in x.iter().zip(w).zip(codes) {
            let error = scale * f32::from(*code) + least - x;
            let error = if self.squares {
                error * error
            } else {
                error.abs()
            };
            sum += w * error;
        }
        sum
    }
}

/// The greatest of some numbers, and of 0.
#[inline(always)]
fn greatest<const N: usize>(numbers: &[f32; N]) -> f32 {
    let greater = |most, number: &f32| if *number > most { *number } else { most };
    numbers.iter().fold(0.0, greater)
}

/// What the numbers are multiplied by so that the greatest becomes `last`.
#[inline(always)]
fn factor(greatest: f32, last: f32) -> f32 {
    if greatest > 0.0 { last / greatest } else { 0.0 }
}

/// Codes of a part under a rounded scale and minimum; those of the fit stay where the scale is 0.
#[inline(always)]
fn again<const N: usize>(x: &[f32; N], [scale, min]: [f32; 2], last: i32, codes: &mut [u8; N]) {
    if scale != 0.0 {
        *codes = x.map(|x| near((x + min) / scale).clamp(0, last) as u8);
    }
}

#[inline(always)]
pub(super) fn q2(x: &[f32; BLOCK]) -> [u8; 84] {
    const PART: usize = 16;
    let search = Search {
        last: 3,
        first: -0.5,
        steps: 15,
        squares: false,
    };
    let parts = x.as_chunks::<PART>().0;
    let mut fits = core::array::from_fn::<_, { BLOCK / PART }, _>(|k| {
        search.fit(&parts[k], &parts[k].map(f32::abs))
    });
    let scales = core::array::from_fn::<_, { BLOCK / PART }, _>(|k| fits[k].scale);
    let mins = core::array::from_fn::<_, { BLOCK / PART }, _>(|k| fits[k].min);
    let (scale, min) = (greatest(&scales), greatest(&mins));

    let mut bytes = [0; 84];
    for k in 0..BLOCK / PART {
        let s = near(factor(scale, 15.0) * scales[k]) as u8;
        let t = near(factor(min, 15.0) * mins[k]) as u8;
        bytes[k] = s | t << 4;
    }
    set_half(&mut bytes, 80, scale / 15.0);
    set_half(&mut bytes, 82, min / 15.0);
    let halves = [half(&bytes, 80), half(&bytes, 82)];
    for (k, (x, fit)) in parts.iter().zip(&mut fits).enumerate() {
        again(
            x,
            scale_and_min4(bytes[k], halves),
            search.last,
            &mut fit.codes,
        );
        let (at, shift) = twos(k);
        for (byte, code) in bytes[16 + at..].iter_mut().zip(fit.codes) {
            *byte |= code << shift;
        }
    }
    bytes
}

#[inline(always)]
pub(super) fn q4(x: &[f32; BLOCK]) -> [u8; 144] {
    let mut bytes = [0; 144];
    let codes = sixes(x, 15, -1.0, 20, &mut bytes);
    set_lower(&codes, &mut bytes[16..]);
    bytes
}

#[inline(always)]
pub(super) fn q5(x: &[f32; BLOCK]) -> [u8; 176] {
    let mut bytes = [0; 176];
    let codes = sixes(x, 31, -0.5, 15, &mut bytes);
    for (k, codes) in codes.iter().enumerate() {
        for (byte, code) in bytes[16..48].iter_mut().zip(codes) {
            *byte |= (code >> 4) << k;
        }
    }
    set_lower(&codes, &mut bytes[48..]);
    bytes
}

/// Weights of a part of `q4_k` and `q5_k`.
const PART: usize = 32;

/// Parts of a block.
const PARTS: usize = BLOCK / PART;

/// The nibbles of codes, two parts in 32 bytes.
#[inline(always)]
fn set_lower(codes: &[[u8; PART]; PARTS], bytes: &mut [u8]) {
    for (two, bytes) in codes.as_chunks::<2>().0.iter().zip(bytes.chunks_mut(PART)) {
        for (j, byte) in bytes.iter_mut().enumerate() {
            *byte = two[0][j] & 15 | two[1][j] << 4;
        }
    }
}

/// The codes of a block whose parts have scales and minima of six bits; those are set in its first 16 bytes.
#[inline(always)]
fn sixes(
    x: &[f32; BLOCK],
    last: i32,
    first: f32,
    steps: usize,
    bytes: &mut [u8],
) -> [[u8; PART]; PARTS] {
    let search = Search {
        last,
        first,
        steps,
        squares: true,
    };
    let parts = x.as_chunks::<PART>().0;
    let fits = core::array::from_fn::<_, PARTS, _>(|k| {
        let squares = parts[k].iter().fold(0.0, |sum, x| sum + x * x);
        let mean = (squares / 32.0).sqrt();
        search.fit(&parts[k], &parts[k].map(|x| mean + x.abs()))
    });
    let scales = core::array::from_fn::<_, PARTS, _>(|k| fits[k].scale);
    let mins = core::array::from_fn::<_, PARTS, _>(|k| fits[k].min);
    let (scale, min) = (greatest(&scales), greatest(&mins));

    set_half(bytes, 0, scale / 63.0);
    set_half(bytes, 2, min / 63.0);
    let halves = [half(bytes, 0), half(bytes, 2)];
    let packed = &mut bytes[4..16];
    for k in 0..PARTS {
        // A negative number is a large byte.
        let s = (near(factor(scale, 63.0) * scales[k]) as u8).min(63);
        let t = (near(factor(min, 63.0) * mins[k]) as u8).min(63);
        if k < 4 {
            (packed[k], packed[k + 4]) = (s, t);
        } else {
            packed[k + 4] = s & 15 | t << 4;
            packed[k - 4] |= s >> 4 << 6;
            packed[k] |= t >> 4 << 6;
        }
    }
    let mut codes = fits.map(|fit| fit.codes);
    for (k, (x, codes)) in parts.iter().zip(&mut codes).enumerate() {
        again(x, scale_and_min6(packed, k, halves), last, codes);
    }
    codes
}
