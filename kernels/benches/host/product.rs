//! Products with packed weights: one row, a few, and a prompt.

use std::sync::{Arc, Mutex};

use firebox_kernels::format::Packed;
use firebox_kernels::linear::{Compute, linear_in, rows};

use crate::common::Random;
use crate::unpack::{FORMATS, check_row, copies, packed, weight};
use crate::{Case, Kind, Wanted};

/// Of models with 8 billion parameters, and the weight that peers were measured with.
const SHAPES: [[usize; 2]; 4] = [[4096, 4096], [14336, 4096], [4096, 14336], [4096, 11008]];

/// Between a sum and one in `f64` of exact products, of the sum of magnitudes.
const fn tolerance(compute: Compute) -> f64 {
    match compute {
        Compute::F32 => 1e-6,
        Compute::Bf16 | Compute::Int8 => 4e-3,
    }
}

pub(crate) fn cases(wanted: &Wanted, each: &mut dyn FnMut(Case)) {
    for shape in SHAPES {
        for format in FORMATS {
            let [o, i] = shape;
            let product_name = |m, compute| match compute {
                Compute::F32 => format!("{m} x {format} {o}x{i}"),
                compute => format!("{m} x {format} {o}x{i} in {compute}"),
            };
            let all: &[usize] = if shape == SHAPES[0] {
                &[1, 2, 8, 512]
            } else {
                &[1]
            };
            let embedding_name = format!("rows of {format} {o}x{i}");
            let embedded = shape == SHAPES[0] && wanted(&embedding_name);
            let counts = all.iter().copied();
            let counts = counts.flat_map(|m| Compute::ALL.map(|compute| (m, compute)));
            let counts: Vec<_> = counts
                .filter(|(m, compute)| wanted(&product_name(*m, *compute)))
                .filter(|(_, compute)| *compute == Compute::F32 || shape == SHAPES[0])
                .collect();
            if counts.is_empty() && !embedded {
                continue;
            }
            let packed = Arc::new(packed(format, shape));
            for (m, compute) in counts {
                if compute.of(packed.format, shape) == compute {
                    each(product(product_name(m, compute), &packed, m, compute));
                }
            }
            if embedded {
                each(embedding(embedding_name, &packed));
            }
        }
    }
}

fn product(name: String, packed: &Arc<Packed>, m: usize, compute: Compute) -> Case {
    let ([o, i], packed) = (packed.shape, Arc::clone(packed));
    let mut random = Random(11);
    let x: Arc<Vec<f32>> = Arc::new((0..m * i).map(|_| random.weight()).collect());
    let y = Arc::new(Mutex::new(vec![0.0; m * o]));
    let (copies, x_run, y_run) = (copies(&packed), Arc::clone(&x), Arc::clone(&y));
    Case {
        name,
        packed: packed.bytes(),
        floats: 4 * m * (o + i),
        kind: Kind::Multiply(2.0 * (m * o * i) as f64),
        run: Box::new(move |k| {
            let mut y = y_run.lock().expect("no run panics");
            multiply(compute, &copies[k % copies.len()], &x_run, &mut y);
        }),
        check: Box::new(move || {
            let mut y = y.lock().expect("no run panics");
            y.fill(f32::NAN);
            multiply(compute, &packed, &x, &mut y);
            for r in [0, 1, 2, 3, o / 3, o - 1] {
                let w: Vec<f64> = (0..i).map(|c| weight(&packed, r, c).into()).collect();
                for k in [0, m / 2, m - 1] {
                    let products = w.iter().zip(&x[k * i..]).map(|(w, x)| w * f64::from(*x));
                    let (sum, size) = products.fold((0.0, 0.0), |(sum, size), xw: f64| {
                        (sum + xw, size + xw.abs())
                    });
                    let found = f64::from(y[k * o + r]);
                    let off = (found - sum).abs();
                    if off.is_nan() || off > tolerance(compute) * size {
                        return Err(format!("input {k}, row {r}: {found:e}, not {sum:e}"));
                    }
                }
            }
            Ok(())
        }),
    }
}

fn multiply(compute: Compute, packed: &Packed, x: &[f32], y: &mut [f32]) {
    let Packed {
        format,
        shape,
        ref words,
        ref scales,
    } = *packed;
    linear_in(compute, format, shape, words, scales, x, y);
}

/// 512 rows of the weight.
fn embedding(name: String, packed: &Arc<Packed>) -> Case {
    let ([o, i], packed) = (packed.shape, Arc::clone(packed));
    let mut random = Random(5);
    let ids: Vec<usize> = (0..512).map(|_| random.next() as usize % o).collect();
    let out = Arc::new(Mutex::new(vec![0.0; ids.len() * i]));
    let (packed_run, ids_run, out_run) = (Arc::clone(&packed), ids.clone(), Arc::clone(&out));
    Case {
        name,
        packed: packed.bytes() * ids.len() / o,
        floats: 4 * ids.len() * i,
        kind: Kind::Unpack,
        run: Box::new(move |_| {
            look_up(
                &packed_run,
                &ids_run,
                &mut out_run.lock().expect("no run panics"),
            );
        }),
        check: Box::new(move || {
            let mut out = out.lock().expect("no run panics");
            out.fill(f32::NAN);
            look_up(&packed, &ids, &mut out);
            let mut found = ids.iter().zip(out.chunks(i));
            found.try_for_each(|(id, row)| check_row(&packed, *id, row))
        }),
    }
}

fn look_up(packed: &Packed, ids: &[usize], out: &mut [f32]) {
    let Packed {
        format,
        shape,
        ref words,
        ref scales,
    } = *packed;
    rows(format, shape, words, scales, ids, out).expect("ids are rows");
}
