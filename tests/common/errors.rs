//! How far numbers are from others, by the definitions: two passes, in f64.

use firebox::quant::kernels::compare::Stats;
use half::{bf16, f16};
use safetensors::Dtype;

/// Plain numbers of a file, widened.
pub(crate) fn floats(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => {
            let (words, _) = bytes.as_chunks();
            words.iter().map(|word| f32::from_le_bytes(*word)).collect()
        }
        Dtype::F16 | Dtype::BF16 => {
            let (halves, _) = bytes.as_chunks();
            let halves = halves.iter().map(|half| match dtype {
                Dtype::F16 => f16::from_le_bytes(*half).to_f32(),
                _ => bf16::from_le_bytes(*half).to_f32(),
            });
            halves.collect()
        }
        other => panic!("{other:?} is no float of a weight"),
    }
}

/// Nothing is saturated.
pub(crate) fn by_definition(source: &[f32], result: &[f32]) -> Stats {
    assert_eq!(source.len(), result.len());
    let lost = |numbers: &[f32]| numbers.iter().filter(|n| !n.is_finite()).count() as u64;
    let pairs = source.iter().zip(result);
    let pairs: Vec<(f64, f64)> = pairs
        .filter(|(s, r)| s.is_finite() && r.is_finite())
        .map(|(s, r)| (f64::from(*s), f64::from(*r)))
        .collect();
    let errors: Vec<f64> = pairs.iter().map(|(s, r)| (s - r).abs()).collect();
    let noise: f64 = errors.iter().map(|e| e * e).sum();
    let signal: f64 = pairs.iter().map(|(s, _)| s * s).sum();
    let back: f64 = pairs.iter().map(|(_, r)| r * r).sum();
    let products: f64 = pairs.iter().map(|(s, r)| s * r).sum();
    Stats {
        max_error: errors.iter().copied().fold(0.0, f64::max),
        mean_error: errors.iter().sum::<f64>() / pairs.len() as f64,
        relative_error: noise.sqrt() / signal.sqrt(),
        cosine: products / (signal.sqrt() * back.sqrt()),
        sqnr: 20.0 * (signal.sqrt() / noise.sqrt()).log10(),
        compared: pairs.len() as u64,
        saturated: 0,
        lost_sources: lost(source),
        lost_results: lost(result),
    }
}

/// Counts are equal, numbers nearly: sums are added up in another order.
#[track_caller]
pub(crate) fn assert_close(found: Stats, expected: Stats, what: &str) {
    let numbers = |s: Stats| {
        [
            s.max_error,
            s.mean_error,
            s.relative_error,
            s.cosine,
            s.sqnr,
        ]
        .map(f64::abs)
    };
    for (a, b) in numbers(found).into_iter().zip(numbers(expected)) {
        let close = a == b || (a - b).abs() <= 1e-9 * b;
        assert!(close, "{what}: {found:?} for {expected:?}");
    }
    let counts = |s: Stats| [s.compared, s.saturated, s.lost_sources, s.lost_results];
    assert_eq!(counts(found), counts(expected), "{what}");
}
