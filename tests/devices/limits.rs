//! Memory that may be taken, and what stays beside it.

use core::ops::ControlFlow;

use firebox::{
    LoadConfig, Loaded, StreamFrom,
    config::{Budget, MaxMemory},
    model::{GenerateOptions, generate, stream::StreamStats},
    report::LoadReport,
};
use tempfile::TempDir;

use crate::{common::repository, formats::load};

const PROMPT: [u32; 3] = [303, 327, 294];
const TOKENS: usize = 6;

fn tinyrust() -> LoadConfig {
    LoadConfig::new(repository().join("assets/tinyrust").to_string_lossy())
        .quant("int8".parse().expect("a spec"))
        .rule("role:embedding=int8".parse().expect("a rule"))
        .context(1, 16)
}

/// The text, what the load says, and what came to devices.
fn text(config: LoadConfig) -> (Vec<u32>, LoadReport, StreamStats) {
    let Loaded { model, report, .. } = load(config);
    let options = GenerateOptions {
        max_new_tokens: TOKENS,
        ..GenerateOptions::default()
    };
    let text = generate(&model, &PROMPT, &options, |_| ControlFlow::Continue(()));
    let stats = report.stream_stats().unwrap_or_default();
    (text.expect("text").ids, report, stats)
}

/// A third of the model's packed bytes are enough, with its cache and activations. Would catch weights that are left on the device,
/// a ring that fetches ahead without room, bytes that are not counted, and a second pass that expects nothing.
#[test]
fn a_model_three_times_as_large_as_its_device_makes_text() {
    let (expected, whole, _) = text(tinyrust());
    let limit = whole.bytes_packed / 3;
    let folder = TempDir::new().expect("a folder");
    let limits = MaxMemory::new().device(0, Budget::Bytes(limit));
    for (limits, stream_from) in [
        (
            limits.clone().host(Budget::Bytes(1 << 30)),
            StreamFrom::Host,
        ),
        (
            limits.clone().disk(),
            StreamFrom::Disk(folder.path().into()),
        ),
        // Some layers in host memory, the rest on disk.
        (
            limits.host(Budget::Bytes(1 << 20)).disk(),
            StreamFrom::Disk(folder.path().into()),
        ),
    ] {
        let config = tinyrust()
            .max_memory(limits.clone())
            .stream_from(stream_from);
        let (found, report, stats) = text(config);
        assert_eq!(found, expected, "{limits}");
        let device = &report.devices[0];
        assert_eq!(device.memory, Some(limit));
        let streamed = report.bytes_on_host + report.bytes_on_disk;
        assert_eq!(device.bytes + streamed, report.bytes_packed);
        assert!(report.bytes_packed >= 3 * limit);
        // Cache of 64 tokens, two times 128 features in f32 in each of 4 layers.
        let cache = 4 * 64 * 2 * 128 * 4;
        assert!(
            device.bytes + stats.bytes_peak + cache <= limit,
            "{stats:?}"
        );
        // Every matrix comes once a pass; besides, what was fetched after the last pass, or in vain.
        let least = TOKENS as u64 * streamed;
        let most = least + 3 * limit;
        let moved = stats.bytes_moved;
        assert!((least..=most).contains(&moved), "{stats:?}, {least}");
        // 7 matrices in 4 layers; the embedding, which is the head too, stays.
        let products = stats.ahead + stats.waited + stats.missed;
        assert_eq!(products, TOKENS as u64 * 28, "{stats:?}");
        // The order is known after one pass.
        assert!(stats.missed <= 30, "{stats:?}");
        assert!(
            stats
                .ahead_rate()
                .is_some_and(|rate| rate > 0.0 && rate <= 1.0)
        );
    }
}

/// Limits count cache and activations: the same layers need more for longer texts.
#[test]
fn longer_texts_leave_less_room_for_layers() {
    let layers = |tokens| {
        let limits = MaxMemory::new().device(0, Budget::Bytes(4 << 20));
        let config = tinyrust()
            .context(1, tokens)
            .max_memory(limits.device(1, Budget::Bytes(64 << 20)));
        let devices = load(config.device_map("sequential".parse().expect("a map")))
            .report
            .devices;
        [devices[0].layers.len(), devices[1].layers.len()]
    };
    let [short, long] = [16, 256].map(layers);
    assert_eq!(short.iter().sum::<usize>(), 4);
    assert_eq!(long.iter().sum::<usize>(), 4);
    assert!(long[0] < short[0], "{short:?}, {long:?}");
}
