//! The stacks of dense files, of which the checkpoint has the matrices otherwise: gates and ups apart, a tensor for each
//! expert, rows for columns. One expert is in memory at a time.

use std::sync::{Arc, Mutex, PoisonError};

use super::unpack::RowError;
use crate::plan::Woven;

/// The number and the bytes of an expert.
type Expert = (usize, Vec<u8>);

/// Matrices that are put together of others, which are `V`.
#[derive(Debug, Clone)]
pub(crate) struct Weave<V> {
    pub(super) all: V,
    woven: Woven,
    /// Rows of all experts in the source.
    rows: usize,
    /// Bytes of a value.
    size: usize,
    /// The expert that was put together last, and its bytes.
    last: Arc<Mutex<Option<Expert>>>,
}

impl<V> Weave<V> {
    pub(super) fn new(all: V, woven: Woven, rows: usize, size: usize) -> Self {
        Self {
            all,
            woven,
            rows,
            size,
            last: Arc::default(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let [_, cols] = self.woven.each;
        self.rows * cols * self.size
    }

    /// Fills `into` with the bytes that begin with the one at `start`. `read` fills memory from a byte of the source on, and
    /// returns how many bytes that took.
    pub(super) fn fill(
        &self,
        start: usize,
        into: &mut [u8],
        mut read: impl FnMut(usize, &mut [u8]) -> Result<u64, RowError>,
    ) -> Result<u64, RowError> {
        let [rows, cols] = self.woven.each;
        let each = rows * cols * self.size;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut at, mut rest, mut bytes) = (start, into, 0);
        while !rest.is_empty() {
            let (nth, within) = (at / each, at % each);
            let expert = match last.take() {
                Some((there, expert)) if there == nth => expert,
                _ => {
                    let mut stored = vec![0; each];
                    bytes += read(nth * each, &mut stored)?;
                    self.put_together(&stored)
                }
            };
            let len = rest.len().min(each - within);
            let (here, after) = rest.split_at_mut(len);
            here.copy_from_slice(&expert[within..within + len]);
            *last = Some((nth, expert));
            (at, rest) = (at + len, after);
        }
        if at == self.bytes() {
            *last = None;
        }
        Ok(bytes)
    }

    /// The bytes of one expert.
    fn put_together(&self, stored: &[u8]) -> Vec<u8> {
        let Woven {
            each: [rows, cols],
            interleaved,
            turned,
        } = self.woven;
        let row_of = |row: usize| match interleaved {
            true => row % 2 * (rows / 2) + row / 2,
            false => row,
        };
        let value = |row: usize, col: usize| {
            let start = (row_of(row) * cols + col) * self.size;
            &stored[start..start + self.size]
        };
        let mut bytes = Vec::with_capacity(stored.len());
        let [outer, inner] = if turned { [cols, rows] } else { [rows, cols] };
        for a in 0..outer {
            for b in 0..inner {
                let (row, col) = if turned { (b, a) } else { (a, b) };
                bytes.extend_from_slice(value(row, col));
            }
        }
        bytes
    }
}
