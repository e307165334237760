//! AVX-512 and AVX2, through the safe intrinsics that `pulp` hands out to who has asked for the processor.

use core::arch::x86_64::{
    _CMP_UNORD_Q as UNORDERED, _MM_FROUND_TO_NEAREST_INT as NEAREST, _MM_HINT_T0 as NEAR,
    _MM_HINT_T1 as FAR,
};

use pulp::x86::{V3, V4};
use pulp::{cast, f32x8, f32x16, u32x8, u32x16};

use super::{HALF_WORDS, LANES, Lanes, both, each, places};
use crate::arith::halves::{QUIET, narrow_f16, widen_f16};

/// A lane for each code of two words.
const WORD_OF: [u32; LANES] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
const SHIFT_OF: [u32; LANES] = [0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28];

/// A lane for each of the lower codes of four words.
const CHUNK_SHIFT: [u32; LANES] = [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12];

impl Lanes for V4 {
    type Floats = f32x16;
    type Codes = u32x16;
    type Part = f32x16;
    const PARTS: usize = 1;
    const ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, value: f32) -> f32x16 {
        self.splat_f32x16(value)
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> f32x16 {
        cast(*values)
    }

    #[inline(always)]
    fn store(self, values: f32x16, to: &mut [f32; LANES]) {
        *to = cast(values);
    }

    #[inline(always)]
    fn f16(self, values: f32x16) -> [u16; LANES] {
        cast(self.avx512f._mm512_cvtps_ph::<NEAREST>(cast(values)))
    }

    #[inline(always)]
    fn bf16(self, values: f32x16) -> [u16; LANES] {
        let bits = cast(values);
        let odd = self.avx512f._mm512_srli_epi32::<16>(bits);
        let odd = self
            .avx512f
            ._mm512_and_si512(odd, cast(self.splat_u32x16(1)));
        let half = self
            .avx512f
            ._mm512_add_epi32(odd, cast(self.splat_u32x16(0x7fff)));
        let rounded = self.avx512f._mm512_add_epi32(bits, half);
        let nan = self
            .avx512f
            ._mm512_cmpunord_ps_mask(cast(values), cast(values));
        let quiet = cast(self.splat_u32x16(QUIET));
        let rounded = self.avx512f._mm512_mask_or_epi32(rounded, nan, bits, quiet);
        let upper = self.avx512f._mm512_srli_epi32::<16>(rounded);
        cast(self.avx512f._mm512_cvtepi32_epi16(upper))
    }

    #[inline(always)]
    fn widen_f16(self, words: &[u32; HALF_WORDS]) -> f32x16 {
        cast(self.avx512f._mm512_cvtph_ps(cast(*words)))
    }

    #[inline(always)]
    fn widen_bf16(self, words: &[u32; HALF_WORDS]) -> f32x16 {
        let wide = self.avx512f._mm512_cvtepu16_epi32(cast(*words));
        cast(self.avx512f._mm512_slli_epi32::<16>(wide))
    }

    #[inline(always)]
    fn add(self, a: f32x16, b: f32x16) -> f32x16 {
        self.add_f32x16(a, b)
    }

    #[inline(always)]
    fn sub(self, a: f32x16, b: f32x16) -> f32x16 {
        self.sub_f32x16(a, b)
    }

    #[inline(always)]
    fn mul(self, a: f32x16, b: f32x16) -> f32x16 {
        self.mul_f32x16(a, b)
    }

    #[inline(always)]
    fn mul_add(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
        self.mul_add_f32x16(a, b, c)
    }

    #[inline(always)]
    fn load_part<const PART: usize>(self, values: &[f32; LANES]) -> f32x16 {
        cast(*values)
    }

    #[inline(always)]
    fn store_part<const PART: usize>(self, values: f32x16, to: &mut [f32; LANES]) {
        *to = cast(values);
    }

    #[inline(always)]
    fn mul_add_part(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
        self.mul_add_f32x16(a, b, c)
    }

    #[inline(always)]
    fn codes(self, words: &[u32; 2]) -> u32x16 {
        let both = self.avx512f._mm512_set1_epi64(cast(*words));
        let words = self.avx512f._mm512_permutexvar_epi32(cast(WORD_OF), both);
        cast(self.avx512f._mm512_srlv_epi32(words, cast(SHIFT_OF)))
    }

    #[inline(always)]
    fn chunk(self, words: &[u32; 4]) -> [u32x16; 2] {
        let words = self.avx512f._mm512_broadcast_i32x4(cast(*words));
        let lower = self.avx512f._mm512_srlv_epi32(words, cast(CHUNK_SHIFT));
        let upper = self.avx512f._mm512_srli_epi32::<16>(lower);
        [cast(lower), cast(upper)]
    }

    #[inline(always)]
    fn stream<const BITS: usize>(self, words: &[u32; 4], half: usize) -> f32x16 {
        let [word, bit, rest] = [const { places(BITS, 0) }, const { places(BITS, 1) }][half];
        let words = self.avx512f._mm512_broadcast_i32x4(cast(*words));
        let next = word.map(|word| word + 1);
        let low = self.avx512f._mm512_permutexvar_epi32(cast(word), words);
        let high = self.avx512f._mm512_permutexvar_epi32(cast(next), words);
        let low = self.avx512f._mm512_srlv_epi32(low, cast(bit));
        let high = self.avx512f._mm512_sllv_epi32(high, cast(rest));
        let codes = self.avx512f._mm512_or_si512(low, high);
        let mask = self.splat_u32x16((1 << BITS) - 1);
        let codes = self.avx512f._mm512_and_si512(codes, cast(mask));
        cast(self.avx512f._mm512_cvtepi32_ps(codes))
    }

    #[inline(always)]
    fn look_up(self, table: f32x16, codes: u32x16) -> f32x16 {
        // It looks at four bits of an index alone.
        let found = self.avx512f._mm512_permutexvar_ps(cast(codes), cast(table));
        cast(found)
    }

    #[inline(always)]
    fn prefetch(self, words: &[u32], at: usize) {
        let address = words.as_ptr().wrapping_add(at);
        self.sse._mm_prefetch::<NEAR>(address.cast());
    }

    #[inline(always)]
    fn prefetch_far(self, words: &[u32], at: usize) {
        let address = words.as_ptr().wrapping_add(at);
        self.sse._mm_prefetch::<FAR>(address.cast());
    }

    #[inline(always)]
    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R {
        V4::vectorize(self, work)
    }
}

/// Both halves.
type Two<T> = [T; 2];

#[inline(always)]
fn two<T: Copy, R>(a: Two<T>, b: Two<T>, f: impl Fn(T, T) -> R) -> Two<R> {
    [f(a[0], b[0]), f(a[1], b[1])]
}

impl Lanes for V3 {
    type Floats = Two<f32x8>;
    type Codes = Two<u32x8>;
    type Part = f32x8;
    const PARTS: usize = 2;
    const ROWS: usize = 2;

    #[inline(always)]
    fn splat(self, value: f32) -> Two<f32x8> {
        [self.splat_f32x8(value); 2]
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Two<f32x8> {
        cast(*values)
    }

    #[inline(always)]
    fn store(self, values: Two<f32x8>, to: &mut [f32; LANES]) {
        *to = cast(values);
    }

    /// There may be no instruction for it.
    #[inline(always)]
    fn f16(self, values: Two<f32x8>) -> [u16; LANES] {
        each(&cast::<_, [f32; LANES]>(values), narrow_f16)
    }

    #[inline(always)]
    fn bf16(self, values: Two<f32x8>) -> [u16; LANES] {
        let [lower, upper] = both(
            values,
            #[inline(always)]
            |values| {
                let bits = cast(values);
                let odd = self.avx2._mm256_srli_epi32::<16>(bits);
                let odd = self.avx2._mm256_and_si256(odd, cast(self.splat_u32x8(1)));
                let half = self
                    .avx2
                    ._mm256_add_epi32(odd, cast(self.splat_u32x8(0x7fff)));
                let rounded = self.avx2._mm256_add_epi32(bits, half);
                let quiet = self
                    .avx2
                    ._mm256_or_si256(bits, cast(self.splat_u32x8(QUIET)));
                let nan = self
                    .avx
                    ._mm256_cmp_ps::<UNORDERED>(cast(values), cast(values));
                let rounded = self.avx._mm256_blendv_ps(cast(rounded), cast(quiet), nan);
                self.avx2._mm256_srli_epi32::<16>(cast(rounded))
            },
        );
        // Packing takes fours of one and of the other in turn.
        let packed = self.avx2._mm256_packus_epi32(lower, upper);
        cast(self.avx2._mm256_permute4x64_epi64::<0b11_01_10_00>(packed))
    }

    /// There may be no instruction for it.
    #[inline(always)]
    fn widen_f16(self, words: &[u32; HALF_WORDS]) -> Two<f32x8> {
        cast(each(&cast::<_, [u16; LANES]>(*words), widen_f16))
    }

    #[inline(always)]
    fn widen_bf16(self, words: &[u32; HALF_WORDS]) -> Two<f32x8> {
        let [lower, upper]: Two<[u32; HALF_WORDS / 2]> = cast(*words);
        both(
            [lower, upper],
            #[inline(always)]
            |words: [u32; HALF_WORDS / 2]| {
                let wide = self.avx2._mm256_cvtepu16_epi32(cast(words));
                cast(self.avx2._mm256_slli_epi32::<16>(wide))
            },
        )
    }

    #[inline(always)]
    fn add(self, a: Two<f32x8>, b: Two<f32x8>) -> Two<f32x8> {
        two(
            a,
            b,
            #[inline(always)]
            |a, b| self.add_f32x8(a, b),
        )
    }

    #[inline(always)]
    fn sub(self, a: Two<f32x8>, b: Two<f32x8>) -> Two<f32x8> {
        two(
            a,
            b,
            #[inline(always)]
            |a, b| self.sub_f32x8(a, b),
        )
    }

    #[inline(always)]
    fn mul(self, a: Two<f32x8>, b: Two<f32x8>) -> Two<f32x8> {
        two(
            a,
            b,
            #[inline(always)]
            |a, b| self.mul_f32x8(a, b),
        )
    }

    #[inline(always)]
    fn mul_add(self, a: Two<f32x8>, b: Two<f32x8>, c: Two<f32x8>) -> Two<f32x8> {
        [
            self.mul_add_f32x8(a[0], b[0], c[0]),
            self.mul_add_f32x8(a[1], b[1], c[1]),
        ]
    }

    #[inline(always)]
    fn load_part<const PART: usize>(self, values: &[f32; LANES]) -> f32x8 {
        cast(values.as_chunks::<{ LANES / 2 }>().0[PART])
    }

    #[inline(always)]
    fn store_part<const PART: usize>(self, values: f32x8, to: &mut [f32; LANES]) {
        to.as_chunks_mut::<{ LANES / 2 }>().0[PART] = cast(values);
    }

    #[inline(always)]
    fn mul_add_part(self, a: f32x8, b: f32x8, c: f32x8) -> f32x8 {
        self.mul_add_f32x8(a, b, c)
    }

    #[inline(always)]
    fn codes(self, words: &[u32; 2]) -> Two<u32x8> {
        let shifts: Two<u32x8> = cast(SHIFT_OF);
        both(
            [0, 1],
            #[inline(always)]
            |k: usize| {
                let word = self.splat_u32x8(words[k]);
                cast(self.avx2._mm256_srlv_epi32(cast(word), cast(shifts[k])))
            },
        )
    }

    #[inline(always)]
    fn chunk(self, words: &[u32; 4]) -> [Two<u32x8>; 2] {
        let shifts: Two<u32x8> = cast(CHUNK_SHIFT);
        let words = self.avx2._mm256_broadcastsi128_si256(cast(*words));
        let lower = both(
            shifts,
            #[inline(always)]
            |shift| self.avx2._mm256_srlv_epi32(words, cast(shift)),
        );
        let upper = both(
            lower,
            #[inline(always)]
            |lower| cast(self.avx2._mm256_srli_epi32::<16>(lower)),
        );
        [[cast(lower[0]), cast(lower[1])], upper]
    }

    #[inline(always)]
    fn stream<const BITS: usize>(self, words: &[u32; 4], half: usize) -> Two<f32x8> {
        let places = [const { places(BITS, 0) }, const { places(BITS, 1) }][half];
        let [word, bit, rest]: [Two<u32x8>; 3] = cast(places);
        let next: Two<u32x8> = cast(places[0].map(|word| word + 1));
        let words = self.avx2._mm256_broadcastsi128_si256(cast(*words));
        let mask = cast(self.splat_u32x8((1 << BITS) - 1));
        both(
            [0, 1],
            #[inline(always)]
            |k: usize| {
                let low = self.avx2._mm256_permutevar8x32_epi32(words, cast(word[k]));
                let high = self.avx2._mm256_permutevar8x32_epi32(words, cast(next[k]));
                let low = self.avx2._mm256_srlv_epi32(low, cast(bit[k]));
                let high = self.avx2._mm256_sllv_epi32(high, cast(rest[k]));
                let codes = self.avx2._mm256_or_si256(low, high);
                cast(
                    self.avx
                        ._mm256_cvtepi32_ps(self.avx2._mm256_and_si256(codes, mask)),
                )
            },
        )
    }

    #[inline(always)]
    fn look_up(self, table: Two<f32x8>, codes: Two<u32x8>) -> Two<f32x8> {
        both(
            codes,
            #[inline(always)]
            |codes| {
                // A look-up sees three bits of an index; the fourth, as a sign, chooses between two.
                let [low, high] = both(
                    table,
                    #[inline(always)]
                    |half| self.avx2._mm256_permutevar8x32_ps(cast(half), cast(codes)),
                );
                let fourth = self.avx2._mm256_slli_epi32::<28>(cast(codes));
                cast(self.avx._mm256_blendv_ps(low, high, cast(fourth)))
            },
        )
    }

    #[inline(always)]
    fn prefetch(self, words: &[u32], at: usize) {
        let address = words.as_ptr().wrapping_add(at);
        self.sse._mm_prefetch::<NEAR>(address.cast());
    }

    #[inline(always)]
    fn prefetch_far(self, words: &[u32], at: usize) {
        let address = words.as_ptr().wrapping_add(at);
        self.sse._mm_prefetch::<FAR>(address.cast());
    }

    #[inline(always)]
    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R {
        V3::vectorize(self, work)
    }
}
