//! A model on the hub, read where it is: nothing is kept in the cache.

use std::sync::Arc;

use super::{Hub, HubBuilder};
use crate::{
    config::Secret,
    source::{
        Remote, SourceError,
        remote::store::{HubFiles, RemoteOptions, RemoteStore},
    },
};

impl HubBuilder {
    /// The model without a copy on disk: files are read by ranges, from the commit that the revision has now. Asks the hub which
    /// one that is.
    ///
    /// # Errors
    ///
    /// Like [`build`](Self::build), and [`SourceError`] for what cannot be looked up.
    pub fn stream(self) -> Result<Remote, SourceError> {
        let token = self.token_to_send();
        let hub = self.build()?;
        let (commit, listing) = match &hub.api {
            Some(api) => hub.fetch_listing(api, &hub.revision, "")?,
            None => return Err(hub.not_cached("")),
        };
        let Hub {
            id,
            endpoint,
            retries,
            tally,
            ..
        } = &hub;
        let address = format!("{endpoint}/{id}/resolve/{commit}/");
        let files = HubFiles {
            at: format!("{id}@{}", hub.revision),
            commit,
            names: listing.into_keys().collect(),
            with_token: token.is_some(),
        };
        let options = RemoteOptions {
            authorization: token.map(|token| Secret(format!("Bearer {token}"))),
            tally: Arc::clone(tally),
            hub: Some(Arc::new(files)),
            ..RemoteOptions::default()
        };
        Ok(Remote::of_hub(
            RemoteStore::open(&address, &options)?,
            *retries,
        ))
    }
}
