//! How a remote model is reached: the caller's options, and the environment for the others.

use std::path::PathBuf;
use std::time::Duration;

use super::{
    line::Patience,
    source::Remote,
    store::{RemoteOptions, RemoteStore},
};
use crate::source::{SourceError, environment::Environment};

/// How a remote model is reached. What is not given is looked up in the environment, by the names that the programs of the stores
/// know; [Sources](crate::_docs::sources) lists them.
#[derive(Debug, Clone)]
#[must_use]
pub struct RemoteBuilder {
    address: String,
    options: RemoteOptions,
    retries: usize,
    cache: Option<(PathBuf, u64)>,
}

impl Remote {
    /// The model at an address: `s3://bucket/folder`, `gs://…`, `az://…`, `https://host/folder`, or one file of weights there.
    ///
    /// # Errors
    ///
    /// Like [`RemoteBuilder::build`].
    pub fn open(address: impl Into<String>) -> Result<Self, SourceError> {
        Self::builder(address).build()
    }

    /// A model whose options are given rather than looked up.
    pub fn builder(address: impl Into<String>) -> RemoteBuilder {
        RemoteBuilder {
            address: address.into(),
            options: RemoteOptions::default(),
            retries: RETRIES,
            cache: None,
        }
    }
}

/// Tries after the first one that get nowhere, before a read fails: 23 s at most.
const RETRIES: usize = 8;

impl RemoteBuilder {
    /// Variables to look things up in, in place of the process's.
    pub fn environment<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.options.environment = Environment::of(variables);
        self
    }

    /// How often a read is tried again that gets nowhere; 8 when not said, with longer and longer waits. A read that gets some bytes
    /// further begins to count anew.
    pub fn retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// The longest wait for a connection, 10 s when not said, and the longest silence of a server, 30 s. There is no limit to the time
    /// that a read takes while bytes come.
    pub fn timeouts(mut self, connect: Duration, silence: Duration) -> Self {
        self.options.patience = Patience { connect, silence };
        self
    }

    /// Keeps parts of files in `folder`, at most `limit` bytes: those that were not used for the longest time make room. Nothing is
    /// kept if not given.
    pub fn cache(mut self, folder: impl Into<PathBuf>, limit: u64) -> Self {
        self.cache = Some((folder.into(), limit));
        self
    }

    /// The source. Sends nothing yet.
    ///
    /// # Errors
    ///
    /// [`SourceError::BadId`] for what is no address of a store, and [`SourceError::Store`] for an environment that makes no store of
    /// it.
    pub fn build(self) -> Result<Remote, SourceError> {
        let store = RemoteStore::open(&self.address, &self.options)?;
        let remote = Remote::new(store, self.retries, None);
        match self.cache {
            Some((folder, limit)) => remote.cached(&folder, limit),
            None => Ok(remote),
        }
    }
}
