//! The addresses that people have of a model: an id, or what a browser, `git clone` or a cache shows of one.
//!
//! | given | model | revision |
//! |---|---|---|
//! | `org/name`, `org/name/` | `org/name` | |
//! | `org/name@v1`, `hf://org/name@v1` | `org/name` | `v1` |
//! | `https://huggingface.co/org/name`, `hf.co/org/name`, `….git` | `org/name` | |
//! | `https://huggingface.co/org/name/tree/v1`, `…/blob/v1/config.json`, `…/resolve/v1/…` | `org/name` | `v1` |
//! | `models--org--name` | `org/name` | |
//!
//! Requests go to the endpoint, whatever the host of the address: an address of another host is refused.

use std::borrow::Cow;

use crate::source::{SourceError, address::without_secrets};

/// The hosts of the hub, wherever a mirror of it is asked.
const HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];
/// First parts of paths that are no models.
const OTHERS: [&str; 8] = [
    "datasets",
    "spaces",
    "collections",
    "papers",
    "docs",
    "blog",
    "posts",
    "kernels",
];
/// Parts of paths after which a revision follows.
const BEFORE_REVISION: [&str; 7] = [
    "tree", "blob", "resolve", "raw", "commit", "commits", "blame",
];
/// Parts of paths of a model that say nothing about its files.
const PAGES: [&str; 2] = ["discussions", "settings"];

/// A model on the hub.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// `org/name`, not checked.
    pub(super) id: String,
    pub(super) revision: Option<String>,
}

/// Reads what was given for a model, to be asked of `endpoint`.
pub(super) fn read(given: &str, endpoint: &str) -> Result<Address, SourceError> {
    let refuse = |why: Cow<'static, str>| SourceError::BadId {
        given: without_secrets(given),
        what: "model id",
        why,
    };
    let text = given.trim();
    if let Some(rest) = text.strip_prefix("hf://") {
        let rest = rest.strip_prefix("models/").unwrap_or(rest);
        return Ok(with_revision(rest.trim_end_matches('/')));
    }
    if let Some(name) = text.strip_prefix("models--") {
        return Ok(with_revision(&name.replace("--", "/")));
    }
    let own = host(endpoint);
    let (host, path) = match text.split_once("://") {
        Some(("http" | "https", rest)) => rest.split_once('/').unwrap_or((rest, "")),
        Some((scheme, _)) => {
            return Err(refuse(
                format!(
                    "`{scheme}://` is no address that is read; write org/name, the path of a folder, or s3://, gs://, az://, https://"
                )
                .into(),
            ));
        }
        None => match text.split_once('/') {
            Some((host, path)) if HOSTS.contains(&host) || host == own => (host, path),
            _ => return Ok(with_revision(text.trim_end_matches('/'))),
        },
    };
    if host != own && !HOSTS.contains(&host) {
        return Err(refuse(
            format!(
                "{host} is not the hub, which is {endpoint}; set HF_ENDPOINT to ask another one"
            )
            .into(),
        ));
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.starts_with(&["api", "models"]) {
        parts.drain(..2);
        // What the interface calls it.
        if let Some(word) = parts.iter_mut().find(|part| **part == "revision") {
            *word = "tree";
        }
    }
    if parts.first().is_some_and(|first| OTHERS.contains(first)) {
        return Err(refuse(
            "it is the address of a page that is no model; write org/name".into(),
        ));
    }
    of_path(&parts).ok_or_else(|| {
        refuse("only addresses of a model, of a revision (`/tree/main`) or of a file (`/blob/main/…`) are understood; write org/name".into())
    })
}

/// The model and revision of a path on the hub.
fn of_path(parts: &[&str]) -> Option<Address> {
    let is_page = |part: &&str| BEFORE_REVISION.contains(part) || PAGES.contains(part);
    let name = parts
        .iter()
        .take(3)
        .position(is_page)
        .unwrap_or(parts.len());
    let (id, rest) = parts.split_at(name);
    if id.is_empty() {
        return None;
    }
    let id = id.join("/");
    let id = id.strip_suffix(".git").unwrap_or(&id).to_owned();
    let revision = match rest {
        [] => None,
        [page, ..] if PAGES.contains(page) => None,
        // A pull request is one part where its slashes are escaped.
        [_, "refs", kind, number, ..] => Some(format!("refs/{kind}/{number}")),
        [_, revision, ..] => Some(revision.replace("%2F", "/").replace("%2f", "/")),
        [_] => None,
    };
    Some(Address { id, revision })
}

/// An id, perhaps with its revision.
fn with_revision(text: &str) -> Address {
    let (id, revision) = match text.split_once('@') {
        Some((id, revision)) => (id, Some(revision.to_owned())),
        None => (text, None),
    };
    Address {
        id: id.to_owned(),
        revision,
    }
}

/// The host of an endpoint, with its port.
fn host(endpoint: &str) -> &str {
    let rest = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}
