//! How far packed weights are from their source.

#![cfg(feature = "cpu")]

#[path = "../common/tiny.rs"]
mod common;
#[path = "../common/errors.rs"]
mod errors;

mod golden;
mod loading;

use std::sync::Arc;

use common::{Entry, Tiny, checkpoint, tiny_entries};
use errors::assert_close;
use firebox::{
    Cpu, DType, Error, LoadConfig, Loader, Rule,
    config::{Limit, Limits, VerifyConfig},
    model::{Architecture, BuildError, ConfigError, Slot, Weights},
    place::VerifyError,
    quant::{QuantSpec, kernels::compare::Stats},
    report::VerifyReport,
    source::{Fault, Memory},
};
use half::bf16;
use safetensors::Dtype;
use serde_json::Value;

pub(crate) fn spec(text: &str) -> QuantSpec {
    text.parse().expect(text)
}

/// Packs tensors of no model, and compares them.
pub(crate) fn verify(memory: Memory, quant: &str, config: &VerifyConfig) -> VerifyReport {
    let load = LoadConfig::default()
        .quant(spec(quant))
        .bare()
        .source(Arc::new(memory));
    let loader = Loader::<Cpu>::new(load).expect("a checkpoint");
    loader.verify_tensors(&[], config).expect(quant)
}

// ------------------------------------------------------------------------- errors known beforehand

fn matrix(name: &'static str, rows: usize, values: Vec<f32>) -> Entry {
    (name, vec![rows, values.len() / rows], values)
}

/// ```text
/// scale 1     448  480    1  1000   NaN   0  -0.5    2     of these
/// gives       448  448    1   448   NaN   0  -0.5    2
/// errors        0   32    0   552     -   0     0    0     saturated: 480 and 1000, over 448 + 448 / 128
/// ```
#[test]
fn errors_of_a_fixed_scale_are_those_of_hand() {
    let values = vec![448.0, 480.0, 1.0, 1000.0, f32::NAN, 0.0, -0.5, 2.0];
    let entries = [matrix("w", 2, values)];
    let report = verify(
        checkpoint(&entries),
        "fp8:e4m3,scale=1",
        &VerifyConfig::default(),
    );
    let signal: f64 = 448.0 * 448.0 + 480.0 * 480.0 + 1.0 + 1e6 + 0.25 + 4.0;
    let noise: f64 = 32.0 * 32.0 + 552.0 * 552.0;
    let back: f64 = 3.0 * 448.0 * 448.0 + 1.0 + 0.25 + 4.0;
    let products: f64 = 448.0 * (448.0 + 480.0 + 1000.0) + 1.0 + 0.25 + 4.0;
    let expected = Stats {
        max_error: 552.0,
        mean_error: 584.0 / 7.0,
        relative_error: (noise / signal).sqrt(),
        cosine: products / (signal * back).sqrt(),
        sqnr: 10.0 * (signal / noise).log10(),
        compared: 7,
        saturated: 2,
        lost_sources: 1,
        lost_results: 1,
    };
    assert_close(report.tensors[0].stats, expected, "by hand");
    assert_eq!(report.worst().expect("one").name, "w");

    // Without limits nothing is beyond them; with any, what is not finite is.
    assert!(report.tensors[0].beyond.is_empty());
    let limits = Limits::default().max_relative(100.0);
    let report = verify(
        checkpoint(&entries),
        "fp8:e4m3,scale=1",
        &VerifyConfig::new(limits).fallback(QuantSpec::None),
    );
    let beyond: Vec<Limit> = report.tensors[0].beyond.iter().map(|b| b.limit).collect();
    assert_eq!(beyond, [Limit::Finite]);
    // Nor does it help to leave it as it is.
    assert_eq!(report.failed().count(), 1);
}

/// An infinite signal to noise ratio is no number in JSON, and no reason to fall back.
#[test]
fn a_weight_of_zeros_is_exact() {
    for quant in [
        "nf4",
        "fp8:e4m3,scale=channel",
        "int8",
        "mxfp4",
        "mlx:group=32",
    ] {
        let limits = Limits::default().min_sqnr(200.0).min_cosine(1.0);
        let limits = limits.max_relative(0.0).max_saturated(0.0);
        let memory = checkpoint(&[matrix("zero", 2, vec![0.0; 64])]);
        let report = verify(memory, quant, &VerifyConfig::new(limits));
        let zero = &report.tensors[0];
        let Stats {
            relative_error,
            cosine,
            sqnr,
            ..
        } = zero.stats;
        assert_eq!((relative_error, cosine), (0.0, 1.0), "{quant}");
        assert_eq!(sqnr, f64::INFINITY, "{quant}");
        assert!(zero.beyond.is_empty(), "{quant}");
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["tensors"][0]["sqnr_db"], Value::Null);
        assert_eq!(json["tensors"][0]["max_error"], 0.0);
    }
}

/// Rows enough that the source is read in tiles, one number in the first and one in the last row wrong by 52.
#[test]
fn large_weights_are_compared_to_their_end() {
    let (rows, cols) = (601, 2000);
    let mut values = vec![1.0; rows * cols];
    values[1] = 500.0;
    values[rows * cols - 1] = -500.0;
    let memory = checkpoint(&[("w", vec![rows, cols], values)]);
    let report = verify(memory, "fp8:e4m3,scale=1", &VerifyConfig::default());
    let Stats {
        max_error,
        mean_error,
        saturated,
        compared,
        ..
    } = report.tensors[0].stats;
    assert_eq!((max_error, saturated, compared), (52.0, 2, 1_202_000));
    assert_eq!(mean_error, 104.0 / 1_202_000.0);
}

// --------------------------------------------------------------------------- limits and fallbacks

fn stats() -> Stats {
    Stats {
        max_error: 1.0,
        mean_error: 0.5,
        relative_error: 0.1,
        cosine: 0.99,
        sqnr: 20.0,
        compared: 200,
        saturated: 1,
        lost_sources: 0,
        lost_results: 0,
    }
}

/// A limit itself is within; next to it is not; a NaN never is.
#[test]
fn each_limit_has_its_side() {
    let none = Limits::default();
    for (limit, within, beyond) in [
        (
            Limit::MaxRelative,
            none.max_relative(0.1),
            none.max_relative(0.0999),
        ),
        (Limit::MinSqnr, none.min_sqnr(20.0), none.min_sqnr(20.001)),
        (
            Limit::MinCosine,
            none.min_cosine(0.99),
            none.min_cosine(0.9901),
        ),
        (
            Limit::MaxSaturated,
            none.max_saturated(0.005),
            none.max_saturated(0.0049),
        ),
    ] {
        assert_eq!(within.beyond(&stats()), [], "{limit:?}");
        let found: Vec<Limit> = beyond.beyond(&stats()).iter().map(|b| b.limit).collect();
        assert_eq!(found, [limit]);
    }
    let unknown = Stats {
        sqnr: f64::NAN,
        lost_results: 3,
        ..stats()
    };
    let found = none.min_sqnr(-1e9).beyond(&unknown);
    let found: Vec<Limit> = found.iter().map(|b| b.limit).collect();
    assert_eq!(found, [Limit::MinSqnr, Limit::Finite]);
    assert_eq!(none.beyond(&unknown), []);
}

/// ```text
///            scale 1                scale 2               scale 4
/// exact      exact
/// twice      896 -> 448, 7.0 dB     exact
/// fourfold   1792 -> 448, 2.5 dB    1792 -> 896, 6.2 dB   exact
/// never      1e6 -> 448, 0.0 dB     0.0 dB                0.0 dB
/// ```
fn table() -> Memory {
    checkpoint(&[
        matrix("exact", 1, vec![1.0, 2.0, 4.0, 448.0]),
        matrix("twice", 1, vec![1.0, 2.0, 448.0, 896.0]),
        matrix("fourfold", 1, vec![4.0, 8.0, 448.0, 1792.0]),
        matrix("never", 1, vec![4.0, 8.0, 448.0, 1e6]),
    ])
}

fn chosen(report: &VerifyReport, name: &str) -> Option<(String, f64)> {
    let tensors = &report.tensors;
    let tensor = tensors.iter().find(|tensor| tensor.name == name);
    let fallback = tensor.expect(name).fallback.as_ref()?;
    Some((fallback.quant.to_string(), fallback.stats.sqnr))
}

#[test]
fn the_first_fallback_within_the_limits_is_chosen() {
    const INFINITE: f64 = f64::INFINITY;
    let config = VerifyConfig::new(Limits::default().min_sqnr(20.0))
        // Cannot pack rows of four.
        .fallback(spec("mlx:group=64"))
        .fallback(spec("fp8:e4m3,scale=2"))
        .fallback(spec("fp8:e4m3,scale=4"));
    let report = verify(table(), "fp8:e4m3,scale=1", &config);
    let twice = "fp8:e4m3,scale=2".to_owned();
    let fourfold = "fp8:e4m3,scale=4".to_owned();
    assert_eq!(chosen(&report, "exact"), None);
    assert_eq!(chosen(&report, "twice"), Some((twice, INFINITE)));
    assert_eq!(chosen(&report, "fourfold"), Some((fourfold, INFINITE)));
    assert_eq!(chosen(&report, "never"), None);
    let failed: Vec<&str> = report.failed().map(|tensor| &*tensor.name).collect();
    assert_eq!(failed, ["never"]);
    let sqnr = |name: &str| {
        let mut tensors = report.tensors.iter();
        tensors.find(|t| t.name == name).expect(name).stats.sqnr
    };
    let ratio = |signal: f64, noise: f64| 10.0 * (signal / noise).log10();
    let expected = ratio(1.0 + 4.0 + 448.0 * 448.0 + 896.0 * 896.0, 448.0 * 448.0);
    assert!((sqnr("twice") - expected).abs() < 1e-9);
    assert!((6.9..7.1).contains(&expected), "the table: {expected}");

    // Both the table for people and the one for programs have the rules.
    let mut rules: Vec<String> = report.rules().iter().map(Rule::to_string).collect();
    rules.sort();
    let expected = ["fourfold=fp8:e4m3,scale=4", "twice=fp8:e4m3,scale=2"];
    assert_eq!(rules, expected);
    let text = report.to_string();
    for part in [
        "beyond: never: SQNR 0.00 dB below 20 dB; no fallback is within",
        "--rule twice=fp8:e4m3,scale=2",
        "worst: never, 0.00 dB",
    ] {
        assert!(text.contains(part), "{text}");
    }

    // The last resort is to leave it as it is, and nobody who was within before.
    let report = verify(
        table(),
        "fp8:e4m3,scale=1",
        &config.fallback(QuantSpec::None),
    );
    let none = ("none".to_owned(), INFINITE);
    assert_eq!(chosen(&report, "never"), Some(none));
    assert_eq!(chosen(&report, "exact"), None);
    assert_eq!(report.rules().len(), 3);
    assert_eq!(report.failed().count(), 0);
}

/// The rules win against those that there are, be the names of tensors what they may.
#[test]
fn rules_of_a_report_come_first() {
    let load = LoadConfig::default()
        .quant(spec("fp8:e4m3,scale=1"))
        .rule("*=nf4".parse().expect("a rule"))
        .source(Arc::new(checkpoint(&tiny_entries())));
    let loader = Loader::<Cpu>::new(load).expect("a checkpoint");
    // 16 levels are some 20 dB; of the two only one gets a rule, by a list.
    let config = VerifyConfig::new(Limits::default().min_sqnr(30.0)).fallback(spec("int8"));
    let report = loader.verify::<Tiny>(&config).expect("a report");
    assert_eq!(report.tensors.len(), 2, "biases and norms are not packed");
    assert!(
        report
            .tensors
            .iter()
            .all(|t| t.quant.to_string() == "nf4:block=64")
    );
    assert_eq!(report.rules().len(), 2);
    let rules = vec![report.rules().remove(0)];
    let plan = loader.with_rules(rules).plan::<Tiny>().expect("a plan");
    let quants: Vec<(&str, String)> = (plan.steps.iter())
        .filter(|step| step.slot.shape.len() == 2)
        .map(|step| (&*step.slot.name, step.quant().to_string()))
        .collect();
    let expected = [("down.weight", "int8"), ("up.weight", "nf4:block=64")];
    assert_eq!(
        quants,
        expected.map(|(name, quant)| (name, quant.to_owned()))
    );

    let rule = Rule::tensor("a[0].{b}*", spec("nf4"));
    assert!(
        rule.pattern
            .is_match("a[0].{b}*", firebox::config::Role::Linear)
    );
    assert!(!rule.pattern.is_match("a0.b", firebox::config::Role::Linear));
    let read: Rule = rule.to_string().parse().expect("it prints what it reads");
    assert!(
        read.pattern
            .is_match("a[0].{b}*", firebox::config::Role::Linear)
    );
}

// ------------------------------------------------------------------------------ another source

fn against(dense: Memory) -> Result<VerifyReport, Error> {
    let load = LoadConfig::default().source(Arc::new(checkpoint(&tiny_entries())));
    let dense = LoadConfig::default()
        .source(Arc::new(dense))
        .open()
        .expect("open");
    let loader = Loader::<Cpu>::new(load).expect("a checkpoint");
    loader.verify_against::<Tiny>(&dense, &Limits::default().min_cosine(0.5))
}

fn changed(name: &str, change: impl FnOnce(&mut Entry)) -> Memory {
    let mut entries = tiny_entries();
    change(
        entries
            .iter_mut()
            .find(|entry| entry.0 == name)
            .expect(name),
    );
    checkpoint(&entries)
}

/// Plain tensors are compared too: a norm that was changed is another model's.
#[test]
fn plain_tensors_are_compared_with_another_source() {
    let report = against(checkpoint(&tiny_entries())).expect("a report");
    assert_eq!(report.tensors.len(), 4);
    assert!(report.tensors.iter().all(|t| t.stats.max_error == 0.0));
    assert_eq!(report.failed().count(), 0);

    // Of another type, and with the greatest number not there.
    let halves = common::stored(&tiny_entries(), Dtype::BF16, |value| {
        bf16::from_f32(value).to_le_bytes().to_vec()
    });
    let report = against(halves).expect("a report");
    assert!(report.tensors.iter().all(|t| t.stats.max_error == 0.0));

    let zeros = changed("norm.weight", |entry| entry.2.fill(0.0));
    let report = against(zeros).expect("a report");
    let failed: Vec<_> = report.failed().collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].name, "norm.weight");
    let Stats {
        relative_error,
        cosine,
        sqnr,
        ..
    } = failed[0].stats;
    assert_eq!((relative_error, cosine), (f64::INFINITY, 0.0));
    assert_eq!(sqnr, f64::NEG_INFINITY);
    assert_eq!(report.worst().expect("four").name, "norm.weight");
}

/// One vector, longer than a tile of the source.
struct Long;

const LONG: usize = 1_300_000;

impl Architecture for Long {
    type Config = ();

    fn config(_: &Value) -> Result<(), ConfigError> {
        Ok(())
    }

    fn slots((): &()) -> Vec<Slot> {
        vec![Slot::norm("norm.weight", LONG)]
    }

    fn build((): &(), _: &mut Weights) -> Result<Self, BuildError> {
        unreachable!("what is compared is not built")
    }
}

/// Every number is compared with its own, in the types of the files whatever a load would compute in: none of these is a
/// bf16.
#[test]
fn plain_tensors_are_compared_to_their_end_as_they_are_stored() {
    let values = (0..LONG).map(|k| k as f32 + 0.5).collect();
    let mut entries = [("norm.weight", vec![LONG], values)];
    let model = Arc::new(checkpoint(&entries));
    entries[0].2[LONG - 1] += 8.0;
    let load = LoadConfig::default().dtype(DType::Bf16).source(model);
    let dense = LoadConfig::default().source(Arc::new(checkpoint(&entries)));
    let loader = Loader::<Cpu>::new(load).expect("a checkpoint");
    let report = loader.verify_against::<Long>(&dense.open().expect("open"), &Limits::default());
    let stats = report.expect("a report").tensors[0].stats;
    assert_eq!((stats.max_error, stats.compared), (8.0, LONG as u64));
    assert_eq!(stats.mean_error, 8.0 / LONG as f64);
}

#[test]
fn a_source_that_is_another_models_is_refused() {
    let mut lacking = tiny_entries();
    lacking.retain(|(name, ..)| *name != "up.bias");
    let short = changed("norm.weight", |entry| {
        entry.2.truncate(8);
        entry.1 = vec![8];
    });
    let bytes = common::stored(&tiny_entries(), Dtype::I32, |_| vec![0; 4]);
    let error = |memory| match against(memory) {
        Err(Error::Verify(error)) => error,
        other => panic!("{other:?}"),
    };
    let found = error(checkpoint(&lacking));
    assert!(matches!(&found, VerifyError::Missing { tensor, .. } if tensor == "up.bias"));
    let text = error(short).to_string();
    assert!(
        text.contains("norm.weight is [8]") && text.contains("[200]"),
        "{text}"
    );
    let text = error(bytes).to_string();
    assert!(text.contains("stored as I32"), "{text}");
}

/// Would catch a failed read of the source that is told as a sink's, or as a weight without errors.
#[test]
fn a_source_that_ends_early_is_told_by_its_tensor() {
    let dense = checkpoint(&tiny_entries());
    dense.fault("model.safetensors", Fault::CutAt(30_000));
    let error = against(dense).expect_err("it is cut").to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    assert!(!error.contains("placed"), "{error}");
}

#[test]
fn nothing_to_compare_is_an_error() {
    let load = LoadConfig::default().source(Arc::new(checkpoint(&tiny_entries())));
    let loader = Loader::<Cpu>::new(load).expect("a checkpoint");
    let error = loader.verify::<Tiny>(&VerifyConfig::default());
    let error = error.expect_err("nothing is packed");
    assert!(matches!(
        error,
        Error::Verify(VerifyError::NothingPacked { .. })
    ));
}
