//! The program: killed at random points, without room on the disk, twice at once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::{
    common::repository,
    files::{JOURNAL, assert_same, done, files},
};

const HIDDEN: usize = 384;
const INTERMEDIATE: usize = 1024;
const LAYERS: usize = 6;
const VOCABULARY: usize = 1024;

/// Xorshift: random enough, and the same each time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// A Llama of some 20 MB in four files.
pub(crate) fn model() -> TempDir {
    let folder = tempdir().expect("a folder");
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": 6,
        "num_key_value_heads": 6, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "max_position_embeddings": 256, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
    });
    fs::write(folder.path().join("config.json"), config.to_string()).expect("written");

    let mut tensors = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![VOCABULARY, HIDDEN],
        ),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.v_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let (mut random, mut map) = (Random(7), serde_json::Map::new());
    for (nth, shard) in tensors.chunks(tensors.len().div_ceil(4)).enumerate() {
        let file = format!("model-{:05}-of-00004.safetensors", nth + 1);
        let data: Vec<Vec<u8>> = shard
            .iter()
            .map(|(_, shape)| {
                let numbers = 0..shape.iter().product::<usize>();
                // bf16 from 2^-8 to 2^-1, either sign.
                let bits = numbers.map(|_| {
                    let random = random.next();
                    (0x3b80 + (random % 0x380) as u16) | ((random >> 40) as u16 & 0x8000)
                });
                bits.flat_map(u16::to_le_bytes).collect()
            })
            .collect();
        let views = shard.iter().zip(&data).map(|((name, shape), data)| {
            let view = TensorView::new(Dtype::BF16, shape.clone(), data);
            (name.clone(), view.expect("shape and bytes agree"))
        });
        serialize_to_file(views, None, &folder.path().join(&file)).expect("written");
        map.extend(shard.iter().map(|(name, _)| (name.clone(), json!(file))));
    }
    let index = json!({ "metadata": {}, "weight_map": map });
    let path = folder.path().join("model.safetensors.index.json");
    fs::write(path, index.to_string()).expect("written");
    folder
}

const SHARD: &str = "1500kB";

fn arguments(model: &Path, out: &Path, shard: &str) -> Vec<String> {
    let [model, out] = [model, out].map(|path| path.to_str().expect("UTF-8"));
    let words = [
        "quantize",
        model,
        "--quant",
        "nf4:nested",
        "--shard-size",
        shard,
        "--json",
    ];
    let words = words.into_iter().chain(["--out", out]);
    words.map(str::to_owned).collect()
}

fn command(model: &Path, out: &Path, shard: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firebox"));
    let arguments = arguments(model, out, shard);
    command.args(arguments).env_remove("RUST_LOG");
    command
}

fn program(model: &Path, out: &Path, resume: bool) -> Command {
    let mut command = command(model, out, SHARD);
    if resume {
        command.arg("--resume");
    }
    command
}

pub(crate) fn output(command: &mut Command) -> Output {
    command
        .output()
        .expect("the program was built for the tests")
}

pub(crate) fn start(command: &mut Command) -> Child {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.spawn().expect("the program was built for the tests")
}

/// What a run that has to succeed prints.
fn answer(command: &mut Command) -> Value {
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Bytes of files in a folder that may not be there yet.
fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let lens = entries.filter_map(|entry| Some(entry.metadata().ok()?.len()));
    lens.sum()
}

/// When to kill.
enum Point {
    /// When the folder has this number of bytes.
    Bytes(u64),
    /// So long after the start.
    After(Duration),
}

/// SIGKILL, which nothing can catch. Whether it came before the end.
fn kill_at(mut child: Child, out: &Path, point: &Point) -> bool {
    let started = Instant::now();
    loop {
        let now = match point {
            Point::Bytes(wanted) => bytes(out) >= *wanted,
            Point::After(wait) => started.elapsed() >= *wait,
        };
        if now {
            child.kill().expect("a child of ours");
        }
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return !status.success();
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// Files that have their name, with what tells whether they are written again.
fn complete(out: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;

    let entries = fs::read_dir(out).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
        .map(|path| {
            let meta = path.metadata().expect("a file");
            (path, meta.ino(), meta.mtime(), meta.mtime_nsec())
        })
        .collect()
}

/// Thirty kills, half of them by the bytes that are written and half by time, so that each part of the work is hit as
/// often as it takes; every third save is killed while it resumes, too. Would catch whatever depends on the end of a
/// process: buffers, the order of journal and files, names given too early.
#[test]
fn killed_at_thirty_random_points() {
    let model = model();
    let folder = tempdir().expect("a folder");
    let uninterrupted = folder.path().join("whole");
    let begun = Instant::now();
    let answer_whole = answer(&mut program(model.path(), &uninterrupted, false));
    let took = begun.elapsed();
    let expected = files(&uninterrupted);
    let total = bytes(&uninterrupted);
    assert_eq!(answer_whole["resumed"], 0);
    let weights = answer_whole["report"]["tensors"]
        .as_u64()
        .expect("a number") as usize;
    assert_eq!(weights, 2 + 9 * LAYERS);
    assert!(answer_whole["files"].as_array().expect("files").len() > 3);

    let mut random = Random(0x5eed);
    let mut point = |nth: usize| match nth % 2 {
        0 => Point::Bytes(random.below(total)),
        _ => Point::After(Duration::from_nanos(random.below(took.as_nanos() as u64))),
    };
    let (mut kills, mut rounds, mut taken_over) = (0, 0, 0);
    while kills < 30 {
        let out = folder.path().join(format!("out{rounds}"));
        let runs = if rounds % 3 == 2 { 2 } else { 1 };
        for run in 0..runs {
            let child = start(&mut program(model.path(), &out, run > 0));
            kills += usize::from(kill_at(child, &out, &point(rounds + run)));
        }
        rounds += 1;
        assert!(
            rounds < 90,
            "{kills} kills in {rounds} rounds: the points come too late"
        );

        let finished = out.join("config.json").exists() && !out.join(JOURNAL).exists();
        if !finished {
            let told = done(&out);
            let before = complete(&out);
            let answer = answer(&mut program(model.path(), &out, true));
            // Nothing that was told of is lost, and none of it is read or packed again.
            assert_eq!(answer["resumed"], told.len(), "round {rounds}");
            let tensors = answer["report"]["per_tensor"].as_array().expect("tensors");
            assert_eq!(tensors.len(), weights);
            for (nth, tensor) in tensors.iter().enumerate() {
                assert_eq!(tensor["bytes_read"] == 0, nth < told.len(), "{tensor}");
            }
            let names = tensors
                .iter()
                .map(|tensor| tensor["name"].as_str().expect("a name"));
            assert!(names.zip(&told).all(|(name, told)| name == told));
            for file in before {
                assert!(complete(&out).contains(&file), "{file:?} was written again");
            }
            taken_over += told.len();
        }
        assert_same(&files(&out), &expected);
        fs::remove_dir_all(&out).expect("removed");
    }
    // Else nearly all kills came before the first weight or after the last.
    assert!(
        taken_over > weights * rounds / 10,
        "{taken_over} in {rounds} rounds"
    );
}

/// No file may grow beyond a limit, as on a full disk: the error names the file and the bytes, and with room the save
/// goes on. Needs no rights, other than a small disk.
#[test]
fn without_room_nothing_is_lost() {
    /// All in one file.
    const ONE: &str = "5GB";
    let model = model();
    let folder = tempdir().expect("a folder");
    let [out, whole] = ["out", "whole"].map(|name| folder.path().join(name));
    let limited = |blocks: u64, resume: bool| {
        let mut command = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_firebox")]);
        command
            .args(arguments(model.path(), &out, ONE))
            .env_remove("RUST_LOG");
        if resume {
            command.arg("--resume");
        }
        output(&mut command)
    };
    let mut before = 0;
    // Blocks of 512 bytes or of 1024, as the shell has it: the file fits neither way.
    for (blocks, resume) in [(100, false), (1700, true), (2500, true)] {
        let ran = limited(blocks, resume);
        let error = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{error}");
        assert!(ran.stdout.is_empty());
        for part in [
            "safetensors.partial: there is no room for",
            "more bytes",
            "--resume",
        ] {
            assert!(error.contains(part), "`{error}` lacks `{part}`");
        }
        let told = done(&out).len();
        assert!(error.contains(&format!("{told} of 56 weights")), "{error}");
        assert!(told >= before && !out.join("config.json").exists());
        before = told;
    }
    assert!(before > 0, "nothing fitted");
    let resumed = answer(command(model.path(), &out, ONE).arg("--resume"));
    assert_eq!(resumed["resumed"], before);
    answer(&mut command(model.path(), &whole, ONE));
    assert_same(&files(&out), &files(&whole));
}

/// Fallbacks are found again and come out the same. Weights that `verify` refuses are known to `tests/cli/verify.rs`.
#[test]
fn a_verified_save_goes_on() {
    let folder = tempdir().expect("a folder");
    let [out, whole] = ["out", "whole"].map(|name| folder.path().join(name));
    let model = repository().join("assets/tinyrust");
    let limits = ["--min-sqnr", "20.7", "--fallback", "none"];
    let arguments = |out: &Path| {
        let mut arguments = arguments(&model, out, "5GB");
        arguments.extend(limits.map(str::to_owned));
        arguments
    };
    let run = |out: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firebox"));
        command.args(arguments(out)).env_remove("RUST_LOG");
        command
    };
    let verified = answer(&mut run(&whole));
    let fallbacks = verified["verified"]["tensors"].as_array().expect("tensors");
    let fallbacks = fallbacks
        .iter()
        .filter(|tensor| !tensor["fallback"].is_null());
    assert!(fallbacks.count() > 0, "nothing falls back");
    let mut limited = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 2200; exec \"$0\" \"$@\"";
    limited
        .args(["-c", script, env!("CARGO_BIN_EXE_firebox")])
        .args(arguments(&out));
    assert_eq!(output(&mut limited).status.code(), Some(1));
    let told = done(&out).len();
    assert!(told > 0);
    assert_eq!(answer(run(&out).arg("--resume"))["resumed"], told);
    assert_same(&files(&out), &files(&whole));
}

/// `--cache-packed`: the second run packs nothing, and says the same.
#[test]
fn packed_weights_are_kept_between_runs() {
    let folder = tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firebox"));
        command.args([
            "load",
            "assets/tinyrust",
            "--quant",
            "nf4",
            "--json",
            "--cache-packed",
        ]);
        command.current_dir(repository()).arg(&cache);
        answer(&mut command)
    };
    let (first, second) = (run(), run());
    for report in [&first, &second] {
        // As in `tests/cli/load.rs`.
        assert_eq!(report["bytes_packed"], 1_057_792 + 1_658_880);
        assert_eq!(report["tensors"], 38);
    }
    let entries = fs::read_dir(&cache).expect("a folder");
    assert_eq!(entries.count(), 1);
    // Of the packed weights and plain ones in bf16, not of the 6,951,424 bytes of the source.
    let read = second["bytes_read"].as_u64().expect("a number");
    assert!(read < 3_000_000, "{read}");
}

/// The same on a small disk that is full, where this user may make one. Linux lets most users do so in a namespace of
/// their own; without it the test before this one has to do.
#[cfg(target_os = "linux")]
#[test]
#[allow(
    clippy::print_stderr,
    reason = "says why it shows nothing where it does not"
)]
fn on_a_full_disk_nothing_is_lost() {
    let model = model();
    let folder = tempdir().expect("a folder");
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).expect("made");
    let out = disk.join("out");
    let script = r#"
        disk=$1 result=$2 program=$3; shift 3
        mount -t tmpfs -o size=2m none "$disk" || exit 77
        "$program" "$@"; echo "code $?"
        mount -o remount,size=64m none "$disk"
        "$program" "$@" --resume || exit 3
        cp -r "$disk/out" "$result"
    "#;
    let [result, whole] = ["result", "whole"].map(|name| folder.path().join(name));
    let mut command = crate::run::with_own_mounts(script);
    command
        .args([&disk, &result])
        .arg(env!("CARGO_BIN_EXE_firebox"));
    command
        .args(arguments(model.path(), &out, SHARD))
        .env_remove("RUST_LOG");
    let ran = match command.output() {
        Ok(ran) => ran,
        Err(error) => {
            eprintln!("no disk of one's own here: {error}");
            return;
        }
    };
    let [said, error] = [&ran.stdout, &ran.stderr].map(|text| String::from_utf8_lossy(text));
    if ran.status.code() == Some(77) || error.contains("unshare:") {
        eprintln!("no disk of one's own here: {error}");
        return;
    }
    assert!(ran.status.success(), "{error}");
    assert!(said.starts_with("code 1"), "{said}");
    for part in ["there is no room for", "os error 28", "--resume"] {
        assert!(error.contains(part), "`{error}` lacks `{part}`");
    }
    output(&mut program(model.path(), &whole, false));
    assert_same(&files(&result), &files(&whole));
}

/// The second of two processes is refused while the first one writes, and the first does not notice.
#[test]
fn two_processes_do_not_write_one_folder() {
    let model = model();
    let folder = tempdir().expect("a folder");
    let [out, whole] = ["out", "whole"].map(|name| folder.path().join(name));
    let mut first = start(&mut program(model.path(), &out, false));
    while done(&out).is_empty() {
        assert!(
            first.try_wait().expect("a child").is_none(),
            "is too quick to be watched"
        );
        thread::sleep(Duration::from_micros(200));
    }
    // It stands still, so that the second comes in time.
    let stop = |signal: &str| {
        let id = first.id().to_string();
        Command::new("kill")
            .args([signal, &id])
            .status()
            .expect("a shell's tool");
    };
    stop("-STOP");
    for resume in [false, true] {
        let second = output(&mut program(model.path(), &out, resume));
        let error = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(1), "{error}");
        assert!(
            error.contains("is being written by another process"),
            "{error}"
        );
    }
    stop("-CONT");
    assert!(first.wait().expect("a child").success());
    output(&mut program(model.path(), &whole, false));
    assert_same(&files(&out), &files(&whole));
}
