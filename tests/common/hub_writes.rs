//! A hub on this machine that takes models: the part of its HTTP interface that `huggingface_hub` pushes with (`lfs.py`,
//! `_commit_api.py`, `hf_api.py`).
//!
//! Large files are uploaded to another origin ("the storage"), to signed addresses, as on the real one.

#![allow(
    dead_code,
    reason = "shared by test binaries, each of which uses a part"
)]

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Write},
    net::TcpStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::http::{Head, listen};

/// The token that may write.
pub(crate) const TOKEN: &str = "hf_MARKEDTOKEN";

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Blob {
    Small(Vec<u8>),
    /// By its SHA-256.
    Large(String),
}

#[derive(Debug, Default)]
struct State {
    /// By `org/name`.
    models: BTreeMap<String, BTreeMap<String, Blob>>,
    private: Vec<String>,
    /// What was uploaded, by SHA-256, and parts by SHA-256 and number.
    objects: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<(String, u64), Vec<u8>>,
    /// SHA-256 of objects that the client has had verified.
    verified: Vec<String>,
    commits: usize,
    /// Larger files are uploaded in parts of so many bytes.
    chunk: u64,
    log: Vec<Head>,
}

pub(crate) struct HubWrites {
    pub(crate) url: String,
    /// The origin of the storage.
    pub(crate) storage: String,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HubWrites {
    /// Files above `chunk` bytes are uploaded in parts.
    pub(crate) fn serve(chunk: u64) -> Self {
        let state = Arc::new(Mutex::new(State {
            chunk,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let storage = listen(move |stream| connection(stream, &shared, store));
        let (shared, of_files) = (Arc::clone(&state), storage.clone());
        let url = listen(move |stream| {
            connection(stream, &shared, |state, head, body| {
                // As the client named it, who may come through a proxy.
                let url = format!("http://{}", head.get("host").unwrap_or_default());
                hub(state, head, body, &url, &of_files)
            })
        });
        Self {
            url,
            storage,
            state,
        }
    }

    /// The files of a model, their bytes.
    pub(crate) fn files(&self, model: &str) -> BTreeMap<String, Vec<u8>> {
        let state = lock(&self.state);
        let files = state.models.get(model).cloned().unwrap_or_default();
        let bytes = |blob| match blob {
            Blob::Small(bytes) => bytes,
            Blob::Large(sum) => state.objects[&sum].clone(),
        };
        let files = files.into_iter();
        files.map(|(name, blob)| (name, bytes(blob))).collect()
    }

    /// Names of large files of a model.
    pub(crate) fn large(&self, model: &str) -> Vec<String> {
        let state = lock(&self.state);
        let files = state.models.get(model).into_iter().flatten();
        let large = files.filter(|(_, blob)| matches!(blob, Blob::Large(_)));
        large.map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn is_private(&self, model: &str) -> bool {
        lock(&self.state).private.iter().any(|name| name == model)
    }

    pub(crate) fn commits(&self) -> usize {
        lock(&self.state).commits
    }

    /// Every request to the hub and to the storage.
    pub(crate) fn log(&self) -> Vec<Head> {
        lock(&self.state).log.clone()
    }

    /// Changes a byte of every object that is stored.
    pub(crate) fn damage(&self) {
        for bytes in lock(&self.state).objects.values_mut() {
            bytes[0] ^= 1;
        }
    }
}

/// Status, ETag and body of an answer.
type Answered = (u16, Option<String>, Vec<u8>);

fn connection(
    mut stream: TcpStream,
    state: &Mutex<State>,
    answer: impl Fn(&mut State, &Head, Vec<u8>) -> Answered,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(head) = Head::read(&mut reader)? {
        let body = head.body(&mut reader)?;
        let (status, etag, body) = {
            let mut state = lock(state);
            state.log.push(head.clone());
            answer(&mut state, &head, body)
        };
        let mut said = Head {
            first: format!("HTTP/1.1 {status} Said"),
            ..Head::default()
        };
        said.set("Content-Length", Some(body.len().to_string()));
        said.set("ETag", etag);
        if status >= 400 {
            said.set(
                "X-Error-Message",
                Some(format!("status {status} on purpose")),
            );
        }
        stream.write_all(said.text().as_bytes())?;
        stream.write_all(&body)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes files at signed addresses: `/SHA256?signature=…` and `/SHA256/PART?signature=…`.
fn store(state: &mut State, head: &Head, body: Vec<u8>) -> Answered {
    if head.method() != "PUT" || !head.target().contains("signature=MARKEDSIGNATURE") {
        return (403, None, Vec::new());
    }
    // Object stores take no body without a length, and no other authorization beside a signature.
    if head.length().is_none() || head.get("authorization").is_some() {
        return (400, None, Vec::new());
    }
    let path = head.path().trim_start_matches('/').to_owned();
    match path.split_once('/') {
        Some((sum, part)) => {
            let number = part.parse().expect("a number of a part");
            state.parts.insert((sum.to_owned(), number), body);
            (200, Some(format!("\"etag-{number}\"")), Vec::new())
        }
        None if hex(&Sha256::digest(&body)) == path => {
            state.objects.insert(path, body);
            (200, None, Vec::new())
        }
        None => (400, None, Vec::new()),
    }
}

fn hub(state: &mut State, head: &Head, body: Vec<u8>, url: &str, storage: &str) -> Answered {
    let json = |value: Value| (200, None, value.to_string().into_bytes());
    let refuse = |status: u16| (status, None, Vec::new());
    let allowed = head.get("authorization") == Some(&format!("Bearer {TOKEN}"));
    let path = head.path().to_owned();
    // The end of an upload in parts has a signature of its own.
    if let Some(sum) = path.strip_prefix("/complete/") {
        let asked: Value = serde_json::from_slice(&body).expect("JSON");
        let parts = asked["parts"].as_array().expect("parts");
        let mut whole = Vec::new();
        for (nth, part) in parts.iter().enumerate() {
            let number = nth as u64 + 1;
            let etag = format!("\"etag-{number}\"");
            if part["partNumber"] != number || part["etag"] != *etag {
                return refuse(400);
            }
            whole.extend(&state.parts[&(sum.to_owned(), number)]);
        }
        if asked["oid"] != *sum || hex(&Sha256::digest(&whole)) != sum {
            return refuse(400);
        }
        state.objects.insert(sum.to_owned(), whole);
        return json(json!({}));
    }
    if !allowed {
        return refuse(401);
    }
    if path == "/api/repos/create" {
        let asked: Value = serde_json::from_slice(&body).expect("JSON");
        let text = |field: &str| asked[field].as_str().expect("a text").to_owned();
        let id = format!("{}/{}", text("organization"), text("name"));
        if state.models.contains_key(&id) {
            return refuse(409);
        }
        if asked["visibility"] == "private" {
            state.private.push(id.clone());
        }
        let first = (".gitattributes".to_owned(), Blob::Small(Vec::new()));
        state.models.insert(id.clone(), [first].into());
        return json(json!({ "url": format!("{url}/{id}") }));
    }
    if let Some(sum) = path.strip_prefix("/verify/") {
        let asked: Value = serde_json::from_slice(&body).expect("JSON");
        let len = state.objects.get(sum).map(Vec::len);
        if asked["oid"] != *sum || Some(asked["size"].as_u64().expect("a size") as usize) != len {
            return refuse(404);
        }
        state.verified.push(sum.to_owned());
        return json(json!({}));
    }
    if let Some(id) = path.strip_suffix(".git/info/lfs/objects/batch") {
        if !state.models.contains_key(id.trim_start_matches('/')) {
            return refuse(404);
        }
        return batch(state, &body, url, storage);
    }
    let Some((id, rest)) = route(&path) else {
        return refuse(404);
    };
    let Some(files) = state.models.get(&id).cloned() else {
        return refuse(404);
    };
    let (what, rest) = rest.split_once('/').unwrap_or((&rest, ""));
    match what {
        "preupload" => {
            let asked: Value = serde_json::from_slice(&body).expect("JSON");
            let files = asked["files"]
                .as_array()
                .expect("files")
                .iter()
                .map(|file| {
                    let name = file["path"].as_str().expect("a path");
                    assert!(file["sample"].is_string());
                    let mode = if name.ends_with(".safetensors") {
                        "lfs"
                    } else {
                        "regular"
                    };
                    json!({ "path": name, "uploadMode": mode, "shouldIgnore": false })
                });
            json(json!({ "files": files.collect::<Vec<_>>() }))
        }
        "paths-info" => {
            let asked: Value = serde_json::from_slice(&body).expect("JSON");
            let names = asked["paths"].as_array().expect("paths").iter();
            let found = names.filter_map(|name| {
                let name = name.as_str()?;
                Some(match files.get(name)? {
                    Blob::Small(bytes) => json!({ "type": "file", "path": name, "size": bytes.len(), "oid": "git" }),
                    // The storage looks at what it has.
                    Blob::Large(sum) => {
                        let bytes = &state.objects[sum];
                        let oid = hex(&Sha256::digest(bytes));
                        json!({ "type": "file", "path": name, "size": bytes.len(), "oid": "git", "lfs": { "oid": oid, "size": bytes.len(), "pointerSize": 134 } })
                    }
                })
            });
            json(Value::Array(found.collect()))
        }
        "resolve" => match rest.split_once('/').and_then(|(_, name)| files.get(name)) {
            Some(Blob::Small(bytes)) => (200, None, bytes.clone()),
            _ => refuse(404),
        },
        "commit" => {
            if head.get("content-type") != Some("application/x-ndjson") {
                return refuse(400);
            }
            commit(state, &id, &body)
        }
        _ => refuse(404),
    }
}

/// The model and the rest of `/api/models/org/name/…` or `/org/name/…`.
fn route(path: &str) -> Option<(String, String)> {
    let path = path.strip_prefix("/api/models").unwrap_or(path);
    let mut parts = path.trim_start_matches('/').splitn(3, '/');
    let id = format!("{}/{}", parts.next()?, parts.next()?);
    Some((id, parts.next()?.to_owned()))
}

fn batch(state: &State, body: &[u8], url: &str, storage: &str) -> Answered {
    let asked: Value = serde_json::from_slice(body).expect("JSON");
    assert_eq!(asked["operation"], "upload");
    assert_eq!(asked["hash_algo"], "sha256");
    let objects = asked["objects"].as_array().expect("objects").iter().map(|object| {
        let sum = object["oid"].as_str().expect("an oid");
        let size = object["size"].as_u64().expect("a size");
        if state.objects.contains_key(sum) {
            return json!({ "oid": sum, "size": size });
        }
        let verify = json!({ "href": format!("{url}/verify/{sum}") });
        let upload = match size > state.chunk {
            false => json!({ "href": format!("{storage}/{sum}?signature=MARKEDSIGNATURE") }),
            true => {
                let parts = 1..=size.div_ceil(state.chunk);
                let mut header: serde_json::Map<String, Value> = parts
                    .map(|part| {
                        let address = format!("{storage}/{sum}/{part}?signature=MARKEDSIGNATURE");
                        (format!("{part:05}"), address.into())
                    })
                    .collect();
                header.insert("chunk_size".to_owned(), state.chunk.to_string().into());
                json!({ "href": format!("{url}/complete/{sum}?signature=MARKEDSIGNATURE"), "header": header })
            }
        };
        json!({ "oid": sum, "size": size, "actions": { "upload": upload, "verify": verify } })
    });
    let answer = json!({ "transfer": "basic", "objects": objects.collect::<Vec<_>>() });
    (200, None, answer.to_string().into_bytes())
}

fn commit(state: &mut State, id: &str, body: &[u8]) -> Answered {
    let text = String::from_utf8(body.to_vec()).expect("UTF-8");
    let mut lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let header = lines.next().expect("a header");
    if header["key"] != "header"
        || header["value"]["summary"]
            .as_str()
            .is_none_or(str::is_empty)
    {
        return (400, None, Vec::new());
    }
    let mut files = state.models[id].clone();
    for line in lines {
        let value = &line["value"];
        let name = value["path"].as_str().expect("a path").to_owned();
        let blob = match line["key"].as_str() {
            Some("file") => Blob::Small(decoded(value["content"].as_str().expect("base64"))),
            Some("lfsFile") => {
                let sum = value["oid"].as_str().expect("an oid").to_owned();
                if !state.verified.contains(&sum) && !state.objects.contains_key(&sum) {
                    return (400, None, Vec::new());
                }
                Blob::Large(sum)
            }
            _ => return (400, None, Vec::new()),
        };
        files.insert(name, blob);
    }
    state.models.insert(id.to_owned(), files);
    state.commits += 1;
    let oid = format!("{:040x}", state.commits);
    let answer = json!({ "commitUrl": format!("/{id}/commit/{oid}"), "commitOid": oid });
    (200, None, answer.to_string().into_bytes())
}

/// Base64, by RFC 4648.
fn decoded(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter(|letter| *letter != b'=');
    let digits: Vec<u32> = digits
        .map(|letter| {
            LETTERS
                .iter()
                .position(|known| *known == letter)
                .expect("base64") as u32
        })
        .collect();
    let quartets = digits.chunks(4).flat_map(|digits| {
        let bits =
            digits.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - digits.len()));
        bits.to_be_bytes()[1..digits.len()].to_vec()
    });
    quartets.collect()
}
