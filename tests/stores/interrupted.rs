//! Saves into a store that end before their time, and go on.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    expected, fail, no_secret,
    proxy::{Fault, Proxy, Rule},
    quantize,
    s3::S3Server,
    same, succeed,
};

/// The part of a request that uploads the third file of weights.
const THIRD: &str = "unpublished-model-00003";
/// Longer than any test waits.
const LONG: Duration = Duration::from_secs(100);

fn start(command: &mut Command) -> Child {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

/// Waits until a part of the third file is under way.
fn wait_for_third(proxy: &Proxy) {
    let end = Instant::now() + LONG;
    while uploads(proxy, THIRD) == 0 {
        assert!(Instant::now() < end, "no part of {THIRD}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// How often parts of a file of weights were uploaded.
fn uploads(proxy: &Proxy, file: &str) -> usize {
    let log = proxy.log();
    let parts = log.iter().filter(|passed| {
        let target = passed.head.target();
        target.contains(file) && target.contains("partNumber")
    });
    parts.count()
}

/// Catches an upload that nobody knows of any more, work that is done twice, and a checkpoint that is half there.
#[test]
fn a_killed_save_goes_on_after_its_last_complete_file() {
    let (s3, expected) = (S3Server::start(), expected());
    let proxy = Proxy::before(&s3.url);
    proxy.add(Rule::new(Fault::Wait(LONG)).method("PUT").at(THIRD));
    let mut child = start(&mut quantize(&proxy.url, "s3://models/q"));
    wait_for_third(&proxy);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(s3.open_uploads(), 1);
    assert!(
        s3.objects("q")
            .keys()
            .all(|name| name.starts_with(".firebox-"))
    );
    let done = [
        uploads(&proxy, "model-00001"),
        uploads(&proxy, "model-00002"),
    ];
    assert_eq!(done, [1, 1]);

    proxy.heal();
    let error = fail(&mut quantize(&proxy.url, "s3://models/q"), 1);
    assert!(error.contains("--resume"), "{error}");
    let other = fail(
        quantize(&proxy.url, "s3://models/q").args(["--skip", "*.0.*", "--resume"]),
        1,
    );
    assert!(other.contains("cannot be resumed"), "{other}");
    let resumed = succeed(quantize(&proxy.url, "s3://models/q").arg("--resume"));
    let said = String::from_utf8_lossy(&resumed.stdout);
    assert!(said.contains("weights were there already"), "{said}");
    let done = [
        uploads(&proxy, "model-00001"),
        uploads(&proxy, "model-00002"),
    ];
    assert_eq!(done, [1, 1], "complete files were uploaded again");
    same(&s3.objects("q"), &expected);
    assert_eq!(s3.open_uploads(), 0);
}

/// Catches parts that stay in the bucket after an error, and an error without its remedy.
#[test]
fn a_save_that_fails_gives_its_upload_up_and_goes_on() {
    let (s3, expected) = (S3Server::start(), expected());
    let proxy = Proxy::before(&s3.url);
    proxy.add(Rule::new(Fault::Status(403)).method("PUT").at(THIRD));
    let error = fail(&mut quantize(&proxy.url, "s3://models/q"), 1);
    assert!(
        error.contains("403") && error.contains("--resume"),
        "{error}"
    );
    assert_eq!(s3.open_uploads(), 0);
    assert!(
        s3.objects("q")
            .keys()
            .all(|name| name.starts_with(".firebox-"))
    );

    proxy.heal();
    succeed(quantize(&proxy.url, "s3://models/q").arg("--resume"));
    assert_eq!(uploads(&proxy, "model-00001"), 1);
    same(&s3.objects("q"), &expected);
}

/// Catches a Ctrl-C that leaves parts in the bucket, which are paid for and seen by nobody.
#[test]
fn a_signal_gives_the_upload_up() {
    let s3 = S3Server::start();
    let proxy = Proxy::before(&s3.url);
    proxy.add(
        Rule::new(Fault::Wait(Duration::from_secs(2)))
            .method("PUT")
            .at(THIRD),
    );
    let child = start(&mut quantize(&proxy.url, "s3://models/q"));
    wait_for_third(&proxy);
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    no_secret("stderr", &output.stderr);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("--resume"), "{said}");
    assert_eq!(s3.open_uploads(), 0);
    assert!(!s3.objects("q").contains_key("config.json"));
}

/// Catches two runs that write the same files.
#[test]
fn a_second_save_into_the_same_folder_is_refused() {
    let s3 = S3Server::start();
    let proxy = Proxy::before(&s3.url);
    proxy.add(
        Rule::new(Fault::Wait(Duration::from_secs(3)))
            .method("PUT")
            .at(THIRD)
            .times(1),
    );
    let first = start(&mut quantize(&proxy.url, "s3://models/q"));
    wait_for_third(&proxy);
    let error = fail(&mut quantize(&s3.url, "s3://models/q"), 1);
    assert!(error.contains("interrupted"), "{error}");
    let output = first.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
