//! What cannot be followed is refused before a weight is read.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use firebox::{
    Cpu, Error, LoadConfig, Loader, Strategy,
    config::{Budget, MaxMemory},
    model::CausalLm,
    observe::{Event, Flow},
    plan::{MapError, PlanError},
    target::TargetError,
};

use crate::common::{Golden, repository};

fn tinyrust() -> LoadConfig {
    LoadConfig::new(repository().join("assets/tinyrust").to_string_lossy()).context(1, 16)
}

fn limits(text: &str) -> MaxMemory {
    text.parse().expect(text)
}

/// Loads, and says whether a weight was read.
fn refused(config: LoadConfig) -> (Error, bool) {
    let was_read = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&was_read);
    let request = config.observer(move |event: &Event<'_>| {
        if matches!(event, Event::Planned { .. } | Event::Placed { .. }) {
            seen.store(true, Ordering::Relaxed);
        }
        Flow::Continue
    });
    let loader = Loader::<Cpu>::new(request);
    let error = loader.and_then(|loader| loader.load::<CausalLm>());
    (
        error.expect_err("refused"),
        was_read.load(Ordering::Relaxed),
    )
}

fn map_error(config: LoadConfig) -> (MapError, String) {
    let (error, was_read) = refused(config);
    assert!(!was_read, "{error}");
    let text = error.to_string();
    match error {
        Error::Plan(PlanError::Map(error)) => (*error, text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn maps_that_do_not_fit_the_model_are_refused() {
    let map = |text: &str| tinyrust().device_map(text.parse().expect(text));
    let refused = |text: &str| map_error(map(text));
    let (error, text) = refused("*=0,model.layers.4=1");
    assert!(matches!(error, MapError::Idle { .. }), "{text}");
    assert!(text.contains("`model.layers.4`"), "{text}");

    let (error, text) = refused("model.layers=0,model.norm=0");
    assert!(
        matches!(error, MapError::Uncovered { count: 1, .. }),
        "{text}"
    );
    assert!(text.contains("model.embed_tokens.weight"), "{text}");

    let (error, text) = refused("*=0,model.layers.1.mlp=1");
    assert!(matches!(error, MapError::Apart { .. }), "{text}");
    assert!(text.contains("model.layers.1 stays together"), "{text}");

    // A tied head is the embedding.
    let (error, text) = refused("*=0,lm_head=1");
    assert!(matches!(error, MapError::Tied { .. }), "{text}");
    let together = map("*=0,lm_head=1,model.embed_tokens=1");
    Loader::<Cpu>::new(together)
        .expect("opens")
        .plan::<CausalLm>()
        .expect("one device");

    // Modules of transformers without tensors are in the maps of accelerate.
    let (error, text) = refused("*=0,model.layers.4.rotary_emb=0");
    assert!(matches!(error, MapError::Idle { .. }), "{text}");
    let accelerates = map("*=0,model.rotary_emb=0,model.layers.1.mlp.act_fn=0");
    Loader::<Cpu>::new(accelerates)
        .expect("opens")
        .plan::<CausalLm>()
        .expect("a map of accelerate");

    let (error, text) = refused("*=0,model.layers.1=disk");
    assert!(matches!(error, MapError::NoFolder), "{text}");

    let (error, text) = map_error(map("*=0,model.layers.1=2").devices([0, 1]));
    assert!(
        matches!(error, MapError::Unlisted { index: 2, .. }),
        "{text}"
    );
    assert!(text.contains("0, 1"), "{text}");
}

#[test]
fn devices_that_are_not_there_are_refused() {
    let (error, _) = refused(tinyrust().devices([0, 8]));
    assert!(
        matches!(
            error,
            Error::Target(TargetError::NoDevice {
                index: 8,
                found: 8,
                ..
            })
        ),
        "{error}"
    );
    let (error, _) = refused(tinyrust().max_memory(limits("0=1GiB,9=1GiB")));
    assert!(
        matches!(error, Error::Target(TargetError::NoDevice { index: 9, .. })),
        "{error}"
    );
    let (error, text) = map_error(tinyrust().devices([1, 2, 1]));
    assert!(
        matches!(error, MapError::DeviceTwice { index: 1 }),
        "{text}"
    );
    let (error, text) = map_error(tinyrust().devices([0, 1]).max_memory(limits("2=1GiB")));
    assert!(
        matches!(error, MapError::Unlisted { index: 2, .. }),
        "{text}"
    );
}

#[test]
fn memory_that_cannot_be_is_refused() {
    let limited = |text: &str| tinyrust().max_memory(limits(text));
    let refused = |text: &str| map_error(limited(text));
    // More than the machine has.
    let (error, text) = refused("0=1000TiB");
    assert!(matches!(error, MapError::Beyond { .. }), "{text}");
    assert!(
        text.contains("device 0") && text.contains("1000.00 TiB"),
        "{text}"
    );
    let (error, text) = refused("0=1MiB,cpu=1000TiB");
    assert!(matches!(error, MapError::Beyond { .. }), "{text}");
    assert!(text.contains("host memory"), "{text}");

    // The embedding of 1 MiB fits no device, and nothing else is named.
    let (error, text) = refused("0=1MiB,1=700KiB");
    match error {
        MapError::Layer {
            unit,
            needed,
            index,
            limit,
            ..
        } => {
            assert_eq!((&*unit, index, limit), ("model.embed_tokens", 0, 1 << 20));
            assert!(needed > limit);
        }
        other => panic!("{other:?}"),
    }
    assert!(
        text.contains("1.00 MiB") && text.contains("cpu=SIZE"),
        "{text}"
    );

    // Everything fits, and not together.
    let (error, text) = refused("0=3MiB,1=3MiB");
    match error {
        MapError::NoRoom { weights, left, .. } => assert!(left > 0 && left < weights),
        other => panic!("{other:?}"),
    }
    assert!(text.contains("device 1 may have 3.00 MiB"), "{text}");
    let (error, text) = refused("0=3MiB,cpu=1MiB");
    assert!(matches!(error, MapError::NoRoom { .. }), "{text}");

    // Too small for what comes and goes.
    let (error, text) = refused("0=300KiB,cpu=1GiB");
    match error {
        MapError::Passing { needed, limit, .. } => {
            assert_eq!(limit, 300 << 10);
            assert!(needed > limit);
        }
        other => panic!("{other:?}"),
    }
    assert!(text.contains("model.embed_tokens.weight"), "{text}");

    let (error, text) = refused("0=1MiB,disk");
    assert!(matches!(error, MapError::NoFolder), "{text}");

    let map = "*=0,model.layers.1=1".parse().expect("a map");
    let (error, text) = map_error(limited("0=64MiB,1=100KiB").device_map(map));
    assert!(matches!(error, MapError::Full { index: 1, .. }), "{text}");
}

#[test]
fn a_strategy_that_leaves_nothing_on_devices_is_refused() {
    let (error, text) = map_error(tinyrust().devices([0, 1]).strategy(Strategy::Streaming));
    assert!(matches!(error, MapError::Streaming), "{text}");
    // Of a share of nothing known to be wrong, the load goes on.
    let golden = LoadConfig::new(Golden("llama_bf16_untied").path("").to_string_lossy());
    let half = MaxMemory::new().device(0, Budget::Share(0.5));
    Loader::<Cpu>::new(golden.max_memory(half))
        .expect("opens")
        .load::<CausalLm>()
        .expect("half of the machine");
}
