//! Each hot loop once, on a small weight, for a program that counts instructions: `.ci/instructions`.
//!
//! Prints the names of the loops in the order that they run in.

use std::hint::black_box;

use firebox_kernels::arith::float::DType;
use firebox_kernels::format::Packed;
use firebox_kernels::layers::attend::{Attend, HeadRows, HeadValues};
use firebox_kernels::layers::gate::Bend;
use firebox_kernels::layers::norm::NormRows;
use firebox_kernels::layers::rotate::Turns;
use firebox_kernels::linear::{Compute, linear_in};
use half::bf16;

use crate::common::Random;
use crate::pack;
use crate::unpack::{FORMATS, packed};

/// Rows are whole blocks of every format, and there are enough of them for every path.
const SHAPE: [usize; 2] = [64, 2048];

/// Inputs of a product with many rows.
const MANY: usize = 32;

/// A name, and the loop.
type Loop = (String, Box<dyn FnMut() + Send>);

pub(crate) fn all() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    let pool = pool.build().expect("a thread starts");
    for (name, mut run) in packers().into_iter().chain(products()).chain(layers()) {
        pool.install(move || {
            // The first run starts what later ones find: the choice of instructions, tables.
            run();
            counted(&mut *run);
        });
        println!("{name}");
    }
}

/// Instructions are counted inside of this function alone.
#[inline(never)]
fn counted(run: &mut dyn FnMut()) {
    run();
    black_box(());
}

fn packers() -> Vec<Loop> {
    let [source, ..] = pack::SOURCES;
    let mut loops: Vec<Loop> = Vec::new();
    let mut push = |name: &str, method: firebox_kernels::packing::Packing, source: DType| {
        let bytes = pack::weights(SHAPE, source);
        let format = method
            .format(SHAPE, source)
            .expect("the shape suits every method");
        let mut words = vec![0; format.words_len(SHAPE)];
        let run = move || {
            black_box(pack::fed(method, SHAPE, source, &bytes, &mut words));
        };
        loops.push((format!("pack {name} from {source}"), Box::new(run)));
    };
    for (name, method, _) in pack::known() {
        push(name, method, source);
        if matches!(name, "nf4" | "mlx 4 bits" | "fp8 e4m3, channel") {
            pack::SOURCES[1..]
                .iter()
                .for_each(|source| push(name, method, *source));
        }
    }
    loops
}

fn products() -> Vec<Loop> {
    let mut loops: Vec<Loop> = Vec::new();
    let [o, i] = SHAPE;
    for format in FORMATS {
        let packed = packed(format, SHAPE);
        let given = packed.clone();
        let mut out = vec![bf16::ZERO; o * i];
        let run = move || {
            let Packed {
                format,
                shape,
                ref words,
                ref scales,
            } = given;
            format.dequantize_rows(shape, words, scales, 0..o, &mut out);
        };
        loops.push((format!("unpack {format} to bf16"), Box::new(run)));
        for (m, compute) in [1, MANY]
            .into_iter()
            .flat_map(|m| Compute::ALL.map(|compute| (m, compute)))
        {
            if compute.of(packed.format, SHAPE) != compute {
                continue;
            }
            let mut random = Random(11);
            let x: Vec<f32> = (0..m * i).map(|_| random.weight()).collect();
            let (mut y, packed) = (vec![0.0; m * o], packed.clone());
            let run = move || {
                let Packed {
                    format,
                    shape,
                    ref words,
                    ref scales,
                } = packed;
                linear_in(compute, format, shape, words, scales, &x, &mut y);
            };
            loops.push((format!("{m} x {format} in {compute}"), Box::new(run)));
        }
    }
    loops
}

fn layers() -> Vec<Loop> {
    const TOKENS: usize = 128;
    const HEADS: usize = 2;
    const FEATURES: usize = 64;
    let mut random = Random(13);
    let mut some = |n: usize| -> Vec<f32> { (0..n).map(|_| random.weight()).collect() };
    let shape = [1, HEADS, TOKENS, FEATURES];
    let n = HEADS * TOKENS * FEATURES;
    let (q, k, v) = (some(n), some(n), some(n));
    let first = vec![0; TOKENS];
    let attend = move || {
        let [q, k, v] =
            [&q, &k, &v].map(|values| HeadRows::contiguous(HeadValues::F32(values), shape));
        let (scale, soft_cap, sinks) = (0.125, None, None);
        let attend = Attend {
            q,
            k,
            v,
            scale,
            soft_cap,
            sinks,
            first: &first,
        };
        black_box(attend.run());
    };
    let (mut x, scale) = (some(n), some(FEATURES));
    let norm = move || {
        let (scale, bias) = (Some(&*scale), None);
        NormRows {
            centred: false,
            eps: 1e-5,
            scale,
            bias,
        }
        .apply(&mut x, FEATURES);
    };
    let (mut gate, up) = (some(n), some(n));
    let gated = move || Bend::Silu.gate(&mut gate, &up);
    let (mut x, cos, sin) = (
        some(n),
        some(TOKENS * FEATURES / 2),
        some(TOKENS * FEATURES / 2),
    );
    let turned = move || {
        let (pairs, interleaved) = (FEATURES / 2, false);
        Turns {
            cos: &cos,
            sin: &sin,
            pairs,
            interleaved,
        }
        .apply(&mut x, HEADS, FEATURES);
    };
    vec![
        ("attention".to_owned(), Box::new(attend)),
        ("norm".to_owned(), Box::new(norm)),
        ("gate".to_owned(), Box::new(gated)),
        ("rotation".to_owned(), Box::new(turned)),
    ]
}
