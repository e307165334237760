//! Reading numbers and texts one after another from the first bytes of a file.

use super::GgufError;

/// Why reading stopped.
pub(super) enum HeaderCut {
    /// The bytes end before byte `end` of the file.
    Short { end: u64 },
    /// The header is wrong.
    Wrong(Box<GgufError>),
}

impl From<GgufError> for HeaderCut {
    fn from(error: GgufError) -> Self {
        Self::Wrong(Box::new(error))
    }
}

/// A place in the first bytes of a file.
pub(super) struct Cursor<'a> {
    file: &'a str,
    bytes: &'a [u8],
    file_len: u64,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(file: &'a str, bytes: &'a [u8], file_len: u64) -> Self {
        let at = 0;
        Self {
            file,
            bytes,
            file_len,
            at,
        }
    }

    /// The name of the file, for messages.
    pub(super) fn file(&self) -> String {
        self.file.to_owned()
    }

    pub(super) const fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Bytes that were read.
    pub(super) const fn at(&self) -> u64 {
        self.at as u64
    }

    /// Bytes of the file that were not read.
    pub(super) const fn left(&self) -> u64 {
        self.file_len.saturating_sub(self.at as u64)
    }

    /// The next bytes.
    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8], HeaderCut> {
        let end = self.at().saturating_add(len);
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let taken = taken.ok_or(HeaderCut::Short { end })?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], HeaderCut> {
        let taken = self.take(N as u64)?;
        let mut array = [0; N];
        array.copy_from_slice(taken);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, HeaderCut> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, HeaderCut> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text; `what` it is, for messages.
    pub(super) fn text(&mut self, what: &str) -> Result<String, HeaderCut> {
        let len = self.u64()?;
        self.count(what, len, 1, u64::MAX)?;
        let at = self.at();
        let bytes = self.take(len)?;
        match core::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(GgufError::NotUtf8 {
                file: self.file(),
                what: what.to_owned(),
                at_byte: at + error.valid_up_to() as u64,
            }
            .into()),
        }
    }

    /// Refuses a count of things of `size` bytes at least that the rest of the file cannot hold, or above `max`.
    pub(super) fn count(
        &self,
        what: &str,
        found: u64,
        size: u64,
        max: u64,
    ) -> Result<(), HeaderCut> {
        let most = max.min(self.left() / size);
        if found <= most {
            return Ok(());
        }
        Err(GgufError::Count {
            file: self.file(),
            what: what.to_owned(),
            found,
            most,
        }
        .into())
    }
}
