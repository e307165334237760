//! A model on the Hugging Face hub, in the cache that Python's `huggingface_hub` uses.
//!
//! ```text
//! revision ─► commit   once: asked of the hub, or read from refs/ when offline
//! commit + file ─► models--org--name/snapshots/<commit>/<file>   downloaded when first read
//! ```
//!
//! A branch moves. The first file settles which commit is meant, and every later file is of that
//! commit, or index and shards could come from two savings. Lengths come from the hub's list of
//! files, so asking for a length downloads nothing.
//!
//! # What is done around `hf-hub` 0.5
//!
//! That crate downloads, resumes and lays out the cache. Left to itself, it asks for the branch
//! with each file and so mixes commits; downloads a blob again that another commit already has;
//! never compares the length of what came with what was announced; and, with its own retries, can
//! append the start of a file to its middle. So here: one commit, blobs reused, lengths compared,
//! and retries by calling it anew, which resumes properly.

use core::fmt;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::{Local, Source, SourceError, stays_inside};

/// Where models are when nobody says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// The longest wait for the list of files. (Downloads have no limit of their own.)
const LISTING_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a download is tried again while another process holds the file's lock. Each try waits
/// five seconds for it.
const LOCK_TRIES_MAX: usize = 120;

/// A model on the hub, downloaded file by file when first read.
pub struct Hub {
    id: String,
    revision: String,
    endpoint: String,
    cache: Cache,
    /// `None` offline: what cannot be called cannot leak a request.
    api: Option<Api>,
    with_token: bool,
    retries: usize,
    pinned: Mutex<Option<Arc<Pinned>>>,
    /// A lock a file, so that threads wait for one download and not for all.
    downloads: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

/// The one commit that files are taken from.
struct Pinned {
    commit: String,
    local: Local,
    /// Fetched when a file is not in the cache; with the commit, where that had to be asked for.
    listing: Mutex<Option<Arc<Listing>>>,
}

/// The files of a commit, with their lengths where the hub tells them.
type Listing = BTreeMap<String, Option<u64>>;

impl Hub {
    /// The model `id` (`org/name`) on its main branch, with everything else from the environment.
    ///
    /// # Errors
    ///
    /// Like [`HubBuilder::build`].
    pub fn open(id: impl Into<String>) -> Result<Self, SourceError> {
        Self::builder(id).build()
    }

    /// A model whose revision, token or cache is said rather than looked up.
    pub fn builder(id: impl Into<String>) -> HubBuilder {
        HubBuilder {
            id: id.into(),
            revision: None,
            token: None,
            endpoint: None,
            cache: None,
            offline: None,
            retries: 3,
            environment: None,
        }
    }

    /// The commit that files are taken from, 40 hexadecimal digits. Asks the hub the first time.
    ///
    /// # Errors
    ///
    /// When model or revision do not exist, may not be read, or cannot be looked up.
    pub fn commit(&self) -> Result<String, SourceError> {
        Ok(self.pin("")?.commit.clone())
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.id.clone(), RepoType::Model, revision.to_owned())
    }

    /// `models--org--name`.
    fn folder(&self) -> PathBuf {
        self.cache
            .path()
            .join(self.repo(&self.revision).folder_name())
    }

    /// `file` is named in errors only.
    fn pin(&self, file: &str) -> Result<Arc<Pinned>, SourceError> {
        let mut pinned = lock(&self.pinned);
        if let Some(pinned) = &*pinned {
            return Ok(Arc::clone(pinned));
        }
        let (commit, listing) = self.resolve(file)?;
        let snapshot = self.folder().join("snapshots").join(&commit);
        let found = Arc::new(Pinned {
            local: Local::folder(snapshot.clone()),
            listing: Mutex::new(listing.map(Arc::new)),
            commit,
        });
        if snapshot.is_dir() {
            self.note_ref(&found.commit);
        }
        *pinned = Some(Arc::clone(&found));
        Ok(found)
    }

    fn resolve(&self, file: &str) -> Result<(String, Option<Listing>), SourceError> {
        if is_commit(&self.revision) {
            return Ok((self.revision.clone(), None));
        }
        let cached = || {
            let path = self.folder().join("refs").join(&self.revision);
            let commit = std::fs::read_to_string(path).ok()?.trim().to_owned();
            is_commit(&commit).then_some(commit)
        };
        let Some(api) = &self.api else {
            return match cached() {
                Some(commit) => Ok((commit, None)),
                None => Err(self.not_cached(file)),
            };
        };
        match self.fetch_listing(api, &self.revision, file) {
            Ok((commit, listing)) => Ok((commit, Some(listing))),
            // As Python does: a hub that is down is no reason not to use what is here.
            Err(error @ SourceError::Network { .. }) => match cached() {
                Some(commit) => {
                    tracing::warn!(%error, %commit, "cannot reach the hub, using the cached commit");
                    Ok((commit, None))
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    fn listing(&self, api: &Api, pinned: &Pinned, file: &str) -> Result<Arc<Listing>, SourceError> {
        let mut listing = lock(&pinned.listing);
        if let Some(listing) = &*listing {
            return Ok(Arc::clone(listing));
        }
        let (_, found) = self.fetch_listing(api, &pinned.commit, file)?;
        Ok(Arc::clone(listing.insert(Arc::new(found))))
    }

    /// The commit of a revision, and its files.
    fn fetch_listing(
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

    /// Makes `file` of the pinned commit a local file. It is not one now.
    fn download(&self, pinned: &Pinned, file: &str) -> Result<(), SourceError> {
        let Some(api) = &self.api else {
            return Err(self.not_cached(file));
        };
        let Some(&size) = self.listing(api, pinned, file)?.get(file) else {
            return Err(self.not_found(file));
        };
        let gate = Arc::clone(lock(&self.downloads).entry(file.to_owned()).or_default());
        let _gate = lock(&gate);

        let mut wait = Backoff::new(self.retries);
        let mut lock_tries = 0;
        loop {
            // Another thread, or another process whose lock this one waited for, may have been
            // faster.
            match pinned.local.size(file) {
                Err(error) if error.is_absent() => {}
                found => return found.map(|_| ()),
            }
            let error = match self.try_download(api, &pinned.commit, file) {
                Ok(()) => break,
                Err(error) => error,
            };
            match status_of(&error) {
                Some(status @ (401 | 403)) => return Err(self.unauthorized(file, status)),
                Some(404) => return Err(self.not_found(file)),
                _ => {}
            }
            if let ApiError::LockAcquisition(_) = error
                && lock_tries < LOCK_TRIES_MAX
            {
                lock_tries += 1;
                continue;
            }
            if let Some(source) = disk_trouble(&error) {
                return Err(SourceError::Io {
                    at: self.describe(),
                    file: file.to_owned(),
                    source: io::Error::new(source, error.to_string()),
                });
            }
            // What is left of an interrupted download is longer than the file, or as long and was
            // never renamed: the hub answers 416 to what would complete it.
            if matches!(error, ApiError::InvalidResume) || status_of(&error) == Some(416) {
                self.drop_part(api, &pinned.commit, file);
            }
            if !wait.again() {
                return Err(self.network(file, error));
            }
        }

        let len = pinned.local.size(file)?;
        if let Some(size) = size
            && len != size
        {
            self.drop_file(pinned, file);
            return Err(SourceError::Truncated {
                at: self.describe(),
                file: file.to_owned(),
                wanted_end: size,
                len,
            });
        }
        self.note_ref(&pinned.commit);
        Ok(())
    }

    fn try_download(&self, api: &Api, commit: &str, file: &str) -> Result<(), ApiError> {
        let repo = api.repo(self.repo(commit));
        if self.reuse_blob(api, &repo.url(file), commit, file) {
            return Ok(());
        }
        tracing::debug!(id = %self.id, %commit, %file, "downloading");
        repo.download_with_progress(file, ()).map(|_| ())
    }

    /// Links a blob that an earlier commit brought. `false` when there is none, or links are not
    /// to be had here: then a download is what remains.
    fn reuse_blob(&self, api: &Api, url: &str, commit: &str, file: &str) -> bool {
        let folder = self.folder();
        if !folder.join("blobs").is_dir() {
            return false;
        }
        let Ok(meta) = api.metadata(url) else {
            return false;
        };
        let blob = folder.join("blobs").join(meta.etag());
        if !stays_inside(meta.etag())
            || blob.metadata().map_or(0, |blob| blob.len()) != meta.size() as u64
        {
            return false;
        }
        let link = folder.join("snapshots").join(commit).join(file);
        // Out of the snapshot, out of `snapshots`, and out of the folders of the file's own name.
        let mut target = PathBuf::from("../..");
        target.extend(file.matches('/').map(|_| ".."));
        target.extend(["blobs", meta.etag()]);
        link.parent()
            .is_some_and(|parent| std::fs::create_dir_all(parent).is_ok())
            && symlink(&target, &link).is_ok()
    }

    /// Removes what an interrupted download left, so that the next begins anew.
    fn drop_part(&self, api: &Api, commit: &str, file: &str) {
        let repo = self.repo(commit);
        let url = api.repo(repo.clone()).url(file);
        if let Ok(meta) = api.metadata(&url)
            && stays_inside(meta.etag())
        {
            let mut part = self.cache.repo(repo).blob_path(meta.etag());
            part.set_extension("part");
            // If it cannot be removed, the next try fails as this one did, and says so.
            let _ = std::fs::remove_file(part);
        }
    }

    /// Removes a file that came wrong, with its blob.
    fn drop_file(&self, pinned: &Pinned, file: &str) {
        pinned.local.forget(file);
        let path = pinned.local.path().join(file);
        if let Ok(blob) = path.canonicalize() {
            let _ = std::fs::remove_file(blob);
        }
        let _ = std::fs::remove_file(path);
    }

    /// Writes `refs/<revision>`, by which the revision is found offline, by Python too.
    ///
    /// Only once there is a snapshot of the commit: a ref to nothing would hide an older snapshot.
    /// A cache that cannot be written to (shared, read-only) is as good without.
    fn note_ref(&self, commit: &str) {
        let path = self.folder().join("refs").join(&self.revision);
        let noted = std::fs::read_to_string(&path).is_ok_and(|noted| noted == commit);
        if self.api.is_none() || is_commit(&self.revision) || noted {
            return;
        }
        let repo = self.cache.repo(self.repo(&self.revision));
        if let Err(error) = repo.create_ref(commit) {
            tracing::debug!(%error, path = %path.display(), "cannot note the commit");
        }
    }

    fn check_name(&self, file: &str) -> Result<(), SourceError> {
        if stays_inside(file) {
            return Ok(());
        }
        Err(SourceError::Name {
            at: self.describe(),
            file: file.to_owned(),
        })
    }

    fn not_found(&self, file: &str) -> SourceError {
        SourceError::NotFound {
            at: self.describe(),
            file: file.to_owned(),
        }
    }

    fn not_cached(&self, file: &str) -> SourceError {
        SourceError::NotCached {
            at: self.describe(),
            file: file.to_owned(),
            cache: self.cache.path().display().to_string(),
        }
    }

    fn unauthorized(&self, file: &str, status: u16) -> SourceError {
        SourceError::Unauthorized {
            at: self.describe(),
            file: file.to_owned(),
            status,
            with_token: self.with_token,
        }
    }

    fn network(
        &self,
        file: &str,
        source: impl Into<Box<dyn core::error::Error + Send + Sync>>,
    ) -> SourceError {
        SourceError::Network {
            at: self.describe(),
            file: file.to_owned(),
            endpoint: self.endpoint.clone(),
            source: source.into(),
        }
    }
}

impl Source for Hub {
    fn describe(&self) -> String {
        format!("{}@{}", self.id, self.revision)
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        self.check_name(file)?;
        let pinned = self.pin(file)?;
        match pinned.local.size(file) {
            Err(error) if error.is_absent() => {}
            found => return found,
        }
        let Some(api) = &self.api else {
            return Err(self.not_cached(file));
        };
        match self.listing(api, &pinned, file)?.get(file) {
            None => Err(self.not_found(file)),
            Some(Some(size)) => Ok(*size),
            Some(None) => {
                self.download(&pinned, file)?;
                pinned.local.size(file)
            }
        }
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.check_name(file)?;
        let pinned = self.pin(file)?;
        match pinned.local.read_at(file, offset, into) {
            Err(error) if error.is_absent() => {
                self.download(&pinned, file)?;
                pinned.local.read_at(file, offset, into)
            }
            read => read,
        }
    }
}

/// Written by hand: `hf-hub` prints its headers, and the token is one of them.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("id", &self.id)
            .field("revision", &self.revision)
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache.path())
            .field("offline", &self.api.is_none())
            .field("with_token", &self.with_token)
            .finish_non_exhaustive()
    }
}

/// How a model on the hub is reached. What is not said is looked up in the environment, by the
/// names that Python's `huggingface_hub` knows:
///
/// | | variables, the first that is set |
/// |---|---|
/// | token | `HF_TOKEN`; the file `HF_TOKEN_PATH`; the file `HF_HOME/token` |
/// | cache | `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`; `HF_HOME/hub` |
/// | endpoint | `HF_ENDPOINT`; `https://huggingface.co` |
/// | offline | `HF_HUB_OFFLINE`: 1, true, yes or on |
///
/// `HF_HOME` is `XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface` when it is not set.
#[derive(Debug, Clone)]
#[must_use]
pub struct HubBuilder {
    id: String,
    revision: Option<String>,
    /// `Some(None)`: no token, whatever the environment has.
    token: Option<Option<Secret>>,
    endpoint: Option<String>,
    cache: Option<PathBuf>,
    offline: Option<bool>,
    retries: usize,
    environment: Option<HashMap<String, Secret>>,
}

/// Text that `Debug` does not print.
#[derive(Clone)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl HubBuilder {
    /// A branch, a tag or a commit; `main` when not said.
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// The token to send.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Some(Secret(token.into())));
        self
    }

    /// Sends no token, whatever the environment has.
    pub fn anonymous(mut self) -> Self {
        self.token = Some(None);
        self
    }

    /// Another hub: `https://hub.example.org`.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// The cache folder: the one that has `models--org--name` folders in it.
    pub fn cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    /// Whether to keep to the cache and send nothing.
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = Some(offline);
        self
    }

    /// How often to try again when the network fails; 3 when not said.
    pub fn retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// Variables to look things up in, in place of the process's.
    pub fn environment<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.environment = Some(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), Secret(value.into())))
                .collect(),
        );
        self
    }

    /// The source. Sends nothing yet.
    ///
    /// # Errors
    ///
    /// [`SourceError::BadId`] when id or revision cannot be one.
    pub fn build(self) -> Result<Hub, SourceError> {
        check_id(&self.id)?;
        let revision = match &self.revision {
            Some(revision) => revision.clone(),
            None => "main".to_owned(),
        };
        check_revision(&revision)?;
        let endpoint = self
            .endpoint
            .clone()
            .or_else(|| self.variable("HF_ENDPOINT"))
            .unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let cache = match &self.cache {
            Some(folder) => folder.clone(),
            None => self.cache_folder(),
        };
        let cache = Cache::new(cache);
        let offline = self.offline.unwrap_or_else(|| {
            self.variable("HF_HUB_OFFLINE").is_some_and(|value| {
                matches!(
                    value.to_ascii_lowercase().as_str(),
                    "1" | "true" | "yes" | "on"
                )
            })
        });
        let token = match &self.token {
            Some(token) => token.as_ref().map(|token| token.0.trim().to_owned()),
            None => self.found_token(),
        };
        let with_token = token.is_some();
        let api = if offline {
            None
        } else {
            let builder = ApiBuilder::from_cache(cache.clone())
                .with_endpoint(endpoint.clone())
                .with_token(token)
                .with_progress(false)
                .with_user_agent(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
            Some(builder.build().map_err(|error| SourceError::Network {
                at: format!("{}@{revision}", self.id),
                file: String::new(),
                endpoint: endpoint.clone(),
                source: error.into(),
            })?)
        };
        Ok(Hub {
            id: self.id,
            revision,
            endpoint,
            cache,
            api,
            with_token,
            retries: self.retries,
            pinned: Mutex::default(),
            downloads: Mutex::default(),
        })
    }

    /// A variable, unless it is unset or blank.
    fn variable(&self, name: &str) -> Option<String> {
        let value = match &self.environment {
            Some(given) => given.get(name).map(|value| value.0.clone()),
            None => std::env::var(name).ok(),
        };
        value
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    fn path_variable(&self, name: &str) -> Option<PathBuf> {
        let value = self.variable(name)?;
        match value.strip_prefix("~/") {
            Some(rest) => Some(self.home().join(rest)),
            None => Some(value.into()),
        }
    }

    fn home(&self) -> PathBuf {
        self.variable("HOME")
            .map(PathBuf::from)
            .or_else(std::env::home_dir)
            .unwrap_or_default()
    }

    fn hf_home(&self) -> PathBuf {
        self.path_variable("HF_HOME").unwrap_or_else(|| {
            self.path_variable("XDG_CACHE_HOME")
                .unwrap_or_else(|| self.home().join(".cache"))
                .join("huggingface")
        })
    }

    fn cache_folder(&self) -> PathBuf {
        self.path_variable("HF_HUB_CACHE")
            .or_else(|| self.path_variable("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| self.hf_home().join("hub"))
    }

    fn found_token(&self) -> Option<String> {
        self.variable("HF_TOKEN").or_else(|| {
            let path = self
                .path_variable("HF_TOKEN_PATH")
                .unwrap_or_else(|| self.hf_home().join("token"));
            let token = std::fs::read_to_string(path).ok()?.trim().to_owned();
            (!token.is_empty()).then_some(token)
        })
    }
}

/// Python's rules for an id, so that what is refused there is refused here, before it is a path.
fn check_id(id: &str) -> Result<(), SourceError> {
    let parts: Vec<&str> = id.split('/').collect();
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let why = if parts.len() > 2 {
        "it has one slash at most: org/name"
    } else if !parts.iter().all(|part| plain(part)) {
        "org and name consist of letters, digits, '-', '_' and '.'"
    } else if parts.iter().any(|part| part.starts_with(['-', '.'])) {
        "neither org nor name begins with '-' or '.'"
    } else if id.contains("--") || id.contains("..") {
        "it does not contain '--' or '..'"
    } else if id.len() > 96 {
        "it has 96 characters at most"
    } else {
        return Ok(());
    };
    Err(SourceError::BadId {
        given: id.to_owned(),
        what: "model id",
        why,
    })
}

fn check_revision(revision: &str) -> Result<(), SourceError> {
    let why = if !stays_inside(revision) {
        "it is not empty, and has no '..', ':' or '\\'"
    } else if revision
        .chars()
        .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '%'))
    {
        "it has no blanks, '?', '#' or '%'"
    } else {
        return Ok(());
    };
    Err(SourceError::BadId {
        given: revision.to_owned(),
        what: "revision",
        why,
    })
}

/// 40 hexadecimal digits: a git commit, and safe as a folder's name.
fn is_commit(text: &str) -> bool {
    text.len() == 40
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
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

/// The HTTP status of a failed request.
///
/// `hf-hub` keeps it in a type of a crate that it does not export, so it is read from the message.
/// Were that ever worded differently, the error would be [`SourceError::Network`] with its cause
/// (and the tests of each status would fail).
fn status_of(error: &ApiError) -> Option<u16> {
    let text = error.to_string();
    let (_, status) = text.split_once("http status: ")?;
    status.get(..3)?.parse().ok()
}

/// Trouble with the disk, which trying again does not cure.
fn disk_trouble(error: &ApiError) -> Option<io::ErrorKind> {
    use io::ErrorKind as Kind;
    match error {
        ApiError::IoError(error) => match error.kind() {
            kind @ (Kind::StorageFull
            | Kind::QuotaExceeded
            | Kind::PermissionDenied
            | Kind::ReadOnlyFilesystem
            | Kind::NotADirectory
            | Kind::AlreadyExists) => Some(kind),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// Longer and longer waits, up to a number of tries.
struct Backoff {
    left: usize,
    wait: Duration,
}

impl Backoff {
    fn new(retries: usize) -> Self {
        Self {
            left: retries,
            wait: Duration::from_millis(500),
        }
    }

    /// Waits, if there is a try left.
    fn again(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        std::thread::sleep(self.wait);
        self.wait = (self.wait * 2).min(Duration::from_secs(10));
        true
    }
}

/// A thread that panicked while it held one of these left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
