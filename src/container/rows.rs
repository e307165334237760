//! Rows that a container has in another order, read in long stretches and brought into the order of transformers in memory.

use core::ops::Range;

use super::{
    near::{NearBytes, read_near},
    order::RowOrder,
    read_bytes::ReadBytes,
};
use crate::source::SourceError;

/// Bytes `wanted` of a tensor as far as they are whole units of `unit` bytes, and the bytes before and behind them.
pub(super) fn whole(wanted: &Range<usize>, unit: usize) -> [Range<usize>; 3] {
    let start = wanted.start.next_multiple_of(unit).min(wanted.end);
    let end = (wanted.end / unit * unit).max(start);
    [wanted.start..start, start..end, end..wanted.end]
}

/// Brings heads of `head` rows of `row` bytes, which are whole and lie as pairs, into the order of transformers.
pub(super) fn unpair(heads: &mut [u8], [head, row]: [usize; 2]) {
    let mut paired = vec![0; head * row];
    for rows in heads.chunks_exact_mut(head * row) {
        paired.copy_from_slice(rows);
        for (nth, to) in rows.chunks_exact_mut(row).enumerate() {
            let stored = RowOrder::Pairs { head }.stored(nth) * row;
            to.copy_from_slice(&paired[stored..stored + row]);
        }
    }
}

/// Fills `into` with the bytes from `within` on of heads that lie as pairs, the first of which begins at byte `from`. Heads are read
/// whole: their rows are all over them.
pub(super) fn pairs(
    from: u64,
    [head, row]: [usize; 2],
    within: usize,
    into: &mut [u8],
    read: ReadBytes<'_>,
) -> Result<(), SourceError> {
    let each = head * row;
    let start = within / each * each;
    let mut heads = vec![0; (within + into.len()).next_multiple_of(each) - start];
    read(from + start as u64, &mut heads)?;
    unpair(&mut heads, [head, row]);
    into.copy_from_slice(&heads[within - start..][..into.len()]);
    Ok(())
}

/// Fills `into` with the bytes from `within` on of a tensor whose runs of rows, of `row` bytes, are in another order, and which
/// begins at byte `from`. Runs that lie near one another there are read together.
pub(super) fn runs(
    from: u64,
    order: RowOrder,
    row: usize,
    within: usize,
    into: &mut [u8],
    read: ReadBytes<'_>,
) -> Result<(), SourceError> {
    let run = order.run() * row;
    let (mut parts, mut done) = (Vec::new(), 0);
    while done < into.len() {
        let at = within + done;
        let (nth, start) = (at / run, at % run);
        let here = (into.len() - done).min(run - start);
        let stored = order.stored(nth * order.run());
        parts.push(NearBytes {
            from: from + (stored * row + start) as u64,
            to: done..done + here,
        });
        done += here;
    }
    parts.sort_by_key(|part| part.from);
    read_near(&parts, into, read)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Every range of two heads of queries, keys and values, of two rows of three bytes, is what a hand puts together, by one read.
    #[test]
    fn runs_are_put_together_for_any_range() {
        // q0 q1 k0 k1 v0 v1, of which transformers has q0 k0 v0 q1 k1 v1.
        let stored: Vec<u8> = (0..36).collect();
        let groups = [0, 12, 24, 6, 18, 30];
        let expected: Vec<u8> = groups.iter().flat_map(|start| *start..start + 6).collect();
        let order = RowOrder::Thirds { heads: 2, head: 2 };
        for start in 0..36 {
            for end in start..=36 {
                let reads = Cell::new(0);
                let read = |at: u64, into: &mut [u8]| {
                    reads.set(reads.get() + 1);
                    let at = at as usize - 100;
                    into.copy_from_slice(&stored[at..at + into.len()]);
                    Ok(())
                };
                let mut found = vec![0; end - start];
                runs(100, order, 3, start, &mut found, &read).expect("reads");
                assert_eq!(found, expected[start..end], "{start}..{end}");
                assert!(reads.get() <= 1);
            }
        }
    }

    /// Heads of four rows that lie as pairs, by hand: rows 0 2 1 3.
    #[test]
    fn pairs_are_put_apart_for_any_range() {
        let stored: Vec<u8> = (0..16).collect();
        let expected = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15];
        let read = |at: u64, into: &mut [u8]| {
            into.copy_from_slice(&stored[at as usize..at as usize + into.len()]);
            Ok(())
        };
        for start in 0..16 {
            for end in start..=16 {
                let mut found = vec![0; end - start];
                pairs(0, [4, 2], start, &mut found, &read).expect("reads");
                assert_eq!(found, expected[start..end], "{start}..{end}");
                let [before, middle, after] = whole(&(start..end), 8);
                assert_eq!((before.start, after.end), (start, end));
                assert_eq!([before.end, middle.end], [middle.start, after.start]);
                assert!(middle.len().is_multiple_of(8) && before.len().max(after.len()) < 8 + 8);
            }
        }
    }
}
