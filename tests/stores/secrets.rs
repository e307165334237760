//! Every variable and every address of a run has a mark in what is secret of it; whatever the run prints and writes has none.

use std::{fs, path::Path, process::Output};

use tempfile::TempDir;

use crate::{
    SHARDS,
    file_server::FileServer,
    firebox,
    loopback::ID,
    proxy::{Fault, Proxy, Rule},
    s3::{S3Server, SECRET},
    tinyrust,
};

/// What no text has: parts of all secrets, and what becomes of one of them in a header.
const MARKS: [&str; 3] = ["MARKED", SECRET, "cmVhZGVyOk1BUktFRFdPUkQ"];
/// A user, a password and a signature in an address, of which the password is marked in a header too.
pub(crate) const USER: &str = "reader:MARKEDWORD";
const SIGNATURE: &str = "X-Amz-Credential=MARKEDID&X-Amz-Signature=MARKEDSIGNATURE";

/// A folder that runs write to, with the servers that they reach.
pub(crate) struct Room {
    pub(crate) folder: TempDir,
    pub(crate) s3: S3Server,
    /// In front of the object store, and of a web server that serves the model.
    store: Proxy,
    pub(crate) web: Proxy,
}

impl Room {
    pub(crate) fn new() -> Self {
        let s3 = S3Server::start();
        s3.put_folder("source", &tinyrust());
        let web = FileServer::serve(&tinyrust());
        Self {
            folder: TempDir::new().unwrap(),
            store: Proxy::before(&s3.url),
            web: Proxy::before(&web.url),
            s3,
        }
    }

    /// The model on the web server, at an address with everything secret that an address can have.
    fn address(&self) -> String {
        let host = self.web.url.trim_start_matches("http://");
        format!("http://{USER}@{host}/?{SIGNATURE}")
    }

    /// Runs the program as talkative as it can be, and looks through what it says.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = firebox(&self.store.url);
        command
            .args(arguments)
            .arg("-vv")
            .env("RUST_LOG", "trace")
            .env("AWS_SESSION_TOKEN", "MARKEDSESSION")
            .env("AZURE_CLIENT_SECRET", "MARKEDCLIENT")
            .env("HUGGING_FACE_HUB_TOKEN", "hf_MARKEDOLDTOKEN")
            .envs(variables.iter().copied())
            .current_dir(self.folder.path());
        let output = command.output().unwrap();
        let shown = arguments.join(" ");
        unmarked(&format!("stdout of {shown}"), &output.stdout);
        unmarked(&format!("stderr of {shown}"), &output.stderr);
        output
    }

    #[track_caller]
    pub(crate) fn succeed(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", output.status);
        output
    }

    /// The error of a run that fails.
    #[track_caller]
    pub(crate) fn fail(&self, arguments: &[&str], variables: &[(&str, &str)]) -> String {
        let output = self.run(arguments, variables);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?} succeeds: {said}");
        let error = said.lines().skip_while(|line| !line.starts_with("error: "));
        error.collect::<Vec<_>>().join("\n")
    }

    /// Looks through all files that were written, here and in the store.
    #[track_caller]
    pub(crate) fn written(&self) -> Vec<String> {
        let mut names = Vec::new();
        look_through(self.folder.path(), &mut names);
        for (name, bytes) in self.s3.objects("") {
            unmarked(&name, &bytes);
            names.push(name);
        }
        names
    }
}

#[track_caller]
fn unmarked(what: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for mark in MARKS {
        if let Some(place) = text.find(mark) {
            let start = text.floor_char_boundary(place.saturating_sub(300));
            let end = text.floor_char_boundary(place + 100);
            panic!("{what} has {mark}: … {} …", &text[start..end]);
        }
    }
}

#[track_caller]
fn look_through(folder: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look_through(&path, names);
            continue;
        }
        let name = path.display().to_string();
        unmarked(&name, name.as_bytes());
        unmarked(&name, &fs::read(&path).unwrap());
        names.push(name);
    }
}

#[track_caller]
fn has(names: &[String], end: &str) {
    assert!(
        names.iter().any(|name| name.ends_with(end)),
        "no {end} among {names:?}"
    );
}

/// Catches a key or a signature in a log, in events, in a report, in a record, in a configuration and in a card.
#[test]
fn a_run_that_succeeds_says_and_writes_no_secret() {
    let room = Room::new();
    let address = room.address();
    let save = |source: &str, out: &str| {
        let run = [
            &[
                "quantize",
                source,
                "--out",
                out,
                "--json",
                "--events",
                "events.jsonl",
            ],
            &SHARDS[..],
        ];
        room.succeed(&run.concat());
    };
    save("s3://models/source", "of-store");
    save(&address, "of-web");
    save(&address, "s3://models/of-web");
    room.succeed(&["inspect", &address, "--json"]);
    room.succeed(&["plan", &address]);
    room.succeed(&["recommend", &address]);
    room.succeed(&["load", &address, "--quant", "nf4", "--json"]);
    room.succeed(&[
        "load",
        "s3://models/source",
        "--cache",
        "cache",
        "--cache-limit",
        "64MiB",
    ]);
    let report = room.succeed(&["verify", "of-web", "--against", &address, "--json"]);
    fs::write(room.folder.path().join("report.json"), report.stdout).unwrap();
    // The card has the address of the model that it was made from.
    let push = [
        "push",
        "of-web",
        "s3://models/published",
        "--base-model",
        &address,
        "--json",
    ];
    room.succeed(&[&push[..], &["--against", &address]].concat());
    let (text, adapter) = (
        room.folder.path().join("text.txt"),
        ["--adapter", "lora:rank=2,targets=*.q_proj"],
    );
    fs::write(&text, "A crate is a tree of modules. ".repeat(20)).unwrap();
    let train = [
        "finetune", &address, "--data", "text.txt", "--out", "adapter", "--steps", "1", "--length",
        "16",
    ];
    room.succeed(&[&train[..], &adapter].concat());

    let names = room.written();
    for end in [
        "events.jsonl",
        "of-web/config.json",
        ".firebox-saved.json",
        "adapter_config.json",
        "published/README.md",
    ] {
        has(&names, end);
    }
    let card = &room.s3.objects("published")["README.md"];
    let shown = format!("base_model: \"{}/", room.web.url);
    assert!(String::from_utf8_lossy(card).contains(&shown));
    // They were sent where they belong.
    let log = room.web.log();
    assert!(
        log.iter()
            .any(|passed| passed.head.target().contains("MARKEDSIGNATURE"))
    );
    assert!(
        log.iter()
            .all(|passed| passed.head.get("authorization").is_some())
    );
    let log = room.store.log();
    assert!(
        log.iter()
            .all(|passed| passed.head.get("x-amz-security-token") == Some("MARKEDSESSION"))
    );
}

/// Catches a secret in an error, in an error of the command line, and in what a save leaves behind that did not end.
#[test]
fn a_run_that_fails_says_and_leaves_no_secret() {
    let room = Room::new();
    let address = room.address();
    let elsewhere = Proxy::before(&room.s3.url);
    let inspect = |model: &str| room.fail(&["inspect", model], &[]);
    let save = |source: &str, out: &str| {
        let run = [
            &[
                "quantize",
                source,
                "--out",
                out,
                "--json",
                "--events",
                "events.jsonl",
            ],
            &SHARDS[..],
        ];
        room.fail(&run.concat(), &[])
    };

    // In the middle, so that a journal is left: a store and a web server that say no, and a store that takes no more.
    for proxy in [&room.store, &room.web] {
        proxy.add(
            Rule::new(Fault::Status(403))
                .method("GET")
                .at("model-00003")
                .skip(1),
        );
    }
    room.store.add(
        Rule::new(Fault::Status(403))
            .method("PUT")
            .at("unpublished-model-00003"),
    );
    assert!(save("s3://models/source", "of-store").contains("403"));
    assert!(save(&address, "of-web").contains("403"));
    assert!(save(&address, "s3://models/of-web").contains("403"));
    let names = room.written();
    for end in [
        "of-store/.firebox-journal.jsonl",
        "of-web/.firebox-journal.jsonl",
    ] {
        has(&names, end);
    }
    for proxy in [&room.store, &room.web] {
        proxy.heal();
        proxy.add(Rule::new(Fault::MoveTo(elsewhere.url.clone())).at("config.json"));
    }
    inspect("s3://models/source");
    inspect(&address);
    assert!(!elsewhere.log().is_empty());
    for proxy in [&room.store, &room.web] {
        proxy.heal();
        proxy.add(Rule::new(Fault::Loop));
    }
    assert!(inspect("s3://models/source").contains("redirects"));
    assert!(inspect(&address).contains("redirects"));
    for proxy in [&room.store, &room.web] {
        proxy.heal();
        proxy.add(Rule::new(Fault::TooMany { retry_after: 4000 }));
    }
    assert!(inspect("s3://models/source").contains("4000 s"));
    assert!(inspect(&address).contains("4000 s"));
    room.store.heal();
    room.web.heal();

    // Wrong keys, of which S3 repeats the id, and the session.
    for variables in [
        [("AWS_SECRET_ACCESS_KEY", "MARKEDWRONGSECRET")],
        [("AWS_ACCESS_KEY_ID", "AKIAMARKEDWRONGID000")],
        [("AWS_ENDPOINT_URL", "http://reader:MARKEDWORD@127.0.0.1:9")],
        [("AWS_ENDPOINT_URL", "MARKEDWORD@127.0.0.1:9")],
        [("AWS_REGION", "a region\nMARKEDno")],
    ] {
        room.fail(&["inspect", "s3://models/source"], &variables);
        room.fail(
            &["push", "of-web", "s3://models/p", "--replace"],
            &variables,
        );
    }
    // What is no address of a model.
    let host = room.web.url.trim_start_matches("http://");
    for model in [
        format!("htps://{USER}@{host}/m?{SIGNATURE}"),
        format!("s3://{USER}@models/source?{SIGNATURE}"),
        format!("hf://{USER}@org/name?{SIGNATURE}"),
        format!("https://huggingface.co/{ID}/nothing/more?token=MARKEDTOKEN"),
        format!("https://{USER}@huggingface.co:99999/{ID}"),
        format!("http://reader:MARKED/WORD@{host}/m"),
        format!("http://{USER}@{host}/nothing?{SIGNATURE}"),
    ] {
        inspect(&model);
        room.fail(&["verify", "of-web", "--against", &model], &[]);
        room.fail(&["push", "of-web", &model], &[]);
        room.fail(&["quantize", "of-web", "--out", &model], &[]);
        // Errors of the command line repeat what they refuse.
        room.fail(&["inspect", "--in-flight", &model, "of-web"], &[]);
        room.fail(
            &["finetune", "of-web", "--data", "text.txt", "--out", &model],
            &[],
        );
        room.fail(&["synth", &format!("--out={model}"), "--size", "1MiB"], &[]);
    }
    room.written();
}
