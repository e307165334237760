//! Synthetic checkpoints: the same bytes each time, real shapes, the distribution that is promised.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use firebox::synth::{self, Like, Options, SynthError, SynthSummary};
use half::bf16;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

/// Name, bytes.
type Files = BTreeMap<String, Vec<u8>>;

/// Name, shape, bits.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<bf16>)>;

fn tiny(size_bytes: u64, out: &Path) -> Options {
    Options::new(Like::TinyRust, size_bytes, out)
}

fn write(options: &Options) -> SynthSummary {
    synth::write(options, &mut |_, _| {}).unwrap()
}

fn files(folder: &Path) -> Files {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// Every tensor of every shard, read by the safetensors crate.
fn tensors(files: &Files) -> Tensors {
    let mut all = Tensors::new();
    for (name, bytes) in files {
        if !name.ends_with(".safetensors") {
            continue;
        }
        for (name, view) in SafeTensors::deserialize(bytes).unwrap().tensors() {
            assert_eq!(view.dtype(), Dtype::BF16);
            let bits = view
                .data()
                .chunks_exact(2)
                .map(|pair| bf16::from_le_bytes([pair[0], pair[1]]))
                .collect();
            let twice = all.insert(name, (view.shape().to_vec(), bits));
            assert!(twice.is_none());
        }
    }
    all
}

fn json(files: &Files, name: &str) -> Value {
    serde_json::from_slice(&files[name]).unwrap()
}

/// The full model, written once for all tests.
struct Full {
    summary: SynthSummary,
    files: Files,
    tensors: Tensors,
}

static FULL: LazyLock<Full> = LazyLock::new(|| {
    let folder = TempDir::new().unwrap();
    let summary = write(&tiny(u64::MAX, folder.path()));
    let files = files(folder.path());
    let tensors = tensors(&files);
    Full {
        summary,
        files,
        tensors,
    }
});

/// A clock, an address or an order of threads in the numbers would show here.
#[test]
fn two_runs_give_the_same_bytes() {
    let again = TempDir::new().unwrap();
    write(&tiny(u64::MAX, again.path()));
    assert!(FULL.files == files(again.path()));

    let one_thread = TempDir::new().unwrap();
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap()
        .install(|| write(&tiny(u64::MAX, one_thread.path())));
    assert!(FULL.files == files(one_thread.path()));
}

/// Values of a separate program in another language, written from the formulas in the docs alone. A change of the generator
/// ends the comparison of benchmarks over time.
#[test]
fn the_numbers_are_pinned() {
    let tensors = &FULL.tensors;
    let bits = |name: &str, at: usize| -> [u16; 6] {
        let (_, values) = &tensors[name];
        std::array::from_fn(|i| values[at + i].to_bits())
    };
    assert_eq!(bits("model.embed_tokens.weight", 0), PINNED[0]);
    assert_eq!(
        bits("model.layers.3.mlp.down_proj.weight", 704 * 100 + 379),
        PINNED[1]
    );
    assert_eq!(bits("model.norm.weight", 250), PINNED[2]);
}

/// bf16, as bits. The fourth of the second line is in an outlier column.
const PINNED: [[u16; 6]; 3] = [
    [0x3C1C, 0x3CC1, 0x3C1A, 0xBCE5, 0x3C39, 0x3CB9],
    [0x3C84, 0x3CE4, 0xBB83, 0xBEAB, 0x3B06, 0xBA0A],
    [0x3F83, 0x3F95, 0x3F8C, 0x3F75, 0x3F7F, 0x3F87],
];

/// A value that depended on its place in a file would change with the shards.
#[test]
fn shards_of_another_size_have_the_same_values() {
    assert_eq!(FULL.summary.shards, 1);
    for shard_bytes in [1, 300_000, 1_000_000] {
        let folder = TempDir::new().unwrap();
        let summary = write(&Options {
            shard_bytes,
            ..tiny(u64::MAX, folder.path())
        });
        let files = files(folder.path());
        assert!(summary.shards > 1);
        assert!(tensors(&files) == FULL.tensors);
        for (name, bytes) in &files {
            let alone = || SafeTensors::deserialize(bytes).unwrap().len() == 1;
            assert!(
                !name.ends_with(".safetensors") || bytes.len() as u64 <= shard_bytes || alone(),
                "{name}: {} bytes",
                bytes.len()
            );
        }
    }
}

#[test]
fn another_seed_gives_other_values() {
    let folder = TempDir::new().unwrap();
    write(&Options {
        seed: 1,
        ..tiny(u64::MAX, folder.path())
    });
    let second = tensors(&files(folder.path()));
    let first = &FULL.tensors;
    assert!(first.keys().eq(second.keys()));
    for (name, values) in first {
        assert!(*values != second[name], "{name}");
    }
}

/// The index names each tensor's file, and no file that is not there; the sums are those of the files.
#[test]
fn the_index_agrees_with_the_shards() {
    let folder = TempDir::new().unwrap();
    let summary = write(&Options {
        shard_bytes: 1_500_000,
        ..tiny(u64::MAX, folder.path())
    });
    let files = files(folder.path());
    let index = json(&files, "model.safetensors.index.json");
    let map = index["weight_map"].as_object().unwrap();
    let mut found = 0;
    for (name, bytes) in files
        .iter()
        .filter(|(name, _)| name.ends_with(".safetensors"))
    {
        for tensor in SafeTensors::deserialize(bytes).unwrap().names() {
            assert_eq!(map[tensor], name.as_str(), "{tensor}");
            found += 1;
        }
    }
    assert_eq!(found, map.len());
    assert_eq!(found, summary.tensors);
    let elements: usize = tensors(&files).values().map(|(_, bits)| bits.len()).sum();
    assert_eq!(summary.parameters, elements as u64);
    assert_eq!(index["metadata"]["total_size"], summary.tensor_bytes);
    assert_eq!(index["metadata"]["total_parameters"], summary.parameters);
    assert_eq!(summary.tensor_bytes, 2 * summary.parameters);
    let bytes: usize = files.values().map(Vec::len).sum();
    assert_eq!(summary.total_bytes, bytes as u64);
    let mut names: Vec<&str> = files.keys().map(String::as_str).collect();
    names.retain(|name| !name.ends_with(".safetensors"));
    assert_eq!(
        names,
        [
            "config.json",
            "generation_config.json",
            "model.safetensors.index.json"
        ]
    );
    for nth in 1..=summary.shards {
        let name = format!("model-{nth:05}-of-{:05}.safetensors", summary.shards);
        assert!(files.contains_key(&name), "{name}");
    }
}

/// The full model has the names and shapes of a real checkpoint of the same configuration, and a
/// configuration with the same numbers.
#[test]
fn the_full_model_is_shaped_like_the_real_one() {
    let real_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tinyrust");
    let real_files = files(&real_folder);
    let real = tensors(&real_files);
    let synthetic = &FULL.tensors;
    assert_eq!(FULL.summary.tensors, 38);
    assert!(real.keys().eq(synthetic.keys()));
    for (name, (shape, _)) in &real {
        assert_eq!(&synthetic[name].0, shape, "{name}");
    }
    let real = json(&real_files, "config.json");
    let synthetic = json(&FULL.files, "config.json");
    for (key, value) in real.as_object().unwrap() {
        if key != "pad_token_id" && key != "transformers_version" {
            assert_eq!(&synthetic[key], value, "{key}");
        }
    }
}

/// Layers in whole, vocabulary in proportion, and never a byte more than asked for.
#[test]
fn a_smaller_model_has_fewer_layers_and_words() {
    let whole = &FULL.summary;
    assert_eq!((whole.layers, whole.vocab), (4, 2048));
    // One byte too few for the full model.
    for (size, layers, vocab) in [
        (whole.total_bytes, 4, 2048),
        (whole.total_bytes - 1, 3, 1536),
        (4 << 20, 2, 1024),
        (2 << 20, 1, 512),
    ] {
        let folder = TempDir::new().unwrap();
        let summary = write(&tiny(size, folder.path()));
        assert_eq!((summary.layers, summary.vocab), (layers, vocab), "{size}");
        assert!(summary.total_bytes <= size, "{summary:?}");
        let files = files(folder.path());
        let bytes: usize = files.values().map(Vec::len).sum();
        assert_eq!(bytes as u64, summary.total_bytes);
        let config = json(&files, "config.json");
        assert_eq!(config["num_hidden_layers"], layers);
        assert_eq!(config["vocab_size"], vocab);
        let tensors = tensors(&files);
        assert_eq!(
            tensors["model.embed_tokens.weight"].0,
            [vocab as usize, 256]
        );
    }
    let folder = TempDir::new().unwrap();
    match synth::write(&tiny(1_000_000, folder.path()), &mut |_, _| {}) {
        Err(SynthError::TooSmall { asked, least, .. }) => {
            assert_eq!(asked, 1_000_000);
            // What it says would do, does.
            write(&tiny(least, folder.path()));
        }
        other => panic!("{other:?}"),
    }
}

/// Mean, standard deviation and fourth moment of some values.
fn moments(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let values: Vec<f64> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let central = |power| values.iter().map(|x| (x - mean).powi(power)).sum::<f64>() / n;
    let variance = central(2);
    (mean, variance.sqrt(), central(4) / (variance * variance))
}

/// Columns whose root mean square is more than five times the median of all.
fn outlier_columns(columns: usize, values: &[bf16]) -> Vec<usize> {
    let mut squares = vec![0.0; columns];
    for row in values.chunks_exact(columns) {
        for (sum, value) in squares.iter_mut().zip(row) {
            *sum += f64::from(value.to_f32()).powi(2);
        }
    }
    let mut sorted = squares.clone();
    sorted.sort_by(f64::total_cmp);
    let limit = 25.0 * sorted[columns / 2];
    (0..columns)
        .filter(|&column| squares[column] > limit)
        .collect()
}

/// Quantizers are compared on these numbers: a distribution with another width, without outliers or
/// with short tails would flatter some of them. Tolerances are four
/// standard errors.
#[test]
fn matrices_are_normal_with_outlier_columns() {
    let mut matrices = 0;
    let mut seen: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (name, (shape, values)) in &FULL.tensors {
        if !name.contains("_proj") {
            continue;
        }
        matrices += 1;
        let columns = shape[1];
        let outliers = outlier_columns(columns, values);
        assert_eq!(outliers.len(), columns.div_ceil(512), "{name}");
        // The same columns in every matrix with so many inputs.
        assert_eq!(
            seen.entry(columns).or_insert_with(|| outliers.clone()),
            &outliers,
            "{name}"
        );

        let expected = 1.0 / (columns as f64).sqrt();
        let ordinary = values.iter().enumerate().filter_map(|(at, value)| {
            (!outliers.contains(&(at % columns))).then_some(f64::from(value.to_f32()))
        });
        let (mean, std, kurtosis) = moments(ordinary);
        let n = values.len() as f64;
        assert!(
            mean.abs() < 4.0 * expected / n.sqrt(),
            "{name}: mean {mean}"
        );
        assert!(
            (std / expected - 1.0).abs() < 4.0 / (2.0 * n).sqrt(),
            "{name}: {std} for {expected}"
        );
        assert!(
            (kurtosis - 3.0).abs() < 4.0 * (24.0 / n).sqrt(),
            "{name}: {kurtosis}"
        );

        for outlier in outliers {
            let column = values.iter().skip(outlier).step_by(columns);
            let (_, std, _) = moments(column.map(|value| f64::from(value.to_f32())));
            let factor = std / expected;
            // 128 rows at least: the width of a column is known to 6%, four times.
            assert!(
                (10.0 * 0.75..20.0 * 1.25).contains(&factor),
                "{name}: {factor}"
            );
        }
    }
    assert_eq!(matrices, 28);
}

/// Norms near 1 keep activations finite; embeddings have the width of `initializer_range`.
#[test]
fn norms_are_near_one_and_embeddings_narrow() {
    let tensors = &FULL.tensors;
    let of = |name: &str| {
        moments(
            tensors[name]
                .1
                .iter()
                .map(|value| f64::from(value.to_f32())),
        )
    };
    let (mean, std, _) = of("model.embed_tokens.weight");
    assert!(
        mean.abs() < 1e-4 && (std / 0.02 - 1.0).abs() < 0.01,
        "{mean} {std}"
    );
    for (name, (_, values)) in tensors.iter().filter(|(name, _)| name.contains("norm")) {
        let (mean, std, _) = of(name);
        assert!((mean - 1.0).abs() < 4.0 * 0.05 / 16.0, "{name}: {mean}");
        assert!((std / 0.05 - 1.0).abs() < 0.2, "{name}: {std}");
        assert!(values.iter().all(|value| value.to_f32() > 0.5));
    }
}

/// Two tensors with the same numbers would compress, cache and quantize like one.
#[test]
fn tensors_and_neighbours_are_independent() {
    let tensors = &FULL.tensors;
    let gate = &tensors["model.layers.0.mlp.gate_proj.weight"].1;
    for (other, shift) in [
        ("model.layers.0.mlp.gate_proj.weight", 1),
        ("model.layers.0.mlp.gate_proj.weight", 4),
        ("model.layers.0.mlp.up_proj.weight", 0),
        ("model.layers.1.mlp.gate_proj.weight", 0),
    ] {
        let other_values = &tensors[other].1;
        // Signs agree for half of the pairs; outliers weigh no more than others.
        let pairs = gate.iter().zip(&other_values[shift..]);
        let n = pairs.len() as f64;
        let agree = pairs
            .filter(|(a, b)| a.is_sign_negative() == b.is_sign_negative())
            .count() as f64;
        assert!(
            (agree / n - 0.5).abs() < 2.0 / n.sqrt(),
            "{other} +{shift}: {agree} of {n}"
        );
    }
}

/// Progress goes up and ends at the end.
#[test]
fn progress_ends_with_everything_done() {
    let folder = TempDir::new().unwrap();
    let mut calls = Vec::new();
    let summary = synth::write(&tiny(u64::MAX, folder.path()), &mut |done, total| {
        calls.push((done, total));
    })
    .unwrap();
    assert!(calls.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(calls.iter().all(|(_, total)| *total == summary.total_bytes));
    assert_eq!(
        calls.last(),
        Some(&(summary.total_bytes, summary.total_bytes))
    );
}

/// A checkpoint that someone still needs, or half of an old one under a new index.
#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    match synth::write(&tiny(u64::MAX, folder.path()), &mut |_, _| {}) {
        Err(SynthError::NotEmpty { path }) => assert_eq!(path, folder.path()),
        other => panic!("{other:?}"),
    }
    assert_eq!(files(folder.path()).len(), 1);

    let file = folder.path().join("notes.txt");
    let error = synth::write(&tiny(u64::MAX, &file), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, SynthError::Io { .. }), "{error:?}");
    // A folder below that does not exist yet is made.
    write(&tiny(2 << 20, &folder.path().join("new/folder")));
}

/// A misspelt name is answered with those there are.
#[test]
fn names_are_those_asked_for() {
    for like in Like::ALL {
        assert_eq!(like.name().parse::<Like>().unwrap(), like);
        assert_eq!(like.to_string(), like.name());
        let folder = TempDir::new().unwrap();
        let too_small = synth::write(&Options::new(like, 0, folder.path()), &mut |_, _| {});
        assert!(matches!(too_small, Err(SynthError::TooSmall { .. })));
        // Nothing was made before it was known to fit.
        assert!(files(folder.path()).is_empty());
    }
    let error = "llama-9".parse::<Like>().unwrap_err().to_string();
    assert_eq!(
        error,
        "no model is called \"llama-9\"; there are llama-3-8b, llama-3.2-1b, qwen2.5-7b, mistral-7b, qwen3-30b-a3b, tinyrust"
    );
}
