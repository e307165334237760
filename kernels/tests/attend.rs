//! Attention in tiles against the formula in `f64`.

use firebox_kernels::layers::attend::{Attend, HeadRows, HeadValues, RowScales};
use half::{bf16, f16};

/// Numbers without a pattern, from -1 to 1.
fn some(len: usize, seed: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
        .collect()
}

/// The formula, one number after another.
struct Formula<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// `b`, `h`, `kv`, `t`, `s`, `d`, `e`.
    shape: [usize; 7],
    scale: f64,
    soft_cap: Option<f64>,
    sinks: Option<&'a [f32]>,
    first: &'a [usize],
}

impl Formula<'_> {
    /// `[b, t, h, e]`.
    fn run(&self) -> Vec<f64> {
        let [b, h, kv, t, s, d, e] = self.shape;
        let mut out = Vec::new();
        for sequence in 0..b {
            for token in 0..t {
                for head in 0..h {
                    let keys = sequence * kv + head / (h / kv);
                    let q = &self.q[((sequence * h + head) * t + token) * d..][..d];
                    let row = if self.first.len() == t { 0 } else { sequence };
                    let first = self.first[row * t + token];
                    let scores: Vec<f64> = (first..=s - t + token)
                        .map(|key| {
                            let k = &self.k[(keys * s + key) * d..][..d];
                            let products = q.iter().zip(k);
                            let score: f64 =
                                products.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                            let score = score * self.scale;
                            self.soft_cap
                                .map_or(score, |cap| cap * (score / cap).tanh())
                        })
                        .collect();
                    let sink = self.sinks.map(|sinks| f64::from(sinks[head]));
                    let all = scores.iter().copied().chain(sink);
                    let most = all.clone().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = all.map(|score| (score - most).exp()).sum();
                    for feature in 0..e {
                        let weighed = scores.iter().enumerate().map(|(nth, score)| {
                            let v = self.v[(keys * s + first + nth) * e + feature];
                            (score - most).exp() / total * f64::from(v)
                        });
                        out.push(weighed.sum());
                    }
                }
            }
        }
        out
    }
}

/// The farthest that any answer is off.
fn off(found: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(found.len(), exact.len());
    let off = found.iter().zip(exact);
    off.map(|(found, exact)| (f64::from(*found) - exact).abs())
        .fold(0.0, |most, off| {
            if off > most || off.is_nan() {
                off
            } else {
                most
            }
        })
}

/// `b`, `h`, `kv`, `t`, `s`, `d`, `e`: groups of one and of many heads, few and many queries, tiles that are not full, features that
/// are not whole vectors.
const SHAPES: [[usize; 7]; 9] = [
    [1, 4, 2, 1, 1, 6, 6],
    [1, 8, 2, 1, 300, 128, 128],
    [2, 4, 2, 9, 14, 6, 10],
    [2, 6, 6, 70, 70, 16, 16],
    [1, 8, 2, 130, 130, 64, 64],
    [1, 4, 1, 3, 129, 40, 24],
    [1, 40, 1, 5, 66, 20, 12],
    [3, 2, 2, 65, 200, 33, 17],
    [1, 2, 1, 300, 300, 8, 8],
];

fn firsts([b, _, _, t, s, ..]: [usize; 7], kind: usize) -> Vec<usize> {
    let position = |token: usize| s - t + token;
    let rows = if kind == 3 { b } else { 1 };
    (0..rows)
        .flat_map(|row| (0..t).map(move |token| (row, token)))
        .map(|(row, token)| match kind {
            0 => 0,
            1 => (position(token) + 1).saturating_sub(5),
            2 => position(token) / 70 * 70,
            // Documents: another start in each row.
            _ => [0, 7 + row, 64, 129]
                .into_iter()
                .filter(|start| *start <= position(token))
                .max()
                .unwrap_or(0),
        })
        .collect()
}

#[test]
fn tiles_are_the_formula() {
    for shape in SHAPES {
        let [b, h, kv, t, s, d, e] = shape;
        let (q, k, v) = (
            some(b * h * t * d, 1),
            some(b * kv * s * d, 2),
            some(b * kv * s * e, 3),
        );
        let sinks = some(h, 4);
        for kind in 0..4 {
            let first = firsts(shape, kind);
            for (soft_cap, sinks) in [
                (None, None),
                (Some(1.5), None),
                (None, Some(sinks.as_slice())),
            ] {
                let exact = Formula {
                    q: &q,
                    k: &k,
                    v: &v,
                    shape,
                    scale: 0.7,
                    soft_cap,
                    sinks,
                    first: &first,
                };
                let found = Attend {
                    q: HeadRows::contiguous(HeadValues::F32(&q), [b, h, t, d]),
                    k: HeadRows::contiguous(HeadValues::F32(&k), [b, kv, s, d]),
                    v: HeadRows::contiguous(HeadValues::F32(&v), [b, kv, s, e]),
                    scale: 0.7,
                    soft_cap: soft_cap.map(|cap| cap as f32),
                    sinks,
                    first: &first,
                };
                let off = off(&found.run(), &exact.run());
                assert!(
                    off < 3e-6,
                    "{shape:?}, mask {kind}, cap {soft_cap:?}, sinks {}: {off}",
                    sinks.is_some()
                );
            }
        }
    }
}

/// Numbers as they are read back from a type that they were kept in.
type ReadBack<'a> = &'a dyn Fn(&[f32]) -> Vec<f32>;

/// Rows with room between them, in types other than `f32`, are read where they are.
#[test]
fn kept_rows_are_read_in_their_type() {
    let shape = [2, 4, 2, 30, 90, 20, 20];
    let [b, h, kv, t, s, d, _] = shape;
    let (q, room) = (some(b * h * t * d, 1), 100);
    let keep = |seed| some(b * kv * room * d, seed);
    let (k, v) = (keep(2), keep(3));
    let first = vec![0; t];
    let codes =
        |values: &[f32]| -> Vec<i8> { values.iter().map(|x| (x * 127.0).round() as i8).collect() };
    let scales: Vec<f32> = (0..b * kv * room)
        .map(|row| (row % 7 + 1) as f32 / 700.0)
        .collect();
    // The numbers that are kept, and as the formula reads them.
    let cases: [(&str, ReadBack<'_>); 4] = [
        ("f32", &|x| x.to_vec()),
        ("f16", &|x| {
            x.iter().map(|x| f16::from_f32(*x).to_f32()).collect()
        }),
        ("bf16", &|x| {
            x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
        }),
        ("int8", &|x| {
            let codes = codes(x).into_iter().enumerate();
            codes
                .map(|(nth, code)| f32::from(code) * scales[nth / d])
                .collect()
        }),
    ];
    for (name, read) in cases {
        let f16s = [&k, &v].map(|x| x.iter().map(|x| f16::from_f32(*x)).collect::<Vec<f16>>());
        let bf16s = [&k, &v].map(|x| x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<bf16>>());
        let bytes = [&k, &v].map(|x| codes(x));
        let kept = |nth: usize| match name {
            "f32" => HeadValues::F32([&k, &v][nth]),
            "f16" => HeadValues::F16(&f16s[nth]),
            "bf16" => HeadValues::Bf16(&bf16s[nth]),
            _ => HeadValues::Scaled(
                &bytes[nth],
                RowScales {
                    values: &scales,
                    start: 0,
                    strides: [kv * room, room, 1],
                },
            ),
        };
        let rows = |nth| HeadRows {
            values: kept(nth),
            shape: [b, kv, s, d],
            start: 0,
            strides: [kv * room * d, room * d, d],
        };
        let found = Attend {
            q: HeadRows::contiguous(HeadValues::F32(&q), [b, h, t, d]),
            k: rows(0),
            v: rows(1),
            scale: 0.3,
            soft_cap: None,
            sinks: None,
            first: &first,
        };
        let cut = |x: &[f32]| -> Vec<f32> {
            let heads = read(x);
            let heads = heads.chunks(room * d);
            heads.flat_map(|head| head[..s * d].to_vec()).collect()
        };
        let exact = Formula {
            q: &q,
            k: &cut(&k),
            v: &cut(&v),
            shape,
            scale: 0.3,
            soft_cap: None,
            sinks: None,
            first: &first,
        };
        let off = off(&found.run(), &exact.run());
        assert!(off < 3e-6, "{name}: {off}");
    }
}

/// The same bits with one thread and with several, and for a query alone with others that share its key head.
#[test]
fn threads_change_no_bit() {
    let [b, h, kv, t, s, d, e] = [2, 8, 4, 200, 260, 64, 64];
    let (q, k, v) = (
        some(b * h * t * d, 1),
        some(b * kv * s * d, 2),
        some(b * kv * s * e, 3),
    );
    let first = vec![0; t];
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads").install(|| {
            Attend {
                q: HeadRows::contiguous(HeadValues::F32(&q), [b, h, t, d]),
                k: HeadRows::contiguous(HeadValues::F32(&k), [b, kv, s, d]),
                v: HeadRows::contiguous(HeadValues::F32(&v), [b, kv, s, e]),
                scale: 0.125,
                soft_cap: None,
                sinks: None,
                first: &first,
            }
            .run()
        })
    };
    let one = run(1);
    for threads in [2, 3, 7] {
        let equal = one
            .iter()
            .zip(run(threads))
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(equal, "{threads} threads");
    }
}

/// A score that is no number makes an answer that is none.
#[test]
fn a_score_that_is_no_number_is_seen() {
    let mut q = some(2 * 4, 1);
    q[5] = f32::NAN;
    let k = some(2 * 4, 2);
    let found = Attend {
        q: HeadRows::contiguous(HeadValues::F32(&q), [1, 1, 2, 4]),
        k: HeadRows::contiguous(HeadValues::F32(&k), [1, 1, 2, 4]),
        v: HeadRows::contiguous(HeadValues::F32(&k), [1, 1, 2, 4]),
        scale: 1.0,
        soft_cap: None,
        sinks: None,
        first: &[0, 0],
    }
    .run();
    assert!(found[..4].iter().all(|x| x.is_finite()));
    assert!(found[4..].iter().all(|x| x.is_nan()), "{found:?}");
}
