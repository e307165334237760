//! Whole-number codes that a device chooses: those of the host's packers for every pattern of bits.

use cubecl::client::Client;
use firebox_kernels::arith::float::DType;
use firebox_kernels::packing::Packing;
use firebox_kernels::quantize::quantize;

use crate::common::{Random, fed};
use crate::pack::{read, upload};
use crate::targets::on_devices;

on_devices!(mlx, int8, empty);

const SOURCES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

/// What a row of special weights is made of.
const KINDS: usize = 18;

/// The bits of `f32` weights of a row of `i` that tells devices apart from processors, by `kind`.
fn special(random: &mut Random, kind: usize, i: usize) -> Vec<u32> {
    let (nan, quiet) = (0x7f80_0001u32, 0xffc1_2345u32);
    let (inf, sign) = (f32::INFINITY.to_bits(), 1u32 << 31);
    let some = f32::to_bits(random.weight());
    let at = random.next() as usize;
    let weight = |k: usize, random: &mut Random| {
        let bits = random.next() as u32;
        let weight = f32::to_bits(random.weight());
        let alone = k == at % i;
        match kind {
            // Any bits; without infinities; only tiny ones; only huge ones.
            0 => bits,
            1 => bits & !(1 << 30),
            2 => bits & 0x81ff_ffff,
            3 => (bits & 0x80ff_ffff) | 0x7e00_0000,
            // One NaN or infinity, and rows of nothing else.
            4 => [weight, nan][usize::from(alone)],
            5 => [weight, quiet][usize::from(alone)],
            6 => [weight, inf | (bits & sign)][usize::from(alone)],
            7 => [nan, quiet][k % 2],
            8 => [inf | (at as u32 & sign), nan][usize::from(at.is_multiple_of(3) && alone)],
            // Zeros, one weight over and over, two of them, and steps smaller than the smallest.
            9 => bits & sign,
            10 => some,
            11 => some + bits % 2,
            12 => f32::to_bits(f32::from_bits(weight) * 1e-7),
            // The largest, subnormals next to each other, and halves of steps.
            13 => f32::MAX.to_bits() | (bits & sign & (at as u32)),
            14 => bits & 0x807f_ffff,
            // Subnormals that are not 0 among the codes of a signed byte.
            15 => (bits & sign) | ((bits & !sign) % (8 << 23)),
            // Next to the middles of a signed byte's codes: the last bit of a factor decides.
            16 if k == 0 => f32::to_bits(127.0 * f32::from_bits(some)),
            16 => f32::to_bits(((bits % 253) as f32 - 126.5) * f32::from_bits(some)),
            _ => f32::to_bits((bits % 61) as f32 * 0.25 - 8.0),
        }
    };
    (0..i).map(|k| weight(k, random)).collect()
}

/// A weight's bytes: at random, but for a row in two that is special.
fn weights(random: &mut Random, [o, i]: [usize; 2], source: DType) -> Vec<u8> {
    let mut bytes = Vec::new();
    for r in 0..o {
        if r % 2 == 0 {
            bytes.extend(random.weights(i, source));
            continue;
        }
        let kind = (r / 2) % KINDS;
        for bits in special(random, kind, i) {
            let stored = match source {
                DType::F32 => bits,
                // The upper half keeps what a kind is: a sign, an exponent, the first bits.
                DType::Bf16 => bits >> 16,
                DType::F16 if kind < 4 => bits >> 16,
                DType::F16 => DType::F16.to_bits(f32::from_bits(bits)),
            };
            bytes.extend(&stored.to_le_bytes()[..source.size()]);
        }
    }
    bytes
}

#[track_caller]
fn check(client: &Client, packing: Packing, shape: [usize; 2], source: DType, bytes: &[u8]) {
    let packer = packing.packer(shape, source).unwrap();
    let (o, i, together) = (shape[0], shape[1], packer.tile_rows());
    let host = fed(packer, bytes, i * source.size(), 0);
    // All at once, and in three tiles where there are as many.
    for step in [o, together * o.div_ceil(3 * together)] {
        let (mut words, mut scales) = (Vec::new(), Vec::new());
        for bytes in bytes.chunks(step * i * source.size()) {
            let tile = [bytes.len() / source.size() / i, i];
            let (w, s) = quantize(client, packing, tile, source, &upload(client, bytes), None);
            words.extend(read(client, w));
            scales.extend(read(client, s));
        }
        let what = format!("{packing:?} {source:?} {shape:?} by {step}");
        same(&scales, &host.scales, &format!("scales of {what}"));
        same(&words, &host.words, &format!("words of {what}"));
    }
}

#[track_caller]
fn same(found: &[u32], expected: &[u32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let differ = found.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(k) = differ {
        let (found, expected) = (found[k], expected[k]);
        panic!("{what}: {k} is {found:#010x}, and should be {expected:#010x}");
    }
}

fn mlx(client: &Client) {
    let mut random = Random(11);
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            let packing = Packing::Mlx { bits, group };
            for source in SOURCES {
                for shape in [[1, group], [4 * KINDS + 1, group], [2 * KINDS, 3 * group]] {
                    let bytes = weights(&mut random, shape, source);
                    check(client, packing, shape, source, &bytes);
                }
            }
        }
    }
}

fn int8(client: &Client) {
    let mut random = Random(12);
    for source in SOURCES {
        for shape in [
            [1, 1],
            [7, 33],
            [40, 3],
            [2 * KINDS, 8],
            [2 * KINDS, 72],
            [2 * KINDS + 1, 37],
            [4, 4097],
            [3, 14_336],
        ] {
            let bytes = weights(&mut random, shape, source);
            check(client, Packing::Int8, shape, source, &bytes);
        }
    }
}

/// Rows without columns have scales, and columns without rows nothing.
fn empty(client: &Client) {
    for shape in [[0, 64], [64, 0], [0, 0]] {
        for packing in [Packing::Int8, Packing::Mlx { bits: 3, group: 64 }] {
            let format = packing.format(shape, DType::F16).unwrap();
            let (words, scales) = quantize(
                client,
                packing,
                shape,
                DType::F16,
                &upload(client, &[]),
                None,
            );
            assert_eq!(words.len(), 0);
            assert_eq!(read(client, scales), vec![0; format.scales_len(shape)]);
        }
    }
}
