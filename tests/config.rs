//! Configurations are data: they can be written to a file and read again, and secrets stay out of it.

use std::num::NonZeroUsize;

use firebox::{
    DType, LoadConfig, Rule, SaveConfig, Strategy, StreamFrom, VerifyConfig, Workers,
    config::{Budget, Limits, Reading, To},
};
use serde_json::{Value, json};

/// Every option, each with another value than the default.
fn everything() -> LoadConfig {
    let spec = |text: &str| text.parse().expect("a spec");
    let limits = Limits::default().min_sqnr(20.0).max_saturated(0.01);
    LoadConfig::new("org/model")
        .bare()
        .dtype(DType::F16)
        .quant(spec("nf4:block=64,nested"))
        .rule("lm_head=mlx:bits=6,group=64".parse().expect("a rule"))
        .rule(Rule::tensor("a[0]=b.weight", spec("int8")))
        .skip("role:embedding".parse().expect("a pattern"))
        .dequantize(true)
        .candidate(spec("fp4"))
        .presinq(true)
        .cache_packed("packed")
        .strategy(Strategy::LowMemory)
        .stream_from(StreamFrom::Disk("spill".into()))
        .prefetch(3)
        .shard_bytes(1 << 20)
        .host_budget(Budget::Bytes(1 << 30))
        .device_budget(Budget::Share(0.8))
        .in_flight_bytes_max(1 << 22)
        .workers(Workers::Count(NonZeroUsize::MIN))
        .reading(Reading::Direct)
        .device(1)
        .allocation_max(1 << 28)
        .verify(VerifyConfig::new(limits).fallback(spec("none")))
        .revision("v1")
        .token("hf_secret")
        .cache("hub")
        .offline(true)
}

/// Would catch an option that is left out of the file, and one that is read as another.
#[test]
fn a_configuration_is_read_as_it_was_written() {
    let written = serde_json::to_string(&everything()).expect("JSON");
    let read: LoadConfig = serde_json::from_str(&written).expect("a configuration");
    assert_ne!(read, everything(), "the token is not written");
    assert_eq!(read.token("hf_secret"), everything());

    let save = SaveConfig::new("out")
        .dialect(To::BitsAndBytes)
        .shard_bytes(7)
        .nested(false)
        .resume(true);
    let written = serde_json::to_string(&save).expect("JSON");
    assert_eq!(
        serde_json::from_str::<SaveConfig>(&written).expect("JSON"),
        save
    );
}

#[test]
fn a_token_is_neither_written_nor_printed() {
    let config = everything();
    let written = serde_json::to_string(&config).expect("JSON");
    let printed = format!("{config:?}");
    for text in [written, printed] {
        assert!(!text.contains("hf_secret"), "{text}");
    }
}

/// Words that files may depend on.
#[test]
fn options_that_are_not_given_may_be_left_out() {
    let file = json!({
        "model": "org/model",
        "pack": { "policy": { "linear": "nf4", "skip": ["lm_head"] } },
        "place": { "strategy": "streaming", "host_budget": { "share": 0.5 } },
        "read": { "reading": "mapped", "workers": { "count": 2 } },
    });
    let read: LoadConfig = serde_json::from_value(file).expect("a configuration");
    let two = NonZeroUsize::new(2).expect("two");
    let expected = LoadConfig::new("org/model")
        .quant("nf4".parse().expect("a spec"))
        .skip("lm_head".parse().expect("a pattern"))
        .strategy(Strategy::Streaming)
        .host_budget(Budget::Share(0.5))
        .reading(Reading::Mapped)
        .workers(Workers::Count(two));
    assert_eq!(read, expected);
    let save: SaveConfig = serde_json::from_value(json!({ "folder": "out" })).expect("a save");
    assert_eq!(save, SaveConfig::new("out"));
}

#[test]
fn what_is_misspelt_is_refused_by_name() {
    let cases: [(Value, &str); 4] = [
        (json!({ "modle": "org/model" }), "modle"),
        (json!({ "read": { "worker": "auto" } }), "worker"),
        (json!({ "pack": { "policy": { "linear": "nf5" } } }), "nf5"),
        (json!({ "place": { "strategy": "fast" } }), "fast"),
    ];
    for (file, named) in cases {
        let error = serde_json::from_value::<LoadConfig>(file).expect_err(named);
        assert!(error.to_string().contains(named), "{error}");
    }
}
