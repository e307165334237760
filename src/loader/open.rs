//! From a name to an opened checkpoint.

#[cfg(feature = "hub")]
use core::ops::ControlFlow;
use std::{path::Path, sync::Arc};

use super::{LoadRequest, engine::explain};
use crate::{
    config::LoadConfig,
    container::{self, OpenedContainer},
    dialect::{self, undeclared},
    error::Error,
    expand,
    source::{
        Apart, Checkpoint, CheckpointError, Local, Source, SourceError,
        address::{AddressKind, address_kind, without_secrets},
        checkpoint::CONFIG,
    },
};
#[cfg(feature = "hub")]
use crate::{
    observe::{Event, Flow, Observer},
    source::Download,
};

impl LoadConfig {
    /// Opens the checkpoint, as [`LoadRequest::open`].
    ///
    /// # Errors
    ///
    /// [`Error::Source`] and [`Error::Checkpoint`].
    pub fn open(&self) -> Result<Checkpoint, Error> {
        LoadRequest::from(self.clone()).open()
    }
}

impl LoadRequest {
    /// Opens the checkpoint: configuration and headers, no weights.
    ///
    /// What exists on disk wins; anything else that looks like one is a model id of the hub.
    ///
    /// # Errors
    ///
    /// [`Error::Source`] and [`Error::Checkpoint`].
    pub fn open(&self) -> Result<Checkpoint, Error> {
        let apart = self.config.weights.as_deref();
        let name = &self.config.model;
        let is_address = address_kind(name).is_some();
        let is_path = self.source.is_none() && Path::new(name).exists();
        let (model, file) = match !is_address && !is_path {
            true => container::file_of_hub(name),
            false => (&**name, None),
        };
        let open = |source| -> Result<Checkpoint, Error> {
            let named = container::named(source, file)?;
            // Of an address, nobody has looked for a configuration yet.
            let bare = self.config.bare && !(is_address && named.source.size(CONFIG).is_ok());
            let checkpoint = opened(named, bare)?;
            match bare {
                true => Ok(checkpoint),
                false => Ok(expand::recognised(declared(checkpoint)?, apart.is_some())?),
            }
        };
        let open = |source: Arc<dyn Source>| {
            let checkpoint = match apart {
                Some(folder) => {
                    let weights = match folder.to_str() {
                        Some(name) if address_kind(name).is_some() => self.at(name)?,
                        _ => self.local(folder)?,
                    };
                    open(Arc::new(Apart::new(weights, source)))?
                }
                None => open(source)?,
            };
            match self.config.expand.and_then(|expand| expand.blocks) {
                Some(blocks) => Ok(expand::expanded(&checkpoint, blocks.get())?),
                None => Ok(checkpoint),
            }
        };
        if let Some(source) = &self.source {
            return open(Arc::clone(source));
        }
        if is_address {
            return self
                .at(name)
                .and_then(open)
                .map_err(|error| explain(&self.observers, error));
        }
        if Path::new(name).exists() || !looks_like_id(model) {
            return open(self.local(name.as_ref())?);
        }
        let options = &self.config.hub;
        let hub = match options.uncached || options.cache_limit.is_some() {
            true => streamed(model, self),
            false => hub(model, self),
        };
        hub.and_then(open)
            .map_err(|error| not_here(name, explain(&self.observers, error)))
    }

    /// A folder or file on disk.
    fn local(&self, path: &Path) -> Result<Arc<dyn Source>, Error> {
        Ok(Arc::new(
            Local::open(path)?.reading(self.config.read.reading),
        ))
    }

    /// The model at an address.
    fn at(&self, address: &str) -> Result<Arc<dyn Source>, Error> {
        match address_kind(address) {
            Some(AddressKind::Path(path)) => self.local(path.as_ref()),
            Some(AddressKind::Hub) => streamed(address, self),
            Some(AddressKind::Remote) | None => remote(address, self),
        }
    }
}

#[cfg(feature = "remote")]
fn remote(address: &str, request: &LoadRequest) -> Result<Arc<dyn Source>, Error> {
    let remote = crate::source::Remote::builder(address);
    let remote = match request.config.hub.range_cache() {
        Some((folder, limit)) => remote.cache(folder, limit),
        None => remote,
    };
    Ok(Arc::new(remote.build()?))
}

#[cfg(not(feature = "remote"))]
fn remote(_: &str, _: &LoadRequest) -> Result<Arc<dyn Source>, Error> {
    Err(Error::NoRemote)
}

/// The checkpoint of a source. One without safetensors may have files of another project.
fn opened(opened: OpenedContainer, bare: bool) -> Result<Checkpoint, Error> {
    let open = |source| -> Result<Checkpoint, Error> {
        match bare {
            true => Ok(Checkpoint::bare(source)?),
            false => Ok(Checkpoint::open(expand::without_stale_index(source)?)?),
        }
    };
    let OpenedContainer { source, notes } = opened;
    match open(Arc::clone(&source)) {
        Err(Error::Checkpoint(error @ CheckpointError::NoWeights { .. })) => {
            match container::in_folder(&source)? {
                Some(OpenedContainer { source, notes }) => Ok(open(source)?.noted(notes)),
                None => Err(error.into()),
            }
        }
        checkpoint => Ok(checkpoint?.noted(notes)),
    }
}

/// The checkpoint with the declaration of its quantization, where packed tensors are there and `config.json` has none: from a file beside, or
/// from the tensors where they leave no choice.
fn declared(mut checkpoint: Checkpoint) -> Result<Checkpoint, Error> {
    let config = checkpoint.config();
    let says = |field: &&str| config.get(field).is_some_and(|value| !value.is_null());
    if dialect::DECLARED.iter().any(says) || !undeclared::has_packed(checkpoint.catalog()) {
        return Ok(checkpoint);
    }
    for (file, declaration) in undeclared::FILES {
        let Some(found) = checkpoint.read_json(file)? else {
            continue;
        };
        if let Some(quantization) = declaration(found) {
            let note = format!("the quantization is declared in {file}, not in {CONFIG}");
            checkpoint.declare(undeclared::FIELD, quantization, note);
            return Ok(checkpoint);
        }
    }
    if let Some(quantization) = undeclared::infer(checkpoint.catalog())? {
        let method = &quantization["quant_method"];
        let note = format!("no file declares the quantization; the tensors are those of {method}");
        checkpoint.declare(undeclared::FIELD, quantization, note);
    }
    Ok(checkpoint)
}

/// Adds to a failed look-up on the hub that the name is nothing on disk, either: it may have been
/// meant as a folder. Of a model that was found, errors stay as they are.
fn not_here(name: &str, error: Error) -> Error {
    // The configuration is what is looked for first.
    let lookup = |error: &SourceError| match error {
        SourceError::BadId { what, .. } => *what == "model id",
        SourceError::NoModel { .. } => true,
        SourceError::Unauthorized { file, .. }
        | SourceError::NotCached { file, .. }
        | SourceError::Network { file, .. } => file == CONFIG,
        _ => false,
    };
    match error {
        Error::Source(source) | Error::Checkpoint(CheckpointError::Source(source))
            if lookup(&source) =>
        {
            Error::Source(SourceError::NotHere {
                name: without_secrets(name),
                source: Box::new(source),
            })
        }
        error => error,
    }
}

/// `name` or `org/name`, or an address with a host: a path that says it is one (`./model`, `/model`, `model/`, `a/b/c`) is
/// never sent to the hub.
fn looks_like_id(name: &str) -> bool {
    const HOSTS: [&str; 3] = ["huggingface.co/", "www.huggingface.co/", "hf.co/"];
    if name.contains("://") || HOSTS.iter().any(|host| name.starts_with(host)) {
        return true;
    }
    let id = name.strip_suffix('/').filter(|id| id.contains('/'));
    let parts: Vec<&str> = id.unwrap_or(name).split('/').collect();
    let is_plain = |part: &&str| !part.is_empty() && !part.starts_with('.');
    parts.len() <= 2 && parts.iter().all(is_plain)
}

#[cfg(feature = "hub")]
fn hub(id: &str, request: &LoadRequest) -> Result<Arc<dyn Source>, Error> {
    Ok(Arc::new(hub_builder(id, request).build()?))
}

/// A model of the hub without a copy on disk. Offline it can be in the cache alone.
#[cfg(all(feature = "hub", feature = "remote"))]
fn streamed(id: &str, request: &LoadRequest) -> Result<Arc<dyn Source>, Error> {
    let builder = hub_builder(id, request);
    Ok(match builder.is_offline() {
        true => Arc::new(builder.build()?),
        false => {
            let remote = builder.stream()?;
            match request.config.hub.range_cache() {
                Some((folder, limit)) => Arc::new(remote.cached(folder, limit)?),
                None => Arc::new(remote),
            }
        }
    })
}

#[cfg(not(all(feature = "hub", feature = "remote")))]
fn streamed(id: &str, request: &LoadRequest) -> Result<Arc<dyn Source>, Error> {
    match cfg!(feature = "hub") {
        true => Err(Error::NoRemote),
        false => hub(id, request),
    }
}

#[cfg(feature = "hub")]
fn hub_builder(id: &str, request: &LoadRequest) -> crate::source::HubBuilder {
    let (config, observers) = (&request.config, request.observers.clone());
    let options = &config.hub;
    let mut hub = crate::source::Hub::builder(id).on_download(move |download| {
        let Download { file, done, total } = *download;
        match observers.observe(&Event::Download { file, done, total }) {
            Flow::Continue => ControlFlow::Continue(()),
            Flow::Cancel => ControlFlow::Break(()),
        }
    });
    hub = hub.reading(config.read.reading);
    if let Some(revision) = &options.revision {
        hub = hub.revision(revision);
    }
    if let Some(token) = &options.token {
        hub = hub.token(&token.0);
    }
    if let Some(cache) = &options.cache {
        hub = hub.cache(cache);
    }
    if let Some(offline) = options.offline {
        hub = hub.offline(offline);
    }
    hub
}

#[cfg(not(feature = "hub"))]
fn hub(id: &str, _request: &LoadRequest) -> Result<Arc<dyn Source>, Error> {
    Err(Error::NoHub {
        model: id.to_owned(),
    })
}
