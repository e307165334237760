//! Several ranks under `mpirun`, for builds with the feature `mpi`.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use safetensors::SafeTensors;
use tempfile::{TempDir, tempdir};

use crate::{
    common::repository,
    run::{Ran, TINYRUST, run},
};

/// The program on so many ranks.
fn mpirun(ranks: usize, arguments: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    command
        .current_dir(repository())
        .args(["--oversubscribe", "--bind-to", "none", "-n"])
        .arg(ranks.to_string())
        .arg(env!("CARGO_BIN_EXE_firebox"))
        .args(arguments)
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env_remove("RUST_LOG");
    command
}

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempdir().expect("a folder"));
        let text = repository().join("assets/tinyrust-sample.txt");
        let text = fs::read_to_string(text).expect("a text");
        let at = |place: usize| text.floor_char_boundary(place);
        bench.write("train.txt", &text[..at(4000)]);
        bench.write("eval.txt", &text[at(4000)..at(4300)]);
        bench
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).expect("written");
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// A run of `steps` steps into the folder `out`, with so many rows a rank.
    fn finetune(&self, ranks: usize, rows: usize, out: &str, steps: u64, more: &[&str]) -> Command {
        let (data, eval) = (self.path("train.txt"), self.path("eval.txt"));
        let (out, rows, steps) = (self.path(out), rows.to_string(), steps.to_string());
        let words = "--quant nf4 --adapter lora:rank=2,alpha=8,targets=*.{q,v}_proj,dropout=0.1 --length 16 --accumulation 2 \
                     --learning-rate 3e-3 --seed 5 --checkpoint-every 2 --eval-every 3";
        let files = ["--data", &data, "--eval", &eval, "--out", &out];
        let numbers = ["--batch", &rows, "--steps", &steps];
        let mut all = vec!["finetune", TINYRUST];
        all.extend(words.split_whitespace());
        all.extend(files.iter().chain(&numbers).chain(more));
        mpirun(ranks, &all)
    }

    /// The factors of the adapter.
    fn factors(&self, out: &str) -> Vec<f32> {
        let file = Path::new(&self.path(out)).join("adapter/adapter_model.safetensors");
        let file = fs::read(file).expect("an adapter");
        let tensors = SafeTensors::deserialize(&file).expect("an adapter");
        let mut tensors = tensors.tensors();
        tensors.sort_by(|(one, _), (other, _)| one.cmp(other));
        let bytes = tensors.iter().flat_map(|(_, view)| view.data().to_vec());
        let bytes: Vec<u8> = bytes.collect();
        let (values, _) = bytes.as_chunks();
        let values = values.iter().map(|value| f32::from_le_bytes(*value));
        values.collect()
    }

    /// A run that has begun to train, in the background.
    fn begun(&self, out: &str, steps: u64) -> Child {
        let mut command = self.finetune(2, 1, out, steps, &["--json"]);
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = piped.spawn().expect("mpirun of Open MPI");
        let metrics = Path::new(&self.path(out)).join("metrics.jsonl");
        while fs::metadata(&metrics).map_or(0, |file| file.len()) == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        child
    }
}

/// Sends a signal to one rank of a launcher.
fn signal(launcher: &Child, rank: usize, signal: &str) {
    let parent = launcher.id().to_string();
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let mut processes = processes.map(|entry| entry.path());
    let process = processes.find(|process| {
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        after.split(' ').nth(1) == Some(&parent)
            && variables.any(|variable| variable == wanted.as_bytes())
    });
    let process = process.expect("a process of that rank");
    let process = process.file_name().expect("a number").to_owned();
    let kill = Command::new("kill").arg(signal).arg(process).status();
    assert!(kill.expect("a system with kill").success());
}

/// Would catch a run that each rank has for itself, gradients that are not those of all rows, and output that comes twice.
#[test]
fn two_ranks_train_as_one_with_twice_the_rows() {
    let bench = Bench::new();
    let one = run(&mut bench.finetune(1, 2, "one", 4, &["--json"]));
    assert_eq!(one.code, Some(0), "{one:?}");
    let two = run(&mut bench.finetune(2, 1, "two", 4, &["--json"]));
    assert_eq!(two.code, Some(0), "{two:?}");
    let report: serde_json::Value = serde_json::from_str(&two.stdout).expect("one JSON value");
    assert_eq!(report["steps"], 4);
    let [one, two] = ["one", "two"].map(|out| bench.factors(out));
    assert!(one.iter().any(|value| value.abs() > 1e-3));
    for (one, two) in one.iter().zip(&two) {
        assert!((one - two).abs() < 1e-5, "{one} {two}");
    }
}

/// Would catch a rank that goes on without the other, and a checkpoint that is not there yet when the launcher ends the rest.
#[test]
fn a_signal_to_one_rank_saves_and_ends_all() {
    let bench = Bench::new();
    let whole = run(&mut bench.finetune(2, 1, "whole", 6, &[]));
    assert_eq!(whole.code, Some(0), "{whole:?}");
    let child = bench.begun("cut", 6);
    signal(&child, 1, "-INT");
    let ended = child.wait_with_output().expect("a child of ours");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains("--resume goes on"), "{said}");
    let resumed = run(&mut bench.finetune(2, 1, "cut", 6, &["--resume"]));
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert!(bench.factors("cut") == bench.factors("whole"));
}

/// Would catch a rank that waits for one that is dead, or that the launcher ends before it has said a word.
#[test]
fn a_rank_that_is_killed_is_an_error_of_the_other() {
    let bench = Bench::new();
    let child = bench.begun("out", 1000);
    let begun = Instant::now();
    signal(&child, 1, "-KILL");
    let ended = child.wait_with_output().expect("a child of ours");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains("rank 1 has ended"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// Would catch runs of different settings that are averaged, and errors that the launcher swallows.
#[test]
fn ranks_that_differ_are_told_by_all() {
    let bench = Bench::new();
    let mut both = bench.finetune(1, 1, "out", 4, &["--clip", "0.5"]);
    let other = bench.finetune(1, 1, "out", 4, &["--clip", "0.6"]);
    let rank = other.get_args().skip_while(|argument| *argument != "-n");
    both.arg(":").args(rank);
    let Ran { code, stderr, .. } = run(&mut both);
    assert!(code.is_some_and(|code| code != 0), "{stderr}");
    for rank in 0..2 {
        let said = format!("error: rank {rank}: rank 1 has another run than rank 0");
        assert!(stderr.contains(&said), "{stderr}");
    }
    assert!(stderr.contains("clip"), "{stderr}");
    assert!(!Path::new(&bench.path("out")).exists());
}
