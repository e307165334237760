//! From a name to an opened checkpoint.

use std::{path::Path, sync::Arc};

use super::{HubOptions, LoadConfig, Model};
use crate::{
    error::Error,
    source::{Checkpoint, Local, Source},
};

impl LoadConfig {
    /// Opens the checkpoint: configuration and headers, no weights.
    ///
    /// # Errors
    ///
    /// [`Error::Source`] and [`Error::Checkpoint`].
    pub fn open(&self) -> Result<Checkpoint, Error> {
        Ok(Checkpoint::open(source(self)?)?)
    }
}

/// What exists on disk wins; anything else is a model id of the hub.
fn source(config: &LoadConfig) -> Result<Arc<dyn Source>, Error> {
    match &config.model {
        Model::Source(source) => Ok(Arc::clone(source)),
        Model::Named(name) if Path::new(name).exists() || !looks_like_id(name) => {
            Ok(Arc::new(Local::open(name)?))
        }
        Model::Named(name) => hub(name, &config.hub),
    }
}

/// `name` or `org/name`: a path that says it is one (`./model`, `/model`, `a/b/c`) is never sent to
/// the hub.
fn looks_like_id(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() <= 2
        && parts
            .iter()
            .all(|part| !part.is_empty() && !part.starts_with('.'))
}

#[cfg(feature = "hub")]
fn hub(id: &str, options: &HubOptions) -> Result<Arc<dyn Source>, Error> {
    let mut hub = crate::source::Hub::builder(id);
    if let Some(revision) = &options.revision {
        hub = hub.revision(revision);
    }
    if let Some(token) = &options.token {
        hub = hub.token(token);
    }
    if let Some(cache) = &options.cache {
        hub = hub.cache(cache);
    }
    if let Some(offline) = options.offline {
        hub = hub.offline(offline);
    }
    Ok(Arc::new(hub.build()?))
}

#[cfg(not(feature = "hub"))]
fn hub(id: &str, _options: &HubOptions) -> Result<Arc<dyn Source>, Error> {
    Err(Error::NoHub {
        model: id.to_owned(),
    })
}
