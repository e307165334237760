//! Dense weights of types beside F32, F16 and BF16: F64 is read, everything else refused by name.

use firebox::target::DType;
use serde_json::json;

use crate::saving::{Case, Saving, refused};

const SHAPE: [usize; 2] = [2, 4];

/// Values of F64, and what torch 2.12 makes of them: bits of `f32`, of bf16 and of f16, by `tensor.to(…)`.
const VALUES: [(f64, u32, u16, u16); 8] = [
    // Halfway between two values of bf16 only after it was rounded to f32.
    (
        1.0 + 1.0 / 256.0 + 1.0 / 1_073_741_824.0,
        0x3f80_8000,
        0x3f80,
        0x3c04,
    ),
    // Halfway between two values of f32, and a little more.
    (1.000_000_059_604_644_8, 0x3f80_0000, 0x3f80, 0x3c00),
    (1.000_000_059_605_554_3, 0x3f80_0001, 0x3f80, 0x3c00),
    (1e-46, 0, 0, 0),
    (1e300, 0x7f80_0000, 0x7f80, 0x7c00),
    (-1e300, 0xff80_0000, 0xff80, 0xfc00),
    (65_519.999_999_99, 0x477f_f000, 0x4780, 0x7c00),
    (0.1, 0x3dcc_cccd, 0x3dcd, 0x2e66),
];

fn doubles() -> Saving {
    let mut saving = Saving::new(SHAPE, "nothing", json!(null));
    let bytes: Vec<u8> = VALUES
        .iter()
        .flat_map(|(value, ..)| value.to_le_bytes())
        .collect();
    for module in ["up", "down"] {
        saving.put(&format!("{module}.weight"), "F64", &SHAPE, bytes.clone());
    }
    saving
}

/// Would catch values that are cut instead of rounded, and bf16 that is rounded once.
#[test]
fn doubles_are_rounded_as_torch_rounds_them() {
    let bits = |dtype| {
        let values = doubles().up_as(dtype);
        values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let expected: Vec<u32> = VALUES.iter().map(|(_, f32, ..)| *f32).collect();
    assert_eq!(bits(DType::F32), expected);
    let expected: Vec<u32> = VALUES
        .iter()
        .map(|(.., bf16, _)| u32::from(*bf16) << 16)
        .collect();
    assert_eq!(bits(DType::Bf16), expected);
    let expected = VALUES
        .iter()
        .map(|(.., f16)| half::f16::from_bits(*f16).to_f32().to_bits());
    assert_eq!(bits(DType::F16), expected.collect::<Vec<_>>());
}

#[test]
fn values_that_are_no_floats_are_refused_by_their_type() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("I32", |s| s.put("up.weight", "I32", &SHAPE, vec![0; 32]), "planning: plan Dtype", &["up.weight", "I32", "model.safetensors"]),
        ("U8", |s| s.put("up.weight", "U8", &SHAPE, vec![0; 8]), "planning: plan Dtype", &["up.weight", "U8"]),
        ("I8", |s| s.put("up.weight", "I8", &SHAPE, vec![0; 8]), "planning: plan Dtype", &["up.weight", "I8"]),
        ("BOOL", |s| s.put("norm.weight", "BOOL", &[4], vec![0; 4]), "planning: plan Dtype", &["norm.weight", "BOOL"]),
        ("I64", |s| s.put("embed.weight", "I64", &SHAPE, vec![0; 64]), "planning: plan Dtype", &["embed.weight", "I64"]),
        ("U16", |s| s.put("up.weight", "U16", &SHAPE, vec![0; 16]), "planning: plan Dtype", &["up.weight", "U16"]),
        ("C64", |s| s.put("up.weight", "C64", &SHAPE, vec![0; 64]), "planning: plan Dtype", &["up.weight", "C64"]),
        ("F8_E4M3", |s| s.put("up.weight", "F8_E4M3", &SHAPE, vec![0; 8]), "planning: plan Dtype", &["up.weight", "F8_E4M3"]),
    ];
    refused(&doubles(), cases);
}
