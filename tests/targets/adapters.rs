//! Gradients of adapters beside weights of every format, computed once and twice, against finite differences of the same formula
//! in f64.

use burn::{
    module::{Param, ParamId},
    tensor::{Device, Tensor, TensorData},
};
use firebox::{
    Target,
    model::{
        Linear, Matrix,
        layers::{Adapter, AdapterSwitch, LowRank},
        recompute,
    },
};

use crate::{
    common::values,
    operations::weights,
    weights::{SHAPES, numbers},
};

const RANK: usize = 3;
const ROWS: usize = 4;
const SCALE: f64 = 0.75;

/// The numbers of one case, in f64.
#[derive(Clone)]
struct Case {
    shape: [usize; 2],
    /// `[m, in]`, `[out, in]`, `[r, in]`, `[out, r]`, `[out]`, `[out]`, and the gradient of the output `[m, out]`.
    x: Vec<f64>,
    w: Vec<f64>,
    a: Vec<f64>,
    b: Vec<f64>,
    magnitude: Option<Vec<f64>>,
    bias: Vec<f64>,
    dy: Vec<f64>,
    /// Norms of rows, which count as constants.
    norms: Vec<f64>,
}

impl Case {
    fn new(shape @ [o, i]: [usize; 2], dense: &[f32], dora: bool) -> Self {
        let wide = |n, seed| {
            numbers(n, seed)
                .into_iter()
                .map(f64::from)
                .collect::<Vec<_>>()
        };
        let w = dense.iter().map(|value| f64::from(*value)).collect();
        let (a, b) = (wide(RANK * i, 21), wide(o * RANK, 22));
        let mut case = Self {
            shape,
            x: wide(ROWS * i, 23),
            w,
            a,
            b,
            magnitude: None,
            bias: wide(o, 24),
            dy: wide(ROWS * o, 25),
            norms: Vec::new(),
        };
        if dora {
            let norm = |row: usize| {
                let squares = (0..i).map(|col| case.changed(row, col).powi(2));
                squares.sum::<f64>().sqrt()
            };
            case.norms = (0..o).map(norm).collect();
            let other = wide(o, 26);
            let magnitudes = case.norms.iter().zip(other);
            case.magnitude = Some(magnitudes.map(|(norm, other)| norm + other).collect());
        }
        case
    }

    /// A value of `W + scale B A`.
    fn changed(&self, row: usize, col: usize) -> f64 {
        let [_, i] = self.shape;
        let products = (0..RANK).map(|r| self.b[row * RANK + r] * self.a[r * i + col]);
        self.w[row * i + col] + SCALE * products.sum::<f64>()
    }

    /// The sum of the output, weighted by its gradient.
    fn loss(&self) -> f64 {
        let [o, i] = self.shape;
        let mut loss = 0.0;
        for row in 0..o {
            let ratio = self
                .magnitude
                .as_ref()
                .map_or(1.0, |magnitude| magnitude[row] / self.norms[row]);
            let weights: Vec<f64> = (0..i).map(|col| self.changed(row, col)).collect();
            for m in 0..ROWS {
                let x = &self.x[m * i..(m + 1) * i];
                let product: f64 = x.iter().zip(&weights).map(|(x, w)| x * w).sum();
                loss += self.dy[m * o + row] * (ratio * product + self.bias[row]);
            }
        }
        loss
    }

    /// The derivative of the loss by each of some values. The loss is linear in each of them alone, so that a step of 1
    /// is exact.
    fn gradient(&self, of: impl Fn(&mut Self) -> &mut Vec<f64>) -> Vec<f64> {
        let mut moved = self.clone();
        let before = self.loss();
        let n = of(&mut moved).len();
        let derivative = |nth: usize| {
            of(&mut moved)[nth] += 1.0;
            let after = moved.loss();
            of(&mut moved)[nth] -= 1.0;
            after - before
        };
        (0..n).map(derivative).collect()
    }
}

fn tensor<const D: usize>(values: &[f64], shape: [usize; D], device: &Device) -> Tensor<D> {
    let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn param<const D: usize>(values: &[f64], shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::initialized(ParamId::new(), tensor(values, shape, device).require_grad())
}

/// Would catch a factor that gets the gradient of another orientation, a scale that is missing in one of them, a ratio of
/// DoRA that is differentiated or left out, a format whose product loses the gradient of the activation, and a second run that
/// computes with other values.
pub(crate) fn adapters_get_the_dense_gradients<T: Target>() {
    let plain = T::device(0).expect("a device");
    for dora in [false, true] {
        // Small for the differences, odd for blocks that straddle rows, and whole groups for the formats that need them.
        let shapes = [SHAPES[1], SHAPES[2]];
        for (of, dense, packed) in shapes.into_iter().flat_map(weights::<T>) {
            let shape @ [o, i] = packed.layout().shape;
            let case = Case::new(shape, &dense, dora);
            let mut expected = vec![
                ("x", case.gradient(|case| &mut case.x)),
                ("A", case.gradient(|case| &mut case.a)),
                ("B", case.gradient(|case| &mut case.b)),
                ("bias", case.gradient(|case| &mut case.bias)),
            ];
            if dora {
                let by = case.gradient(|case| case.magnitude.as_mut().expect("a magnitude"));
                expected.push(("magnitude", by));
            }
            let autodiff = plain.clone().autodiff();
            for (device, twice) in [
                (autodiff.clone(), false),
                (autodiff.clone(), true),
                (autodiff.clone().gradient_checkpointing(), false),
                (autodiff.gradient_checkpointing(), true),
            ] {
                let squares = case.w.chunks(i).map(|row| row.iter().map(|w| w * w).sum());
                let squares: Vec<f64> = squares.collect();
                let magnitude = case.magnitude.as_ref();
                let low_rank = LowRank {
                    a: param(&case.a, [RANK, i], &device),
                    b: param(&case.b, [o, RANK], &device),
                    magnitude: magnitude.map(|magnitude| param(magnitude, [o], &device)),
                    scale: SCALE,
                    dropout: None,
                    row_squares: dora.then(|| tensor(&squares, [o], &plain)),
                };
                let other = Param::initialized(ParamId::new(), tensor(&vec![0.5; o], [o], &plain));
                let mut linear = Linear::new(Matrix::Packed(packed.clone()), Some(other));
                linear.adapters.push(Adapter {
                    whole: None,
                    low_rank: Some(low_rank),
                    bias: Some(param(&case.bias, [o], &device)),
                    switch: AdapterSwitch::new("test", 1.0),
                });
                let x = tensor(&case.x, [ROWS, i], &device).require_grad();
                let dy = tensor(&case.dy, [ROWS, o], &plain);
                let y = match twice {
                    false => linear.forward(x.clone()),
                    true => recompute(linear.clone(), vec![x.clone()], |linear: &Linear, x| {
                        linear.forward(x[0].clone())
                    }),
                };
                let gradients = (y * dy).sum().backward();

                let adapter = &linear.adapters[0];
                let factors = adapter.low_rank.as_ref().expect("factors");
                let grad = |of: &Param<Tensor<2>>| {
                    values(of.val().grad(&gradients).expect("it is trained"))
                };
                let vector = |of: &Param<Tensor<1>>| {
                    values(of.val().grad(&gradients).expect("it is trained"))
                };
                let mut found = vec![
                    values(x.grad(&gradients).expect("x")),
                    grad(&factors.a),
                    grad(&factors.b),
                    vector(adapter.bias.as_ref().expect("a bias")),
                ];
                found.extend(factors.magnitude.as_ref().map(vector));
                assert_eq!(found.len(), expected.len());
                for ((name, expected), found) in expected.iter().zip(found) {
                    assert_eq!(found.len(), expected.len());
                    let largest = expected
                        .iter()
                        .fold(1.0, |most: f64, value| most.max(value.abs()));
                    for (found, expected) in found.iter().zip(expected) {
                        let error = (f64::from(*found) - expected).abs() / largest;
                        assert!(
                            error <= 2e-5,
                            "{of}, DoRA {dora}, twice {twice}, {name}: {found} for {expected}"
                        );
                    }
                }
            }
        }
    }
}
