//! How a model on the hub is reached: the caller's options, and the environment for the others.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hf_hub::Cache;
use hf_hub::api::sync::ApiBuilder;

use super::hook::{Download, Hook};
use super::{Hub, address};
use crate::{
    config::{Reading, Secret},
    source::{SourceError, address::without_secrets, environment::Environment, stays_inside},
};

/// Where models are by default.
const ENDPOINT: &str = "https://huggingface.co";

/// How a model on the hub is reached. Options that are not given are looked up in the environment, by the
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
    /// `Some(None)`: no token, even if the environment has one.
    token: Option<Option<Secret>>,
    endpoint: Option<String>,
    cache: Option<PathBuf>,
    offline: Option<bool>,
    reading: Reading,
    retries: usize,
    on_download: Option<Hook>,
    environment: Environment,
}

impl Hub {
    /// The model `id` (`org/name`, or the address of its page) on its main branch, with everything else from the environment.
    ///
    /// # Errors
    ///
    /// Like [`HubBuilder::build`].
    pub fn open(id: impl Into<String>) -> Result<Self, SourceError> {
        Self::builder(id).build()
    }

    /// A model whose revision, token or cache is given rather than looked up.
    pub fn builder(id: impl Into<String>) -> HubBuilder {
        HubBuilder::new(id.into())
    }
}

impl HubBuilder {
    pub(super) fn new(id: String) -> Self {
        Self {
            id,
            revision: None,
            token: None,
            endpoint: None,
            cache: None,
            offline: None,
            reading: Reading::default(),
            retries: 3,
            on_download: None,
            environment: Environment::default(),
        }
    }

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

    /// Sends no token, even if the environment has one.
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

    /// How weights in the cache are read.
    pub fn reading(mut self, reading: Reading) -> Self {
        self.reading = reading;
        self
    }

    /// How often to try again when the network fails; 3 when not said.
    pub fn retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// Whom to tell of downloads, and who may stop them.
    ///
    /// Called at the start and at the end of each file, and at most ten times a second between, on
    /// the thread that reads; files that are in the cache are no downloads.
    /// [`ControlFlow::Break`] ends the read with [`SourceError::Cancelled`], at the next bytes from
    /// the network at the latest; what has come is kept, and a later download goes on from there.
    /// The source must not be read from in here.
    pub fn on_download(
        mut self,
        tell: impl Fn(&Download<'_>) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.on_download = Some(Hook(Arc::new(tell)));
        self
    }

    /// Variables to look things up in, in place of the process's.
    pub fn environment<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.environment = Environment::of(variables);
        self
    }

    /// The source. Sends nothing yet.
    ///
    /// # Errors
    ///
    /// [`SourceError::BadId`] when id or revision cannot be one.
    pub fn build(self) -> Result<Hub, SourceError> {
        let (endpoint, id, revision) = self.place()?;
        let cache = match &self.cache {
            Some(folder) => folder.clone(),
            None => self.cache_folder(),
        };
        let cache = Cache::new(cache);
        let offline = self.is_offline();
        let token = self.token_to_send();
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
                at: format!("{id}@{revision}"),
                file: String::new(),
                endpoint: endpoint.clone().into(),
                source: error.into(),
            })?)
        };
        Ok(Hub {
            id,
            revision,
            endpoint,
            cache,
            api,
            with_token,
            retries: self.retries,
            on_download: self.on_download,
            pinned: Mutex::default(),
            downloads: Mutex::default(),
            heads: Mutex::default(),
            reading: self.reading,
            tally: Arc::default(),
        })
    }

    /// The endpoint, the id and the revision.
    pub(super) fn place(&self) -> Result<(String, String, String), SourceError> {
        let endpoint = self
            .endpoint
            .clone()
            .or_else(|| self.environment.get("HF_ENDPOINT"))
            .unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if without_secrets(&endpoint) != endpoint {
            return Err(SourceError::BadId {
                given: without_secrets(&endpoint),
                what: "endpoint of a hub",
                why: "a user, a password and a query are not sent there; the token is HF_TOKEN"
                    .into(),
            });
        }
        let given = address::read(&self.id, &endpoint)?;
        check_id(&given.id, &self.id)?;
        let revision = match (&self.revision, given.revision) {
            (Some(asked), Some(named)) if *asked != named => {
                return Err(SourceError::BadId {
                    given: asked.clone(),
                    what: "revision",
                    why: format!("the address of the model names the revision {named}").into(),
                });
            }
            (Some(revision), _) => revision.clone(),
            (None, named) => named.unwrap_or_else(|| "main".to_owned()),
        };
        check_revision(&revision)?;
        Ok((endpoint, given.id, revision))
    }

    /// The token that was given, or that of the environment.
    pub(super) fn token_to_send(&self) -> Option<String> {
        match &self.token {
            Some(token) => token.as_ref().map(|token| token.0.trim().to_owned()),
            None => self.found_token(),
        }
    }

    fn path_variable(&self, name: &str) -> Option<PathBuf> {
        let value = self.environment.get(name)?;
        match value.strip_prefix("~/") {
            Some(rest) => Some(self.home().join(rest)),
            None => Some(value.into()),
        }
    }

    fn home(&self) -> PathBuf {
        self.environment
            .get("HOME")
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

    /// Whether nothing is sent.
    pub(crate) fn is_offline(&self) -> bool {
        self.offline.unwrap_or_else(|| {
            let value = self.environment.get("HF_HUB_OFFLINE");
            value.is_some_and(|value| {
                matches!(
                    value.to_ascii_lowercase().as_str(),
                    "1" | "true" | "yes" | "on"
                )
            })
        })
    }

    fn found_token(&self) -> Option<String> {
        self.environment.get("HF_TOKEN").or_else(|| {
            let path = self
                .path_variable("HF_TOKEN_PATH")
                .unwrap_or_else(|| self.hf_home().join("token"));
            let token = std::fs::read_to_string(path).ok()?.trim().to_owned();
            (!token.is_empty()).then_some(token)
        })
    }
}

/// Python's rules for an id, so that what is refused there is refused here, before it is a path.
fn check_id(id: &str, given: &str) -> Result<(), SourceError> {
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
        given: without_secrets(given),
        what: "model id",
        why: why.into(),
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
        why: why.into(),
    })
}
