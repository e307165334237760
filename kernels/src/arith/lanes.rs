//! Sixteen floats at a time, with the vector instructions that the processor turns out to have.
//!
//! Work is written once over [`Lanes`] and compiled for AVX-512, for AVX2, and for the instructions that every processor of the
//! target has (SSE2, NEON); [`run`] chooses. Loops that a compiler makes vectors of by itself need no more than to be
//! inside of it.
//!
//! Every operation rounds as `f32` does, so that dequantized values have the same bits everywhere. [`Lanes::mul_add`] alone
//! rounds once where there is an instruction for it, and twice elsewhere.

#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::halves::{narrow_f16, round_bf16, widen_f16};

/// Floats of a vector.
pub(crate) const LANES: usize = 16;

/// Words of as many halves.
pub(crate) const HALF_WORDS: usize = LANES / 2;

/// 4-bit codes of a [`Lanes::chunk`].
pub(crate) const CHUNK: usize = 2 * LANES;

/// As `map` of arrays, with the instructions of its caller: `map` is compiled by itself, without them, so that each intrinsic in it is a call and
/// no compiler makes vectors of it.
#[inline(always)]
pub(crate) fn each<T: Copy, R: Copy + Default, const N: usize>(
    of: &[T; N],
    f: impl Fn(T) -> R,
) -> [R; N] {
    let mut all = [R::default(); N];
    for (to, from) in all.iter_mut().zip(of) {
        *to = f(*from);
    }
    all
}

/// The same of two that are vectors, and have no default.
#[inline(always)]
pub(crate) fn both<T: Copy, R>(of: [T; 2], f: impl Fn(T) -> R) -> [R; 2] {
    [f(of[0]), f(of[1])]
}

/// Operations on vectors of sixteen.
pub(crate) trait Lanes: Copy + Send + Sync {
    /// Sixteen floats.
    type Floats: Copy;
    /// Sixteen 4-bit codes, under bits that mean nothing.
    type Codes: Copy;
    /// Some of the sixteen floats: as many as one instruction takes.
    type Part: Copy;
    /// How many of them are sixteen.
    const PARTS: usize;
    /// Rows of a weight that are multiplied together.
    const ROWS: usize;

    fn splat(self, value: f32) -> Self::Floats;
    fn load(self, values: &[f32; LANES]) -> Self::Floats;
    fn store(self, values: Self::Floats, to: &mut [f32; LANES]);
    /// Bits of the nearest halves, ties to even; a NaN becomes quiet and keeps the upper bits of its payload.
    fn f16(self, values: Self::Floats) -> [u16; LANES];
    /// The same of bf16.
    fn bf16(self, values: Self::Floats) -> [u16; LANES];
    /// The values of sixteen f16, two a word.
    fn widen_f16(self, words: &[u32; HALF_WORDS]) -> Self::Floats;
    /// The same of bf16.
    fn widen_bf16(self, words: &[u32; HALF_WORDS]) -> Self::Floats;
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The part `PART` of sixteen.
    fn load_part<const PART: usize>(self, values: &[f32; LANES]) -> Self::Part;
    fn store_part<const PART: usize>(self, values: Self::Part, to: &mut [f32; LANES]);
    /// [`mul_add`](Self::mul_add) of a part.
    fn mul_add_part(self, a: Self::Part, b: Self::Part, c: Self::Part) -> Self::Part;
    /// The codes of two words, in their order.
    fn codes(self, words: &[u32; 2]) -> Self::Codes;
    /// The codes of four words in the order that takes the fewest steps, see [`chunk_order`].
    fn chunk(self, words: &[u32; 4]) -> [Self::Codes; 2];
    /// Sixteen `BITS`-bit codes of a stream as floats, the first of which begins at bit `16 * BITS * half % 32` of
    /// `words`; `BITS` is at most 6, and words that no code is in do not matter.
    fn stream<const BITS: usize>(self, words: &[u32; 4], half: usize) -> Self::Floats;
    /// `table[code]`.
    fn look_up(self, table: Self::Floats, codes: Self::Codes) -> Self::Floats;
    /// Asks for the word `at` to be brought near; there need not be one.
    fn prefetch(self, words: &[u32], at: usize);
    /// The same as far as into the second cache: for what comes after more than the nearest one holds.
    fn prefetch_far(self, words: &[u32], at: usize);
    /// Runs `work` where it may use these instructions.
    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R;
}

/// Something to do with vectors.
pub(crate) trait Work {
    /// The result.
    type Output;

    /// Does it. Has to be `#[inline(always)]`, as everything it calls, or it is compiled without the instructions.
    fn on<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Does the work with the best instructions there are.
pub(crate) fn run<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    match pulp::x86::Arch::new() {
        pulp::x86::Arch::V4(lanes) => return on(lanes, work),
        pulp::x86::Arch::V3(lanes) => return on(lanes, work),
        _ => {}
    }
    on(Portable::<NATIVE_MUL_ADD>, work)
}

/// [`run`] for loops over plain arrays, of which compilers make vectors.
#[inline]
pub(crate) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    struct Plain<F>(F);
    impl<F: FnOnce() -> R, R> Work for Plain<F> {
        type Output = R;

        #[inline(always)]
        fn on<L: Lanes>(self, _: L) -> R {
            self.0()
        }
    }
    run(Plain(work))
}

/// Declares a function whose body is [`vectorized`]. Functions that it calls have to be `#[inline(always)]`.
///
/// Asking for the processor takes some ten nanoseconds, so a call should be worth a thousand weights.
macro_rules! for_processors {
    (
        $(#[$doc:meta])*
        $visibility:vis fn $name:ident $(<$levels:ident: $bound:ident>)? (
            $($arg:ident: $type:ty),* $(,)?
        ) $(-> $result:ty)? $body:block
    ) => {
        $(#[$doc])*
        $visibility fn $name $(<$levels: $bound>)? ($($arg: $type),*) $(-> $result)? {
            $crate::arith::lanes::vectorized(
                #[inline(always)]
                move || $body,
            )
        }
    };
}

pub(crate) use for_processors;

/// Does the work with these.
pub(crate) fn on<L: Lanes, W: Work>(lanes: L, work: W) -> W::Output {
    lanes.vectorize(
        #[inline(always)]
        move || work.on(lanes),
    )
}

/// Whether every processor of the target has an instruction for `mul_add`; without one it is very slow.
const NATIVE_MUL_ADD: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// Where the value `k` of a chunk's [`CHUNK`] values goes: `(vector, lane)`. Lane `4 * j + w` of vector `v` holds code
/// `4 * v + j` of word `w`.
pub(crate) const fn chunk_order(k: usize) -> (usize, usize) {
    let (word, code) = (k / 8, k % 8);
    (code / 4, code % 4 * 4 + word)
}

/// Values in the order of [`Lanes::chunk`]. A last chunk that is not full is left as it is.
pub(crate) fn to_chunks(values: &mut [f32]) {
    for chunk in values.as_chunks_mut::<CHUNK>().0 {
        let from = *chunk;
        for (k, value) in from.into_iter().enumerate() {
            let (vector, lane) = chunk_order(k);
            chunk[LANES * vector + lane] = value;
        }
    }
}

/// Where the code `k` of [`Lanes::stream`] is: the word it begins in, the bit there, and how far the next word, which has
/// the rest of it, is shifted up; by 32, so away, where there is no rest.
pub(crate) const fn place(bits: usize, half: usize, k: usize) -> [u32; 3] {
    let at = LANES * bits * half % 32 + bits * k;
    let (word, shift) = (at / 32, at % 32);
    [word as u32, shift as u32, 32 - shift as u32]
}

/// [`place`] of all sixteen: words, bits, shifts.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "one code at a time there")
)]
const fn places(bits: usize, half: usize) -> [[u32; LANES]; 3] {
    let mut all = [[0; LANES]; 3];
    let mut k = 0;
    while k < LANES {
        let place = place(bits, half, k);
        let mut part = 0;
        while part < 3 {
            all[part][k] = place[part];
            part += 1;
        }
        k += 1;
    }
    all
}

/// The sum of sixteen, each half added to the other.
#[inline(always)]
pub(crate) fn sum(mut values: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for k in 0..half {
            values[k] += values[k + half];
        }
        half /= 2;
    }
    values[0]
}

/// Operations that every processor has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable<const MUL_ADD: bool>;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    core::array::from_fn(
        #[inline(always)]
        |k| f(a[k], b[k]),
    )
}

/// Floats of a [`Lanes::Part`] of [`Portable`]: what SSE2 and NEON take.
const QUARTER: usize = LANES / 4;

impl<const MUL_ADD: bool> Lanes for Portable<MUL_ADD> {
    type Floats = [f32; LANES];
    type Codes = [u32; LANES];
    type Part = [f32; QUARTER];
    const PARTS: usize = LANES / QUARTER;
    const ROWS: usize = 2;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Floats {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::Floats {
        *values
    }

    #[inline(always)]
    fn store(self, values: Self::Floats, to: &mut [f32; LANES]) {
        *to = values;
    }

    #[inline(always)]
    fn f16(self, values: Self::Floats) -> [u16; LANES] {
        values.map(narrow_f16)
    }

    #[inline(always)]
    fn bf16(self, values: Self::Floats) -> [u16; LANES] {
        values.map(
            #[inline(always)]
            |value| (round_bf16(value).to_bits() >> 16) as u16,
        )
    }

    #[inline(always)]
    fn widen_f16(self, words: &[u32; HALF_WORDS]) -> Self::Floats {
        core::array::from_fn(
            #[inline(always)]
            |k| widen_f16((words[k / 2] >> (16 * (k % 2))) as u16),
        )
    }

    #[inline(always)]
    fn widen_bf16(self, words: &[u32; HALF_WORDS]) -> Self::Floats {
        core::array::from_fn(
            #[inline(always)]
            |k| f32::from_bits(words[k / 2] >> (16 * (k % 2)) << 16),
        )
    }

    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        core::array::from_fn(
            #[inline(always)]
            |k| {
                if MUL_ADD {
                    a[k].mul_add(b[k], c[k])
                } else {
                    a[k] * b[k] + c[k]
                }
            },
        )
    }

    #[inline(always)]
    fn load_part<const PART: usize>(self, values: &[f32; LANES]) -> Self::Part {
        values.as_chunks().0[PART]
    }

    #[inline(always)]
    fn store_part<const PART: usize>(self, values: Self::Part, to: &mut [f32; LANES]) {
        to.as_chunks_mut().0[PART] = values;
    }

    #[inline(always)]
    fn mul_add_part(self, a: Self::Part, b: Self::Part, c: Self::Part) -> Self::Part {
        core::array::from_fn(
            #[inline(always)]
            |k| {
                if MUL_ADD {
                    a[k].mul_add(b[k], c[k])
                } else {
                    a[k] * b[k] + c[k]
                }
            },
        )
    }

    #[inline(always)]
    fn codes(self, words: &[u32; 2]) -> Self::Codes {
        core::array::from_fn(
            #[inline(always)]
            |k| words[k / 8] >> (4 * (k % 8)),
        )
    }

    #[inline(always)]
    fn chunk(self, words: &[u32; 4]) -> [Self::Codes; 2] {
        [0, 16].map(
            #[inline(always)]
            |shift| {
                core::array::from_fn(
                    #[inline(always)]
                    |k| words[k % 4] >> (shift + 4 * (k / 4)),
                )
            },
        )
    }

    #[inline(always)]
    fn stream<const BITS: usize>(self, words: &[u32; 4], half: usize) -> Self::Floats {
        core::array::from_fn(
            #[inline(always)]
            |k| {
                let [word, bit, rest] = place(BITS, half, k);
                let next = u64::from(words[(word as usize + 1).min(3)]) << rest;
                let code = words[word as usize] >> bit | next as u32;
                // Through i32, because SSE2 converts nothing else.
                (code & ((1 << BITS) - 1)) as i32 as f32
            },
        )
    }

    #[inline(always)]
    fn look_up(self, table: Self::Floats, codes: Self::Codes) -> Self::Floats {
        codes.map(
            #[inline(always)]
            |code| table[(code & 15) as usize],
        )
    }

    #[inline(always)]
    fn prefetch(self, _: &[u32], _: usize) {}

    #[inline(always)]
    fn prefetch_far(self, _: &[u32], _: usize) {}

    #[inline(always)]
    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R {
        work()
    }
}
