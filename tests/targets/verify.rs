//! Weights verified where they are packed, against the host, whose numbers `tests/verify` compares with others'.

use firebox::{
    Cpu, LoadConfig, Loader, Target,
    config::{Limits, VerifyConfig},
    model::CausalLm,
    quant::{kernels::compare::Stats, kernels::compare::TOLERANCE},
    report::VerifyReport,
};

use crate::common::Golden;

fn verify<T: Target>(config: LoadConfig) -> VerifyReport {
    let loader = Loader::<T>::new(config).expect("a model");
    let limits = Limits::default().min_sqnr(35.0);
    let limits = VerifyConfig::new(limits).fallback("fp8:e4m3".parse().expect("a spec"));
    let report = loader.verify::<CausalLm>(&limits.fallback("none".parse().expect("a spec")));
    report.expect("a report")
}

/// Would catch a part that is compared with another's rows, one that is left out, and fallbacks that are chosen by
/// numbers of another weight. Whole weights are compared on the device, and those in parts, whose sources are too
/// large for it, on the host.
pub(crate) fn verified_weights_are_as_far_as_on_the_host<T: Target>() {
    // Few, since software drivers compile each kernel for minutes. The last one is packed on the host.
    for (golden, quants) in [
        ("llama_bf16_untied", ["nf4:nested", "fp8:e4m3,scale=0.0001"]),
        ("llama_f32_tied", ["mlx:group=32", "hqq:group=32"]),
    ] {
        for quant in quants {
            let config = || {
                let config = LoadConfig::new(Golden(golden).path("").to_string_lossy());
                let config = config.quant(quant.parse().expect("a spec"));
                config.rule(format!("role:embedding={quant}").parse().expect("a rule"))
            };
            let expected = verify::<Cpu>(config());
            for config in [
                config(),
                config().in_flight_bytes_max(400_000).allocation_max(60_000),
            ] {
                let found = verify::<T>(config);
                assert_eq!(found.tensors.len(), expected.tensors.len());
                for (found, expected) in found.tensors.iter().zip(&expected.tensors) {
                    let what = format!("{golden} {quant} {}", found.name);
                    assert_eq!(found.name, expected.name, "{what}");
                    same(&found.stats, &expected.stats, &what);
                    let quants = [&found.fallback, &expected.fallback]
                        .map(|fallback| fallback.as_ref().map(|f| f.quant.to_string()));
                    assert_eq!(quants[0], quants[1], "{what}");
                }
            }
        }
    }
}

/// Four sums are in a cosine and a ratio, each as far off as a device may be.
fn same(found: &Stats, expected: &Stats, what: &str) {
    let counts = |s: &Stats| [s.compared, s.saturated, s.lost_sources, s.lost_results];
    assert_eq!(counts(found), counts(expected), "{what}");
    for (found, expected) in [
        (found.max_error, expected.max_error),
        (found.mean_error, expected.mean_error),
        (found.relative_error, expected.relative_error),
        (found.cosine, expected.cosine),
        (found.sqnr, expected.sqnr),
    ] {
        let near = (found - expected).abs() <= 4.0 * TOLERANCE * expected.abs();
        assert!(found == expected || near, "{what}: {found} for {expected}");
    }
}
