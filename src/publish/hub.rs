//! A folder on the hub: the large files by the LFS protocol, and then all of them in one commit.
//!
//! ```text
//! repos/create ─► paths-info: what is there ─► preupload: which files are large
//!     ─► LFS batch ─► uploads, verified ─► commit ─► paths-info, small files read back: compared
//! ```
//!
//! Written from `huggingface_hub` (`lfs.py`, `_commit_api.py`). The token goes to the hub alone; files are uploaded to signed addresses
//! elsewhere.

use std::{collections::BTreeMap, io::Read};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    error::PublishError,
    folder::{Folder, FolderFile, hex},
    pushed::Published,
};
use crate::{
    config::PushConfig,
    source::{HubLine, HubRequest},
};

/// Bytes of a file by which the hub tells what it is.
const SAMPLE: u64 = 512;
/// Files of one request.
const FILES_MAX: usize = 256;
/// The hub's own address, in answers of mirrors too.
const HOME: &str = "https://huggingface.co";
/// What the LFS protocol speaks.
const LFS: &str = "application/vnd.git-lfs+json";

/// The hub, and the model on it.
struct Model {
    line: HubLine,
    at: String,
}

/// Publishes a folder as a model of the hub.
pub(super) fn push(
    folder: &Folder,
    config: &PushConfig,
    tell: &mut dyn FnMut(&str, u64),
) -> Result<Published, PublishError> {
    let line = HubLine::open(&config.to, config.token.as_ref())?;
    let at = format!("hf://{}@{}", line.id, line.revision);
    let model = Model { line, at };
    model.create(config.private)?;
    let revision = model.line.revision.clone();
    let before = model.sums(folder, &revision)?;
    let is_there = |file: &FolderFile| before.get(&file.name) == Some(&file.sha256);
    for file in &folder.files {
        if before.contains_key(&file.name) && !is_there(file) && !config.replace {
            return Err(PublishError::Exists {
                at: model.at,
                file: file.name.clone(),
            });
        }
    }
    let new: Vec<&FolderFile> = folder.files.iter().filter(|file| !is_there(file)).collect();
    let commit = match new.is_empty() {
        true => None,
        false => {
            let large = model.large(&new)?;
            model.upload(&large, tell)?;
            let commit = model.commit(&new, &large, config)?;
            let after = model.sums(folder, &commit)?;
            for file in &new {
                let found = after.get(&file.name).cloned().unwrap_or_default();
                if found != file.sha256 {
                    return Err(PublishError::Damaged {
                        at: model.at,
                        file: file.name.clone(),
                        expected: file.sha256.clone(),
                        found,
                    });
                }
            }
            Some(commit)
        }
    };
    let files = folder.files.iter().map(|file| file.pushed(is_there(file)));
    Ok((model.at, commit, files.collect()))
}

impl Model {
    fn refuse(&self, step: &'static str, reason: impl Into<String>) -> PublishError {
        PublishError::Hub {
            at: self.at.clone(),
            step,
            reason: reason.into(),
        }
    }

    fn api(&self, what: &str, revision: &str) -> String {
        let revision = revision.replace('/', "%2F");
        format!(
            "{}/api/models/{}/{what}/{revision}",
            self.line.endpoint, self.line.id
        )
    }

    /// Sends a request to the hub, and reads its answer.
    fn ask(
        &self,
        step: &'static str,
        request: &HubRequest<'_>,
    ) -> Result<(u16, Vec<u8>), PublishError> {
        let answer = self.line.send(request);
        let answer = answer.map_err(|reason| self.refuse(step, reason))?;
        match answer.status {
            200..=299 => Ok((answer.status, answer.body)),
            409 if step == CREATE => Ok((409, Vec::new())),
            status @ (401 | 403) => Err(self.refuse(
                step,
                format!(
                    "HTTP status {status}{}; set HF_TOKEN to a token that may write this model",
                    answer.said()
                ),
            )),
            status => Err(self.refuse(step, format!("HTTP status {status}{}", answer.said()))),
        }
    }

    fn json(&self, step: &'static str, url: &str, body: &Value) -> Result<Value, PublishError> {
        let body = body.to_string().into_bytes();
        let request = HubRequest::json(url, body);
        let request = match step {
            BATCH => request.speaking(LFS),
            _ => request,
        };
        let (_, answer) = self.ask(step, &request)?;
        serde_json::from_slice(&answer)
            .map_err(|error| self.refuse(step, format!("its answer is not JSON: {error}")))
    }

    /// Makes the model on the hub, if it is not there.
    fn create(&self, private: bool) -> Result<(), PublishError> {
        let (organization, name) = match self.line.id.split_once('/') {
            Some((organization, name)) => (Some(organization), name),
            None => (None, &*self.line.id),
        };
        let url = format!("{}/api/repos/create", self.line.endpoint);
        let mut body = json!({ "name": name, "organization": organization, "type": "model" });
        if private {
            body["visibility"] = "private".into();
        }
        let request = HubRequest::json(&url, body.to_string().into_bytes());
        self.ask(CREATE, &request).map(|_| ())
    }

    /// SHA-256 of those files of the folder that the model has.
    fn sums(
        &self,
        folder: &Folder,
        revision: &str,
    ) -> Result<BTreeMap<String, String>, PublishError> {
        const STEP: &str = "asking for its files";
        let mut sums = BTreeMap::new();
        for files in folder.files.chunks(FILES_MAX) {
            let names: Vec<&str> = files.iter().map(|file| &*file.name).collect();
            let url = self.api("paths-info", revision);
            let answer = self.json(STEP, &url, &json!({ "paths": names, "expand": false }))?;
            for found in answer.as_array().into_iter().flatten() {
                let Some(name) = found["path"].as_str() else {
                    continue;
                };
                let sum = match found["lfs"]["oid"]
                    .as_str()
                    .or(found["lfs"]["sha256"].as_str())
                {
                    Some(sha256) => sha256.to_owned(),
                    // Git knows another checksum of small files.
                    None => hex(&Sha256::digest(self.read(name, revision)?)),
                };
                sums.insert(name.to_owned(), sum);
            }
        }
        Ok(sums)
    }

    fn read(&self, name: &str, revision: &str) -> Result<Vec<u8>, PublishError> {
        let revision = revision.replace('/', "%2F");
        let (endpoint, id) = (&self.line.endpoint, &self.line.id);
        let name = name
            .replace('%', "%25")
            .replace(' ', "%20")
            .replace('#', "%23")
            .replace('?', "%3F");
        let url = format!("{endpoint}/{id}/resolve/{revision}/{name}");
        let (_, bytes) = self.ask("reading a file back", &HubRequest::get(&url))?;
        Ok(bytes)
    }

    /// Those of the files that the hub keeps apart from git.
    fn large<'a>(&self, files: &[&'a FolderFile]) -> Result<Vec<&'a FolderFile>, PublishError> {
        const STEP: &str = "asking which files are large";
        let mut large = Vec::new();
        for files in files.chunks(FILES_MAX) {
            let asked = files.iter().map(|file| {
                let mut sample = Vec::new();
                let mut from = file.part(0, SAMPLE.min(file.bytes))?;
                from.read_to_end(&mut sample)
                    .map_err(|error| self.refuse(STEP, error.to_string()))?;
                let sample = STANDARD.encode(sample);
                Ok(json!({ "path": file.name, "sample": sample, "size": file.bytes }))
            });
            let asked = asked.collect::<Result<Vec<_>, PublishError>>()?;
            let url = self.api("preupload", &self.line.revision);
            let answer = self.json(STEP, &url, &json!({ "files": asked }))?;
            let modes = answer["files"].as_array();
            let modes = modes.ok_or_else(|| self.refuse(STEP, "its answer names no files"))?;
            for file in files {
                let mode = modes.iter().find(|mode| mode["path"] == *file.name);
                let mode = mode.ok_or_else(|| {
                    self.refuse(STEP, format!("its answer does not name {}", file.name))
                })?;
                // Storage takes no empty files.
                if mode["uploadMode"] == "lfs" && file.bytes > 0 {
                    large.push(*file);
                }
            }
        }
        Ok(large)
    }

    /// Uploads the large files that the hub does not have yet.
    fn upload(
        &self,
        large: &[&FolderFile],
        tell: &mut dyn FnMut(&str, u64),
    ) -> Result<(), PublishError> {
        for files in large.chunks(FILES_MAX) {
            let objects = files
                .iter()
                .map(|file| json!({ "oid": file.sha256, "size": file.bytes }));
            let body = json!({
                "operation": "upload",
                "transfers": ["basic", "multipart"],
                "objects": objects.collect::<Vec<_>>(),
                "hash_algo": "sha256",
                "ref": { "name": self.line.revision },
            });
            let url = format!(
                "{}/{}.git/info/lfs/objects/batch",
                self.line.endpoint, self.line.id
            );
            let answer = self.json(BATCH, &url, &body)?;
            let objects = answer["objects"].as_array();
            let objects =
                objects.ok_or_else(|| self.refuse(BATCH, "its answer names no objects"))?;
            for file in files {
                let object = objects.iter().find(|object| object["oid"] == *file.sha256);
                let object = object.ok_or_else(|| {
                    self.refuse(BATCH, format!("its answer does not name {}", file.name))
                })?;
                if let Some(error) = object.get("error") {
                    let said = error["message"].as_str().unwrap_or("without a reason");
                    let reason = format!("{} is refused: {said}", file.name);
                    return Err(self.refuse(BATCH, reason));
                }
                // What is there needs no action.
                if let Some(upload) = object["actions"].get("upload") {
                    tell(&file.name, file.bytes);
                    self.upload_one(file, upload)?;
                    if let Some(verify) = object["actions"].get("verify") {
                        self.verify(file, verify)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn upload_one(&self, file: &FolderFile, upload: &Value) -> Result<(), PublishError> {
        let url = self.href(upload)?;
        let header = &upload["header"];
        let chunk = match &header["chunk_size"] {
            Value::String(chunk) => chunk.parse().ok(),
            chunk => chunk.as_u64(),
        };
        let Some(chunk) = chunk.filter(|chunk| *chunk > 0) else {
            let headers = header.as_object().into_iter().flatten();
            let headers = headers.filter_map(|(name, value)| Some((&**name, value.as_str()?)));
            self.put(file, 0, file.bytes, &url, headers.collect())?;
            return Ok(());
        };
        let count = file.bytes.div_ceil(chunk);
        let mut parts = Vec::new();
        for nth in 0..count {
            let number = nth + 1;
            // Some servers write numbers with zeros before them.
            let named = |name: &String| name.parse() == Ok(number);
            let of_part = header.as_object().into_iter().flatten();
            let of_part = of_part.filter(|(name, _)| named(name));
            let part = of_part.filter_map(|(_, url)| url.as_str()).next();
            let part = part.ok_or_else(|| {
                self.refuse(
                    UPLOAD,
                    format!("{} has no address for part {number}", file.name),
                )
            })?;
            let len = chunk.min(file.bytes - nth * chunk);
            let etag = self.put(file, nth * chunk, len, part, Vec::new())?;
            let etag = etag.ok_or_else(|| {
                self.refuse(
                    UPLOAD,
                    format!("part {number} of {} got no ETag", file.name),
                )
            })?;
            parts.push(json!({ "partNumber": number, "etag": etag }));
        }
        let body = json!({ "oid": file.sha256, "parts": parts });
        let request = HubRequest::json(&url, body.to_string().into_bytes()).speaking(LFS);
        self.ask(UPLOAD, &request).map(|_| ())
    }

    /// Sends bytes of a file to a signed address; its ETag.
    fn put(
        &self,
        file: &FolderFile,
        offset: u64,
        len: u64,
        url: &str,
        headers: Vec<(&str, &str)>,
    ) -> Result<Option<String>, PublishError> {
        let body = || file.part(offset, len).map_err(|error| error.to_string());
        let answer = self.line.put(url, &headers, len, &body);
        let answer =
            answer.map_err(|reason| self.refuse(UPLOAD, format!("{}: {reason}", file.name)))?;
        match answer.status {
            200..=299 => Ok(answer.etag),
            status => {
                let reason = format!("{}: HTTP status {status}{}", file.name, answer.said());
                Err(self.refuse(UPLOAD, reason))
            }
        }
    }

    /// Asks the hub to look at what was uploaded.
    fn verify(&self, file: &FolderFile, verify: &Value) -> Result<(), PublishError> {
        let body = json!({ "oid": file.sha256, "size": file.bytes });
        let url = self.href(verify)?;
        let request = HubRequest::json(&url, body.to_string().into_bytes());
        self.ask("verifying an upload", &request).map(|_| ())
    }

    /// The address of an action. Mirrors may name the hub itself.
    fn href(&self, action: &Value) -> Result<String, PublishError> {
        let href = action["href"].as_str();
        let href = href.ok_or_else(|| self.refuse(BATCH, "an action has no address"))?;
        Ok(match href.strip_prefix(HOME) {
            Some(path) => format!("{}{path}", self.line.endpoint),
            None => href.to_owned(),
        })
    }

    /// Commits all files at once. The commit's name.
    fn commit(
        &self,
        files: &[&FolderFile],
        large: &[&FolderFile],
        config: &PushConfig,
    ) -> Result<String, PublishError> {
        const STEP: &str = "committing";
        let summary = config.message.as_deref().unwrap_or("Upload with firebox");
        let mut lines =
            vec![json!({ "key": "header", "value": { "summary": summary, "description": "" } })];
        for file in files {
            let is_large = large.iter().any(|large| large.name == file.name);
            lines.push(match is_large {
                true => json!({
                    "key": "lfsFile",
                    "value": { "path": file.name, "algo": "sha256", "oid": file.sha256, "size": file.bytes },
                }),
                false => json!({
                    "key": "file",
                    "value": { "content": STANDARD.encode(file.whole()?), "path": file.name, "encoding": "base64" },
                }),
            });
        }
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let url = self.api("commit", &self.line.revision);
        let request = HubRequest::json(&url, lines.into_bytes())
            .speaking("application/x-ndjson")
            .once();
        let (_, answer) = self.ask(STEP, &request)?;
        let answer: Value = serde_json::from_slice(&answer)
            .map_err(|error| self.refuse(STEP, format!("its answer is not JSON: {error}")))?;
        let commit = answer["commitOid"].as_str();
        commit
            .map(str::to_owned)
            .ok_or_else(|| self.refuse(STEP, "its answer names no commit"))
    }
}

const CREATE: &str = "making the model";
const BATCH: &str = "asking where to upload";
const UPLOAD: &str = "uploading";
