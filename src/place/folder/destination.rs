//! The destination of a save, by its address.

use std::path::Path;

use super::{error::SaveError, local::LocalOutput, output::Output};
use crate::{
    config::SaveConfig,
    source::address::{AddressKind, address_kind, without_secrets},
};

/// Where a save goes: a folder of this machine, or of an object store.
pub(crate) fn output(to: &SaveConfig) -> Result<Box<dyn Output>, SaveError> {
    let refuse = |reason| {
        let folder = without_secrets(&to.folder.to_string_lossy()).into();
        Err(SaveError::Place { folder, reason })
    };
    match to.folder.to_str().and_then(address_kind) {
        None if to.folder.to_string_lossy().contains("://") => refuse(
            "weights are written to a folder of this machine, s3://bucket/folder, gs://… or az://…",
        ),
        None => Ok(Box::new(LocalOutput::new(&to.folder))),
        Some(AddressKind::Path(path)) => Ok(Box::new(LocalOutput::new(Path::new(path)))),
        #[cfg(feature = "remote")]
        Some(AddressKind::Remote) => {
            let address = to.folder.to_string_lossy();
            Ok(Box::new(super::remote::RemoteOutput::new(&address)?))
        }
        #[cfg(not(feature = "remote"))]
        Some(AddressKind::Remote) => refuse("this program was built without the feature `remote`"),
        Some(AddressKind::Hub) => refuse(
            "weights are not written to the hub while they are made; save to a folder, and `firebox push` it",
        ),
    }
}
