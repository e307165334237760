//! A hub on this machine: the part of the Hugging Face hub's HTTP interface that downloads use.
//!
//! As on the real one, small files are answered at once, weights by a redirect to another address
//! ("the CDN"), which knows nothing of commits.

#![allow(
    dead_code,
    reason = "shared by test binaries, each of which uses a part"
)]

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::http::{Asked, Head, asked, listen};

/// The model that is served.
pub(crate) const ID: &str = "org/tiny";
/// The first commit of it.
pub(crate) const FIRST: &str = "1111111111111111111111111111111111111111";
/// The second commit of it.
pub(crate) const SECOND: &str = "2222222222222222222222222222222222222222";

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
pub(crate) struct State {
    /// Commit to files.
    pub(crate) commits: BTreeMap<String, Files>,
    /// Branch to commit.
    pub(crate) branches: BTreeMap<String, String>,
    /// Refuse requests without this token.
    pub(crate) token: Option<String>,
    /// Answer downloads of this file with 403, as for a licence that was not accepted.
    pub(crate) gated: Option<String>,
    /// Answer that many requests with 503.
    pub(crate) unwell: usize,
    /// Announce this many bytes more than files have, in the list of files.
    pub(crate) exaggerate: u64,
    /// List names of files without lengths, as some mirrors do.
    pub(crate) names_only: bool,
    /// Answer a request for a small file with another place on the same host.
    pub(crate) moved: bool,
    /// Answer with whole files, whatever range was asked for.
    pub(crate) ignore_ranges: bool,
    /// Send this many zeros after each file, and no length.
    pub(crate) overlong: u64,
    /// Answer requests about the model with this body, packed by gzip.
    pub(crate) packed_listing: Option<Vec<u8>>,
    /// Answer requests about the model with another place.
    pub(crate) listing_at: Option<String>,
    /// Hang up after that many bytes of a body.
    pub(crate) hang_up_after: Option<usize>,
    /// Wait so long after each 16 KiB of a body.
    pub(crate) dawdle: Duration,
    /// The CDN's address, when it is another host.
    pub(crate) cdn: Option<String>,
    /// Bytes of bodies sent so far, by path.
    pub(crate) sent: BTreeMap<String, u64>,
    /// Every request so far.
    pub(crate) log: Vec<Request>,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

pub(crate) struct Loopback {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

impl Loopback {
    /// A hub whose main branch is at [`FIRST`] with these files.
    pub(crate) fn serve(files: Files) -> Self {
        let state = Arc::new(Mutex::new(State {
            commits: [(FIRST.to_owned(), files)].into(),
            branches: [("main".to_owned(), FIRST.to_owned())].into(),
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let url = listen(move |stream| answer(&shared, stream));
        Self { url, state }
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    pub(crate) fn log(&self) -> Vec<Request> {
        self.state.lock().unwrap().log.clone()
    }

    /// Bytes of this file sent so far. What a client that hung up did not take is not counted, but
    /// for what was on its way.
    pub(crate) fn sent(&self, file: &str) -> u64 {
        let state = self.state.lock().unwrap();
        let sent = state.sent.iter().filter(|(path, _)| path.ends_with(file));
        sent.map(|(_, bytes)| bytes).sum()
    }

    /// Bodies of this file that were asked for to the end: not the first byte, to learn the length,
    /// nor a header.
    pub(crate) fn downloads(&self, file: &str) -> usize {
        self.log()
            .iter()
            .filter(|request| {
                request.path.ends_with(file)
                    && !request.path.starts_with("/api/")
                    && request
                        .range
                        .as_deref()
                        .is_none_or(|range| range.ends_with('-'))
            })
            // A redirected download is two requests.
            .filter(|request| request.path.starts_with("/cdn/") || !redirected(file))
            .count()
    }
}

fn redirected(file: &str) -> bool {
    file.ends_with(".safetensors")
}

/// FNV-1a, as hexadecimal digits: equal bytes have equal tags, in all commits.
fn etag(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn answer(state: &Mutex<State>, mut stream: TcpStream) -> std::io::Result<()> {
    let url = format!("http://{}", stream.local_addr()?);
    let mut reader = BufReader::new(stream.try_clone()?);
    let Some(head) = Head::read(&mut reader)? else {
        return Ok(());
    };
    let mut request = Request {
        path: head.path().to_owned(),
        range: head.get("range").map(str::to_owned),
        authorization: head.get("authorization").map(str::to_owned),
    };
    let (head, body, most, wait, overlong) = {
        let mut state = state.lock().unwrap();
        state.log.push(request.clone());
        if state.ignore_ranges {
            request.range = None;
        }
        let (head, body) = route(&url, &mut state, &request);
        let most = state.hang_up_after.unwrap_or(usize::MAX).min(body.len());
        let is_file = !request.path.starts_with("/api/");
        let overlong = if is_file { state.overlong } else { 0 };
        (head, body, most, state.dawdle, overlong)
    };
    let length = match overlong {
        0 => format!("Content-Length: {}\r\n", body.len()),
        _ => String::new(),
    };
    write!(
        stream,
        "HTTP/1.1 {head}\r\n{length}Connection: close\r\n\r\n"
    )?;
    for piece in body[..most].chunks(16 << 10) {
        stream.write_all(piece)?;
        std::thread::sleep(wait);
        let mut state = state.lock().unwrap();
        *state.sent.entry(request.path.clone()).or_default() += piece.len() as u64;
    }
    let zeros = [0; 16 << 10];
    for _ in 0..overlong / zeros.len() as u64 {
        stream.write_all(&zeros)?;
    }
    Ok(())
}

/// Status line and headers, and the body.
fn route(url: &str, state: &mut State, request: &Request) -> (String, Vec<u8>) {
    let refuse = |status: &str, code: &str| (format!("{status}\r\nX-Error-Code: {code}"), vec![]);
    if state.unwell > 0 {
        state.unwell -= 1;
        return refuse("503 Service Unavailable", "Unwell");
    }
    if let Some(rest) = request.path.strip_prefix("/cdn/") {
        let (commit, file) = rest.split_once('/').unwrap();
        return ranged(&state.commits[commit][file], request, String::new());
    }
    let wanted = state.token.as_ref().map(|token| format!("Bearer {token}"));
    if wanted.is_some() && wanted != request.authorization {
        return refuse("401 Unauthorized", "GatedRepo");
    }
    let commit_of = |revision: &str| {
        let revision = revision.replace("%2F", "/");
        let commit = state.branches.get(&revision).unwrap_or(&revision);
        state
            .commits
            .get_key_value(commit)
            .map(|(commit, files)| (commit.clone(), files))
    };
    if let Some(revision) = request
        .path
        .strip_prefix(&format!("/api/models/{ID}/revision/"))
    {
        if let Some(place) = &state.listing_at {
            return (
                format!("302 Found\r\nLocation: {place}{}", request.path),
                vec![],
            );
        }
        if let Some(packed) = &state.packed_listing {
            return (
                "200 OK\r\nContent-Encoding: gzip".to_owned(),
                packed.clone(),
            );
        }
        let Some((commit, files)) = commit_of(revision) else {
            return refuse("404 Not Found", "RevisionNotFound");
        };
        let siblings: Vec<_> = files
            .iter()
            .map(|(name, bytes)| {
                let size = bytes.len() as u64 + state.exaggerate;
                match state.names_only {
                    true => serde_json::json!({ "rfilename": name }),
                    false => serde_json::json!({ "rfilename": name, "size": size }),
                }
            })
            .collect();
        let body = serde_json::json!({ "sha": commit, "siblings": siblings });
        return ("200 OK".to_owned(), body.to_string().into_bytes());
    }
    let path = request.path.as_str();
    let moved = path.strip_prefix("/api/resolve-cache");
    let Some((revision, file)) = moved
        .unwrap_or(path)
        .strip_prefix(&format!("/{ID}/resolve/"))
        .and_then(|rest| rest.split_once('/'))
    else {
        return refuse("404 Not Found", "RepoNotFound");
    };
    let Some((commit, files)) = commit_of(revision) else {
        return refuse("404 Not Found", "RevisionNotFound");
    };
    let Some(bytes) = files.get(file) else {
        return refuse("404 Not Found", "EntryNotFound");
    };
    if state.gated.as_deref() == Some(file) {
        return refuse("403 Forbidden", "GatedRepo");
    }
    if state.moved && moved.is_none() && !redirected(file) {
        let head = format!("307 Temporary Redirect\r\nLocation: /api/resolve-cache{path}");
        return (head, vec![]);
    }
    let tag = etag(bytes);
    if redirected(file) {
        let cdn = state.cdn.as_deref().unwrap_or(url);
        let head = format!(
            "302 Found\r\nLocation: {cdn}/cdn/{commit}/{file}\r\nX-Repo-Commit: {commit}\r\n\
             X-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {}",
            bytes.len()
        );
        return (head, vec![]);
    }
    let headers = format!("\r\nETag: \"{tag}\"\r\nX-Repo-Commit: {commit}");
    ranged(bytes, request, headers)
}

/// The range that was asked for, or all.
fn ranged(bytes: &[u8], request: &Request, headers: String) -> (String, Vec<u8>) {
    let len = bytes.len();
    match asked(request.range.as_deref(), len as u64) {
        Asked::All => (format!("200 OK{headers}"), bytes.to_vec()),
        Asked::Outside => {
            let range = format!("\r\nContent-Range: bytes */{len}");
            let head = format!("416 Range Not Satisfiable{headers}{range}");
            (head, vec![])
        }
        Asked::Part(part) => {
            let (start, end) = (part.start as usize, part.end as usize);
            let range = format!("\r\nContent-Range: bytes {start}-{}/{len}", end - 1);
            let head = format!("206 Partial Content{headers}{range}");
            (head, bytes[start..end].to_vec())
        }
    }
}
