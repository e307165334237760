//! What goes wrong on the way: each fault ends in the same bytes or in an error that says what it was.

use std::{fs, sync::Arc, time::Duration};

use firebox::{
    Error, SaveConfig,
    source::{RemoteBuilder, Source, SourceError},
};
use tempfile::TempDir;

use crate::{
    file_server::FileServer,
    models::{copy, expected, files, quantize, remote, said, tinyrust},
    proxy::{Fault, Proxy, Rule},
    s3::{BUCKET, S3Server},
};

const WEIGHTS: &str = ".safetensors";

fn impatient(address: &str) -> RemoteBuilder {
    remote(address)
        .retries(3)
        .timeouts(Duration::from_secs(2), Duration::from_millis(400))
}

/// Quantizes the model behind a proxy with these faults.
fn with(rules: impl IntoIterator<Item = Rule>) -> (Proxy, Result<(), Error>) {
    let server = FileServer::serve(&tinyrust());
    let proxy = Proxy::before(&server.url);
    rules.into_iter().for_each(|rule| proxy.add(rule));
    let folder = TempDir::new().unwrap();
    let source = impatient(&proxy.url).build().unwrap();
    let saved = quantize(Arc::new(source), &SaveConfig::new(folder.path()));
    if saved.is_ok() {
        assert!(files(folder.path()) == *expected());
    }
    (proxy, saved.map(|_| ()))
}

/// The error of the source among the causes.
fn source_error(error: &Error) -> &SourceError {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<SourceError>() {
            return found;
        }
        next = error.source();
    }
    panic!("{error:?} has no error of a source");
}

#[test]
fn what_passes_is_survived() {
    let here = |fault: Fault| Rule::new(fault).at(WEIGHTS);
    for (name, rule) in [
        (
            "slow",
            here(Fault::Wait(Duration::from_millis(100))).times(5),
        ),
        (
            "dripping",
            here(Fault::Drip(4 << 10, Duration::from_millis(2))).times(20),
        ),
        ("silent", here(Fault::Wait(Duration::from_secs(2))).times(2)),
        ("cut", here(Fault::CutAfter(1000)).skip(2).times(20)),
        ("hung up", here(Fault::HangUp).skip(1).times(3)),
        ("short", here(Fault::Short(10)).skip(3).times(5)),
        ("overstated", here(Fault::Misstate(5)).skip(3).times(2)),
        ("500", here(Fault::Status(500)).skip(1).times(3)),
        ("503", Rule::new(Fault::Status(503)).times(2)),
        (
            "429",
            here(Fault::TooMany { retry_after: 1 }).skip(4).times(1),
        ),
        (
            "whole files, small ones",
            Rule::new(Fault::IgnoreRange).at(".json"),
        ),
    ] {
        let (proxy, saved) = with([rule]);
        saved.unwrap_or_else(|error| panic!("{name}: {}", said(&error)));
        assert!(proxy.faults() > 0, "{name}");
    }
}

#[test]
fn what_does_not_pass_is_an_error_with_its_name() {
    let here = |fault: Fault| Rule::new(fault).at("model-00002").skip(1);
    let is = |rule: Rule, expected: &str, matches: fn(&SourceError) -> bool| {
        let (_, saved) = with([rule]);
        let error = saved.expect_err(expected);
        let text = said(&error);
        let source = source_error(&error);
        assert!(matches(source), "{source:?}");
        assert!(
            text.contains(expected) && text.contains("model-00002"),
            "{text}"
        );
    };
    let network = |error: &SourceError| matches!(error, SourceError::Network { .. });
    is(here(Fault::Status(500)), "500", network);
    is(here(Fault::HangUp), "failed", network);
    is(here(Fault::CutAfter(0)), "failed", network);
    is(here(Fault::Loop), "redirects", network);
    is(
        here(Fault::TooMany { retry_after: 4000 }),
        "4000 s",
        network,
    );
    is(here(Fault::Status(401)), "user", |error| {
        matches!(error, SourceError::Denied { status: 401, .. })
    });
    is(here(Fault::Status(403)), "403", |error| {
        matches!(error, SourceError::Denied { status: 403, .. })
    });
    is(here(Fault::IgnoreRange), "whole file", |error| {
        matches!(error, SourceError::WholeFiles { .. })
    });
    is(here(Fault::Replaced), "replaced", |error| {
        matches!(error, SourceError::Replaced { .. })
    });
}

/// A hundred connections that break at places drawn by chance.
#[test]
fn a_hundred_cuts_change_nothing() {
    let cuts = Rule::new(Fault::CutSomewhere)
        .at(WEIGHTS)
        .skip(3)
        .times(100);
    let server = FileServer::serve(&tinyrust());
    let proxy = Proxy::before(&server.url);
    proxy.add(cuts);
    // What is left of a range gets shorter with each cut, and from its last byte no cut leaves anything.
    let source = impatient(&proxy.url).retries(40).build().unwrap();
    let folder = TempDir::new().unwrap();
    let saved = quantize(Arc::new(source), &SaveConfig::new(folder.path()));
    saved.unwrap_or_else(|error| panic!("{}", said(&error)));
    assert!(files(folder.path()) == *expected());
    assert_eq!(proxy.faults(), 100);
}

/// A file that another one takes the place of: refused by name, and so is going on with it.
#[test]
fn a_file_that_is_replaced_is_refused() {
    let model = copy();
    let server = FileServer::serve(model.path());
    let proxy = Proxy::before(&server.url);
    proxy.add(Rule::new(Fault::Replaced).at("model-00003").skip(3));
    let folder = TempDir::new().unwrap();
    let to = SaveConfig::new(folder.path());
    let saved = quantize(Arc::new(impatient(&proxy.url).build().unwrap()), &to);
    let error = saved.unwrap_err();
    assert!(
        matches!(source_error(&error), SourceError::Replaced { file, .. } if file.contains("00003"))
    );
    proxy.heal();
    // The other file, with one more value changed than the header tells of.
    let shard = model.path().join("model-00003-of-00003.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    let again = impatient(&proxy.url).build().unwrap();
    let error = quantize(Arc::new(again), &to.resume(true)).unwrap_err();
    assert!(error.to_string().contains("source.version"), "{error}");
}

/// A second run of a save that a server ended goes on.
#[test]
fn a_second_run_resumes() {
    let server = FileServer::serve(&tinyrust());
    let proxy = Proxy::before(&server.url);
    proxy.add(Rule::new(Fault::Status(500)).at("model-00003").skip(2));
    let folder = TempDir::new().unwrap();
    let to = SaveConfig::new(folder.path());
    let source = || Arc::new(impatient(&proxy.url).build().unwrap());
    let error = quantize(source(), &to).unwrap_err();
    assert!(
        matches!(error, Error::Interrupted { done: 1.., .. }),
        "{error:?}"
    );
    proxy.heal();
    let saved = quantize(source(), &to.resume(true)).unwrap();
    assert!(saved.resumed > 0);
    assert!(files(folder.path()) == *expected());
}

/// Catches a user, a key or a signature that follows a redirect to another host.
#[test]
fn no_credential_follows_to_another_host() {
    let server = FileServer::serve(&tinyrust());
    let s3 = S3Server::start();
    s3.put_folder("org/tiny", &tinyrust());
    let elsewhere = Proxy::before(&server.url);
    let web = Proxy::before(&server.url);
    let web_host = web.url.trim_start_matches("http://");
    let store = Proxy::before(&s3.url);
    let moved = Rule::new(Fault::MoveTo(elsewhere.url.clone())).at("config.json");
    web.add(moved.clone());
    store.add(moved);
    let signed = remote(&format!("http://{web_host}?sig=MARKED-SIGNATURE"));
    let user = remote(&format!("http://user:MARKED-WORD@{web_host}"));
    let keys =
        remote(&format!("s3://{BUCKET}/org/tiny")).environment(S3Server::environment(&store.url));
    for source in [signed, user, keys] {
        // The path of the bucket is not there, which is an answer as well.
        let _ = source.build().unwrap().size("config.json");
    }
    let log = elsewhere.log();
    assert_eq!(log.len(), 3);
    for mut passed in log {
        // The query is there because the proxy has named the place with it.
        passed.head.first.clear();
        let text = passed.head.text();
        assert!(!text.contains("MARKED"), "{text}");
        for header in [
            "authorization",
            "x-amz-security-token",
            "x-amz-date",
            "x-amz-content-sha256",
        ] {
            assert_eq!(passed.head.get(header), None, "{text}");
        }
        assert!(passed.head.get("range").is_some());
    }
    // They were sent where they belong.
    assert!(web.log()[0].head.target().contains("MARKED-SIGNATURE"));
    assert!(
        web.log()[1]
            .head
            .get("authorization")
            .is_some_and(|sent| sent.starts_with("Basic "))
    );
    assert!(store.log()[0].head.get("authorization").is_some());
}

/// A token that is refused in the middle is an error with what to do, and a save goes on with a new one.
#[test]
fn a_token_that_expires_is_an_error_and_a_new_one_goes_on() {
    let s3 = S3Server::start();
    s3.put_folder("org/tiny", &tinyrust());
    let proxy = Proxy::before(&s3.url);
    proxy.add(Rule::new(Fault::Status(403)).at("model-00003").skip(2));
    let folder = TempDir::new().unwrap();
    let to = SaveConfig::new(folder.path());
    let source = || {
        let source = impatient(&format!("s3://{BUCKET}/org/tiny"));
        Arc::new(
            source
                .environment(S3Server::environment(&proxy.url))
                .build()
                .unwrap(),
        )
    };
    let error = quantize(source(), &to).unwrap_err();
    let text = said(&error);
    assert!(
        matches!(source_error(&error), SourceError::Denied { .. }),
        "{text}"
    );
    assert!(text.contains("AWS_SESSION_TOKEN"), "{text}");
    proxy.heal();
    let saved = quantize(source(), &to.resume(true)).unwrap();
    assert!(saved.resumed > 0 && files(folder.path()) == *expected());
}

/// Strangers are told so: wrong keys, no such bucket, nobody there.
#[test]
fn a_store_that_says_no_is_told_from_one_that_is_not_there() {
    let s3 = S3Server::start();
    let ask = |bucket: &str, secret: &str| {
        let mut environment = S3Server::environment(&s3.url);
        environment[2].1 = secret.to_owned();
        let source = impatient(&format!("s3://{bucket}/org")).environment(environment);
        source.build().unwrap().size("config.json").unwrap_err()
    };
    let error = ask(BUCKET, "MARKED-SECRET-that-is-wrong");
    assert!(
        matches!(error, SourceError::Denied { status: 403, .. }),
        "{error:?}"
    );
    assert!(!said(&error).contains("MARKED"), "{}", said(&error));
    let error = ask(BUCKET, crate::s3::SECRET);
    assert!(error.is_absent(), "{error:?}");
    let error = ask("no-bucket", crate::s3::SECRET);
    assert!(
        matches!(error, SourceError::Store { .. }) || error.is_absent(),
        "{error:?}"
    );
    // Nothing listens at this port.
    let nobody = impatient("http://127.0.0.1:9/folder").build().unwrap();
    let error = nobody.size("config.json").unwrap_err();
    assert!(matches!(error, SourceError::Network { .. }), "{error:?}");
}
