//! Files in parts: texts at line breaks, records at their ends.
//!
//! A part is what is read and made to tokens at once.

use std::io::{self, BufRead};

use super::error::RecordError;

/// Bytes of the longest part of a text: long enough that its ends do not count, and short enough for the tokenizer, which
/// takes about fifty bytes of memory for one of text.
pub(super) const PART_BYTES: usize = 64 << 10;

/// How many bytes of a longer text its first part takes: to the last line break in the second half of [`PART_BYTES`], else to
/// the last space there, else to the last whole letter. `None`: all of it.
pub(super) fn part_of(text: &[u8]) -> Option<usize> {
    if text.len() <= PART_BYTES {
        return None;
    }
    let half = PART_BYTES / 2;
    let second = &text[half..PART_BYTES];
    let after = |byte: u8| Some(half + 1 + second.iter().rposition(|found| *found == byte)?);
    let is_whole = |at: &usize| text[*at] & 0xc0 != 0x80;
    let letter = || (half..=PART_BYTES).rev().find(is_whole);
    after(b'\n').or_else(|| after(b' ')).or_else(letter)
}

/// Where the records of a list of JSON begin and end. Their inside is not looked at beyond its brackets and texts.
#[derive(Debug, Default)]
pub(super) struct List {
    depth: usize,
    in_text: bool,
    is_escaped: bool,
    /// Where the record begins that is open.
    begin: Option<u64>,
    /// Whether a comma is due.
    after_record: bool,
    is_closed: bool,
}

impl List {
    /// Takes one byte, and says where the record begins that it ends. The first byte is the bracket of the list.
    pub(super) fn byte(&mut self, byte: u8, at: u64) -> Result<Option<u64>, RecordError> {
        if self.in_text {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_text = false,
                _ => {}
            }
            return Ok(None);
        }
        if byte.is_ascii_whitespace() {
            return Ok(None);
        }
        if self.is_closed {
            return Err(RecordError::List("the list has ended, and more follows"));
        }
        if self.depth == 1 {
            if matches!(byte, b',' | b']') {
                let record = self.begin.take();
                if record.is_none() && (byte == b',' || self.after_record) {
                    return Err(RecordError::List("a record is missing between commas"));
                }
                self.after_record = byte == b',';
                self.is_closed = byte == b']';
                return Ok(record);
            }
            self.begin.get_or_insert(at);
        }
        match byte {
            b'"' => self.in_text = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth = self.depth.saturating_sub(1).max(1),
            _ => {}
        }
        Ok(None)
    }

    /// Whether a record is open.
    pub(super) fn is_in_record(&self) -> bool {
        self.begin.is_some()
    }

    /// Whether the file may end here.
    pub(super) fn end(&self) -> Result<(), RecordError> {
        match self.is_closed {
            true => Ok(()),
            false => Err(RecordError::List("the list of records has no end")),
        }
    }
}

/// Fills `buffer` up to `len` bytes, or to the end of the file.
pub(super) fn fill(file: &mut impl BufRead, buffer: &mut Vec<u8>, len: usize) -> io::Result<()> {
    while buffer.len() < len {
        let found = file.fill_buf()?;
        if found.is_empty() {
            break;
        }
        let taken = found.len().min(len - buffer.len());
        buffer.extend_from_slice(&found[..taken]);
        file.consume(taken);
    }
    Ok(())
}
