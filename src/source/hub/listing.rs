//! The list of files: which there are in a commit, and how long each is.

use std::sync::Arc;
use std::time::Duration;

use hf_hub::api::sync::Api;

use super::{Backoff, Hub, Listing, Pinned, is_commit, lock};
use crate::source::SourceError;

/// The longest wait for the list of files. (Downloads have no limit of their own.)
const LISTING_TIMEOUT: Duration = Duration::from_secs(30);

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
        let mut wait = Backoff::new(self.retries);
        loop {
            match self.try_fetch_listing(api, revision, file) {
                Err(SourceError::Network { .. }) if wait.again() => {}
                result => return result,
            }
        }
    }

    fn try_fetch_listing(
        &self,
        api: &Api,
        revision: &str,
        file: &str,
    ) -> Result<(String, Listing), SourceError> {
        let mut response = api
            .repo(self.repo(revision))
            .info_request()
            .query("blobs", "true")
            .config()
            .http_status_as_error(false)
            .timeout_global(Some(LISTING_TIMEOUT))
            .build()
            .call()
            .map_err(|error| self.network(file, error))?;
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
        let body = response
            .body_mut()
            .read_to_vec()
            .map_err(|error| self.network(file, error))?;
        parse_listing(&body).map_err(|error| self.network(file, error))
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
