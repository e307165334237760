//! Verification while a model is loaded.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use firebox::{
    Cpu, Error, LoadConfig, LoadRequest, Loader,
    config::{Limits, VerifyConfig},
    model::Matrix,
    observe::{Event, Flow},
    pipeline::PipelineError,
    place::VerifyError,
    quant::kernels::format::Packed,
    report::LoadReport,
};

use super::{
    common::{Tiny, tiny},
    spec,
};

fn config(quant: &str) -> LoadConfig {
    LoadConfig::default().quant(spec(quant))
}

fn load(config: impl Into<LoadRequest>) -> Result<(Vec<Packed>, LoadReport), Error> {
    let loaded = Loader::<Cpu>::new(config.into().source(tiny()))?.load::<Tiny>()?;
    let model = loaded.model;
    let words = [&model.up, &model.down].map(|linear| match &linear.weight {
        Matrix::Packed(packed) => packed.to_host(),
        other => panic!("planned packed, is {other:?}"),
    });
    Ok((words.into(), loaded.report))
}

fn limits(sqnr: f64) -> VerifyConfig {
    VerifyConfig::new(Limits::default().min_sqnr(sqnr))
}

/// Four bits have some 20 dB, eight some 40. Catches a weight that is told to be another and is not, a report of what was
/// tried first, and a fallback that is taken though an earlier one would do.
#[test]
fn a_weight_beyond_a_limit_becomes_the_first_fallback_within_it() {
    let limits = || limits(30.0).fallback(spec("fp4")).fallback(spec("int8"));
    let (found, report) =
        load(config("nf4").verify(limits().fallback(spec("none")))).expect("int8");
    let (expected, _) = load(config("int8")).expect("loads");
    assert!(found == expected, "words are those of int8");

    let verified = report.verified.as_ref().expect("it was verified");
    let loader = Loader::<Cpu>::new(config("nf4").source(tiny())).expect("opens");
    let beforehand = loader.verify::<Tiny>(&limits()).expect("can be compared");
    assert_eq!(verified.tensors.len(), 2);
    for (found, expected) in verified.tensors.iter().zip(&beforehand.tensors) {
        assert_eq!(found.name, expected.name);
        assert_eq!(found.stats, expected.stats, "{}", found.name);
        let [found, expected] = [found, expected].map(|check| check.fallback.as_ref());
        let [found, expected] = [found, expected].map(|fallback| fallback.expect("int8 helps"));
        assert_eq!(found.stats, expected.stats);
        assert_eq!(found.quant.to_string(), "int8");
    }
    let quant = |name: &str| {
        let mut tensors = report.per_tensor.iter();
        let tensor = tensors.find(|tensor| tensor.name == name);
        tensor.expect(name).quant.to_string()
    };
    assert_eq!([quant("up.weight"), quant("down.weight")], ["int8"; 2]);
}

/// Catches a limit that is held against the wrong side.
#[test]
fn weights_within_the_limits_pass_as_they_are() {
    let (found, report) = load(config("nf4").verify(limits(15.0))).expect("within");
    let (expected, plain) = load(config("nf4")).expect("loads");
    assert!(found == expected);
    let verified = report.verified.expect("it was verified");
    assert!(verified.tensors.iter().all(|check| check.beyond.is_empty()));
    assert!(plain.verified.is_none(), "nobody asked");
}

#[test]
fn what_no_fallback_mends_ends_the_load_by_name() {
    let asked = limits(30.0).fallback(spec("fp4"));
    let error = load(config("nf4").verify(asked)).map(drop);
    let error = error.expect_err("four bits are four bits");
    let Error::Verify(VerifyError::Beyond { tensor, tried, .. }) = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (&**tensor, *tried),
        ("down.weight", 1),
        "the first that is read"
    );
    let said = error.to_string();
    assert!(said.contains("30 dB") && said.contains("nf4"), "{said}");
}

/// Nobody may believe that something was verified which was not.
#[test]
fn what_cannot_be_verified_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = config("nf4").cache_packed(folder.path());
    let error = load(kept.verify(limits(15.0))).map(drop);
    let error = error.expect_err("what is kept has no source");
    assert!(
        matches!(error, Error::Verify(VerifyError::Cached)),
        "{error}"
    );
}

/// Catches an event that is not told, or told of plain weights too, and a cancel that nobody heeds.
#[test]
fn every_packed_weight_is_told_of_when_it_is_verified() {
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let observed = config("nf4")
        .verify(limits(15.0))
        .observer(move |event: &Event<'_>| {
            if let Event::Verified { stats, .. } = event {
                assert!(stats.sqnr > 15.0);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Flow::Continue
        });
    load(observed).expect("within");
    assert_eq!(told.load(Ordering::Relaxed), 2);

    let stopped = config("nf4")
        .verify(limits(15.0))
        .observer(|event: &Event<'_>| match event {
            Event::Verified { .. } => Flow::Cancel,
            _ => Flow::Continue,
        });
    let error = load(stopped).map(drop).expect_err("it was stopped");
    assert!(
        matches!(&error, Error::Pipeline(PipelineError::Cancelled { at, .. }) if at == "down.weight"),
        "{error}"
    );
}
