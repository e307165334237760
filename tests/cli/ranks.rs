//! Ranks as processes: two, three and four on this machine, in every mode, by options and by the variables of a launcher.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsRawFd,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::run::{TINYRUST, program, run};

/// Variables of launchers that whoever runs the tests may have.
const LAUNCHERS: [&str; 10] = [
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "SLURM_STEP_ID",
    "SLURM_JOB_ID",
    "TORCHELASTIC_RUN_ID",
    "OMPI_MCA_ess_base_jobid",
    "PMIX_NAMESPACE",
];

/// Starts a rank of `assets/tinyrust`.
fn start(options: &[&str], variables: &[(&str, String)]) -> Child {
    let mut command = program(&["load", TINYRUST, "--json"]);
    command.args(options);
    LAUNCHERS.iter().for_each(|name| {
        command.env_remove(name);
    });
    let variables = variables.iter().map(|(name, value)| (name, value));
    command
        .envs(variables)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
        .spawn()
        .expect("the program was built for the tests")
}

fn report(child: Child) -> Value {
    let output = child.wait_with_output().expect("it ends");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("one JSON value")
}

/// The reports of all ranks of a mode, started as torchrun starts them.
fn reports(mode: &str, ranks: usize, options: &[&str]) -> Vec<Value> {
    let children: Vec<Child> = (0..ranks)
        .map(|rank| {
            let variables = [
                ("RANK", rank.to_string()),
                ("WORLD_SIZE", ranks.to_string()),
                ("LOCAL_RANK", rank.to_string()),
            ];
            start(&[&["--parallel", mode], options].concat(), &variables)
        })
        .collect();
    children.into_iter().map(report).collect()
}

/// How many ranks have read each byte of each file.
fn counts(reports: &[Value]) -> BTreeMap<String, Vec<u8>> {
    let mut counts: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for report in reports {
        for range in report["ranges"].as_array().expect("ranges") {
            let file = range["file"].as_str().expect("a file").to_owned();
            let [first, last] =
                ["first", "last"].map(|end| range[end].as_u64().expect("a byte") as usize);
            let bytes = counts.entry(file).or_default();
            bytes.resize(bytes.len().max(last + 1), 0);
            bytes[first..=last].iter_mut().for_each(|count| *count += 1);
        }
    }
    counts
}

/// Bytes of all tensors of the model.
const BYTES: u64 = 6_951_424;

/// Would catch a mode that reads bytes twice or leaves some out, and bytes that are counted for another rank.
#[test]
fn ranks_read_the_file_once() {
    for (mode, quant, ranks, shared) in [
        ("layers", "nf4", 2, 2 * 2048 * 256),
        ("layers", "nf4", 4, 2 * 2048 * 256),
        ("tensor", "nf4:block=32", 2, 2 * 9 * 256),
        ("tensor", "mlx:bits=4,group=32", 2, 2 * 9 * 256),
        ("tensor", "none", 4, 2 * 9 * 256),
        ("shard", "nf4", 2, 0),
        ("shard", "none", 3, 0),
        ("shard", "fp8:e4m3,scale=channel", 4, 0),
    ] {
        let reports = reports(mode, ranks, &["--quant", quant]);
        let mut all = 0;
        for (file, counts) in counts(&reports) {
            // The header comes first, and is read before.
            let header = counts.iter().take_while(|count| **count == 0).count();
            let rest = &counts[header..];
            assert!(
                rest.iter().all(|count| *count > 0),
                "{mode}: bytes of {file} that nobody reads"
            );
            all += rest.len() as u64;
        }
        assert_eq!(all, BYTES, "{mode}, {quant}");
        let read: u64 = reports
            .iter()
            .map(|report| report["bytes_read"].as_u64().expect("bytes"))
            .sum();
        // What is not cut is read by all; the embedding of a pipeline by its two ends.
        let times = if mode == "layers" {
            1
        } else {
            ranks as u64 - 1
        };
        assert_eq!(
            read,
            BYTES + shared * times,
            "{mode}, {quant}, {ranks} ranks"
        );
        for (rank, report) in reports.iter().enumerate() {
            assert_eq!(report["rank"], rank);
            assert_eq!(report["world_size"], ranks);
            assert_eq!(report["parallel"], mode);
            assert_eq!(report["digest"].as_str().map(str::len), Some(32));
        }
    }
}

/// Would catch a rank that quantizes the model again, and one that reads the cache before it is whole.
#[test]
fn rank_0_packs_for_all() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let options = ["--quant", "nf4:block=64,nested", "--cache-packed", path];
    for mode in ["replicate", "shard"] {
        let reports = reports(mode, 3, &options);
        // The packed model: what every rank reads is smaller than the source.
        for report in &reports {
            let read = report["bytes_read"].as_u64().expect("bytes");
            assert!(read < BYTES / 2, "{mode}: {read} bytes");
            assert_eq!(
                report["digest"] == reports[0]["digest"],
                mode == "replicate" || report["rank"] == 0
            );
        }
    }
    assert_eq!(folder.path().read_dir().expect("a folder").count(), 1);
}

/// Would catch a device that is asked for and taken for none, and one that is reported under the index of another.
#[test]
fn a_rank_takes_the_device_of_its_number_unless_one_is_named() {
    let index = |device: &[&str]| {
        let variables = ["RANK", "WORLD_SIZE", "LOCAL_RANK"].into_iter();
        let variables: Vec<_> = variables.zip(["2", "4", "2"].map(str::to_owned)).collect();
        let options = [&["--parallel", "replicate"], device].concat();
        report(start(&options, &variables))["devices"][0]["index"].clone()
    };
    assert_eq!(index(&[]), 2);
    assert_eq!(index(&["--device", "0"]), 0);
    assert_eq!(index(&["--device", "3"]), 3);
}

/// Would catch a rank that waits for ever for one that never comes.
#[test]
fn a_rank_that_never_comes_is_missed() {
    let folder = TempDir::new().expect("a folder");
    let begun = Instant::now();
    let alone = meeting(&folder, "0", "3", &[]).wait_with_output();
    let alone = alone.expect("it ends");
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(alone.status.code(), Some(1));
    let error = String::from_utf8_lossy(&alone.stderr);
    assert!(error.contains("after 3 s, rank 1 is not here"), "{error}");
}

/// A rank of two that meet in a folder.
fn meeting(folder: &TempDir, rank: &str, deadline: &str, options: &[&str]) -> Child {
    let path = folder.path().to_str().expect("UTF-8");
    let meet = [
        "--parallel",
        "shard",
        "--rendezvous",
        path,
        "--rank-deadline",
        deadline,
    ];
    let place = ["--rank", rank, "--world-size", "2"];
    start(&[&meet[..], &place, options].concat(), &[])
}

/// A rank is killed while it loads: its pipe of events is full, so that the load stands still. Would catch a rank that takes
/// the other for loaded, and one that waits for ever.
#[test]
#[cfg(target_os = "linux")]
fn a_rank_that_is_killed_is_missed() {
    let folder = TempDir::new().expect("a folder");
    let pipe = folder.path().join("events");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("coreutils are there").success());
    let open = fs::OpenOptions::new().read(true).write(true).open(&pipe);
    let reader = open.expect("a pipe of ours");
    // SAFETY: the call changes how much the pipe holds, and no memory of ours.
    let size = unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    assert!(size > 0, "{}", std::io::Error::last_os_error());
    let events = pipe.to_str().expect("UTF-8");
    let small = ["--events", events, "--in-flight", "64KiB"];
    let mut killed = meeting(&folder, "1", "3", &small);
    let other = meeting(&folder, "0", "3", &[]);
    let note = folder.path().join("rank-0.json");
    let is_loaded =
        || fs::read_to_string(&note).is_ok_and(|note| note.contains("\"phase\":\"loaded\""));
    let begun = Instant::now();
    while !is_loaded() {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "rank 0 does not load"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(
        killed.try_wait().expect("a process").is_none(),
        "rank 1 loads still"
    );
    killed.kill().expect("a process of ours");
    killed.wait().expect("it ends");
    let begun = Instant::now();
    let other = other.wait_with_output().expect("it ends");
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(other.status.code(), Some(1));
    let error = String::from_utf8_lossy(&other.stderr);
    assert!(error.contains("rank 1 is silent for 3 s"), "{error}");
    drop(reader);
}

/// Would catch numbers that are no ranks, and launchers that contradict each other.
#[test]
fn ranks_that_cannot_be() {
    for (options, variables, words) in [
        (
            &["--rank", "2", "--world-size", "2"][..],
            &[][..],
            "there is no rank 2 of 2",
        ),
        (
            &["--rank", "0", "--world-size", "0"],
            &[],
            "a world of 0 ranks",
        ),
        (&["--rank", "0"], &[], "`--world-size` is not"),
        (&["--parallel", "shard"], &[], "needs ranks"),
        (
            &["--parallel", "shard"],
            &[
                ("RANK", "0"),
                ("WORLD_SIZE", "2"),
                ("PMI_RANK", "1"),
                ("PMI_SIZE", "2"),
            ],
            "contradict each other",
        ),
        (
            &["--parallel", "tensor", "--rank", "0", "--world-size", "3"],
            &[],
            "the largest number of ranks below it that works is 2",
        ),
        (
            &["--parallel", "layers", "--rank", "0", "--world-size", "5"],
            &[],
            "take 4 ranks at most",
        ),
        (
            &[
                "--parallel",
                "shard",
                "--rank",
                "0",
                "--world-size",
                "2",
                "--devices",
                "0,1",
            ],
            &[],
            "a map of devices (`--devices`, `--device-map`, `--max-memory`) cannot be had with `--parallel shard`",
        ),
        (
            &[
                "--parallel",
                "tensor",
                "--rank",
                "0",
                "--world-size",
                "2",
                "--quant",
                "nf4",
            ],
            &[],
            "the 64 values that stay together of nf4:block=64 along `in` do not end with a part of 704/2",
        ),
    ] {
        let mut command = program(&["load", TINYRUST]);
        LAUNCHERS.iter().for_each(|name| {
            command.env_remove(name);
        });
        let ran = run(command.args(options).envs(variables.iter().copied()));
        assert_eq!(ran.code, Some(1), "{options:?}");
        assert!(ran.stderr.contains(words), "{options:?}: {}", ran.stderr);
    }
}
