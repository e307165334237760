//! Bytes that lie near one another in a file, by few reads: each of them may be a request to a server.

use core::ops::Range;

use super::read_bytes::ReadBytes;
use crate::source::SourceError;

/// Bytes between two tensors that are read with them: a server takes as long for another request as for many more bytes.
const GAP_MAX: u64 = 64 << 10;
/// Bytes that are read beside the memory of the caller at most.
pub(super) const BESIDE_MAX: usize = 1 << 20;

/// Bytes of a file, and where they go.
#[derive(Debug)]
pub(super) struct NearBytes {
    /// The byte of the file that is the first of them.
    pub(super) from: u64,
    /// Where they go in the memory of the caller.
    pub(super) to: Range<usize>,
}

/// Fills the parts of `into` that `all` names. Neighbours in the file are read together: straight to where they go if nothing lies
/// between them, else by way of a buffer, if they are small.
pub(super) fn read_near(
    all: &[NearBytes],
    into: &mut [u8],
    read: ReadBytes<'_>,
) -> Result<(), SourceError> {
    let mut rest = all;
    let mut buffer = Vec::new();
    while let Some(first) = rest.first() {
        let (straight, near) = (straight(rest), near(rest));
        if straight >= near {
            let end = rest[straight - 1].to.end;
            read(first.from, &mut into[first.to.start..end])?;
            rest = &rest[straight..];
            continue;
        }
        let (together, after) = rest.split_at(near);
        let last = &together[near - 1];
        buffer.resize((last.end() - first.from) as usize, 0);
        read(first.from, &mut buffer)?;
        for part in together {
            let at = (part.from - first.from) as usize;
            into[part.to.clone()].copy_from_slice(&buffer[at..at + part.to.len()]);
        }
        rest = after;
    }
    Ok(())
}

impl NearBytes {
    /// Behind its last byte in the file.
    fn end(&self) -> u64 {
        self.from + self.to.len() as u64
    }
}

/// How many of the first parts follow one another both in the file and in memory.
fn straight(all: &[NearBytes]) -> usize {
    let follows =
        |pair: &[NearBytes]| pair[0].end() == pair[1].from && pair[0].to.end == pair[1].to.start;
    1 + all.windows(2).take_while(|pair| follows(pair)).count()
}

/// How many of the first parts lie near enough to be read by way of a buffer.
fn near(all: &[NearBytes]) -> usize {
    let fits = |pair: &[NearBytes]| {
        let gap = pair[1].from.checked_sub(pair[0].end());
        gap.is_some_and(|gap| gap <= GAP_MAX) && pair[1].end() - all[0].from <= BESIDE_MAX as u64
    };
    1 + all.windows(2).take_while(|pair| fits(pair)).count()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Catches a request for each neighbour, bytes of a gap that are handed out, and a long way around for large ones.
    #[test]
    fn neighbours_are_read_together() {
        let byte = |at: u64| (at % 251) as u8;
        let reads = RefCell::new(Vec::new());
        let read = |at: u64, into: &mut [u8]| {
            reads.borrow_mut().push((at, into.len()));
            (at..).zip(into).for_each(|(at, to)| *to = byte(at));
            Ok(())
        };
        let mib = 1 << 20;
        for (parts, expected) in [
            // Nothing between them, however long they are.
            (
                vec![(10, 0..mib), (10 + mib as u64, mib..3 * mib)],
                vec![(10, 3 * mib)],
            ),
            // A gap of 22 bytes.
            (vec![(0, 0..10), (32, 10..30)], vec![(0, 52)]),
            // Too long for the buffer, too far, and back in the file.
            (
                vec![(0, 0..mib), (mib as u64 + 5, mib..mib + 9)],
                vec![(0, mib), (mib as u64 + 5, 9)],
            ),
            (
                vec![(0, 0..10), (200_000, 10..20)],
                vec![(0, 10), (200_000, 10)],
            ),
            (vec![(500, 0..10), (0, 10..20)], vec![(500, 10), (0, 10)]),
        ] {
            let parts: Vec<NearBytes> = parts
                .into_iter()
                .map(|(from, to)| NearBytes { from, to })
                .collect();
            let mut into = vec![0; parts.last().expect("some").to.end];
            read_near(&parts, &mut into, &read).expect("reads");
            assert_eq!(reads.take(), expected, "{parts:?}");
            for NearBytes { from, to } in &parts {
                let same = (*from..)
                    .zip(&into[to.clone()])
                    .all(|(at, found)| *found == byte(at));
                assert!(same, "{parts:?}");
            }
        }
    }
}
