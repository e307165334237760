//! Reading the operands of instructions.

use super::PickleError;

/// Why reading stopped.
pub(super) enum PickleStop {
    /// The bytes end here.
    Short,
    /// The pickle is wrong.
    Wrong(Box<PickleError>),
}

impl From<PickleError> for PickleStop {
    fn from(error: PickleError) -> Self {
        Self::Wrong(Box::new(error))
    }
}

/// A place in the bytes of a pickle.
pub(super) struct PickleCursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> PickleCursor<'a> {
    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8], PickleStop> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let taken = taken.ok_or(PickleStop::Short)?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleStop> {
        let taken = self.take(N as u64)?;
        let mut array = [0; N];
        array.copy_from_slice(taken);
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, PickleStop> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, PickleStop> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, PickleStop> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, PickleStop> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes up to the end of the line, which is skipped.
    pub(super) fn line(&mut self) -> Result<&'a [u8], PickleStop> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        let line = &rest[..end.ok_or(PickleStop::Short)?];
        self.at += line.len() + 1;
        Ok(line)
    }
}
