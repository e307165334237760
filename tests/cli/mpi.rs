//! Several ranks under `mpirun`, for builds with the feature `mpi`.

use std::{
    fs,
    io::Read,
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
    let shares = run(&mut bench.finetune(2, 1, "shares", 4, &["--parallel", "shard"]));
    assert_eq!(shares.code, Some(0), "{shares:?}");
    let [one, two, shares] = ["one", "two", "shares"].map(|out| bench.factors(out));
    assert!(one.iter().any(|value| value.abs() > 1e-3));
    for (one, others) in one.iter().zip(two.iter().zip(&shares)) {
        for other in [others.0, others.1] {
            assert!((one - other).abs() < 1e-5, "{one} {other}");
        }
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
    // mpirun ends as the first rank that does not end with 0, whichever that is.
    assert_eq!(ended.status.code(), Some(130), "{said}");
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

fn logits(file: &str) -> Vec<f32> {
    let file = fs::read(file).expect("logits");
    let tensors = SafeTensors::deserialize(&file).expect("logits");
    let view = tensors.tensor("logits").expect("logits");
    let (values, _) = view.data().as_chunks();
    values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect()
}

/// Would catch ranks that compute alone, and output that comes twice.
#[test]
fn divided_models_compute_what_one_process_does() {
    let bench = Bench::new();
    let golden = crate::common::Golden("llama_bf16_untied").path("");
    let model = golden.to_str().expect("UTF-8");
    let words = ["--tokens=1,5,7,9", "--quant=mlx:bits=4,group=32", "--out"];
    let out = bench.path("one");
    let one = run(&mut crate::run::program(
        &[&["logits", model], &words[..], &[&out]].concat(),
    ));
    assert_eq!(one.code, Some(0), "{one:?}");
    let expected = logits(&out);
    for (mode, ranks) in [("tensor", 2), ("layers", 3), ("shard", 2)] {
        let out = bench.path(mode);
        let parallel = ["logits", model, "--parallel", mode];
        let ran = run(&mut mpirun(
            ranks,
            &[&parallel, &words[..], &[&out]].concat(),
        ));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
        let found = logits(&out);
        let differ = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let most = differ.fold(0.0, f32::max);
        assert!(
            most < if mode == "tensor" {
                1e-4
            } else {
                f32::MIN_POSITIVE
            },
            "{mode}: {most}"
        );
    }
    let words = "generate assets/tinyrust --prompt fn -n 8 --quant int8";
    let words: Vec<&str> = words.split(' ').collect();
    let one = run(&mut crate::run::program(&words));
    let two = run(&mut mpirun(
        2,
        &[&words[..], &["--parallel", "tensor"]].concat(),
    ));
    assert_eq!(two.code, Some(0), "{two:?}");
    assert_eq!(two.stdout, one.stdout);
}

/// Would catch a launcher that ends a rank before it has said why.
#[test]
fn a_rank_that_dies_in_a_product_is_an_error_of_the_other() {
    let words = "generate assets/tinyrust --prompt fn -n 400 --parallel shard";
    let words: Vec<&str> = words.split(' ').collect();
    let mut command = mpirun(2, &words);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mpirun of Open MPI");
    let mut first = [0];
    let stdout = child.stdout.as_mut().expect("it is piped");
    stdout.read_exact(&mut first).expect("a first letter");
    signal(&child, 1, "-KILL");
    let begun = Instant::now();
    let ended = child.wait_with_output().expect("a child of ours");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains("rank 1 has ended"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// Would catch a deadline that messages do not know, of a rank that hangs in a product and of one that never comes.
#[test]
fn ranks_that_hang_or_never_come_are_errors_within_the_deadline() {
    let words = "generate assets/tinyrust --prompt fn -n 400 --parallel shard --rank-deadline 2";
    let words: Vec<&str> = words.split(' ').collect();
    let piped = |command: &mut Command| {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        piped.spawn().expect("mpirun of Open MPI")
    };
    let ended = |child: Child, begun: Instant, part: &str| {
        let ended = child.wait_with_output().expect("a child of ours");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{said}");
        assert!(said.contains("rank 0 of 2 waited 2 s"), "{said}");
        assert!(said.contains(part), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    };
    let mut child = piped(&mut mpirun(2, &words));
    let mut first = [0];
    let stdout = child.stdout.as_mut().expect("it is piped");
    stdout.read_exact(&mut first).expect("a first letter");
    signal(&child, 1, "-STOP");
    ended(child, Instant::now(), "to gather bytes");

    let mut absent = mpirun(1, &words);
    absent.args([":", "-n", "1", "sleep", "60"]);
    let begun = Instant::now();
    ended(piped(&mut absent), begun, "to start MPI");
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
