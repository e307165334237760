//! Codes in files: streams of bits, lowest first, in words that need not be neighbours.

use firebox_kernels::arith::pack::pack_codes;
use rayon::prelude::*;

/// A stream whose words lie `stride` apart, from word `start` on.
#[derive(Debug, Clone, Copy)]
pub(super) struct BitStream {
    pub(super) start: usize,
    pub(super) stride: usize,
    pub(super) bits: usize,
}

impl BitStream {
    /// The code `k`.
    pub(super) fn get(self, words: &[u32], k: usize) -> u32 {
        let (word, shift) = (k * self.bits / 32, k * self.bits % 32);
        let at = self.start + word * self.stride;
        let mut bits = u64::from(words[at]) >> shift;
        if shift + self.bits > 32 {
            bits |= u64::from(words[at + self.stride]) << (32 - shift);
        }
        bits as u32 & ((1 << self.bits) - 1)
    }

    /// Writes the code `k`, where there are zeros.
    pub(super) fn put(self, words: &mut [u32], k: usize, code: u32) {
        let (word, shift) = (k * self.bits / 32, k * self.bits % 32);
        let at = self.start + word * self.stride;
        words[at] |= code << shift;
        if shift + self.bits > 32 {
            words[at + self.stride] |= code >> (32 - shift);
        }
    }
}

/// Codes that one worker puts into words at a time: whole words, whatever their bits.
const JOB: usize = 32 << 10;

/// The codes of `[rows, cols]` as one stream, each the code that `code` has for a row and a column. Spread over the
/// current rayon pool.
pub(super) fn joined(
    bits: usize,
    [rows, cols]: [usize; 2],
    code: impl Fn(usize, usize) -> u32 + Sync,
) -> Vec<u32> {
    let all = rows * cols;
    let jobs = (0..all.div_ceil(JOB)).into_par_iter().map(|job| {
        let first = job * JOB;
        let (mut r, mut c) = (first / cols, first % cols);
        let codes = (first..all.min(first + JOB)).map(|_| {
            let found = code(r, c);
            c += 1;
            if c == cols {
                (r, c) = (r + 1, 0);
            }
            found
        });
        pack_codes(bits, codes)
    });
    jobs.collect::<Vec<_>>().concat()
}

/// Words of a stream of `len` codes.
pub(super) const fn words_of(len: usize, bits: usize) -> usize {
    (len * bits).div_ceil(32)
}

/// The codes of rows of `cols` that each begin with a word, one after another.
pub(super) fn rows(
    words: &[u32],
    [rows, cols]: [usize; 2],
    bits: usize,
) -> impl Iterator<Item = u32> + '_ {
    let stream = move |row| BitStream {
        start: row * words_of(cols, bits),
        stride: 1,
        bits,
    };
    (0..rows).flat_map(move |row| (0..cols).map(move |k| stream(row).get(words, k)))
}
