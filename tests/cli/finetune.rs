//! `finetune`: what it prints and writes, what it refuses, and that no work is lost.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::{
    common::repository,
    run::{Ran, TINYRUST, json, program, refuse, run, succeed},
};

/// Texts, and the folder of a run, in a folder of their own.
pub(crate) struct Bench(TempDir);

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self(tempdir().expect("a folder"));
        let text = repository().join("assets/tinyrust-sample.txt");
        let text = fs::read_to_string(text).expect("a text");
        let at = |place: usize| (place..).find(|place| text.is_char_boundary(*place));
        let [middle, end] = [4000, 4300].map(|place| at(place).expect("a longer text"));
        bench.write("train.txt", &text[..middle]);
        bench.write("eval.txt", &text[middle..end]);
        bench
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.0.path().join(name), text).expect("written");
        self.path(name)
    }

    /// A run of `steps` small steps into the folder `out`.
    fn arguments(&self, out: &str, steps: u64) -> Vec<String> {
        let words = "--quant nf4 --adapter lora:rank=2,alpha=8,targets=*.{q,v}_proj,dropout=0.1 --batch 1 --length 16 \
                     --accumulation 2 --learning-rate 3e-3 --seed 5 --checkpoint-every 2 --eval-every 3 --steps";
        let mut arguments = vec!["finetune".to_owned(), TINYRUST.to_owned()];
        arguments.extend(words.split_whitespace().map(str::to_owned));
        arguments.push(steps.to_string());
        for (flag, name) in [
            ("--data", "train.txt"),
            ("--eval", "eval.txt"),
            ("--out", out),
        ] {
            arguments.extend([flag.to_owned(), self.path(name)]);
        }
        arguments
    }

    fn run(&self, out: &str, steps: u64, more: &[&str]) -> Ran {
        run(&mut self.command(out, steps, more))
    }

    pub(crate) fn command(&self, out: &str, steps: u64, more: &[&str]) -> Command {
        let arguments = self.arguments(out, steps);
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend(more);
        program(&arguments)
    }

    /// The answer of a run that has to succeed.
    pub(crate) fn answer(&self, out: &str, steps: u64, more: &[&str]) -> Value {
        let ran = self.run(out, steps, &[more, &["--json"]].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        serde_json::from_str(&ran.stdout).expect("one JSON value")
    }

    fn bytes(&self, file: &str) -> Vec<u8> {
        fs::read(self.0.path().join(file)).expect(file)
    }

    /// The lines of the metrics without what differs from run to run.
    fn metrics(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.0.path().join(out).join("metrics.jsonl"));
        let lines = text.expect("metrics");
        let read = |line: &str| {
            let mut line: Value = serde_json::from_str(line).expect("a JSON object a line");
            let seconds = line.as_object_mut().expect("an object").remove("seconds");
            assert!(seconds.is_some_and(|seconds| seconds.as_f64() > Some(0.0)));
            line
        };
        lines.lines().map(read).collect()
    }

    /// Whether a run came out as another one, to the bit.
    pub(crate) fn assert_same(&self, one: &str, other: &str) {
        assert_eq!(self.metrics(one), self.metrics(other));
        for folder in ["adapter", "best"] {
            for file in ["adapter_model.safetensors", "adapter_config.json"] {
                let [one, other] =
                    [one, other].map(|out| self.bytes(&format!("{out}/{folder}/{file}")));
                assert!(one == other, "{folder}/{file} differs");
            }
        }
    }

    fn checkpoints(&self, out: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.path().join(out)).into_iter().flatten();
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name.contains("checkpoint")).collect();
        names.sort();
        names
    }
}

fn assert_says(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert_eq!(ran.stdout, "");
    let last = ran.stderr.lines().last().unwrap_or_default();
    for part in parts {
        assert!(last.contains(part), "`{last}` lacks `{part}`");
    }
}

/// Would catch devices of one process that share the rows of one, each write the run, or spread its layers.
#[test]
fn devices_of_one_process_are_ranks() {
    let bench = Bench::new();
    let one = bench.answer("one", 1, &[]);
    let two = bench.answer("two", 1, &["--devices", "0,1", "--parallel", "shard"]);
    let tokens = |answer: &Value| answer["tokens"].as_u64().expect("a number");
    assert_eq!(tokens(&two), 2 * tokens(&one));
    let lines = |out: &str| {
        bench
            .bytes(&format!("{out}/metrics.jsonl"))
            .split(|b| *b == b'\n')
            .count()
    };
    assert_eq!(lines("two"), lines("one"));
    let refused = bench.run(
        "not",
        1,
        &[
            "--devices",
            "0,1",
            "--parallel",
            "replicate",
            "--device-map",
            "auto",
        ],
    );
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("each device has a rank of its own"),
        "{}",
        refused.stderr
    );
}

/// All that scripts rely on; checkpoints that are kept; an adapter that another command reads; a page that an XML parser reads.
#[test]
fn a_run_answers_with_its_numbers_and_leaves_its_files() {
    let bench = Bench::new();
    let answer = bench.answer("out", 7, &[]);
    assert_eq!(answer["steps"], 7);
    assert_eq!(answer["ended"], "steps");
    for field in [
        "loss_first",
        "loss_last",
        "eval_perplexity",
        "tokens_per_second",
        "peak_host_bytes",
    ] {
        assert!(answer[field].as_f64() > Some(0.0), "{field}: {answer}");
    }
    // Two projections of four layers: rank times rows and columns. The model has 256 features and 128 for keys and values.
    let config: Value = serde_json::from_slice(
        &fs::read(repository().join(TINYRUST).join("config.json")).expect("a file"),
    )
    .expect("JSON");
    let number = |name: &str| config[name].as_u64().expect(name);
    let (hidden, layers) = (number("hidden_size"), number("num_hidden_layers"));
    let head = hidden / number("num_attention_heads");
    let keys = head * number("num_key_value_heads");
    assert_eq!(
        answer["trainable"],
        layers * 2 * (hidden + hidden + hidden + keys)
    );
    let adapter = answer["adapter"].as_str().expect("a folder");
    assert_eq!(Path::new(adapter), Path::new(&bench.path("out/adapter")));

    let lines = bench.metrics("out");
    let steps: Vec<&Value> = lines
        .iter()
        .filter(|line| line.get("loss").is_some())
        .collect();
    let evals: Vec<u64> = lines
        .iter()
        .filter(|line| line.get("eval_perplexity").is_some())
        .map(|line| line["step"].as_u64().expect("a number"))
        .collect();
    assert_eq!(evals, [0, 3, 6, 7]);
    assert_eq!(steps.len(), 7);
    for (nth, step) in steps.iter().enumerate() {
        assert_eq!(step["step"], nth as u64 + 1);
        // Rows of 16 tokens at most, two batches a step, all trained on.
        assert!(
            (2..=32).contains(&step["tokens"].as_u64().expect("a number")),
            "{step}"
        );
        assert!(step["grad_norm"].as_f64() > Some(0.0) && step["lr"].is_f64());
    }
    assert_eq!(steps[0]["loss"], answer["loss_first"]);
    assert_eq!(steps[6]["loss"], answer["loss_last"]);
    assert_eq!(bench.checkpoints("out"), ["checkpoint-6", "checkpoint-7"]);

    let page = fs::read_to_string(bench.path("out/report.html")).expect("a page");
    for part in [
        "<h2>Loss</h2>",
        "<h2>Perplexity</h2>",
        "<path",
        "firebox</title>",
    ] {
        assert!(page.contains(part), "the page lacks {part}");
    }
    let logits = bench.path("logits.safetensors");
    let words = [
        "logits",
        TINYRUST,
        "--adapter",
        adapter,
        "--tokens=1,2,3",
        "--out",
        &logits,
    ];
    succeed(&words);
}

/// SIGKILL at random moments, whatever is being written; and once more when there is nothing left.
#[test]
fn killed_at_random_moments_and_resumed() {
    let bench = Bench::new();
    let whole = bench.answer("whole", 9, &[]);
    let metrics = |out: &str| {
        let file = Path::new(&bench.path(out)).join("metrics.jsonl");
        fs::metadata(file).map_or(0, |file| file.len())
    };
    let all = metrics("whole");
    let mut random = crate::killed::Random(0x5eed);
    let (mut kills, mut checkpoints) = (0, 0);
    for round in 0..2 {
        let out = format!("cut{round}");
        for _ in 0..4 {
            let mut command = bench.command(&out, 9, &["--resume"]);
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = quiet.spawn().expect("the program was built for the tests");
            // Until so much is written, and somewhat longer: between two steps, in a step, in a checkpoint.
            let wanted = metrics(&out) + random.below(all / 3);
            while metrics(&out) < wanted && child.try_wait().expect("a child of ours").is_none() {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(random.below(150)));
            child.kill().expect("a child of ours");
            let status = child.wait().expect("a child of ours");
            kills += usize::from(status.code().is_none());
            checkpoints += usize::from(!bench.checkpoints(&out).is_empty());
        }
        let answer = bench.answer(&out, 9, &["--resume"]);
        assert_eq!(answer["loss_first"], whole["loss_first"]);
        assert_eq!(answer["eval_perplexity"], whole["eval_perplexity"]);
        bench.assert_same(&out, "whole");
        assert_eq!(bench.checkpoints(&out), ["checkpoint-8", "checkpoint-9"]);
    }
    assert!(
        kills >= 4 && checkpoints >= 2,
        "{kills} kills, {checkpoints} after a checkpoint"
    );

    let again = bench.answer("whole", 9, &["--resume"]);
    assert_eq!(again["steps_run"], 0);
    assert_eq!(again["loss_last"], whole["loss_last"]);
    let ran = bench.run("whole", 9, &["--resume"]);
    assert!(ran.stdout.starts_with("nothing was left to do"), "{ran:?}");
    assert_says(
        &bench.run("whole", 9, &[]),
        1,
        &["checkpoint-9", "--resume", "--out"],
    );
}

/// The first signal saves and ends; what it left goes on to the same end.
#[cfg(target_os = "linux")]
#[test]
fn signals_save_and_end() {
    let bench = Bench::new();
    bench.answer("whole", 6, &[]);
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let out = format!("out{signal}");
        let mut command = bench.command(&out, 6, &["--json"]);
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = piped.spawn().expect("the program was built for the tests");
        let metrics = PathBuf::from(bench.path(&out)).join("metrics.jsonl");
        // The lines of the first evaluation and the first step: the run is under way.
        let lines = || fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
        while lines() < 2 {
            thread::sleep(Duration::from_millis(2));
        }
        let kill = Command::new("kill")
            .args([&format!("-{signal}"), &child.id().to_string()])
            .status();
        assert!(kill.expect("a system with kill").success());
        let ended = child.wait_with_output().expect("a child of ours");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(ended.stdout.is_empty());
        assert!(
            said.contains("--resume goes on") && said.contains("checkpoint-"),
            "{said}"
        );
        let answer = bench.answer(&out, 6, &["--resume"]);
        assert!(answer["steps_run"].as_u64() < Some(6), "nothing was saved");
        bench.assert_same(&out, "whole");
    }
}

/// No file may grow beyond a limit, as on a full disk. The checkpoint before stays whole, and the run goes on from it.
#[test]
fn without_room_the_last_checkpoint_stays() {
    let bench = Bench::new();
    bench.answer("whole", 5, &[]);
    let limited = |out: &str, blocks: u64| {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command
            .current_dir(repository())
            .args(["-c", &script, env!("CARGO_BIN_EXE_firebox")]);
        command
            .args(bench.arguments(out, 5))
            .args(["--resume", "--json"])
            .env_remove("RUST_LOG");
        run(&mut command)
    };
    // Smaller than the trained values, which are 4 bytes each.
    let none = limited("none", 8);
    assert_says(&none, 1, &["os error 27", "no checkpoint yet"]);
    assert_eq!(bench.checkpoints("none"), [""; 0]);

    // A run that has one, and no room for the next.
    let mut command = bench.command("out", 5, &[]);
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().expect("the program was built for the tests");
    while bench
        .checkpoints("out")
        .iter()
        .all(|name| name.starts_with('.'))
    {
        thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
    let before = bench.checkpoints("out");
    let last = before
        .iter()
        .rfind(|name| !name.starts_with('.'))
        .expect("a checkpoint");
    let full = limited("out", 8);
    assert_says(&full, 1, &["os error 27", last, "--resume"]);
    for out in ["none", "out"] {
        bench.answer(out, 5, &["--resume"]);
        bench.assert_same(out, "whole");
    }
}

/// A disk of its own that is too small for two checkpoints, and then is not.
#[cfg(target_os = "linux")]
#[test]
fn on_a_full_disk_the_first_checkpoint_stays() {
    let bench = Bench::new();
    bench.answer("whole", 6, &[]);
    let of_checkpoint = fs::read_dir(bench.path("whole/checkpoint-6")).expect("a checkpoint");
    let size: u64 = of_checkpoint
        .map(|file| file.expect("a file").metadata().expect("a file").len())
        .sum();
    fs::create_dir(bench.path("disk")).expect("made");
    let script = r#"
        disk=$1 size=$2 result=$3; shift 3
        mount -t tmpfs -o size="$size" none "$disk" || exit 77
        "$@"; echo "code $?"; ls "$disk/out"
        mount -o remount,size=64m none "$disk"
        "$@" >/dev/null || exit 3
        cp -r "$disk/out" "$result"
    "#;
    let inner = bench.command("disk/out", 6, &["--resume", "--json"]);
    let mut command = crate::run::with_own_mounts(script);
    command.args([
        bench.path("disk"),
        (size * 7 / 4).to_string(),
        bench.path("result"),
    ]);
    command
        .current_dir(repository())
        .arg(inner.get_program())
        .args(inner.get_args());
    let Ok(ran) = command.env_remove("RUST_LOG").output() else {
        return;
    };
    let [said, error] = [&ran.stdout, &ran.stderr].map(|text| String::from_utf8_lossy(text));
    if ran.status.code() == Some(77) || error.contains("unshare:") {
        // This system lets nobody mount a disk.
        return;
    }
    assert!(ran.status.success(), "{error}");
    assert!(
        said.contains("code 1") && said.contains("checkpoint-2"),
        "{said}"
    );
    assert!(!said.contains("checkpoint-4"), "{said}");
    for part in ["os error 28", "checkpoint-2 is there"] {
        assert!(error.contains(part), "`{error}` lacks `{part}`");
    }
    bench.assert_same("result", "whole");
}

/// The same settings by flags and by a file; a flag comes before the file.
#[test]
fn settings_come_from_a_file() {
    let bench = Bench::new();
    bench.answer("flags", 3, &[]);
    let file = bench.write(
        "run.toml",
        &format!(
            "data = {:?}\neval = {:?}\nquant = \"nf4\"\nadapter = \"lora:rank=2,alpha=8,targets=*.{{q,v}}_proj,dropout=0.1\"\n\
             batch = 1\nlength = 16\naccumulation = 2\nlearning_rate = 1.0\nseed = 5\ncheckpoint-every = 2\neval-every = 3\nsteps = 3\n",
            bench.path("train.txt"),
            bench.path("eval.txt")
        ),
    );
    let out = bench.path("file");
    json(&[
        "finetune",
        TINYRUST,
        "--config",
        &file,
        "--learning-rate",
        "3e-3",
        "--out",
        &out,
    ]);
    bench.assert_same("file", "flags");

    for (text, parts) in [
        (
            "learning-rat = 1",
            ["`learning-rat`", "did you mean `learning-rate`"],
        ),
        ("batch = \"four\"", ["`batch` is four", "run.toml"]),
        ("data = \"x\"\nkeep = 1", ["`keep` is 1", "keep 2 at least"]),
        ("schedule = \"cosin\"", ["`schedule` is cosin", "cosine"]),
        ("adapter = \"lora:rang=4\"", ["rang=4", "rank="]),
        ("batch = ", ["run.toml", "line 1"]),
        ("today = 2024-01-02", ["`today`", "no setting"]),
    ] {
        let file = bench.write("run.toml", text);
        refuse(
            2,
            &["finetune", TINYRUST, "--config", &file, "--out", &out],
            &parts,
        );
    }
    refuse(
        2,
        &["finetune", TINYRUST, "--clip", "NaN"],
        &["--clip", "write a number"],
    );
}

/// Would catch words of a parser instead of those of the setting: `null` for an infinite number, and a date as the object that it is
/// read through.
#[test]
fn every_setting_of_a_file_says_what_to_write_instead() {
    let bench = Bench::new();
    let paths = ["data", "eval", "out"];
    let words = [
        "quant",
        "train-type",
        "adapter",
        "expand",
        "schedule",
        "optimizer",
    ];
    let whole = [
        "steps",
        "batch",
        "length",
        "accumulation",
        "seed",
        "eval-every",
        "checkpoint-every",
        "keep",
        "patience",
    ];
    let numbers = [
        "epochs",
        "learning-rate",
        "warmup",
        "floor",
        "weight-decay",
        "clip",
    ];
    let flags = ["recompute", "packing"];
    let all = [&paths[..], &words, &whole, &numbers, &flags].concat();
    let each = |keys: &[&'static str], value: &'static str, shown: &'static str| {
        let keys = keys.iter().copied();
        keys.map(move |key| (key, value, shown)).collect::<Vec<_>>()
    };
    let no_numbers = [&whole[..], &numbers, &flags].concat();
    let cases = [
        each(&all, "[1, 2]", "[1,2]"),
        each(&all, "inf", "inf"),
        each(&all, "2024-01-02", "2024-01-02"),
        each(&all, "{ a = { b = nan } }", "nan"),
        each(&no_numbers, "\"many\"", "many"),
        each(&whole, "-1", "-1"),
        each(&whole, "1.5", "1.5"),
        each(&numbers, "true", "true"),
        each(&flags, "1", "1"),
    ];
    for (key, value, shown) in cases.concat() {
        let file = bench.write("run.toml", &format!("{key} = {value}\n"));
        let ran = run(&mut program(&["finetune", TINYRUST, "--config", &file]));
        let is = format!("run.toml: `{key}` is {shown}: write ");
        assert_eq!(ran.code, Some(2), "{key} = {value}: {}", ran.stderr);
        assert!(ran.stderr.contains(&is), "`{}` lacks `{is}`", ran.stderr);
        assert!(!ran.stderr.contains("$__"), "{}", ran.stderr);
    }
}

/// A step of very many batches is left out where a signal comes in the middle of it, and the run goes on exactly.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_does_not_wait_for_the_end_of_a_step() {
    let bench = Bench::new();
    // Hours, if it were waited for.
    let long = ["--accumulation", "60000"];
    let mut arguments = bench.arguments("out", 3);
    let place = arguments.iter().position(|word| word == long[0]);
    arguments[place.expect("it is there") + 1] = long[1].to_owned();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = program(&arguments);
    let piped = command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = piped.spawn().expect("the program was built for the tests");
    let metrics = PathBuf::from(bench.path("out/metrics.jsonl"));
    while !fs::metadata(&metrics).is_ok_and(|file| file.len() > 0) {
        thread::sleep(Duration::from_millis(2));
    }
    // In the step that follows the first evaluation.
    thread::sleep(Duration::from_millis(300));
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.expect("a system with kill").success());
    let ended = child.wait_with_output().expect("a child of ours");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("stopped after step 0"), "{said}");
    assert_eq!(bench.checkpoints("out"), ["checkpoint-0"]);
    assert_eq!(bench.metrics("out").len(), 1, "the first evaluation alone");
}

/// Would catch a run that begins anew, and loses its metrics, because its checkpoints have other names or are elsewhere.
#[test]
fn checkpoints_that_were_moved_are_named() {
    let bench = Bench::new();
    bench.answer("out", 4, &[]);
    let rename = |from: &str, to: &str| {
        fs::rename(bench.path(from), bench.path(to)).expect("renamed");
    };
    let metrics = bench.bytes("out/metrics.jsonl");
    rename("out/checkpoint-4", "out/checkpoint-9");
    let ran = bench.run("out", 4, &["--resume"]);
    assert_says(
        &ran,
        1,
        &["checkpoint-9 is the checkpoint of step 4", "`checkpoint-4`"],
    );

    fs::remove_dir_all(bench.path("out/checkpoint-2")).expect("removed");
    rename("out/checkpoint-9", "out/last");
    let ran = bench.run("out", 4, &["--resume"]);
    assert_says(
        &ran,
        1,
        &["out/last is the checkpoint of step 4", "`checkpoint-4`"],
    );

    rename("out/last", "elsewhere");
    let ran = bench.run("out", 4, &["--resume"]);
    assert_says(
        &ran,
        1,
        &["metrics.jsonl tells of 4 steps", "put the folders"],
    );
    let ran = bench.run("elsewhere", 4, &["--resume"]);
    assert_says(&ran, 1, &["elsewhere is a checkpoint", "--out"]);

    assert!(bench.bytes("out/metrics.jsonl") == metrics);
    rename("elsewhere", "out/checkpoint-4");
    assert_eq!(bench.answer("out", 4, &["--resume"])["steps_run"], 0);
}

/// A resumed run with other settings, data or base is another run.
#[test]
fn another_run_is_not_resumed() {
    let bench = Bench::new();
    bench.answer("out", 2, &[]);
    let train = bench.bytes("train.txt");
    for (more, part) in [
        (
            vec!["--learning-rate", "1e-3"],
            "settings.learning-rate was 0.003 and is 0.001",
        ),
        (vec!["--quant", "fp4"], "base.configuration.quant"),
        (vec!["--steps", "3"], "steps was 2 and is 3"),
        (vec!["--length", "8"], "length was 16 and is 8"),
        (vec![], "data was"),
    ] {
        if more.is_empty() {
            bench.write(
                "train.txt",
                &String::from_utf8_lossy(&train).replacen('e', "a", 1),
            );
        }
        let ran = bench.run_replaced("out", &more);
        assert_says(&ran, 1, &[part, "checkpoint-2", "--out"]);
    }
    fs::write(bench.path("train.txt"), train).expect("written");
    let trained = bench.path("out/checkpoint-2/trained.safetensors");
    let mut bytes = fs::read(&trained).expect("a file");
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&trained, bytes).expect("written");
    let ran = bench.run("out", 2, &["--resume"]);
    assert_says(
        &ran,
        1,
        &["trained.safetensors: is damaged", "checksum", "remove"],
    );
}

impl Bench {
    /// A resumed run of two steps, with other values of some flags.
    fn run_replaced(&self, out: &str, more: &[&str]) -> Ran {
        let mut arguments = self.arguments(out, 2);
        for pair in more.chunks_exact(2) {
            let place = arguments
                .iter()
                .position(|word| word == pair[0])
                .expect(pair[0]);
            arguments[place + 1] = pair[1].to_owned();
        }
        arguments.push("--resume".to_owned());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(&mut program(&arguments))
    }
}

/// Every kind of bad data and of settings that do not fit the model, in the first seconds and without a trace of a run.
#[test]
fn bad_data_and_settings_are_refused() {
    let bench = Bench::new();
    let out = bench.path("out");
    let golden = repository()
        .join("tests/golden/adapters/llama_rslora")
        .display()
        .to_string();
    let train = bench.path("train.txt");
    let bad = |name: &str, text: &str| bench.write(name, text);
    let mut cases: Vec<(Vec<String>, Vec<&str>)> = vec![
        (
            vec!["--data".into(), bad("empty.txt", "")],
            vec!["empty.txt", "empty"],
        ),
        (
            vec!["--data".into(), bad("spaces.jsonl", " \n\n")],
            vec!["spaces.jsonl", "empty"],
        ),
        (
            vec![
                "--data".into(),
                bad("broken.jsonl", "{\"text\": \"one\"}\n{\"text\": \n"),
            ],
            vec!["broken.jsonl, line 2"],
        ),
        (
            vec![
                "--data".into(),
                bad("fields.jsonl", "{\"texts\": \"one\"}\n"),
            ],
            vec!["fields.jsonl, line 1", "texts"],
        ),
        (
            vec![
                "--data".into(),
                bad(
                    "none.jsonl",
                    "{\"prompt\": \"one\", \"completion\": \"\"}\n",
                ),
            ],
            vec!["trained"],
        ),
        (
            vec!["--data".into(), bad("table.csv", "a,b\n")],
            vec!["table.csv", ".jsonl"],
        ),
        (
            vec!["--data".into(), bench.path("nowhere.txt")],
            vec!["nowhere.txt"],
        ),
        (vec![], vec!["`data` is not given", "--data"]),
        (
            vec![
                "--data".into(),
                train.clone(),
                "--eval".into(),
                bench.path("empty.txt"),
            ],
            vec!["empty.txt", "empty"],
        ),
        (
            vec![
                "--data".into(),
                train.clone(),
                "--length".into(),
                "100000".into(),
            ],
            vec!["100000", "positions", "--length"],
        ),
        (
            vec![
                "--data".into(),
                train.clone(),
                "--patience".into(),
                "2".into(),
            ],
            vec!["`patience`", "--eval"],
        ),
        (
            vec![
                "--data".into(),
                train.clone(),
                "--adapter".into(),
                "lora:rank=4096".into(),
            ],
            vec!["rank 4096"],
        ),
        (
            vec![
                "--data".into(),
                train.clone(),
                "--adapter".into(),
                format!("lora:rank={}", u64::MAX),
            ],
            vec!["rank 18446744073709551615"],
        ),
        (
            vec![
                "--data".into(),
                train.clone(),
                "--batch".into(),
                u64::MAX.to_string(),
            ],
            vec!["`batch` is 18446744073709551615", "--accumulation"],
        ),
        (
            vec![
                "--data".into(),
                train.clone(),
                "--config".into(),
                "/dev/zero".into(),
            ],
            vec!["/dev/zero", "more than 1.00 MiB"],
        ),
        (
            vec![
                "--data".into(),
                train.clone(),
                "--adapter".into(),
                golden.clone(),
            ],
            vec!["another model"],
        ),
        (
            vec![
                "--data".into(),
                train,
                "--adapter".into(),
                format!("{golden}=0.5"),
            ],
            vec!["a part of an adapter"],
        ),
    ];
    // A line, and an entry of a list, that have no end. Read to the end, each would take many times its size of memory.
    for (name, begin) in [
        ("line.jsonl", "{\"text\": \"one\"}\n{"),
        ("entry.json", "[{\"text\": \"one\"},\n{"),
    ] {
        let path = bad(name, begin);
        let file = fs::File::options().append(true).open(&path);
        let longer = file.and_then(|file| file.set_len(65 << 20));
        longer.expect("a longer file");
        cases.push((
            vec!["--data".into(), path],
            vec![name, "line 2", "more than 64.00 MiB"],
        ));
    }
    for (more, parts) in cases {
        let mut arguments = vec!["finetune", TINYRUST, "--steps", "1", "--out", &out];
        arguments.extend(more.iter().map(String::as_str));
        let ran = run(&mut program(&arguments));
        // What cannot be whatever the model and the data.
        let usage = [
            "`data` is not given",
            "`patience`",
            "`batch` is 18446744073709551615",
            "/dev/zero",
            "a part of an adapter",
        ];
        let code = if usage.contains(&parts[0]) { 2 } else { 1 };
        assert_says(&ran, code, &parts);
        let twice = ran.stderr.matches("empty.txt").count() > 1;
        assert!(!twice, "a file is named twice: {}", ran.stderr);
        assert!(bench.checkpoints("out").is_empty());
    }
}

/// Catches checkpoints among the files of a model, and a folder of somebody else that is taken for a half of one's own.
#[test]
fn nothing_of_others_is_changed() {
    let bench = Bench::new();
    fs::create_dir(bench.path("model")).expect("made");
    bench.write("model/config.json", "{}");
    for more in [&[][..], &["--resume"]] {
        let ran = bench.run("model", 1, more);
        assert_says(&ran, 1, &["the folder of a model", "--out"]);
    }
    assert_eq!(
        fs::read_dir(bench.path("model")).expect("a folder").count(),
        1
    );

    fs::create_dir(bench.path("texts")).expect("made");
    bench.write("texts/a.txt", "A text of some words, again and again.");
    let texts = bench.path("texts");
    let run_of = ["finetune", TINYRUST, "--data", &texts, "--out", &texts];
    let ran = run(&mut program(&run_of));
    assert_says(&ran, 1, &["the folder of `data` too", "--out"]);
    assert_eq!(fs::read_dir(&texts).expect("a folder").count(), 1);

    for name in [".mine.part", ".mine.old"] {
        fs::create_dir_all(bench.path(&format!("out/{name}"))).expect("made");
        bench.write(&format!("out/{name}/file"), "mine");
    }
    bench.answer("out", 1, &[]);
    for name in [".mine.part", ".mine.old"] {
        assert_eq!(bench.bytes(&format!("out/{name}/file")), b"mine");
    }
}

/// An adapter is trained further: the second run begins with the loss that the first one ended with, without its optimizer.
#[test]
fn an_adapter_is_trained_further() {
    let bench = Bench::new();
    let first = bench.answer("first", 4, &[]);
    let adapter = first["adapter"].as_str().expect("a folder");
    let place = |arguments: &[String]| arguments.iter().position(|word| word == "--adapter");
    let mut arguments = bench.arguments("second", 2);
    let place = place(&arguments).expect("an adapter");
    arguments[place + 1] = adapter.to_owned();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    json(&arguments);
    let [one, other] = ["first", "second"].map(|out| bench.metrics(out));
    let perplexity = |line: &Value| line["eval_perplexity"].as_f64().expect("a number");
    let (ended, began) = (
        perplexity(one.last().expect("a line")),
        perplexity(&other[0]),
    );
    assert!(
        (ended - began).abs() < 1e-4 * ended,
        "{ended}, then {began}"
    );
    let [one, other] = ["first", "second"]
        .map(|out| bench.bytes(&format!("{out}/adapter/adapter_model.safetensors")));
    assert!(one != other && one.len() == other.len());
}
