//! The directory of a zip archive: bytes to checked entries, no I/O.
//!
//! ```text
//! each entry:  header (30 bytes, name, extra), bytes as they are
//! directory:   a record for each entry
//! the end:     [64-bit record, its place], 22 bytes, comment
//! ```
//!
//! (<https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>.) The archive is not trusted. Its entries are known to lie
//! before the directory and not over each other; one that is compressed or encrypted is refused, since PyTorch stores bytes as
//! they are and weights are read by their places.

mod error;

use std::collections::HashSet;

pub use error::ZipError;

/// The most bytes at the end of an archive that [`end`] looks at: the records and the longest comment.
pub(crate) const TAIL_BYTES_MAX: u64 = 56 + 20 + 22 + 65_535;

/// The most bytes of a directory.
const DIRECTORY_BYTES_MAX: u64 = 128 << 20;

/// More entries than any archive of tensors has.
const ENTRIES_MAX: u64 = 1 << 20;

/// Bytes of a record of the directory without its name.
const RECORD_BYTES: usize = 46;

/// Bytes of the header of an entry without its name.
pub(crate) const ENTRY_HEADER_BYTES: u64 = 30;

/// A value that is in the 64-bit record, or in the extra field.
const ELSEWHERE: u64 = 0xffff_ffff;

/// The directory of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ZipDirectory {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    entries: u64,
}

/// An entry whose bytes are stored as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ZipEntry {
    pub(crate) name: String,
    /// The byte of its header.
    pub(crate) header: u64,
    /// Its bytes.
    pub(crate) bytes: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |found| u16::from_le_bytes(*found)).into()
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |found| u32::from_le_bytes(*found)).into()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |found| u64::from_le_bytes(*found))
}

fn damaged(file: &str, what: impl Into<String>) -> ZipError {
    ZipError::Damaged {
        file: file.to_owned(),
        what: what.into(),
    }
}

/// The directory, from the last bytes of an archive that has `file_len`. `file` is a name for messages.
///
/// # Errors
///
/// [`ZipError`] where the end is missing, or does not say where the directory is.
pub(crate) fn end(file: &str, tail: &[u8], file_len: u64) -> Result<ZipDirectory, ZipError> {
    let start = file_len - tail.len() as u64;
    let ends_here = |at: &usize| {
        tail[*at..].starts_with(b"PK\x05\x06")
            && at + 22 + u16_at(tail, at + 20) as usize == tail.len()
    };
    let at = (0..(tail.len() + 1).saturating_sub(22))
        .rev()
        .find(ends_here);
    let at = at.ok_or_else(|| ZipError::NoEnd {
        file: file.to_owned(),
    })?;
    let disks = [u16_at(tail, at + 4), u16_at(tail, at + 6)];
    let mut entries = u16_at(tail, at + 10);
    let mut directory = [u32_at(tail, at + 16), u32_at(tail, at + 12)];
    let mut after = start + at as u64;
    if disks.iter().any(|disk| ![0, 0xffff].contains(disk)) {
        return Err(damaged(file, "a part of an archive in several files"));
    }
    // The place of the 64-bit record is right before; the record before that.
    if at >= 76 && tail[at - 20..].starts_with(b"PK\x06\x07") {
        let record = at - 76;
        let said = u64_at(tail, at - 12);
        if said != start + record as u64 || !tail[record..].starts_with(b"PK\x06\x06") {
            let what = format!("its 64-bit record at byte {said}, and it is not there");
            return Err(damaged(file, what));
        }
        entries = u64_at(tail, record + 32);
        directory = [u64_at(tail, record + 48), u64_at(tail, record + 40)];
        after = said;
    }
    let [start, bytes] = directory;
    if start.checked_add(bytes) != Some(after) {
        let what =
            format!("a directory of {bytes} bytes at byte {start}, and its end at byte {after}");
        return Err(damaged(file, what));
    }
    let most = ENTRIES_MAX.min(bytes / RECORD_BYTES as u64);
    if entries > most || bytes > DIRECTORY_BYTES_MAX {
        let what =
            format!("{entries} entries in a directory of {bytes} bytes, where {most} can be");
        return Err(damaged(file, what));
    }
    Ok(ZipDirectory {
        start,
        bytes,
        entries,
    })
}

/// The entries of a directory, from its bytes, by their places.
///
/// # Errors
///
/// [`ZipError`] by what is wrong with an entry.
pub(crate) fn entries(
    file: &str,
    directory: &ZipDirectory,
    bytes: &[u8],
) -> Result<Vec<ZipEntry>, ZipError> {
    let mut found = Vec::new();
    let mut rest = bytes;
    for _ in 0..directory.entries {
        let lengths = [28, 30, 32].map(|at| u16_at(rest, at) as usize);
        let len = RECORD_BYTES + lengths.iter().sum::<usize>();
        if !rest.starts_with(b"PK\x01\x02") || rest.len() < len {
            return Err(damaged(file, "a directory that is not one"));
        }
        let (record, after) = rest.split_at(len);
        rest = after;
        found.push(entry(file, record, lengths)?);
    }
    if !rest.is_empty() {
        let what = format!(
            "a directory with {} bytes more than its entries",
            rest.len()
        );
        return Err(damaged(file, what));
    }
    let mut names = HashSet::new();
    if let Some(twice) = found.iter().find(|entry| !names.insert(&*entry.name)) {
        return Err(damaged(file, format!("two entries {:?}", twice.name)));
    }
    found.sort_by_key(|entry| entry.header);
    let nexts = found.iter().skip(1).map(|entry| entry.header);
    for (entry, next) in found.iter().zip(nexts.chain([directory.start])) {
        let least = ENTRY_HEADER_BYTES + entry.name.len() as u64;
        let end = entry
            .header
            .checked_add(least)
            .and_then(|start| start.checked_add(entry.bytes));
        if end.is_none_or(|end| end > next) {
            return Err(ZipError::Overlap {
                file: file.to_owned(),
                entry: entry.name.clone(),
                next,
            });
        }
    }
    Ok(found)
}

fn entry(file: &str, record: &[u8], lengths: [usize; 3]) -> Result<ZipEntry, ZipError> {
    let (name, rest) = record[RECORD_BYTES..].split_at(lengths[0]);
    let name = core::str::from_utf8(name)
        .map_err(|_| damaged(file, "the name of an entry that is not UTF-8"))?;
    let [flags, method] = [8, 10].map(|at| u16_at(record, at));
    let mut sizes = [24, 20].map(|at| u32_at(record, at));
    let mut header = u32_at(record, 42);
    // The 64-bit values that are elsewhere, in this order.
    let mut wide = extra(&rest[..lengths[1]]);
    for value in sizes.iter_mut().chain([&mut header]) {
        if *value == ELSEWHERE {
            let first = wide.split_at_checked(8);
            let (first, after) = first
                .ok_or_else(|| damaged(file, format!("no 64-bit size of the entry {name:?}")))?;
            *value = u64_at(first, 0);
            wide = after;
        }
    }
    let [bytes, stored] = sizes;
    let refused = match (flags & 1, method) {
        (1, _) => Some("encrypted".to_owned()),
        (_, 0) if bytes == stored => None,
        (_, 0) => Some(format!("{stored} bytes that are said to be {bytes}")),
        (_, method) => Some(format!(
            "compressed (method {method}) from {bytes} to {stored} bytes"
        )),
    };
    match refused {
        None => Ok(ZipEntry {
            name: name.to_owned(),
            header,
            bytes,
        }),
        Some(how) => Err(ZipError::NotStored {
            file: file.to_owned(),
            entry: name.to_owned(),
            how,
        }),
    }
}

/// The extra field with the 64-bit values.
fn extra(mut fields: &[u8]) -> &[u8] {
    while fields.len() >= 4 {
        let len = u16_at(fields, 2) as usize;
        let Some(value) = fields.get(4..4 + len) else {
            break;
        };
        if u16_at(fields, 0) == 1 {
            return value;
        }
        fields = &fields[4 + len..];
    }
    &[]
}

/// Where the bytes of an entry begin, from its header: [`ENTRY_HEADER_BYTES`] and its name. `end` is where the next begins.
///
/// # Errors
///
/// [`ZipError::Header`] where the header says otherwise than the directory.
pub(crate) fn data(file: &str, entry: &ZipEntry, header: &[u8], end: u64) -> Result<u64, ZipError> {
    let differs = |what: String| ZipError::Header {
        file: file.to_owned(),
        entry: entry.name.clone(),
        what,
    };
    let [flags, method] = [6, 8].map(|at| u16_at(header, at));
    let lengths = [26, 28].map(|at| u16_at(header, at));
    let name = header
        .get(ENTRY_HEADER_BYTES as usize..)
        .unwrap_or_default();
    if !header.starts_with(b"PK\x03\x04") {
        return Err(differs("no header".to_owned()));
    }
    if lengths[0] != entry.name.len() as u64 || name != entry.name.as_bytes() {
        let name = String::from_utf8_lossy(name);
        return Err(differs(format!("the name {name:?}")));
    }
    if flags & 1 != 0 || method != 0 {
        return Err(differs(format!(
            "the method {method} and the flags {flags:#x}"
        )));
    }
    // Bit 3: the sizes are behind the bytes.
    let said = [18, 22].map(|at| u32_at(header, at));
    let agrees =
        |said: &u64| [entry.bytes, ELSEWHERE].contains(said) || flags & 8 != 0 && *said == 0;
    if !said.iter().all(agrees) {
        return Err(differs(format!("{} bytes for {}", said[0], entry.bytes)));
    }
    let data = entry.header + ENTRY_HEADER_BYTES + lengths[0] + lengths[1];
    if data + entry.bytes > end {
        return Err(ZipError::Overlap {
            file: file.to_owned(),
            entry: entry.name.clone(),
            next: end,
        });
    }
    Ok(data)
}
