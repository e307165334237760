//! How a remote model is reached: the caller's options, and the environment for the others.

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
        }
    }
}

/// Tries after the first one that get nowhere, before a read fails: 6 s at most.
const RETRIES: usize = 6;

impl RemoteBuilder {
    /// Variables to look things up in, in place of the process's.
    pub fn environment<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.options.environment = Environment::of(variables);
        self
    }

    /// How often a read is tried again that gets nowhere; 6 when not said, with longer and longer waits. A read that gets some bytes
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

    /// The source. Sends nothing yet.
    ///
    /// # Errors
    ///
    /// [`SourceError::BadId`] for what is no address of a store, and [`SourceError::Store`] for an environment that makes no store of
    /// it.
    pub fn build(self) -> Result<Remote, SourceError> {
        let store = RemoteStore::open(&self.address, &self.options)?;
        Ok(Remote::new(store, self.retries))
    }
}
