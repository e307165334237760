//! Bytes of a file straight from the hub, and what it says about them.
//!
//! Requests are made with `hf-hub`'s agent, which has the token and the endpoint.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use hf_hub::api::sync::Api;
use ureq::http::Response;
use ureq::{Body, BodyReader};

use super::{Hub, Pinned, WAIT_FIRST, lock, redirect::Follow};
use crate::source::{Source, SourceError, backoff::Backoff, stays_inside};

/// The longest wait for an answer to begin, and in the middle of one for more of it.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Bytes of a file that the first peek at it brings. Most headers are shorter, so that a file's
/// header takes one request and not one for its length and one for the rest.
const HEAD_BYTES: usize = 64 << 10;

/// What the hub says of a file before its bytes.
pub(super) struct Meta {
    /// The blob's name in the cache.
    pub(super) etag: String,
    /// Bytes, where the hub reports them.
    pub(super) size: Option<u64>,
}

impl Hub {
    /// Fills `into` from `offset` on without a download: of a file that is not in the cache.
    pub(super) fn peek_remote(
        &self,
        api: &Api,
        pinned: &Pinned,
        file: &str,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), SourceError> {
        let Some(&size) = self.listing(api, pinned, file)?.get(file) else {
            return Err(self.not_found(file));
        };
        let wanted_end = offset.saturating_add(into.len() as u64);
        if let Some(len) = size
            && wanted_end > len
        {
            return Err(SourceError::truncated(
                self.describe(),
                file,
                wanted_end,
                len,
            ));
        }
        let mut filled = 0;
        if offset < HEAD_BYTES as u64 {
            let kept = lock(&self.heads).get(file).cloned();
            let head = match kept {
                Some(head) => head,
                None => {
                    let head: Arc<[u8]> =
                        self.fetch(api, &pinned.commit, file, 0, HEAD_BYTES)?.into();
                    lock(&self.heads).insert(file.to_owned(), Arc::clone(&head));
                    head
                }
            };
            let there = head.get(offset as usize..).unwrap_or_default();
            filled = there.len().min(into.len());
            into[..filled].copy_from_slice(&there[..filled]);
        }
        let rest = &mut into[filled..];
        if rest.is_empty() {
            return Ok(());
        }
        let start = offset + filled as u64;
        let bytes = self.fetch(api, &pinned.commit, file, start, rest.len())?;
        if bytes.len() < rest.len() {
            return Err(SourceError::truncated(
                self.describe(),
                file,
                wanted_end,
                start + bytes.len() as u64,
            ));
        }
        rest.copy_from_slice(&bytes);
        Ok(())
    }

    /// `len` bytes from `start` on; fewer when the file ends before.
    fn fetch(
        &self,
        api: &Api,
        commit: &str,
        file: &str,
        start: u64,
        len: usize,
    ) -> Result<Vec<u8>, SourceError> {
        let mut wait = Backoff::new(self.retries, WAIT_FIRST);
        loop {
            let mut bytes = Vec::with_capacity(len);
            let last = start + len as u64 - 1;
            let fetched = self
                .body(api, commit, file, &format!("bytes={start}-{last}"), start)
                // A hub that sends the whole file is left after the bytes that were wanted.
                .and_then(|body| {
                    let read = body.take(len as u64).read_to_end(&mut bytes);
                    self.tally.bytes(bytes.len());
                    read.map_err(|error| self.network(file, error))
                });
            match fetched {
                Ok(_) => return Ok(bytes),
                Err(SourceError::Network { .. }) if wait.again() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The bytes of a file from `start` on: the answer to a request for `range`, which begins
    /// there, with what precedes it skipped if the hub ignores ranges.
    pub(super) fn body(
        &self,
        api: &Api,
        commit: &str,
        file: &str,
        range: &str,
        start: u64,
    ) -> Result<BodyReader<'static>, SourceError> {
        let url = api.repo(self.repo(commit)).url(file);
        let response = self.get(api, &url, file, range, Follow::All)?;
        let first = match response.status().as_u16() {
            206 => header(&response, "content-range")
                .and_then(|range| range.strip_prefix("bytes "))
                .and_then(|range| range.split_once('-'))
                .and_then(|(first, _)| first.trim().parse().ok())
                .unwrap_or(start),
            _ => 0,
        };
        if first > start {
            let why = format!("asked for {range}, it sent what begins at byte {first}");
            return Err(self.network(file, why));
        }
        let mut body = response.into_body().into_reader();
        let skipped = io::copy(&mut body.by_ref().take(start - first), &mut io::sink())
            .map_err(|error| self.network(file, error))?;
        self.tally.bytes(skipped as usize);
        Ok(body)
    }

    /// What the hub says of a file.
    pub(super) fn meta(&self, api: &Api, commit: &str, file: &str) -> Result<Meta, SourceError> {
        let url = api.repo(self.repo(commit)).url(file);
        let response = self.get(api, &url, file, "bytes=0-0", Follow::Paths)?;
        let etag = header(&response, "x-linked-etag")
            .or_else(|| header(&response, "etag"))
            .map(|etag| etag.trim_start_matches("W/").replace('"', ""))
            .filter(|etag| stays_inside(etag) && !etag.contains('/'))
            .ok_or_else(|| self.network(file, "it does not tell the file's ETag"))?;
        let in_range = || header(&response, "content-range")?.rsplit('/').next();
        let size = header(&response, "x-linked-size")
            .or_else(in_range)
            .and_then(|size| size.trim().parse().ok());
        Ok(Meta { etag, size })
    }

    /// An answer of status 200 or 206; or, unless redirects are followed, one of those.
    fn get(
        &self,
        api: &Api,
        url: &str,
        file: &str,
        range: &str,
        follow: Follow,
    ) -> Result<Response<Body>, SourceError> {
        let repo = api.repo(self.repo(&self.revision));
        let response = self.send(file, follow, |redirected| {
            repo.info_request()
                .uri(redirected.unwrap_or(url))
                .header("Range", range)
                // Ranges of a compressed file would be ranges of something else.
                .header("Accept-Encoding", "identity")
                .config()
                .timeout_connect(Some(SILENCE_MAX))
                .timeout_recv_response(Some(SILENCE_MAX))
                .timeout_per_read(Some(SILENCE_MAX))
                .build()
        })?;
        match response.status().as_u16() {
            200 | 206 => Ok(response),
            300..=399 if follow == Follow::Paths => Ok(response),
            status @ (401 | 403) => Err(self.unauthorized(file, status)),
            404 => Err(self.not_found(file)),
            status => Err(self.network(file, format!("HTTP status {status}"))),
        }
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}
