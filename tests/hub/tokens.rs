//! The token: where it comes from, where it is sent, and where it is never seen.

use std::fs;

use firebox::{LoadConfig, source::SourceExt};
use tempfile::TempDir;

use super::{model, serve, two_files};

/// Catches a token in the logs of whoever stores the hub's files.
#[test]
fn the_token_does_not_follow_to_another_host() {
    let (hub, cache) = serve(two_files());
    hub.set(|state| {
        state.token = Some("hf_secret".to_owned());
        state.cdn = Some(hub.url.replace("127.0.0.1", "localhost"));
    });
    let source = model(&hub, &cache).token("hf_secret").build().unwrap();
    source.peek("model.safetensors", 0, &mut [0; 8]).unwrap();
    assert_eq!(source.read("model.safetensors").unwrap(), vec![7; 100_000]);
    let (there, here): (Vec<_>, Vec<_>) = hub
        .log()
        .into_iter()
        .partition(|request| request.path.starts_with("/cdn/"));
    assert_eq!(there.len(), 2);
    assert!(
        there.iter().all(|request| request.authorization.is_none()),
        "{there:?}"
    );
    assert!(
        here.iter().all(|request| request.authorization.is_some()),
        "{here:?}"
    );
}

/// Another server on the hub's machine: of the files, then of the list of files too. Catches a comparison of hosts that
/// ignores ports.
#[test]
fn the_token_does_not_follow_to_another_port() {
    let (hub, cache) = serve(two_files());
    let (other, _) = serve(two_files());
    hub.set(|state| state.cdn = Some(other.url.clone()));
    let source = model(&hub, &cache).token("hf_secret").build().unwrap();
    assert_eq!(source.read("model.safetensors").unwrap(), vec![7; 100_000]);
    hub.set(|state| state.listing_at = Some(other.url.clone()));
    let source = model(&hub, &TempDir::new().unwrap()).token("hf_secret");
    source.build().unwrap().commit().unwrap();

    let requests = other.log();
    assert_eq!(requests.len(), 2, "{requests:?}");
    for request in requests {
        assert_eq!(request.authorization, None, "{}", request.path);
    }
}

#[test]
fn the_token_is_sent_and_never_printed() {
    let (hub, cache) = serve(two_files());
    hub.set(|state| state.token = Some("hf_secret".to_owned()));
    let builder = model(&hub, &cache).token("hf_secret\n");
    assert!(!format!("{builder:?}").contains("hf_secret"));
    let source = builder.build().unwrap();
    source.read("config.json").unwrap();
    assert!(!format!("{source:?}").contains("hf_secret"));
    for request in hub.log() {
        assert_eq!(
            request.authorization.as_deref(),
            Some("Bearer hf_secret"),
            "{}",
            request.path
        );
    }
}

#[test]
fn the_token_comes_from_where_python_looks_in_that_order() {
    let home = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = home.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (_, elsewhere) = (write("token", "in_home\n"), write("other", " elsewhere "));
    let hf_home = home.path().to_str().unwrap();
    let sent = |variables: &[(&str, &str)]| {
        let (hub, cache) = serve(two_files());
        let source = model(&hub, &cache).environment(variables.iter().copied());
        source.build().unwrap().commit().unwrap();
        hub.log()[0].authorization.clone()
    };
    let all = [
        ("HF_TOKEN", "direct"),
        ("HF_TOKEN_PATH", &elsewhere),
        ("HF_HOME", hf_home),
    ];
    assert_eq!(sent(&all).as_deref(), Some("Bearer direct"));
    assert_eq!(sent(&all[1..]).as_deref(), Some("Bearer elsewhere"));
    assert_eq!(sent(&all[2..]).as_deref(), Some("Bearer in_home"));
    assert_eq!(sent(&[("HOME", "/nonexistent")]), None);
    // An empty variable is no token, and hides no file.
    assert_eq!(
        sent(&[("HF_TOKEN", ""), all[2]]).as_deref(),
        Some("Bearer in_home")
    );
}

/// Would catch a token in the logs of everybody who prints a configuration.
#[test]
fn a_configuration_that_is_printed_keeps_its_token() {
    let config = LoadConfig::new("org/name").token("hf_of_mine");
    let printed = format!("{config:?}");
    assert!(printed.contains("org/name"), "{printed}");
    assert!(!printed.contains("hf_of_mine"), "{printed}");
}
