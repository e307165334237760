//! Which commit, which cache and which hub: revisions, the environment, the layout that Python shares.

use std::fs;

use firebox::source::{Hub, Source, SourceError, SourceExt};
use tempfile::TempDir;

use super::{
    loopback::{FIRST, ID, SECOND},
    model, serve, two_files,
};

#[test]
fn a_mirror_that_lists_names_only_and_moves_files_serves() {
    let (hub, cache) = serve(two_files());
    hub.set(|state| {
        state.names_only = true;
        state.moved = true;
        state.token = Some("hf_secret".to_owned());
    });
    let source = model(&hub, &cache).token("hf_secret").build().unwrap();
    assert_eq!(source.size("model.safetensors").unwrap(), 100_000);
    assert_eq!(hub.downloads("model.safetensors"), 0);
    assert_eq!(source.read("config.json").unwrap(), b"{\"a\": 1}");
    assert_eq!(source.read("model.safetensors").unwrap(), vec![7; 100_000]);
}

/// Catches a layout that Python would not find, and so would download a second time.
#[test]
fn the_cache_is_laid_out_as_python_does() {
    let (hub, cache) = serve(two_files());
    let source = model(&hub, &cache).build().unwrap();
    source.read("config.json").unwrap();

    let folder = cache.path().join("models--org--tiny");
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), FIRST);
    let file = folder.join("snapshots").join(FIRST).join("config.json");
    assert_eq!(fs::read(&file).unwrap(), b"{\"a\": 1}");
    let blob = fs::canonicalize(&file).unwrap();
    assert_eq!(
        blob.parent(),
        Some(&*fs::canonicalize(folder.join("blobs")).unwrap())
    );
}

/// A cache that Python filled: a ref, a snapshot, nothing else.
#[test]
fn a_cache_that_python_filled_is_read_offline() {
    let cache = TempDir::new().unwrap();
    let folder = cache.path().join("models--org--tiny");
    let snapshot = folder.join("snapshots").join(FIRST);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), FIRST).unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();

    let source = Hub::builder(ID).cache(cache.path()).offline(true);
    let source = source.build().unwrap();
    assert_eq!(source.read("config.json").unwrap(), b"{}");
    assert_eq!(source.commit().unwrap(), FIRST);
}

#[test]
fn cache_endpoint_and_offline_come_from_the_environment() {
    let (hub, home) = serve(two_files());
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let cached_in = |variables: Vec<(&str, String)>, folder: &str| {
        let variables = variables.into_iter().chain([
            ("HF_ENDPOINT", format!("{}/", hub.url)),
            ("HOME", path("home")),
        ]);
        let source = Hub::builder(ID).environment(variables).build().unwrap();
        source.read("config.json").unwrap();
        assert!(
            home.path()
                .join(folder)
                .join("models--org--tiny/refs/main")
                .is_file(),
            "{folder}"
        );
    };
    cached_in(vec![], "home/.cache/huggingface/hub");
    cached_in(vec![("XDG_CACHE_HOME", path("xdg"))], "xdg/huggingface/hub");
    cached_in(vec![("HF_HOME", path("hf"))], "hf/hub");
    cached_in(vec![("HF_HOME", "~/mine".to_owned())], "home/mine/hub");
    cached_in(
        vec![
            ("HF_HOME", path("hf")),
            ("HUGGINGFACE_HUB_CACHE", path("old")),
        ],
        "old",
    );
    cached_in(
        vec![
            ("HUGGINGFACE_HUB_CACHE", path("old")),
            ("HF_HUB_CACHE", path("new")),
        ],
        "new",
    );

    for yes in ["1", "true", "YES", "On"] {
        let variables = [
            ("HF_ENDPOINT", hub.url.as_str()),
            ("HF_HUB_OFFLINE", yes),
            ("HF_HUB_CACHE", "/nonexistent"),
        ];
        let source = Hub::builder(ID).environment(variables).build().unwrap();
        let error = source.size("config.json").unwrap_err();
        assert!(
            matches!(error, SourceError::NotCached { .. }),
            "{yes}: {error}"
        );
    }
}

/// Catches index and shards from two savings, when the branch moves between two files.
#[test]
fn all_files_are_of_one_commit_though_the_branch_moves() {
    let (hub, cache) = serve(two_files());
    let source = model(&hub, &cache).build().unwrap();
    source.read("config.json").unwrap();
    let mut moved = two_files();
    moved.insert("model.safetensors".to_owned(), vec![8; 100_000]);
    hub.set(|state| {
        state.commits.insert(SECOND.to_owned(), moved);
        state.branches.insert("main".to_owned(), SECOND.to_owned());
    });
    assert_eq!(source.read("model.safetensors").unwrap(), vec![7; 100_000]);
    assert_eq!(source.commit().unwrap(), FIRST);

    // The next to come gets the new state, and downloads only what has changed.
    let next = model(&hub, &cache).build().unwrap();
    assert_eq!(next.read("model.safetensors").unwrap(), vec![8; 100_000]);
    assert_eq!(next.read("config.json").unwrap(), b"{\"a\": 1}");
    assert_eq!(next.commit().unwrap(), SECOND);
    assert_eq!(hub.downloads("config.json"), 1);
    assert_eq!(hub.downloads("model.safetensors"), 2);
}

#[test]
fn the_revision_may_be_a_branch_with_a_slash_or_a_commit() {
    let (hub, cache) = serve(two_files());
    hub.set(|state| {
        let mut files = two_files();
        files.insert("config.json".to_owned(), b"second".to_vec());
        state.commits.insert(SECOND.to_owned(), files);
        state
            .branches
            .insert("refs/pr/1".to_owned(), SECOND.to_owned());
    });
    for revision in ["refs/pr/1", SECOND] {
        let source = model(&hub, &cache).revision(revision).build().unwrap();
        assert_eq!(source.read("config.json").unwrap(), b"second", "{revision}");
    }
    let requests = hub.log().len();
    let cached = model(&hub, &cache).revision(SECOND).build().unwrap();
    assert_eq!(cached.read("config.json").unwrap(), b"second");
    assert_eq!(
        hub.log().len(),
        requests,
        "a commit in the cache needs no hub"
    );
    let main = model(&hub, &cache).build().unwrap();
    assert_eq!(main.read("config.json").unwrap(), b"{\"a\": 1}");
}
