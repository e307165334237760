use cubecl::{client::Client, prelude::*};

use crate::arith::exact;
use crate::arith::float::DType;
use crate::arith::launch::{self, Buffer};
use crate::targets::on_devices;

on_devices!(products, quotients, sums, halves);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Mul,
    Div,
    Add,
    F16,
    Bf16,
}

#[cube(launch)]
fn operate(a: &[u32], b: &[u32], out: &mut [u32], #[comptime] operation: Operation) {
    if ABSOLUTE_POS < out.len() {
        let (a, b) = (a[ABSOLUTE_POS], b[ABSOLUTE_POS]);
        out[ABSOLUTE_POS] = match operation {
            Operation::Mul => exact::mul(a, b),
            Operation::Div => exact::div(a, b),
            Operation::Add => exact::add(a, b),
            Operation::F16 => exact::round_f16(a),
            Operation::Bf16 => exact::round_bf16(a),
        };
    }
}

/// Patterns at which something happens: powers of two and their neighbours, through zeros, subnormals, infinity, NaN.
fn hard() -> Vec<u32> {
    let exponents = [
        0u32, 1, 2, 3, 22, 23, 24, 25, 26, 63, 102, 103, 112, 113, 126, 127, 128, 142, 143, 150,
        190,
    ];
    let exponents = exponents
        .into_iter()
        .chain([228, 229, 230, 251, 252, 253, 254, 255]);
    let mantissas = [
        0, 1, 2, 3, 0x7f_ffff, 0x7f_fffe, 0x40_0000, 0x40_0001, 0x3f_ffff, 0x55_5555, 0x1000,
        0x1001,
    ];
    let magnitudes = exponents.flat_map(|e| mantissas.map(|m| e << 23 | m));
    magnitudes.flat_map(|m| [m, m | 1 << 31]).collect()
}

/// Pairs: every two hard ones, and millions at random, of which half lie near each other.
fn pairs() -> (Vec<u32>, Vec<u32>) {
    let hard = hard();
    let all = hard.iter().flat_map(|a| hard.iter().map(move |b| (*a, *b)));
    let mut state = 88_172_645_463_325_252u64;
    let random = (0..2_000_000).map(|k| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let (a, b) = (state as u32, (state >> 32) as u32);
        match k % 4 {
            0 | 1 => (a, b),
            2 => (a, a ^ (b & 0x80ff_ffff)),
            // Few significant bits: ties.
            _ => (a & 0xffff_f000, b & 0xffff_0000),
        }
    });
    all.chain(random).unzip()
}

#[track_caller]
fn check(
    client: &Client,
    operation: Operation,
    a: &[u32],
    b: &[u32],
    expected: impl Fn(f32, f32) -> f32,
) {
    let (left, right) = (Buffer::upload(client, a), Buffer::upload(client, b));
    let out = Buffer::empty(client, a.len(), 4);
    let (count, dim) = launch::grid(client, a.len());
    operate::launch(
        client,
        count,
        dim,
        left.arg(1),
        right.arg(1),
        out.arg(1),
        operation,
    );
    let bytes = client.read_one(out.into_handle()).unwrap();
    let found = u32::from_bytes(&bytes);
    for ((found, a), b) in found.iter().zip(a).zip(b) {
        let expected = expected(f32::from_bits(*a), f32::from_bits(*b));
        let same =
            *found == expected.to_bits() || expected.is_nan() && f32::from_bits(*found).is_nan();
        assert!(
            same,
            "{operation:?} {a:#010x} {b:#010x}: {found:#010x} against {:#010x}",
            expected.to_bits()
        );
    }
}

fn products(client: &Client) {
    let (a, b) = pairs();
    check(client, Operation::Mul, &a, &b, |a, b| a * b);
}

fn quotients(client: &Client) {
    let (a, b) = pairs();
    check(client, Operation::Div, &a, &b, |a, b| a / b);
}

fn sums(client: &Client) {
    let (a, b) = pairs();
    check(client, Operation::Add, &a, &b, |a, b| a + b);
}

fn halves(client: &Client) {
    let (a, b) = pairs();
    check(client, Operation::F16, &a, &b, |a, _| DType::F16.round(a));
    check(client, Operation::Bf16, &a, &b, |a, _| DType::Bf16.round(a));
}
