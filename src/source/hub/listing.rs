//! The list of files: which there are in a commit, and how long each is.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use hf_hub::api::sync::Api;

use super::{Hub, Listing, Pinned, WAIT_FIRST, is_commit, lock, redirect::Follow};
use crate::source::{SourceError, backoff::Backoff};

/// The longest wait for the list of files. (Downloads have no limit of their own.)
const LISTING_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a list of files, after they were unpacked: a hundred times those of the largest models.
const LISTING_MAX: u64 = 10 << 20;

impl Hub {
    pub(super) fn listing(
        &self,
        api: &Api,
        pinned: &Pinned,
        file: &str,
    ) -> Result<Arc<Listing>, SourceError> {
        let mut listing = lock(&pinned.listing);
        if let Some(listing) = &*listing {
            return Ok(Arc::clone(listing));
        }
        let (_, found) = self.fetch_listing(api, &pinned.commit, file)?;
        Ok(Arc::clone(listing.insert(Arc::new(found))))
    }

    /// The commit of a revision, and its files.
    pub(super) fn fetch_listing(
        &self,
        api: &Api,
        revision: &str,
        file: &str,
    ) -> Result<(String, Listing), SourceError> {
        let mut wait = Backoff::new(self.retries, WAIT_FIRST);
        let body = loop {
            match self.try_fetch_listing(api, revision, file) {
                Err(SourceError::Network { .. }) if wait.again() => {}
                result => break result?,
            }
        };
        // The same answer would come again.
        if body.len() as u64 > LISTING_MAX {
            let why = format!("its answer about the model is longer than {LISTING_MAX} bytes");
            return Err(self.network(file, why));
        }
        parse_listing(&body).map_err(|error| self.network(file, error))
    }

    /// The answer, or the first bytes of one that is too long.
    fn try_fetch_listing(
        &self,
        api: &Api,
        revision: &str,
        file: &str,
    ) -> Result<Vec<u8>, SourceError> {
        let repo = api.repo(self.repo(revision));
        let response = self.send(file, Follow::All, |redirected| {
            let request = repo.info_request();
            let request = match redirected {
                // It has the query, if the redirect keeps it.
                Some(url) => request.uri(url),
                None => request.query("blobs", "true"),
            };
            let request = request.header("Accept-Encoding", "identity").config();
            request.timeout_global(Some(LISTING_TIMEOUT)).build()
        })?;
        let status = response.status().as_u16();
        let code = response
            .headers()
            .get("x-error-code")
            .and_then(|code| code.to_str().ok());
        match (status, code) {
            (200, _) => {}
            (404, Some("RevisionNotFound")) => {
                return Err(SourceError::NoRevision {
                    endpoint: self.endpoint.clone(),
                    id: self.id.clone(),
                    revision: revision.to_owned(),
                });
            }
            (404, _) => {
                return Err(SourceError::NoModel {
                    endpoint: self.endpoint.clone(),
                    id: self.id.clone(),
                });
            }
            (401 | 403, _) => return Err(self.unauthorized(file, status)),
            _ => return Err(self.network(file, format!("HTTP status {status}"))),
        }
        let mut body = Vec::new();
        // A limit of ureq counts compressed bytes, and a few of those make gigabytes.
        let mut unpacked = response.into_body().into_reader().take(LISTING_MAX + 1);
        unpacked
            .read_to_end(&mut body)
            .map_err(|error| self.network(file, error))?;
        self.tally.bytes(body.len());
        Ok(body)
    }
}

/// The commit and the files from the hub's answer about a revision.
fn parse_listing(body: &[u8]) -> Result<(String, Listing), String> {
    #[derive(serde::Deserialize)]
    struct Info {
        sha: String,
        #[serde(default)]
        siblings: Vec<Sibling>,
    }
    #[derive(serde::Deserialize)]
    struct Sibling {
        rfilename: String,
        size: Option<u64>,
    }

    let info: Info = serde_json::from_slice(body)
        .map_err(|error| format!("its answer about the model does not parse: {error}"))?;
    if !is_commit(&info.sha) {
        return Err(format!(
            "it names the commit {:?}, which is not one",
            info.sha
        ));
    }
    let files = info
        .siblings
        .into_iter()
        .map(|file| (file.rfilename, file.size))
        .collect();
    Ok((info.sha, files))
}
