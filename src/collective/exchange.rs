//! Small values between ranks, by the operations of [`Collective`].

use serde::{Serialize, de::DeserializeOwned};

use super::{Collective, CollectiveError};

/// The value of every rank. Numbers with fractions go as their bits: a number that is parsed may be its neighbour.
pub(crate) fn gather_json<V: Serialize + DeserializeOwned>(
    ranks: &dyn Collective,
    mine: &V,
) -> Result<Vec<V>, CollectiveError> {
    let all = ranks.all_gather_bytes(&written(mine))?;
    let all = all.iter().enumerate();
    all.map(|(peer, bytes)| read(peer, bytes)).collect()
}

/// The value of rank 0, which is the only one to make it.
pub(crate) fn share_json<V: Serialize + DeserializeOwned>(
    ranks: &dyn Collective,
    make: impl FnOnce() -> V,
) -> Result<V, CollectiveError> {
    let mine = match ranks.rank() {
        0 => written(&make()),
        _ => Vec::new(),
    };
    read(0, &ranks.broadcast_bytes(mine, 0)?)
}

/// Whether some rank says yes.
pub(crate) fn any(ranks: &dyn Collective, mine: bool) -> Result<bool, CollectiveError> {
    let all = ranks.all_gather_bytes(&[mine.into()])?;
    Ok(all.iter().flatten().any(|said| *said != 0))
}

/// Whether all ranks say yes.
#[cfg(feature = "nccl")]
pub(super) fn all(ranks: &dyn Collective, mine: bool) -> Result<bool, CollectiveError> {
    let all = ranks.all_gather_bytes(&[mine.into()])?;
    Ok(all.iter().flatten().all(|said| *said != 0))
}

fn written(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data is JSON")
}

fn read<V: DeserializeOwned>(peer: usize, bytes: &[u8]) -> Result<V, CollectiveError> {
    serde_json::from_slice(bytes).map_err(|error| CollectiveError::Unreadable {
        peer,
        reason: error.to_string(),
    })
}
