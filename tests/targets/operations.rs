//! Products and rows of packed weights, against the dense weight.

use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use firebox::{
    Target,
    quant::{
        PackedWeight,
        kernels::{
            arith::{float::DType, pack},
            format::{Format, Half, Packed},
        },
        ops,
    },
};

use crate::weights::{SHAPES, every_packing, numbers, on_host, stored};

/// Every packing of a weight of this shape, on the host's values and on the device.
pub(crate) fn weights<T: Target>(shape: [usize; 2]) -> Vec<(String, Vec<f32>, PackedWeight)> {
    let device = T::device(0).expect("a device");
    let bytes = stored(&numbers(shape[0] * shape[1], 5), DType::Bf16);
    every_packing()
        .into_iter()
        .filter_map(|packing| {
            let packed = on_host(packing, shape, DType::Bf16, &bytes)?;
            let dense = packed.dequantize();
            Some((
                format!("{packing:?} {shape:?}"),
                dense,
                PackedWeight::from_host(packed, &device),
            ))
        })
        .chain([Half::F16, Half::Bf16].map(|half| {
            let bytes = stored(&numbers(shape[0] * shape[1], 5), half.dtype());
            let (format, words) = (Format::Half(half), pack::from_bytes(&bytes));
            let packed = Packed::new(format, shape, words, Vec::new()).expect("it fits");
            let mut dense = vec![0.0; shape[0] * shape[1]];
            half.dtype().widen(&bytes, &mut dense);
            let name = format!("{half} {shape:?}");
            (name, dense, PackedWeight::from_host(packed, &device))
        }))
        .collect()
}

pub(crate) fn matrix<T: Target>(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    let device = T::device(0).expect("a device");
    Tensor::from_data(TensorData::new(values, shape), &device)
}

pub(crate) fn read(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

/// `x` `[m, i]` times the transposed `w` `[o, i]`, in f64, and the sum of magnitudes that rounding grows
/// with.
fn product(x: &[f32], w: &[f32], [o, i]: [usize; 2]) -> Vec<(f64, f64)> {
    let m = x.len() / i;
    (0..m * o)
        .map(|k| {
            let (x, w) = (&x[k / o * i..][..i], &w[k % o * i..][..i]);
            let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()))
        })
        .collect()
}

/// One row, the few that are fused, and the many that are not. The tolerance is that of f32 sums in any
/// order: `i` times half a unit in the last place of the magnitudes, and less.
pub(crate) fn products_are_those_of_the_dense_weight<T: Target>() {
    for shape @ [_, i] in [[3, 33], [50, 65], [96, 384]] {
        for (of, dense, packed) in weights::<T>(shape) {
            for m in [1, 3, 20] {
                let x = numbers(m * i, m as u64);
                let y = read(ops::linear(matrix::<T>(x.clone(), [m, i]), &packed));
                for (y, (sum, size)) in y.iter().zip(product(&x, &dense, shape)) {
                    let error = (f64::from(*y) - sum).abs();
                    let most = 1e-6 * size.max(1e-30);
                    assert!(
                        error <= most,
                        "{of} m {m}: {y} for {sum}, {error} of {most}"
                    );
                }
            }
        }
    }
}

pub(crate) fn rows_are_those_of_the_dense_weight<T: Target>() {
    let device = T::device(0).expect("a device");
    for shape @ [o, i] in SHAPES {
        for (of, dense, packed) in weights::<T>(shape) {
            let ids: Vec<i64> = [0, o - 1, o / 2, 0, o / 3].map(|id| id as i64).into();
            let len = ids.len();
            let asked = Tensor::<1, Int>::from_data(TensorData::new(ids.clone(), [len]), &device);
            let found = read(ops::rows(asked, &packed, FloatDType::F32));
            let expected: Vec<f32> = ids
                .iter()
                .flat_map(|id| &dense[*id as usize * i..][..i])
                .copied()
                .collect();
            assert_eq!(found, expected, "{of}");
        }
    }
}

/// With fusion a result's shape is announced before its kernel runs, and nothing compares the two: what is
/// read back here has to have as many numbers as were announced, in types that were announced.
pub(crate) fn shapes_are_as_announced<T: Target>() {
    let device = T::device(0).expect("a device");
    for shape @ [o, i] in [[3, 33], [96, 384]] {
        for (of, _, packed) in weights::<T>(shape) {
            for m in [1, 20] {
                let y = ops::linear(matrix::<T>(numbers(m * i, 1), [m, i]), &packed);
                assert_eq!(y.dims(), [m, o], "{of}");
                assert_eq!(read(y).len(), m * o, "{of}");
            }
            let ids = Tensor::<1, Int>::from_data(TensorData::new(vec![0_i64; 3], [3]), &device);
            let rows = ops::rows(ids, &packed, FloatDType::F32);
            assert_eq!(rows.dims(), [3, i], "{of}");
            assert_eq!(read(rows).len(), 3 * i, "{of}");
        }
        let x = matrix::<T>(numbers(o * i, 2), shape);
        let bits = ops::bits(x.clone());
        assert_eq!(bits.dims(), [o * i]);
        let found: Vec<u32> = bits.into_data().try_into_vec().expect("u32");
        let expected: Vec<u32> = read(x).into_iter().map(f32::to_bits).collect();
        assert_eq!(found, expected);
        let on_device = every_packing()
            .into_iter()
            .filter(|packing| packing.on_device());
        for packing in on_device {
            let dense = matrix::<T>(numbers(o * i, 3), shape);
            let Ok(packed) = PackedWeight::quantize(dense, packing) else {
                continue;
            };
            let format = packed.layout().format;
            let announced = [&packed.words, &packed.scales].map(|part| part.val().dims()[0]);
            let lengths = [format.words_len(shape), format.scales_len(shape)];
            assert_eq!(announced, lengths, "{format}");
            let read = crate::weights::words(&packed).map(|words| words.len());
            assert_eq!(read, lengths, "{format}");
        }
    }
}

/// Operations before and after, which fusion may join with each other but not with ours.
pub(crate) fn operations_join_others<T: Target>() {
    let shape @ [o, i] = [50, 65];
    for (of, dense, packed) in weights::<T>(shape) {
        let x = numbers(3 * i, 9);
        let before = matrix::<T>(x.clone(), [3, i])
            .mul_scalar(2.0)
            .add_scalar(0.5);
        let y = ops::linear(before, &packed).mul_scalar(3.0);
        let again = read(y.clone().add(y));
        let x: Vec<f32> = x.iter().map(|x| x * 2.0 + 0.5).collect();
        for (y, (sum, size)) in again.iter().zip(product(&x, &dense, [o, i])) {
            let error = (f64::from(*y) - 6.0 * sum).abs();
            assert!(
                error <= 1e-5 * size.max(1e-30),
                "{of}: {y} for {}",
                6.0 * sum
            );
        }
    }
}
