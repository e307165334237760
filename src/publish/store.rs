//! A folder in an object store: each file in parts, read back and compared.

use sha2::{Digest, Sha256};

use super::{
    error::PublishError,
    folder::{Folder, FolderFile, hex},
    pushed::Published,
};
use crate::{
    config::PushConfig,
    source::remote::{RemoteStore, part_bytes},
};

/// Publishes a folder under an address.
pub(super) fn push(
    folder: &Folder,
    config: &PushConfig,
    tell: &mut dyn FnMut(&str, u64),
) -> Result<Published, PublishError> {
    let store = RemoteStore::to_write(&config.to)?;
    // Before anything is sent: a place with other files is refused whole.
    let mut there = Vec::new();
    for file in &folder.files {
        let same = match store.length(&file.name)? {
            None => false,
            Some(bytes) if bytes == file.bytes && sum(&store, &file.name)? == file.sha256 => true,
            Some(_) if config.replace => false,
            Some(_) => {
                return Err(PublishError::Exists {
                    at: store.at.clone(),
                    file: file.name.clone(),
                });
            }
        };
        there.push(same);
    }
    let mut files = Vec::new();
    for (file, was_there) in folder.files.iter().zip(there) {
        if !was_there {
            tell(&file.name, file.bytes);
            send(&store, file)?;
            let found = sum(&store, &file.name)?;
            if found != file.sha256 {
                return Err(PublishError::Damaged {
                    at: store.at.clone(),
                    file: file.name.clone(),
                    expected: file.sha256.clone(),
                    found,
                });
            }
        }
        files.push(file.pushed(was_there));
    }
    Ok((store.at.clone(), None, files))
}

/// Uploads a file; it is there when all of it is.
fn send(store: &RemoteStore, file: &FolderFile) -> Result<(), PublishError> {
    let part = part_bytes(file.bytes);
    if file.bytes <= part {
        return Ok(store.put(&file.name, file.whole()?)?);
    }
    let mut reader = file.open()?;
    let mut upload = store.upload(&file.name)?;
    let count = file.bytes.div_ceil(part);
    for nth in 0..count {
        let len = part.min(file.bytes - nth * part);
        let mut bytes = vec![0; len as usize];
        reader.fill(&mut bytes)?;
        upload.put(nth as usize, bytes)?;
    }
    reader.end()?;
    Ok(upload.complete(count as usize, file.bytes)?)
}

/// SHA-256 of what the store has, read back.
fn sum(store: &RemoteStore, file: &str) -> Result<String, PublishError> {
    let mut hash = Sha256::new();
    store.stream(file, &mut |piece| hash.update(piece))?;
    Ok(hex(&hash.finalize()))
}
