//! Every processor's operations against the obvious ones. What this processor lacks is not tested.

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
    let expected = on(Portable::<true>, All);
    let mut found = vec![("best", run(All))];
    #[cfg(target_arch = "x86_64")]
    {
        found.extend(pulp::x86::V3::try_new().map(|lanes| ("AVX2", on(lanes, All))));
        found.extend(pulp::x86::V4::try_new().map(|lanes| ("AVX-512", on(lanes, All))));
    }
    // Without an instruction for it, `mul_add` rounds twice, and nothing else differs.
    if cfg!(target_arch = "x86_64") && found.len() == 1 {
        found.clear();
    }
    for (name, bits) in found {
        assert_eq!(bits, expected, "{name}");
    }
    let (twice, once) = (on(Portable::<false>, All), expected);
    let differ = twice
        .iter()
        .zip(&once)
        .enumerate()
        .filter(|(_, (a, b))| a != b);
    let operations: Vec<usize> = differ.map(|(k, _)| k / LANES % 9).collect();
    assert!(operations.iter().all(|operation| *operation == 5));
}

/// Codes where their word and place say, against [`crate::pack::code4`].
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
                .map(|k| crate::pack::code4(&words, k) as f32)
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
            let mut values = expected;
            to_chunks(&mut values);
            assert_eq!(values, found.as_flattened());
        }
    }
    run(Codes);
    on(Portable::<false>, Codes);
    #[cfg(target_arch = "x86_64")]
    if let Some(lanes) = pulp::x86::V3::try_new() {
        on(lanes, Codes);
    }
}
