//! Faults at random, over every command that writes: killed, without room on the disk, three processes at once. Whatever
//! happened, the same command again ends with the files of a run without faults, to the byte.
//!
//! A few rounds of each run with all tests. `FIREBOX_ROUNDS=200 cargo test --test cli faults -- --nocapture` runs more, and
//! prints what happened in them; `FIREBOX_SEED` makes other rounds of it, and `FIREBOX_PROGRAM` names another program.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::{
    files::assert_same,
    killed::{Random, model, output, start},
};

/// One thing that the program writes.
struct Work {
    name: &'static str,
    arguments: Vec<String>,
    /// The option that names the folder.
    out: &'static str,
    /// Whether it is a save, which has to be told to resume and is refused where another writes.
    saves: bool,
    /// The files of a run without faults, and how long that took.
    files: BTreeMap<String, Vec<u8>>,
    took: Duration,
}

impl Work {
    fn new(name: &'static str, words: &[&str], scratch: &Path) -> Self {
        let saves = words[0] != "load";
        let mut work = Self {
            name,
            arguments: words.iter().map(|word| (*word).to_owned()).collect(),
            out: if saves { "--out" } else { "--cache-packed" },
            saves,
            files: BTreeMap::new(),
            took: Duration::ZERO,
        };
        let out = scratch.join(name.replace(' ', "-"));
        let begun = Instant::now();
        let ran = output(&mut work.command(&out, false));
        work.took = begun.elapsed();
        let error = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{name}: {error}");
        work.files = tree(&out);
        work
    }

    fn command(&self, out: &Path, resume: bool) -> Command {
        let built = env!("CARGO_BIN_EXE_firebox").into();
        let mut command = Command::new(env::var_os("FIREBOX_PROGRAM").unwrap_or(built));
        command.args(&self.arguments).arg(self.out).arg(out);
        command.arg("--json").env_remove("RUST_LOG");
        if resume && self.saves {
            command.arg("--resume");
        }
        command
    }

    fn bytes(&self) -> u64 {
        self.files.values().map(|bytes| bytes.len() as u64).sum()
    }

    /// Runs to the end and compares; and then once more, when nothing is left to do.
    fn ends_well(&self, out: &Path, round: usize) {
        for again in [false, true] {
            let ran = output(&mut self.command(out, true));
            let error = String::from_utf8_lossy(&ran.stderr);
            assert!(
                ran.status.success(),
                "{}, round {round}: {error}",
                self.name
            );
            assert_same(&tree(out), &self.files);
            if self.saves && again {
                let answer: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
                assert_eq!(answer["made"], 0, "{}, round {round}", self.name);
            }
        }
    }
}

/// Every command that writes weights: to several files and to one, packed and dense, and a cache.
fn works(model: &Path, scratch: &Path) -> Vec<Work> {
    let model = model.to_str().expect("UTF-8");
    let packed = scratch.join("quantize-to-shards");
    let packed = packed.to_str().expect("UTF-8");
    let shards = ["--shard-size", "1500kB"];
    let [size, shard] = shards;
    vec![
        Work::new(
            "quantize to shards",
            &["quantize", model, "--quant", "nf4", size, shard],
            scratch,
        ),
        Work::new(
            "quantize",
            &["quantize", model, "--quant", "mlx:bits=3"],
            scratch,
        ),
        Work::new(
            "convert",
            &["convert", packed, "--scales", "nested", size, shard],
            scratch,
        ),
        Work::new("dequantize", &["convert", packed, "--dequantize"], scratch),
        Work::new("cache", &["load", model, "--quant", "fp4:nested"], scratch),
    ]
}

/// Names below a folder, and the bytes of every file.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).expect("is below it");
            let bytes = fs::read(&path).expect("a file");
            files.insert(name.to_string_lossy().into_owned(), bytes);
        }
    }
    files
}

struct Rounds {
    count: usize,
    random: Random,
    /// The model and the results, for as long as they are needed.
    folders: [TempDir; 2],
    works: Vec<Work>,
}

/// `few` rounds, or as many as the environment says.
fn rounds(few: usize) -> Rounds {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let (model, scratch) = (model(), tempdir().expect("a folder"));
    Rounds {
        count: number("FIREBOX_ROUNDS").map_or(few, |count: u64| count as usize),
        random: Random(number("FIREBOX_SEED").unwrap_or(0x5eed)),
        works: works(model.path(), scratch.path()),
        folders: [model, scratch],
    }
}

#[allow(
    clippy::print_stderr,
    reason = "what happened in many rounds is for people"
)]
fn say(what: &str) {
    eprintln!("{what}");
}

/// SIGKILL at any time, up to three times in a row.
#[test]
fn killed_and_run_again() {
    let Rounds {
        count,
        mut random,
        folders: [_model, scratch],
        works,
    } = rounds(5);
    let (mut kills, mut late) = (0, 0);
    for round in 0..count {
        let work = &works[round % works.len()];
        let out = scratch.path().join("out");
        for run in 0..=random.below(3) {
            let mut child = start(&mut work.command(&out, run > 0));
            let wait = random.below(work.took.as_nanos() as u64);
            thread::sleep(Duration::from_nanos(wait));
            child.kill().expect("a child of ours");
            let status = child.wait().expect("a child of ours");
            // Refused where an earlier one had ended.
            late += usize::from(status.code().is_some());
            kills += usize::from(status.code().is_none());
        }
        work.ends_well(&out, round);
        fs::remove_dir_all(&out).expect("removed");
    }
    say(&format!(
        "{count} rounds, {kills} kills, {late} came after the end"
    ));
}

/// A disk that is too small, and then is not.
#[cfg(target_os = "linux")]
#[test]
fn without_room_and_run_again() {
    let Rounds {
        count,
        mut random,
        folders: [_model, scratch],
        works,
    } = rounds(2);
    let script = r#"
        disk=$1 size=$2 result=$3 resume=$4; shift 4
        mount -t tmpfs -o size="$size" none "$disk" || exit 77
        "$@"; echo "code $?"
        mount -o remount,size=256m none "$disk"
        "$@" $resume >/dev/null || exit 3
        cp -r "$disk/out" "$result"
    "#;
    let [disk, result] = ["disk", "result"].map(|name| scratch.path().join(name));
    fs::create_dir(&disk).expect("made");
    for round in 0..count {
        let work = &works[(round * 2) % works.len()];
        let size = random.below(work.bytes() * 9 / 10).max(4096);
        let inner = work.command(&disk.join("out"), false);
        let mut command = crate::run::with_own_mounts(script);
        command.args([&disk, Path::new(&size.to_string()), &result]);
        command.arg(if work.saves { "--resume" } else { "" });
        command.arg(inner.get_program()).args(inner.get_args());
        let ran = match command.env_remove("RUST_LOG").output() {
            Ok(ran) => ran,
            Err(error) => return say(&format!("no disk of one's own here: {error}")),
        };
        let [said, error] = [&ran.stdout, &ran.stderr].map(|text| String::from_utf8_lossy(text));
        if ran.status.code() == Some(77) || error.contains("unshare:") {
            return say(&format!("no disk of one's own here: {error}"));
        }
        let what = format!("{}, round {round}, {size} bytes: {error}", work.name);
        assert!(ran.status.success(), "{what}");
        assert!(said.contains("code 1"), "{said}, {what}");
        assert!(error.contains("os error 28"), "{what}");
        assert_same(&tree(&result), &work.files);
        fs::remove_dir_all(&result).expect("removed");
    }
    say(&format!("{count} rounds on a full disk"));
}

/// Three at once into one folder, the first of them killed in some rounds: nobody disturbs the one that writes.
#[test]
fn three_at_once_and_run_again() {
    let Rounds {
        count,
        mut random,
        folders: [_model, scratch],
        works,
    } = rounds(5);
    let (mut wrote, mut refused, mut kills) = (0, 0, 0);
    for round in 0..count {
        let work = &works[round % works.len()];
        let out = scratch.path().join("out");
        let resume = random.below(2) == 1;
        let children: Vec<_> = (0..3)
            .map(|_| {
                thread::sleep(Duration::from_nanos(
                    random.below(work.took.as_nanos() as u64 / 4),
                ));
                let mut command = work.command(&out, resume);
                let quiet = command.stdout(std::process::Stdio::null());
                let piped = quiet.stderr(std::process::Stdio::piped());
                piped.spawn().expect("the program was built for the tests")
            })
            .collect();
        let kills_one = random.below(3) == 0;
        for (nth, mut child) in children.into_iter().enumerate() {
            if nth == 0 && kills_one {
                thread::sleep(Duration::from_nanos(
                    random.below(work.took.as_nanos() as u64),
                ));
                child.kill().expect("a child of ours");
            }
            let ended = child.wait_with_output().expect("a child of ours");
            let error = String::from_utf8_lossy(&ended.stderr);
            let what = format!("{}, round {round}, process {nth}: {error}", work.name);
            match ended.status.code() {
                Some(0) => wrote += 1,
                Some(1) => {
                    let says = [
                        "is being written by another",
                        "was interrupted",
                        "is not empty",
                    ];
                    assert!(
                        work.saves && says.iter().any(|part| error.contains(part)),
                        "{what}"
                    );
                    refused += 1;
                }
                None if nth == 0 && kills_one => kills += 1,
                _ => panic!("{what}"),
            }
        }
        work.ends_well(&out, round);
        fs::remove_dir_all(&out).expect("removed");
    }
    let processes = format!("{wrote} ended well, {refused} were refused, {kills} were killed");
    say(&format!("{count} rounds of three processes: {processes}"));
}
