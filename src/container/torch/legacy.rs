//! The files that `torch.save` wrote before PyTorch 1.6, and writes with `_use_new_zipfile_serialization=False`.
//!
//! Numbers are little-endian whatever machine wrote them (`THPStorage_writeFileRaw`); the byte order that the third pickle names
//! is that of the machine, and PyTorch does not look at it either.

use std::collections::HashMap;

use super::{
    TorchError,
    places::{StoragePlaces, found, wanted},
    state::State,
};
use crate::{
    container::{
        ContainerError,
        found::{FoundFile, peek_all},
    },
    source::{
        Source, SourceExt,
        pickle::{self, Pickle, PickleError, PickleObject, PickleParsed},
    },
};

/// The number that a file begins with.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// The version of all files.
const VERSION: i128 = 1001;

/// The first bytes that are read of a file.
const FIRST_BYTES: u64 = 1 << 20;

/// Bytes of the count before the bytes of a storage.
const COUNT_BYTES: u64 = 8;

pub(super) fn read(
    source: &dyn Source,
    file: &str,
    label: &str,
    file_len: u64,
) -> Result<FoundFile, ContainerError> {
    let mut wanted_len = FIRST_BYTES.min(file_len);
    let (tensors, keys, start) = loop {
        let mut first = vec![0; wanted_len as usize];
        source.peek(file, 0, &mut first)?;
        match pickles(label, &first)? {
            Some(read) => break read,
            None if wanted_len == file_len => {
                return Err(PickleError::Truncated {
                    file: label.to_owned(),
                    at: file_len,
                }
                .into());
            }
            None => wanted_len = (2 * wanted_len).min(file_len),
        }
    };
    let state = State::of(label, &tensors)?;
    let mut numbers = HashMap::new();
    let mut next = start;
    let storages = tensors.storages.iter().enumerate();
    let named: HashMap<&str, usize> = storages.map(|(nth, found)| (&*found.key, nth)).collect();
    let mut places = HashMap::new();
    for key in &keys {
        let nth = named.get(&**key).copied();
        let nth = nth.filter(|nth| !places.contains_key(nth));
        let nth = nth.ok_or_else(|| TorchError::Key {
            file: label.to_owned(),
            key: key.clone(),
        })?;
        let storage = &tensors.storages[nth];
        let data = next.saturating_add(COUNT_BYTES);
        let end = data.saturating_add(storage.bytes().unwrap_or(u64::MAX));
        if end > file_len {
            return Err(TorchError::Cut {
                file: label.to_owned(),
                storage: key.clone(),
                end,
                file_len,
            }
            .into());
        }
        places.insert(nth, data..end);
        numbers.insert(nth, next);
        next = end;
    }
    let wanted = wanted(&tensors, &state);
    let missing = wanted.iter().find(|(nth, _)| !places.contains_key(nth));
    if let Some((_, storage)) = missing {
        return Err(TorchError::Key {
            file: label.to_owned(),
            key: storage.key.to_string(),
        }
        .into());
    }
    let counts = wanted
        .iter()
        .map(|(nth, _)| (numbers[nth], COUNT_BYTES as usize));
    let counts = peek_all(source, file, &counts.collect::<Vec<_>>())?;
    for ((_, storage), count) in wanted.iter().zip(counts) {
        let count = count
            .first_chunk()
            .map_or(0, |count| u64::from_le_bytes(*count));
        if count != storage.count {
            return Err(TorchError::Storage {
                file: label.to_owned(),
                storage: storage.key.to_string(),
                found: Some(count),
                expected: storage.count,
            }
            .into());
        }
    }
    let places = StoragePlaces {
        of: places,
        big_endian: false,
    };
    Ok(found(label, state, &places)?)
}

/// The pickle of tensors, the keys of storages, and the bytes of all five pickles, if that many are there.
fn pickles(
    label: &str,
    first: &[u8],
) -> Result<Option<(Pickle, Vec<String>, u64)>, ContainerError> {
    let mut at = 0;
    let mut next = || match pickle::parse(label, &first[at..], at as u64)? {
        PickleParsed::More => Ok(None),
        PickleParsed::Whole(pickle) => {
            at += pickle.bytes;
            Ok::<_, PickleError>(Some(pickle))
        }
    };
    for expected in [MAGIC, VERSION] {
        let Some(pickle) = next()? else {
            return Ok(None);
        };
        match pickle.object(pickle.root) {
            PickleObject::Whole(found) if *found == expected => {}
            other => {
                return Err(TorchError::NotSaved {
                    file: label.to_owned(),
                    found: match other {
                        PickleObject::Whole(found) => format!("the number {found:#x}"),
                        other => other.kind(),
                    },
                }
                .into());
            }
        }
    }
    let (Some(_system), Some(tensors), Some(keys)) = (next()?, next()?, next()?) else {
        return Ok(None);
    };
    let texts = match keys.object(keys.root) {
        PickleObject::List(texts) => texts,
        _ => &Vec::new(),
    };
    let texts = texts.iter().map(|id| match keys.object(*id) {
        PickleObject::Text(text) => text.to_string(),
        other => other.kind(),
    });
    let texts = texts.collect();
    Ok(Some((tensors, texts, at as u64)))
}
