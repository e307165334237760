//! Azure Blob Storage and Google Cloud Storage on loopback: the parts of their HTTP interfaces (Blob service REST API, XML API) that a
//! checkpoint needs: whole objects, ranges, conditions, lists, uploads in parts, copies.

#![allow(
    dead_code,
    reason = "shared by test binaries, each of which uses a part"
)]

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Write},
    net::TcpStream,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::http::{Asked, Head, asked, decoded, listen};

/// The container or the bucket.
pub(crate) const CONTAINER: &str = "models";
/// The account of Azure, and a key of it.
pub(crate) const ACCOUNT: &str = "account";
pub(crate) const ACCOUNT_KEY: &str = "TUFSS0VELWtleQ==";
/// A shared access signature.
pub(crate) const SAS: &str = "sv=2024-01-01&sig=MARKEDSAS";
/// The token of Google.
pub(crate) const TOKEN: &str = "MARKEDBEARER";

/// Bytes of a part of an upload at least, the last one apart.
const PART_LEAST: usize = 5 << 20;
/// When everything was changed.
const CHANGED: [&str; 2] = ["Thu, 01 Jul 2021 10:45:02 GMT", "2021-07-01T10:45:02Z"];

/// Whose interface it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cloud {
    Azure,
    Google,
}

pub(crate) struct Blobs {
    pub(crate) url: String,
    cloud: Cloud,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Objects and the numbers of their states, by key.
    objects: BTreeMap<String, (Vec<u8>, u64)>,
    /// Parts of uploads under way, by key and name.
    parts: BTreeMap<(String, String), Vec<u8>>,
    changes: u64,
    log: Vec<Head>,
}

/// The first line of an answer, its headers, and its body.
type Answer = (&'static str, Vec<(&'static str, String)>, Vec<u8>);

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Blobs {
    pub(crate) fn serve(cloud: Cloud) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let url = listen(move |stream| connection(cloud, stream, &shared));
        Self { url, cloud, state }
    }

    /// The address of a folder.
    pub(crate) fn address(&self, folder: &str) -> String {
        let scheme = match self.cloud {
            Cloud::Azure => "az",
            Cloud::Google => "gs",
        };
        format!("{scheme}://{CONTAINER}/{folder}")
    }

    /// What the environment has to say to reach it.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        match self.cloud {
            Cloud::Azure => vec![
                ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
                ("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY.to_owned()),
                ("AZURE_STORAGE_ENDPOINT", self.url.clone()),
            ],
            Cloud::Google => vec![
                ("GOOGLE_BEARER_TOKEN", TOKEN.to_owned()),
                ("GOOGLE_BASE_URL", self.url.clone()),
            ],
        }
    }

    /// Puts every file of a folder under `prefix`.
    pub(crate) fn put_folder(&self, prefix: &str, folder: &Path) {
        let mut state = lock(&self.state);
        for file in std::fs::read_dir(folder).expect("a folder") {
            let file = file.expect("a file");
            let name = file.file_name().into_string().expect("UTF-8");
            let bytes = std::fs::read(file.path()).expect("a file");
            state.put(format!("{prefix}/{name}"), bytes);
        }
    }

    /// All objects whose keys begin with `prefix` and a slash, by the rest of their keys.
    pub(crate) fn objects(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let state = lock(&self.state);
        let within = |key: &String| Some(key.strip_prefix(prefix)?.strip_prefix('/')?.to_owned());
        let found = state.objects.iter();
        found
            .filter_map(|(key, (bytes, _))| Some((within(key)?, bytes.clone())))
            .collect()
    }

    /// Parts of uploads that were neither completed nor given up.
    pub(crate) fn open_parts(&self) -> usize {
        lock(&self.state).parts.len()
    }

    /// Every request so far.
    pub(crate) fn log(&self) -> Vec<Head> {
        lock(&self.state).log.clone()
    }
}

fn connection(cloud: Cloud, mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = Head::read(&mut reader)? {
        let body = request.body(&mut reader)?;
        let (status, headers, body) = {
            let mut state = lock(state);
            state.log.push(request.clone());
            answer(cloud, &mut state, &request, body)
        };
        let mut head = Head {
            first: format!("HTTP/1.1 {status}"),
            ..Head::default()
        };
        for (name, value) in headers {
            head.set(name, Some(value));
        }
        if head.length().is_none() {
            head.set("Content-Length", Some(body.len().to_string()));
        }
        stream.write_all(head.text().as_bytes())?;
        if request.method() != "HEAD" {
            stream.write_all(&body)?;
        }
    }
    Ok(())
}

fn refused(status: &'static str, code: &str) -> Answer {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    (status, Vec::new(), body.into_bytes())
}

fn answer(cloud: Cloud, state: &mut State, request: &Head, body: Vec<u8>) -> Answer {
    let (path, query) = request
        .target()
        .split_once('?')
        .unwrap_or((request.target(), ""));
    let path = decoded(path);
    let query: BTreeMap<String, String> = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(&value.replace('+', " "))))
        .collect();
    let said = request.get("authorization").unwrap_or_default();
    let is_known = match cloud {
        Cloud::Azure => {
            let signed = query
                .get("sig")
                .is_some_and(|sig| SAS.ends_with(sig.as_str()));
            signed || said.starts_with(&format!("SharedKey {ACCOUNT}:"))
        }
        Cloud::Google => said == format!("Bearer {TOKEN}"),
    };
    if !is_known {
        return refused("403 Forbidden", "AuthenticationFailed");
    }
    let Some(key) = path.trim_start_matches('/').strip_prefix(CONTAINER) else {
        return refused("404 Not Found", "NoSuchBucket");
    };
    let key = key.trim_start_matches('/').to_owned();
    let query = |name: &str| query.get(name).map(String::as_str);
    match request.method() {
        "GET" if key.is_empty() => list(cloud, state, query("prefix").unwrap_or_default()),
        "GET" | "HEAD" => get(state, request, &key),
        "DELETE" if query("uploadId").is_some() => {
            state.parts.retain(|(of, _), _| *of != key);
            ("204 No Content", Vec::new(), Vec::new())
        }
        "DELETE" => match state.objects.remove(&key) {
            Some(_) => ("204 No Content", Vec::new(), Vec::new()),
            None => refused("404 Not Found", "NoSuchKey"),
        },
        "POST" if query("uploads").is_some() => {
            let id = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>";
            ("200 OK", Vec::new(), id.as_bytes().to_vec())
        }
        "POST" if query("uploadId").is_some() => {
            let numbers = between(&body, "<PartNumber>", "</PartNumber>");
            let made = state.join(&key, &numbers, PART_LEAST);
            made.map_or_else(|code| refused("400 Bad Request", code), |tag| {
                let xml = format!("<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>");
                ("200 OK", Vec::new(), xml.into_bytes())
            })
        }
        "POST" if query("comp") == Some("batch") => delete_all(state, &body),
        "PUT" => put(state, request, key, query, body),
        _ => refused("405 Method Not Allowed", "MethodNotAllowed"),
    }
}

/// Deletes what the requests in a body name, which have a part each.
fn delete_all(state: &mut State, body: &[u8]) -> Answer {
    let paths = between(body, "DELETE ", " HTTP/1.1");
    let mut answers = String::new();
    for (nth, path) in paths.iter().enumerate() {
        let path = decoded(path.split('?').next().unwrap_or_default());
        let key = path.trim_start_matches('/').strip_prefix(CONTAINER);
        let key = key.map(|key| key.trim_start_matches('/'));
        let status = match key.and_then(|key| state.objects.remove(key)) {
            Some(_) => "202 Accepted",
            None => "404 BlobNotFound",
        };
        answers += &format!(
            "--part\r\nContent-Type: application/http\r\nContent-ID: {nth}\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n"
        );
    }
    answers += "--part--\r\n";
    let kind = "multipart/mixed; boundary=part".to_owned();
    (
        "202 Accepted",
        vec![("Content-Type", kind)],
        answers.into_bytes(),
    )
}

fn put<'q>(
    state: &mut State,
    request: &Head,
    key: String,
    query: impl Fn(&str) -> Option<&'q str>,
    body: Vec<u8>,
) -> Answer {
    let created = |tag: String| {
        let generation = tag.trim_matches('"').to_owned();
        let headers = vec![("ETag", tag), ("x-goog-generation", generation)];
        ("201 Created", headers, Vec::new())
    };
    let part = query("blockid").or(query("partNumber"));
    if let Some(part) = part {
        state.parts.insert((key, part.to_owned()), body);
        return created("\"part\"".to_owned());
    }
    if query("comp") == Some("blocklist") {
        let names = between(&body, "<Uncommitted>", "</Uncommitted>");
        // Blocks may be of any size.
        let made = state.join(&key, &names, 0);
        return made.map_or_else(|code| refused("400 Bad Request", code), created);
    }
    let now = state.objects.get(&key).map(|(_, state)| *state);
    let exists = request.get("if-none-match") == Some("*") && now.is_some();
    let matches = |said: Option<&str>, none: u64| {
        said.is_none_or(|said| said.trim_matches('"') == now.unwrap_or(none).to_string())
    };
    if exists || !matches(request.get("if-match"), u64::MAX) {
        return refused("412 Precondition Failed", "ConditionNotMet");
    }
    if !matches(request.get("x-goog-if-generation-match"), 0) {
        return refused("412 Precondition Failed", "ConditionNotMet");
    }
    let copied = request
        .get("x-ms-copy-source")
        .or(request.get("x-goog-copy-source"));
    let bytes = match copied {
        None => body,
        Some(from) => {
            let from = decoded(from.split('?').next().unwrap_or_default());
            let from = from
                .split_once(&format!("{CONTAINER}/"))
                .map(|(_, key)| key);
            let Some((bytes, _)) = from.and_then(|from| state.objects.get(from)) else {
                return refused("404 Not Found", "NoSuchKey");
            };
            bytes.clone()
        }
    };
    created(state.put(key, bytes))
}

fn get(state: &State, request: &Head, key: &str) -> Answer {
    let Some((bytes, number)) = state.objects.get(key) else {
        return refused("404 Not Found", "BlobNotFound");
    };
    let tag = format!("\"{number}\"");
    if request.get("if-match").is_some_and(|wanted| wanted != tag) {
        return refused("412 Precondition Failed", "ConditionNotMet");
    }
    let mut headers = vec![
        ("ETag", tag),
        ("Last-Modified", CHANGED[0].to_owned()),
        ("x-goog-generation", number.to_string()),
    ];
    let len = bytes.len();
    match asked(request.get("range"), len as u64) {
        Asked::Outside => refused("416 Range Not Satisfiable", "InvalidRange"),
        Asked::All => {
            headers.push(("Content-Length", len.to_string()));
            ("200 OK", headers, bytes.clone())
        }
        Asked::Part(part) => {
            let range = format!("bytes {}-{}/{len}", part.start, part.end - 1);
            headers.push(("Content-Range", range));
            let part = bytes[part.start as usize..part.end as usize].to_vec();
            headers.push(("Content-Length", part.len().to_string()));
            ("206 Partial Content", headers, part)
        }
    }
}

fn list(cloud: Cloud, state: &State, prefix: &str) -> Answer {
    let found = state
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with(prefix));
    let found: String = found
        .map(|(key, (bytes, number))| {
            let (len, [changed, short]) = (bytes.len(), CHANGED);
            match cloud {
                Cloud::Azure => format!(
                    "<Blob><Name>{key}</Name><Properties><Last-Modified>{changed}</Last-Modified><Etag>{number}</Etag>\
                     <Content-Length>{len}</Content-Length><Content-Type>a/b</Content-Type></Properties></Blob>"
                ),
                Cloud::Google => format!(
                    "<Contents><Key>{key}</Key><Size>{len}</Size><LastModified>{short}</LastModified>\
                     <ETag>{number}</ETag></Contents>"
                ),
            }
        })
        .collect();
    let text = match cloud {
        Cloud::Azure => format!("<EnumerationResults><Blobs>{found}</Blobs></EnumerationResults>"),
        Cloud::Google => format!("<ListBucketResult>{found}</ListBucketResult>"),
    };
    ("200 OK", Vec::new(), text.into_bytes())
}

impl State {
    /// Puts an object; its tag.
    fn put(&mut self, key: String, bytes: Vec<u8>) -> String {
        self.changes += 1;
        self.objects.insert(key, (bytes, self.changes));
        format!("\"{}\"", self.changes)
    }

    /// Makes an object of parts; its tag. All but the last have so many bytes at least.
    fn join(&mut self, key: &str, names: &[String], least: usize) -> Result<String, &'static str> {
        let mut bytes = Vec::new();
        for (nth, name) in names.iter().enumerate() {
            let part = self.parts.get(&(key.to_owned(), name.clone()));
            let part = part.ok_or("InvalidPart")?;
            if nth + 1 < names.len() && part.len() < least {
                return Err("EntityTooSmall");
            }
            bytes.extend_from_slice(part);
        }
        self.parts.retain(|(of, _), _| of != key);
        Ok(self.put(key.to_owned(), bytes))
    }
}

/// The texts between two marks.
fn between(body: &[u8], start: &str, end: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(body);
    let found = text.split(start).skip(1);
    found
        .filter_map(|rest| Some(rest.split_once(end)?.0.to_owned()))
        .collect()
}
