//! Values that no checkpoint should have: NaN, infinities, the largest ones of each type. Every format takes them, or is
//! refused by the name of the tensor, and never panics.

#![cfg(feature = "cpu")]

#[path = "common/tiny.rs"]
mod tiny;

use std::{path::Path, sync::Arc};

use firebox::{
    Cpu, Error, LoadConfig, LoadRequest, Loader,
    config::{Pattern, SaveConfig},
    source::{Local, Memory, Source},
};
use half::{bf16, f16};
use safetensors::Dtype;
use tempfile::tempdir;

/// How a value is stored.
type Stored = (Dtype, fn(f32) -> Vec<u8>);

const F32: Stored = (Dtype::F32, |value| value.to_le_bytes().to_vec());
const F16: Stored = (Dtype::F16, |value| {
    f16::from_f32(value).to_le_bytes().to_vec()
});
const BF16: Stored = (Dtype::BF16, |value| {
    bf16::from_f32(value).to_le_bytes().to_vec()
});

/// A matrix of small values but for some, and one without.
fn source(stored: Stored, special: &[f32]) -> Arc<Memory> {
    let mut values = tiny::values(4 * 256, 1);
    values[300..300 + special.len()].copy_from_slice(special);
    let good = tiny::values(4 * 256, 2);
    let entries = [
        ("bad.weight", vec![4, 256], values),
        ("good.weight", vec![4, 256], good),
    ];
    Arc::new(tiny::stored(&entries, stored.0, stored.1))
}

fn config(source: Arc<dyn Source>, quant: &str) -> LoadRequest {
    let config = LoadConfig::default().quant(quant.parse().expect("a spec"));
    config.source(source)
}

fn save(config: impl Into<LoadRequest>, to: &SaveConfig) -> Result<(), Error> {
    let all: Pattern = "*".parse().expect("a pattern");
    Loader::<Cpu>::new(config)?
        .save_tensors(&[all], to)
        .map(drop)
}

const NESTED: [&str; 3] = ["nf4:nested", "fp4:nested", "nf4:block=128,nested"];

const OTHERS: [&str; 20] = [
    "none",
    "nf4",
    "fp4",
    "int8",
    "fp8:e4m3,scale=tensor",
    "fp8:e4m3,scale=channel",
    "fp8:e4m3,scale=block",
    "fp8:e4m3,scale=block,ue8m0",
    "fp8:e4m3,scale=block,recipe=compressed-tensors",
    "mlx:bits=2,group=32",
    "mlx:bits=8,group=64",
    "hqq:bits=1,group=64,axis=0",
    "hqq:bits=4,group=64",
    "hqq:bits=8,group=line",
    "wna16:bits=4,group=128",
    "wna16:bits=2,scale=tensor,asymmetric",
    "wna16:bits=8,scale=channel",
    "mxfp4",
    "mxfp8",
    "nvfp4",
];

/// What is not finite, and what is finite and overflows where it is added or multiplied.
const SPECIAL: [(Stored, &[f32]); 7] = [
    (F16, &[f32::NAN]),
    (BF16, &[f32::INFINITY]),
    (BF16, &[f32::NAN, f32::NEG_INFINITY, f32::INFINITY]),
    (F32, &[f32::MAX, f32::MIN]),
    (BF16, &[3e38, -3e38]),
    (F16, &[65504.0, -65504.0]),
    (F32, &[1e-45, -1e-38]),
];

/// Saved and converted to the values again; formats that a file type does not hold are refused by their names before.
#[test]
fn every_format_takes_or_refuses_them() {
    for quant in OTHERS {
        for (stored, special) in SPECIAL {
            let what = format!("{quant} {:?} {special:?}", stored.0);
            let [packed, plain] = [(); 2].map(|()| tempdir().expect("a folder"));
            let saved = save(
                config(source(stored, special), quant),
                &SaveConfig::new(packed.path()),
            );
            let read = |folder: &Path| {
                let local = Local::open(folder).expect("a checkpoint");
                config(Arc::new(local), "none").with(|config| config.dequantize(true))
            };
            let both =
                saved.and_then(|()| save(read(packed.path()), &SaveConfig::new(plain.path())));
            if let Err(error) = both {
                assert!(error.to_string().contains("bad.weight"), "{what}: {error}");
            }
        }
    }
}

/// One value that is lost must not lose all others of its weight in silence: saved, converted, loaded, streamed, kept.
#[test]
fn nested_scales_refuse_them_by_name() {
    let lost: [(Stored, &[f32]); 6] = [
        (F32, &[f32::NAN]),
        (F16, &[f32::INFINITY]),
        (BF16, &[f32::NEG_INFINITY]),
        // Scales of two blocks whose sum is not finite.
        (F32, &[3e38; 129]),
        (BF16, &[-3e38; 129]),
        (BF16, &[f32::NAN, 3e38, f32::INFINITY]),
    ];
    let named = |result: Result<(), Error>, what: &str| {
        let error = result.expect_err(what).to_string();
        for part in ["bad.weight", "the mean of its scales is", "plain scales"] {
            assert!(error.contains(part), "{what}: {error}");
        }
        // To go on would end in the same way.
        assert!(!error.contains("--resume"), "{what}: {error}");
    };
    for (stored, special) in lost {
        for quant in NESTED {
            let what = format!("{quant} {:?} {:?}", stored.0, &special[..1]);
            let folder = tempdir().expect("a folder");
            let to = SaveConfig::new(folder.path());
            let request = || config(source(stored, special), quant);
            named(save(request(), &to), &what);
            // And again: what is wrong with the weight stays wrong.
            named(save(request(), &to.clone().resume(true)), &what);
            assert!(!folder.path().join("config.json").exists());
        }
        // Plain scales take them, and cannot be nested afterwards.
        let [plain, nested] = [(); 2].map(|()| tempdir().expect("a folder"));
        let request = config(source(stored, special), "nf4");
        save(request, &SaveConfig::new(plain.path())).expect("is held");
        let request = config(
            Arc::new(Local::open(plain.path()).expect("a checkpoint")),
            "none",
        );
        named(
            save(request, &SaveConfig::new(nested.path()).nested(true)),
            "convert",
        );
    }

    // The largest value alone is finite, and so is the mean.
    let folder = tempdir().expect("a folder");
    let request = config(source(F32, &[3e38]), "nf4:nested");
    save(request, &SaveConfig::new(folder.path())).expect("is held");
}

/// The same of a module.
#[test]
fn a_load_with_nested_scales_refuses_them_too() {
    let mut entries = tiny::tiny_entries();
    entries[2].2[5] = f32::NAN;
    let load = |change: &dyn Fn(LoadConfig) -> LoadConfig| {
        let request = config(Arc::new(tiny::checkpoint(&entries)), "nf4:nested").with(change);
        Loader::<Cpu>::new(request)?.load::<tiny::Tiny>().map(drop)
    };
    let cache = tempdir().expect("a folder");
    let streaming = |config: LoadConfig| config.strategy(firebox::Strategy::Streaming);
    let kept = |config: LoadConfig| config.cache_packed(cache.path());
    let parallel = |config: LoadConfig| config;
    for change in [
        &streaming as &dyn Fn(LoadConfig) -> LoadConfig,
        &kept,
        &kept,
        &parallel,
    ] {
        let error = load(change)
            .expect_err("all of a weight is lost")
            .to_string();
        assert!(
            error.contains("down.weight: the mean of its scales is NaN"),
            "{error}"
        );
    }
    let skipped = |config: LoadConfig| config.skip("down".parse().expect("a pattern"));
    load(&skipped).expect("is dense where nobody packs it");
}
