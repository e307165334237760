//! Where the records of all files begin.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
};

use xxhash_rust::xxh3::Xxh3;

use super::{
    error::{DataError, RecordError},
    files::{DataFile, DataKind},
    split::{List, PART_BYTES, fill, part_of},
};
use crate::config::Bytes;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// Bytes of the longest record of JSON. As values, JSON takes up to sixteen times the memory.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// Where the records of all files begin, as if the files lay one after the other: 8 bytes a record.
#[derive(Debug)]
pub(super) struct RecordIndex {
    files: Vec<DataFile>,
    /// Where each file ends.
    ends: Vec<u64>,
    /// Where each record begins: a line, an entry of a list, a part of a text.
    begins: Vec<u64>,
    /// A hash of all bytes.
    pub(super) fingerprint: u64,
}

/// A record in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordPlace {
    pub(super) file: usize,
    pub(super) bytes: Range<u64>,
    /// Whether it is the first of its file.
    pub(super) is_first: bool,
    /// Whether it is the last.
    pub(super) is_last: bool,
}

/// The bytes of a file while its records are found.
struct Scan<'s> {
    hash: &'s mut Xxh3,
    begins: &'s mut Vec<u64>,
    /// Where the file begins.
    base: u64,
    /// Bytes of the file that were seen.
    at: u64,
}

impl Scan<'_> {
    fn see(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
    }

    /// A record begins at a byte of the file.
    fn record(&mut self, begin: u64) {
        self.begins.push(self.base + begin);
    }
}

impl RecordIndex {
    /// Reads all files once, and has each record looked at.
    pub(super) fn new(
        mut files: Vec<DataFile>,
        mut check: impl FnMut(&[u8]) -> Result<(), RecordError>,
    ) -> Result<Self, DataError> {
        let mut hash = Xxh3::new();
        let (mut ends, mut begins) = (Vec::new(), Vec::new());
        for file in &mut files {
            let mut scan = Scan {
                hash: &mut hash,
                base: ends.last().copied().unwrap_or(0),
                at: 0,
                begins: &mut begins,
            };
            let before = scan.begins.len();
            let read = scan.file(file, &mut check);
            let (at, len) = (scan.base + scan.at, scan.begins.len() - before);
            read.map_err(|fault| fault.of(&file.path))?;
            if len == 0 {
                let file = file.path.clone();
                return Err(DataError::Empty { file });
            }
            // Where one file ends and the next begins counts.
            hash.update(&at.to_le_bytes());
            ends.push(at);
        }
        begins.shrink_to_fit();
        Ok(Self {
            files,
            ends,
            begins,
            fingerprint: hash.digest(),
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.begins.len() as u64
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    pub(super) fn file(&self, place: &RecordPlace) -> &DataFile {
        &self.files[place.file]
    }

    pub(super) fn files(&self) -> &[DataFile] {
        &self.files
    }

    /// The place of a record.
    pub(super) fn place(&self, record: u64) -> RecordPlace {
        let record = record as usize;
        let begin = self.begins[record];
        let file = self.ends.partition_point(|end| *end <= begin);
        let base = file.checked_sub(1).map_or(0, |before| self.ends[before]);
        let end = self.ends[file];
        let next = self.begins.get(record + 1).filter(|next| **next < end);
        let before = record.checked_sub(1).map(|before| self.begins[before]);
        RecordPlace {
            file,
            bytes: begin - base..next.copied().unwrap_or(end) - base,
            is_first: before.is_none_or(|before| before < base),
            is_last: next.is_none(),
        }
    }

    /// The error of a record, with its file and line.
    pub(super) fn error(&self, place: &RecordPlace, source: RecordError) -> DataError {
        ScanFault::Record(place.bytes.start, source).of(&self.file(place).path)
    }
}

/// An error in some file.
enum ScanFault {
    Io(io::Error),
    /// In the record at a byte of the file.
    Record(u64, RecordError),
}

impl From<io::Error> for ScanFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl ScanFault {
    fn of(self, file: &Path) -> DataError {
        let failed = |source| DataError::File {
            file: file.to_path_buf(),
            source,
        };
        match self {
            Self::Io(error) => failed(error),
            Self::Record(at, source) => match line_of(file, at) {
                Ok(line) => DataError::Record {
                    file: file.to_path_buf(),
                    line,
                    source: Box::new(source),
                },
                Err(error) => failed(error),
            },
        }
    }
}

/// The line of a byte, counted from 1.
fn line_of(file: &Path, at: u64) -> io::Result<u64> {
    let mut before = BufReader::with_capacity(BUFFER, File::open(file)?.take(at));
    let mut line = 1;
    loop {
        let found = before.fill_buf()?;
        if found.is_empty() {
            return Ok(line);
        }
        line += found.iter().filter(|byte| **byte == b'\n').count() as u64;
        let len = found.len();
        before.consume(len);
    }
}

impl Scan<'_> {
    fn file(
        &mut self,
        file: &mut DataFile,
        check: impl FnMut(&[u8]) -> Result<(), RecordError>,
    ) -> Result<(), ScanFault> {
        let mut from = BufReader::with_capacity(BUFFER, File::open(&file.path)?);
        if from.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
            from.consume(BYTE_ORDER_MARK.len());
            self.see(BYTE_ORDER_MARK);
        }
        match file.kind {
            DataKind::Text => self.text(&mut from),
            DataKind::Lines => self.lines(&mut from, check),
            DataKind::List => {
                if self.is_list(&mut from)? {
                    return self.list(&mut from, check);
                }
                file.kind = DataKind::Lines;
                self.lines(&mut from, check)
            }
        }
    }

    fn text(&mut self, from: &mut impl BufRead) -> Result<(), ScanFault> {
        let mut part = Vec::new();
        loop {
            // One more byte says whether the text goes on.
            fill(from, &mut part, PART_BYTES + 1)?;
            let len = part_of(&part).unwrap_or(part.len());
            if len == 0 {
                return Ok(());
            }
            let found = text_of(&part[..len]);
            let found = found.map_err(|error| ScanFault::Record(self.at, error))?;
            // A text of nothing but spaces is none.
            if self.at > BYTE_ORDER_MARK.len() as u64 || !found.trim().is_empty() {
                self.record(self.at);
            }
            self.see(&part[..len]);
            part.drain(..len);
        }
    }

    fn lines(
        &mut self,
        from: &mut impl BufRead,
        mut check: impl FnMut(&[u8]) -> Result<(), RecordError>,
    ) -> Result<(), ScanFault> {
        let mut line = Vec::new();
        let most = RECORD_BYTES_MAX as u64 + 1;
        while from.by_ref().take(most).read_until(b'\n', &mut line)? > 0 {
            if line.len() > RECORD_BYTES_MAX {
                return Err(ScanFault::Record(self.at, too_long()));
            }
            if !line.trim_ascii().is_empty() {
                check(&line).map_err(|error| ScanFault::Record(self.at, error))?;
                self.record(self.at);
            }
            self.see(&line);
            line.clear();
        }
        Ok(())
    }

    /// Whether a list follows. Spaces before it are passed over.
    fn is_list(&mut self, from: &mut impl BufRead) -> io::Result<bool> {
        loop {
            let found = from.fill_buf()?;
            let spaces = found.len() - found.trim_ascii_start().len();
            let first = found.get(spaces).copied();
            if first.is_some() || found.is_empty() {
                return Ok(first == Some(b'['));
            }
            self.see(found);
            from.consume(spaces);
        }
    }

    fn list(
        &mut self,
        from: &mut impl BufRead,
        mut check: impl FnMut(&[u8]) -> Result<(), RecordError>,
    ) -> Result<(), ScanFault> {
        let mut list = List::default();
        let mut record = Vec::new();
        loop {
            let found = from.fill_buf()?;
            if found.is_empty() {
                let end = list.end();
                return end.map_err(|error| ScanFault::Record(self.at, error));
            }
            for (at, byte) in (self.at..).zip(found) {
                let ended = list.byte(*byte, at);
                match ended.map_err(|error| ScanFault::Record(at, error))? {
                    Some(begin) => {
                        check(&record).map_err(|error| ScanFault::Record(begin, error))?;
                        self.record(begin);
                        record.clear();
                    }
                    None if record.len() == RECORD_BYTES_MAX => {
                        let begin = at - RECORD_BYTES_MAX as u64;
                        return Err(ScanFault::Record(begin, too_long()));
                    }
                    None if list.is_in_record() => record.push(*byte),
                    None => {}
                }
            }
            let len = found.len();
            self.see(found);
            from.consume(len);
        }
    }
}

fn too_long() -> RecordError {
    RecordError::Long {
        most: Bytes(RECORD_BYTES_MAX as u64),
    }
}

/// Bytes as text.
pub(super) fn text_of(bytes: &[u8]) -> Result<&str, RecordError> {
    std::str::from_utf8(bytes).map_err(|error| RecordError::Encoding {
        at: error.valid_up_to(),
    })
}

/// Reads records. The last file stays open.
#[derive(Debug, Default)]
pub(super) struct RecordReader {
    open: Option<(usize, File)>,
}

impl RecordReader {
    /// The bytes of a record.
    pub(super) fn read(
        &mut self,
        index: &RecordIndex,
        place: &RecordPlace,
    ) -> Result<Vec<u8>, DataError> {
        let failed = |source| DataError::File {
            file: index.file(place).path.clone(),
            source,
        };
        let mut bytes = self.bytes(index, place).map_err(failed)?;
        if index.file(place).kind == DataKind::List {
            // What follows an entry: a comma, or the end of the list.
            let record = bytes.trim_ascii_end();
            let len = record.strip_suffix(if place.is_last { b"]" } else { b"," });
            bytes.truncate(len.unwrap_or(record).len());
        }
        Ok(bytes)
    }

    fn bytes(&mut self, index: &RecordIndex, place: &RecordPlace) -> io::Result<Vec<u8>> {
        let mut file = match self.open.take() {
            Some((open, file)) if open == place.file => file,
            _ => File::open(&index.file(place).path)?,
        };
        file.seek(SeekFrom::Start(place.bytes.start))?;
        let mut bytes = vec![0; (place.bytes.end - place.bytes.start) as usize];
        file.read_exact(&mut bytes)?;
        self.open = Some((place.file, file));
        Ok(bytes)
    }
}
