//! Every processor's operations against the obvious ones. What this processor lacks is not tested.

use half::{bf16, f16};

use super::*;

/// Values and words of every kind, and all operations on them, as bits.
struct All;

impl Work for All {
    type Output = Vec<u32>;

    #[inline(always)]
    fn on<L: Lanes>(self, lanes: L) -> Vec<u32> {
        let mut bits = Vec::new();
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state
        };
        for _ in 0..500 {
            let mut floats = || {
                let values: [f32; LANES] =
                    core::array::from_fn(|_| (next() >> 8) as f32 / 3e6 - 2.7);
                lanes.load(&values)
            };
            let (a, b, c) = (floats(), floats(), floats());
            let words = [next(), next(), next(), next()];
            let [lower, upper] = lanes.chunk(&words);
            for found in [
                lanes.splat(next() as f32),
                a,
                lanes.add(a, b),
                lanes.sub(a, b),
                lanes.mul(a, b),
                lanes.mul_add(a, b, c),
                lanes.look_up(a, lanes.codes(&[words[0], words[1]])),
                lanes.look_up(a, lower),
                lanes.look_up(a, upper),
                lanes.stream::<1>(&words, 0),
                lanes.stream::<2>(&words, 1),
                lanes.stream::<3>(&words, 0),
                lanes.stream::<3>(&words, 1),
                lanes.stream::<5>(&words, 0),
                lanes.stream::<5>(&words, 1),
                lanes.stream::<6>(&words, 0),
                lanes.stream::<6>(&words, 1),
            ] {
                let mut values = [0.0; LANES];
                lanes.store(found, &mut values);
                bits.extend(values.map(f32::to_bits));
            }
        }
        bits
    }
}

#[test]
fn every_processor_has_the_same_bits() {
    let (once, twice) = (on(Portable::<true>, All), on(Portable::<false>, All));
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(lanes) = pulp::x86::V3::try_new() {
            assert_eq!(on(lanes, All), once, "AVX2");
        }
        if let Some(lanes) = pulp::x86::V4::try_new() {
            assert_eq!(on(lanes, All), once, "AVX-512");
        }
    }
    let chosen = run(All);
    assert!(chosen == once || chosen == twice, "what is chosen");
    // Where there is no instruction for it, `mul_add` rounds twice, and nothing else differs.
    let differ = twice.iter().zip(&once).enumerate();
    let differ = differ.filter(|(_, (a, b))| a != b);
    assert!(
        differ
            .map(|(k, _)| k / LANES % 17)
            .all(|operation| operation == 5)
    );
}

/// Codes where their word and place say, against [`crate::arith::pack::code4`].
#[test]
fn codes_are_those_of_the_words() {
    struct Codes;
    impl Work for Codes {
        type Output = ();

        #[inline(always)]
        fn on<L: Lanes>(self, lanes: L) {
            let table = core::array::from_fn(|k| k as f32);
            let table = lanes.load(&table);
            let floats = |codes| {
                let mut values = [0.0; LANES];
                lanes.store(lanes.look_up(table, codes), &mut values);
                values
            };
            let words = [0xfedc_ba98, 0x7654_3210, 0x0f1e_2d3c, 0x8796_a5b4];
            let expected: Vec<f32> = (0..CHUNK)
                .map(|k| crate::arith::pack::code4(&words, k) as f32)
                .collect();
            assert_eq!(
                floats(lanes.codes(&[words[0], words[1]])),
                expected[..LANES]
            );
            let found = lanes.chunk(&words).map(floats);
            for (k, expected) in expected.iter().enumerate() {
                let (vector, lane) = chunk_order(k);
                assert_eq!(found[vector][lane], *expected, "{k}");
            }
            streams::<L, 1>(lanes, &words);
            streams::<L, 2>(lanes, &words);
            streams::<L, 3>(lanes, &words);
            streams::<L, 5>(lanes, &words);
            streams::<L, 6>(lanes, &words);
            let mut values = expected;
            to_chunks(&mut values);
            assert_eq!(values, found.as_flattened());
        }
    }
    #[inline(always)]
    fn streams<L: Lanes, const BITS: usize>(lanes: L, words: &[u32; 4]) {
        for half in [0, 1] {
            let mut found = [0.0; LANES];
            lanes.store(lanes.stream::<BITS>(words, half), &mut found);
            let mut stream = [0; 5];
            stream[..4].copy_from_slice(words);
            // A second half begins inside of a word where the bits are odd.
            let first = if BITS % 2 == 1 { 16 * half } else { 0 };
            for (k, found) in found.into_iter().enumerate() {
                let at = first + BITS * k;
                let (word, bit) = (at / 32, at % 32);
                let both = u64::from(stream[word + 1]) << 32 | u64::from(stream[word]);
                let expected = both >> bit & ((1 << BITS) - 1);
                assert_eq!(found, expected as f32, "{BITS} bits, code {k}");
            }
        }
    }
    run(Codes);
    on(Portable::<false>, Codes);
    #[cfg(target_arch = "x86_64")]
    if let Some(lanes) = pulp::x86::V3::try_new() {
        on(lanes, Codes);
    }
}

/// Halves of every processor against those of `half`: of NaN, infinities, subnormals, ties and what is next to them.
#[test]
fn halves_are_those_of_half() {
    struct Halves;
    impl Work for Halves {
        type Output = ();

        #[inline(always)]
        fn on<L: Lanes>(self, lanes: L) {
            for upper in 0..=u16::MAX {
                const LOWER: [u32; LANES] = [
                    0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x5000, 0x7000, 0x7fff,
                    0x8000, 0x8001, 0xb000, 0xf000, 0xffff,
                ];
                let values = LOWER.map(|lower| f32::from_bits(u32::from(upper) << 16 | lower));
                let floats = lanes.load(&values);
                let f16s = values.map(|value| f16::from_f32(value).to_bits());
                assert_eq!(lanes.f16(floats), f16s, "{upper:#x}");
                let bf16s = values.map(|value| bf16::from_f32(value).to_bits());
                assert_eq!(lanes.bf16(floats), bf16s, "{upper:#x}");
            }
        }
    }
    run(Halves);
    on(Portable::<false>, Halves);
    #[cfg(target_arch = "x86_64")]
    if let Some(lanes) = pulp::x86::V3::try_new() {
        on(lanes, Halves);
    }
}
