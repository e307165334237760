//! Which bytes a reader wants, in blocks that are worth a request each: no I/O.
//!
//! ```text
//! reads    [q 8 MiB][k 1 MiB][norm 8 KiB] [v 1 MiB] …       in the order of the reader
//! blocks   [q k norm v ………… 16 MiB] [………………]                neighbours in a file together, long ones cut
//! ```

use core::ops::Range;

use crate::plan::Step;

/// Bytes between two ranges that are fetched with them, since another request would take longer.
const GAP_MAX: u64 = 256 << 10;

/// Bytes of a file that are fetched by one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReadBlock {
    pub(super) file: String,
    pub(super) range: Range<u64>,
    /// Bytes of it that are read.
    pub(super) wanted: u64,
    /// The last step that reads some of it.
    pub(super) last: usize,
}

/// A range that a step reads.
#[derive(Debug, Clone)]
pub(super) struct WantedRange<'p> {
    step: usize,
    file: &'p str,
    range: Range<u64>,
    passes: u64,
}

/// What one step reads.
#[derive(Debug, Clone)]
pub(crate) struct StepReads<'p> {
    /// Ranges of files.
    pub(crate) ranges: Vec<(&'p str, Range<u64>)>,
    /// How often it reads them.
    pub(crate) passes: u64,
}

impl<'p> StepReads<'p> {
    /// What a step of a plan reads.
    pub(crate) fn of(step: &'p Step) -> Self {
        Self {
            ranges: step.reads().collect(),
            passes: step.passes().max(1) as u64,
        }
    }

    /// What one pass over its values reads.
    pub(crate) fn of_pass(step: &'p Step) -> Self {
        Self {
            passes: 1,
            ..Self::of(step)
        }
    }
}

/// The blocks of steps, of about `bytes` at most.
pub(super) fn blocks(steps: &[StepReads<'_>], bytes: u64) -> Vec<ReadBlock> {
    let steps = steps.iter().enumerate();
    let wanted = steps.flat_map(|(nth, step)| of_step(nth, step, bytes));
    gathered(wanted.collect(), bytes)
}

/// What a step reads. What it reads twice is one range where it is short, and there twice where it is long.
fn of_step<'p>(nth: usize, step: &StepReads<'p>, bytes: u64) -> Vec<WantedRange<'p>> {
    let StepReads { ranges, passes } = step;
    let total: u64 = ranges
        .iter()
        .map(|(_, range)| range.end - range.start)
        .sum();
    let (times, passes) = match total <= bytes {
        true => (1, *passes),
        false => (*passes, 1),
    };
    let once = ranges.iter().map(|(file, range)| WantedRange {
        step: nth,
        file,
        range: range.clone(),
        passes,
    });
    let once: Vec<WantedRange<'_>> = once.collect();
    (0..times).flat_map(|_| once.clone()).collect()
}

/// Ranges as blocks. Those that are read soon after one another are brought into the order of the file.
fn gathered(wanted: Vec<WantedRange<'_>>, bytes: u64) -> Vec<ReadBlock> {
    let mut blocks = Vec::new();
    let mut group: Vec<WantedRange<'_>> = Vec::new();
    let mut sum = 0;
    for range in wanted {
        sum += range.range.end - range.range.start;
        group.push(range);
        if sum >= 2 * bytes {
            merge(&mut group, bytes, &mut blocks);
            sum = 0;
        }
    }
    merge(&mut group, bytes, &mut blocks);
    blocks
}

fn merge(group: &mut Vec<WantedRange<'_>>, bytes: u64, into: &mut Vec<ReadBlock>) {
    group.sort_by(|a, b| (a.file, a.range.start).cmp(&(b.file, b.range.start)));
    let first = into.len();
    for WantedRange {
        step,
        file,
        range,
        passes,
    } in group.drain(..)
    {
        let last = into[first..].last_mut().filter(|block| {
            let near = range.start <= block.range.end + GAP_MAX;
            block.file == file && near && range.end - block.range.start <= bytes
        });
        if let Some(block) = last {
            block.wanted += (range.end - range.start) * passes;
            block.range.end = block.range.end.max(range.end);
            block.last = block.last.max(step);
            continue;
        }
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + bytes);
            into.push(ReadBlock {
                file: file.to_owned(),
                range: start..end,
                wanted: (end - start) * passes,
                last: step,
            });
            start = end;
        }
    }
    // Neighbours in the file need not be read in its order.
    into[first..].sort_by_key(|block| block.last);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(step: usize, range: Range<u64>) -> WantedRange<'static> {
        WantedRange {
            step,
            file: "f",
            range,
            passes: 1,
        }
    }

    fn ranges(blocks: &[ReadBlock]) -> Vec<(Range<u64>, u64, usize)> {
        let blocks = blocks.iter();
        blocks
            .map(|block| (block.range.clone(), block.wanted, block.last))
            .collect()
    }

    /// Catches a request for each small tensor, a long tensor in one request, and ranges far apart in one.
    #[test]
    fn neighbours_are_fetched_together_and_long_ranges_in_parts() {
        const KIB: u64 = 1 << 10;
        let mib = 1 << 20;
        let blocks = gathered(
            vec![
                wanted(1, 4 * KIB..8 * KIB),
                wanted(0, 0..4 * KIB),
                wanted(2, 8 * KIB..8 * KIB + 5 * mib),
                wanted(3, 100 * mib..100 * mib + KIB),
            ],
            2 * mib,
        );
        assert_eq!(
            ranges(&blocks),
            [
                (0..8 * KIB, 8 * KIB, 1),
                (8 * KIB..8 * KIB + 2 * mib, 2 * mib, 2),
                (8 * KIB + 2 * mib..8 * KIB + 4 * mib, 2 * mib, 2),
                (8 * KIB + 4 * mib..8 * KIB + 5 * mib, mib, 2),
                (100 * mib..100 * mib + KIB, KIB, 3),
            ]
        );
    }
}
