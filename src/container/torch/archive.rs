//! The zip archives that `torch.save` writes.

use core::ops::Range;
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
        pickle::{self, PICKLE_BYTES_MAX, PickleError, PickleParsed},
        zip::{self, ENTRY_HEADER_BYTES, TAIL_BYTES_MAX, ZipEntry},
    },
};

/// An archive whose directory is known.
struct Archive<'a> {
    source: &'a dyn Source,
    file: &'a str,
    label: &'a str,
    /// By their places.
    entries: Vec<ZipEntry>,
    /// Where each is among them.
    named: HashMap<String, usize>,
    /// Where the last entry ends.
    end: u64,
}

pub(super) fn read(
    source: &dyn Source,
    file: &str,
    label: &str,
    file_len: u64,
) -> Result<FoundFile, ContainerError> {
    let archive = Archive::open(source, file, label, file_len)?;
    let is_pickle = |entry: &&ZipEntry| entry.name.ends_with("/data.pkl");
    let mut pickles = archive.entries.iter().filter(is_pickle);
    let (Some(entry), None) = (pickles.next(), pickles.next()) else {
        return Err(TorchError::NoPickle {
            file: label.to_owned(),
            found: archive.entries.iter().filter(is_pickle).count(),
        }
        .into());
    };
    let root = entry.name.trim_end_matches("data.pkl");
    if archive.find(&format!("{root}constants.pkl")).is_some() {
        return Err(TorchError::Script {
            file: label.to_owned(),
        }
        .into());
    }
    let big_endian = match archive.find(&format!("{root}byteorder")) {
        None => false,
        Some(entry) => match &archive.small(entry, 16)?[..] {
            b"little" => false,
            b"big" => true,
            other => {
                return Err(TorchError::ByteOrder {
                    file: label.to_owned(),
                    found: String::from_utf8_lossy(other).into_owned(),
                }
                .into());
            }
        },
    };
    let bytes = archive.small(entry, PICKLE_BYTES_MAX)?;
    let label_of_pickle = format!("{label}/{}", entry.name);
    let pickle = match pickle::parse(&label_of_pickle, &bytes, 0)? {
        PickleParsed::Whole(pickle) => pickle,
        PickleParsed::More => {
            return Err(PickleError::Truncated {
                file: label_of_pickle,
                at: bytes.len() as u64,
            }
            .into());
        }
    };
    let state = State::of(label, &pickle)?;
    let (mut numbers, mut entries) = (Vec::new(), Vec::new());
    for (nth, storage) in wanted(&pickle, &state) {
        let name = format!("{root}data/{}", storage.key);
        let entry = archive.find(&name);
        match entry {
            Some(entry) if Some(entry.bytes) == storage.bytes() => {
                numbers.push(nth);
                entries.push(entry);
            }
            _ => {
                return Err(TorchError::Storage {
                    file: label.to_owned(),
                    storage: name,
                    found: entry.map(|entry| entry.bytes),
                    expected: storage.bytes().unwrap_or(u64::MAX),
                }
                .into());
            }
        }
    }
    let places = archive.places(&entries)?;
    let places = StoragePlaces {
        of: numbers.into_iter().zip(places).collect(),
        big_endian,
    };
    Ok(found(label, state, &places)?)
}

impl<'a> Archive<'a> {
    fn open(
        source: &'a dyn Source,
        file: &'a str,
        label: &'a str,
        file_len: u64,
    ) -> Result<Self, ContainerError> {
        let tail_len = TAIL_BYTES_MAX.min(file_len);
        let tail_start = file_len - tail_len;
        let mut tail = vec![0; tail_len as usize];
        source.peek(file, tail_start, &mut tail)?;
        let directory = zip::end(label, &tail, file_len)?;
        let entries = match directory.start.checked_sub(tail_start) {
            Some(at) => {
                let bytes = &tail[at as usize..][..directory.bytes as usize];
                zip::entries(label, &directory, bytes)?
            }
            None => {
                let mut bytes = vec![0; directory.bytes as usize];
                source.peek(file, directory.start, &mut bytes)?;
                zip::entries(label, &directory, &bytes)?
            }
        };
        let named = entries.iter().enumerate();
        Ok(Self {
            source,
            file,
            label,
            named: named
                .map(|(nth, entry)| (entry.name.clone(), nth))
                .collect(),
            entries,
            end: directory.start,
        })
    }

    fn find(&self, name: &str) -> Option<&ZipEntry> {
        self.named.get(name).map(|nth| &self.entries[*nth])
    }

    /// Where the bytes of some entries are.
    fn places(&self, entries: &[&ZipEntry]) -> Result<Vec<Range<u64>>, ContainerError> {
        let headers = entries.iter().map(|entry| {
            let len = ENTRY_HEADER_BYTES as usize + entry.name.len();
            (entry.header, len)
        });
        let headers = headers.collect::<Vec<_>>();
        let headers = peek_all(self.source, self.file, &headers)?;
        let places = entries.iter().zip(headers).map(|(entry, header)| {
            let after = self
                .entries
                .partition_point(|other| other.header <= entry.header);
            let end = self.entries.get(after).map_or(self.end, |next| next.header);
            let start = zip::data(self.label, entry, &header, end)?;
            Ok(start..start + entry.bytes)
        });
        places.collect()
    }

    /// The bytes of an entry of at most `max`.
    fn small(&self, entry: &ZipEntry, max: u64) -> Result<Vec<u8>, ContainerError> {
        if entry.bytes > max {
            return Err(PickleError::TooLarge {
                file: format!("{}/{}", self.label, entry.name),
                bytes: entry.bytes,
            }
            .into());
        }
        let place = self.places(&[entry])?.remove(0);
        let mut bytes = vec![0; entry.bytes as usize];
        self.source.peek(self.file, place.start, &mut bytes)?;
        Ok(bytes)
    }
}
