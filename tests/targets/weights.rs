//! Packing and unpacking, against the host halves of the formats.

use burn::tensor::{Bytes, DType as BurnDType, Device, Tensor, TensorData};
use firebox::{
    Target,
    quant::{
        PackedWeight,
        kernels::{
            arith::float::DType,
            format::{Blocks, Fp8Kind, Gguf, Packed, Tile},
            formats::fp8::Recipe,
            packer::pack_whole,
            packing::Packing,
        },
        ops,
    },
    target::ToBurn,
};
use half::{bf16, f16};

/// Every way to pack that a checkpoint can be asked to be loaded with.
pub(crate) fn every_packing() -> Vec<Packing> {
    let blocks = |block, nested| Blocks::new("nf4", block, nested).expect("a block size");
    let fp8 = |kind, tile, recipe| Packing::Fp8 { kind, tile, recipe };
    let (fine, compressed) = (
        Recipe::FineGrained { ue8m0: false },
        Recipe::CompressedTensors,
    );
    let block = Tile::Block { rows: 16, cols: 24 };
    vec![
        Packing::Nf4(blocks(64, false)),
        Packing::Nf4(blocks(64, true)),
        Packing::Nf4(blocks(32, true)),
        Packing::Fp4(blocks(128, false)),
        Packing::Fp4(blocks(4096, true)),
        fp8(Fp8Kind::E4m3, Tile::Tensor, compressed),
        fp8(Fp8Kind::E5m2, Tile::Tensor, Recipe::Fixed(0.03)),
        fp8(Fp8Kind::E4m3, Tile::Row, compressed),
        fp8(Fp8Kind::E4m3, block, fine),
        fp8(Fp8Kind::E5m2, block, Recipe::FineGrained { ue8m0: true }),
        Packing::Mlx { bits: 2, group: 32 },
        Packing::Mlx { bits: 3, group: 64 },
        Packing::Mlx { bits: 4, group: 64 },
        Packing::Mlx { bits: 5, group: 32 },
        Packing::Mlx {
            bits: 6,
            group: 128,
        },
        Packing::Mlx { bits: 8, group: 32 },
        Packing::Int8,
        Packing::Gguf(Gguf::Q4_0),
        Packing::Gguf(Gguf::Q8_0),
        Packing::Gguf(Gguf::Q4K),
        Packing::Gguf(Gguf::Q6K),
        Packing::Gguf(Gguf::Iq4Nl),
    ]
}

/// Rows that begin inside words, blocks that straddle rows, one weight alone, and plain ones.
pub(crate) const SHAPES: [[usize; 2]; 7] = [
    [1, 1],
    [3, 33],
    [7, 128],
    [50, 65],
    [16, 257],
    [96, 384],
    [5, 512],
];

pub(crate) const SOURCES: [(DType, BurnDType); 3] = [
    (DType::F32, BurnDType::F32),
    (DType::F16, BurnDType::F16),
    (DType::Bf16, BurnDType::BF16),
];

/// Weights as they come: many small, few large. A linear congruence, so that every run has the same.
pub(crate) fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n)
        .map(|_| (uniform() + uniform() + uniform() + uniform()) * 0.05)
        .collect()
}

/// Little-endian bytes of `values` as `source` stores them.
pub(crate) fn stored(values: &[f32], source: DType) -> Vec<u8> {
    let bytes = |value: &f32| match source {
        DType::F32 => value.to_le_bytes().to_vec(),
        DType::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
        DType::Bf16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(bytes).collect()
}

/// What the host packs of these bytes, in one tile; `None` where the packing does not take the shape.
pub(crate) fn on_host(
    packing: Packing,
    shape: [usize; 2],
    source: DType,
    bytes: &[u8],
) -> Option<Packed> {
    let packer = packing.packer(shape, source).ok()?;
    Some(pack_whole(packer, bytes))
}

/// The same bytes as a tensor, if the device stores such numbers.
fn tensor<T: Target>(
    bytes: Vec<u8>,
    shape: [usize; 2],
    dtype: BurnDType,
    device: &Device,
) -> Option<Tensor<2>> {
    let has = T::capabilities(device).dtypes;
    if !has.iter().any(|has| BurnDType::from(has.burn()) == dtype) {
        return None;
    }
    let data = TensorData::from_bytes(Bytes::from_bytes_vec(bytes), shape, dtype);
    Some(Tensor::from_data(data, (device, dtype)))
}

pub(crate) fn words(packed: &PackedWeight) -> [Vec<u32>; 2] {
    [&packed.words, &packed.scales].map(|words| {
        let data = words.val().into_data();
        data.try_into_vec().expect("words are u32")
    })
}

/// Packs values on the host and on the device, from every type that the device stores, in every way that takes their
/// shape, and has both checked; how many there are.
fn pack_on_both<T: Target>(
    values: &[f32],
    shape: [usize; 2],
    check: impl Fn(&str, Packed, &PackedWeight),
) -> usize {
    let device = T::device(0).expect("a device");
    let mut checked = 0;
    for (source, dtype) in SOURCES {
        let bytes = stored(values, source);
        let both = every_packing()
            .into_iter()
            .filter(|packing| packing.on_device());
        for packing in both {
            let Some(expected) = on_host(packing, shape, source, &bytes) else {
                continue;
            };
            let Some(dense) = tensor::<T>(bytes.clone(), shape, dtype, &device) else {
                continue;
            };
            let packed = PackedWeight::quantize(dense, packing).expect("as on the host");
            let of = format!("{packing:?} {shape:?} {dtype:?}");
            check(&of, expected, &packed);
            checked += 1;
        }
    }
    checked
}

pub(crate) fn packing_gives_the_hosts_bits<T: Target>() {
    let mut checked = 0;
    for (seed, shape @ [o, i]) in SHAPES.into_iter().enumerate() {
        let values = numbers(o * i, seed as u64);
        checked += pack_on_both::<T>(&values, shape, |of, expected, packed| {
            assert_eq!(packed.layout().format, expected.format, "{of}");
            assert_eq!(words(packed), [expected.words, expected.scales], "{of}");
        });
    }
    // Half types may be missing; that f32 goes through is the least.
    assert!(checked >= 70, "{checked}");
}

/// Zeros of both signs, infinities, both NaN, the smallest and the largest numbers, alone and together.
pub(crate) fn special_values_pack_as_on_the_host<T: Target>() {
    let odd = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -f32::NAN,
        f32::MIN_POSITIVE,
        1e-45,
        -1e-45,
        1e-40,
        1e-30,
        f32::MAX,
        f32::MIN,
        1e38,
        65504.0,
        1e-7,
    ];
    let shape @ [o, i] = [4 * odd.len(), 128];
    let mut values = numbers(o * i, 77);
    for (k, special) in odd.into_iter().enumerate() {
        // Among ordinary numbers, a whole row, one among zeros, and among tiny numbers.
        let row = |r: usize| (4 * k + r) * i;
        values[row(0) + 17] = special;
        values[row(1)..row(2)].fill(special);
        values[row(2)..row(3)].fill(0.0);
        values[row(2) + 70] = special;
        values[row(3)..row(3) + i]
            .iter_mut()
            .for_each(|value| *value *= 1e-37);
        values[row(3) + 5] = special;
    }
    pack_on_both::<T>(&values, shape, |of, expected, packed| {
        let [found_words, found_scales] = words(packed);
        assert_eq!(found_words, expected.words, "words of {of}");
        assert!(same(&found_scales, &expected.scales), "scales of {of}");
    });
}

/// Equal to the bit, or both NaN: which NaN it is, nobody promises.
fn same(found: &[u32], expected: &[u32]) -> bool {
    let nan = |bits: u32| f32::from_bits(bits).is_nan();
    found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(a, b)| a == b || nan(*a) && nan(*b))
}

pub(crate) fn dequantizing_gives_the_hosts_values<T: Target>() {
    let device = T::device(0).expect("a device");
    for (seed, shape @ [o, i]) in SHAPES.into_iter().enumerate() {
        let bytes = stored(&numbers(o * i, seed as u64), DType::Bf16);
        for packing in every_packing() {
            let Some(packed) = on_host(packing, shape, DType::Bf16, &bytes) else {
                continue;
            };
            let expected = packed.dequantize();
            let weight = PackedWeight::from_host(packed, &device);
            let dense = ops::dequantize(&weight, burn::tensor::FloatDType::F32);
            assert_eq!(dense.dims(), shape);
            let found: Vec<f32> = dense.into_data().try_into_vec().expect("f32");
            assert_eq!(found, expected, "{packing:?} {shape:?}");
        }
    }
}

/// Errors of a packed weight against its source, on the device and by hand. Catches a comparison with other
/// rows, one that leaves the last numbers out, and counts of what is not there.
pub(crate) fn errors_are_those_of_the_dense_weight<T: Target>() {
    let device = T::device(0).expect("a device");
    for (seed, shape @ [o, i]) in SHAPES.into_iter().enumerate() {
        let values = numbers(o * i, seed as u64);
        let bytes = stored(&values, DType::F32);
        for packing in every_packing() {
            let Some(packed) = on_host(packing, shape, DType::F32, &bytes) else {
                continue;
            };
            let results = packed.dequantize();
            let pairs = || {
                values
                    .iter()
                    .zip(&results)
                    .map(|(s, r)| (f64::from(*s), f64::from(*r)))
            };
            let sum = |of: &dyn Fn(f64, f64) -> f64| pairs().map(|(s, r)| of(s, r)).sum::<f64>();
            let n = (o * i) as f64;
            let largest = pairs().fold(0.0, |most: f64, (s, r)| most.max((s - r).abs()));
            let mean = sum(&|s, r| (s - r).abs()) / n;
            let relative = (sum(&|s, r| (s - r).powi(2)) / sum(&|s, _| s * s)).sqrt();
            let cosine = sum(&|s, r| s * r) / (sum(&|s, _| s * s) * sum(&|_, r| r * r)).sqrt();

            let source = TensorData::new(values.clone(), shape);
            let source = Tensor::from_data(source, (&device, BurnDType::F32));
            let found = PackedWeight::from_host(packed, &device).compare(source);
            let of = format!("{packing:?} {shape:?} {found:?}");
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs().max(1e-9);
            assert!(near(found.max_error, largest), "{of}, not {largest}");
            assert!(near(found.mean_error, mean), "{of}, not {mean}");
            assert!(near(found.relative_error, relative), "{of}, not {relative}");
            assert!(near(found.cosine, cosine), "{of}, not {cosine}");
            assert_eq!((found.lost_sources, found.lost_results), (0, 0), "{of}");
        }
    }
}
