//! Flags of the Python FP8 loader.

use crate::run::{TINYRUST, json, program, run, succeed};

/// Would catch an old flag that stands for something else, or for nothing: with each the plan, and what is read at once, are those of the
/// flag that it is documented to be.
#[test]
fn old_flags_are_the_new_ones() {
    let pairs: [(&[&str], &[&str]); 4] = [
        (&["--device-ids", "0", "1"], &["--devices", "0,1"]),
        (&["--shard-size-gb", "0.0001"], &["--read-shard", "100000B"]),
        (&["--memory-efficient"], &["--strategy", "low-memory"]),
        (&["--mixed-precision"], &["--dtype", "bf16"]),
    ];
    let plan = |flags: &[&str]| {
        let mut plan = json(&[&["plan", TINYRUST, "--quant", "fp8:e4m3"], flags].concat());
        // Measured anew by each process.
        let measured = [
            "read",
            "peak_host_bytes",
            "memory",
            "fixed_bytes",
            "peak_bytes",
        ];
        let facts = plan.as_object_mut().expect("an object");
        facts.retain(|name, _| !measured.contains(&name.as_str()));
        let host = facts.get_mut("host").and_then(|host| host.as_object_mut());
        let host = host.expect("the memory of the host");
        host.retain(|name, _| !measured.contains(&name.as_str()));
        plan
    };
    let plain = plan(&[]);
    for (old, new) in pairs {
        let [old_plan, new_plan] = [plan(old), plan(new)];
        assert_eq!(old_plan, new_plan, "{old:?}");
        assert_ne!(old_plan, plain, "{old:?}");
    }
}

/// Would catch an old flag that loses against the flag that it stands for, or wins, in silence.
#[test]
fn an_old_flag_beside_its_new_one_is_wrong_usage() {
    for flags in [
        &["--device-ids", "0", "--devices", "0"][..],
        &["--shard-size-gb", "1", "--read-shard", "1GiB"],
        &["--memory-efficient", "--strategy", "full"],
        &["--mixed-precision", "--dtype", "f32"],
        &["--use-ddp", "--parallel", "shard"],
        &["--shard-size-gb", "0"],
        &["--shard-size-gb", "nan"],
    ] {
        let args = [&["load", TINYRUST][..], flags].concat();
        assert_eq!(run(&mut program(&args)).code, Some(2), "{flags:?}");
    }
}

/// Would catch `--use-ddp` that forgets the launcher, and one that needs a launcher where one process is started.
#[test]
fn ranks_are_those_of_the_launcher_if_there_is_one() {
    let load = ["load", TINYRUST, "--use-ddp"];
    let mut launched = program(&[&load[..], &["--json"]].concat());
    launched.envs([("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")]);
    let report = run(&mut launched).stdout;
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["parallel"], "replicate");
    assert_eq!([&report["rank"], &report["world_size"]], [1, 2]);
    assert!(json(&load).get("rank").is_none());
}

/// Would catch old flags that only a plan understands.
#[test]
fn a_load_takes_all_old_flags_at_once() {
    let flags = [
        "--device-ids",
        "0",
        "1",
        "--shard-size-gb",
        "0.5",
        "--memory-efficient",
        "--mixed-precision",
        "--use-ddp",
    ];
    succeed(&[&["load", TINYRUST, "--quant", "fp8:e4m3"][..], &flags].concat());
}
