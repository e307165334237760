//! Packing a weight that arrives in tiles of rows, so that no weight has to be whole in memory.

use rayon::prelude::*;

use crate::arith::float::{DType, absmax, absmax_stored};
use crate::arith::pack::{CODES8, STREAM};
use crate::format::FormatError;
use crate::format::{Format, Packed};

/// Chooses codes for one weight, fed tile by tile.
///
/// ```text
/// for pass in 0..passes { for tile in rows in order { feed(pass, first_row, bytes, words) } }  finish()
/// ```
///
/// Tiles begin at multiples of [`tile_rows`](Self::tile_rows) and every one but the last is a
/// multiple of it long. Work inside a tile is spread over the current rayon pool.
///
/// The words of a weight are the caller's: a tile's are written where the caller wants them, and may leave memory before
/// the next tile comes. [`pack_whole`] is for a weight that is in memory anyway.
pub trait Packer: Send {
    /// The format of the packed weight.
    fn format(&self) -> Format;

    /// `[o, i]` of the weight.
    fn shape(&self) -> [usize; 2];

    /// How often the source has to be read: 2 where a scale needs the whole weight first. At least 1.
    fn passes(&self) -> usize;

    /// Rows that have to stay together: they are whole words. At least 1, also for a weight without rows; may be more
    /// than the weight has, and then the weight is one tile.
    fn tile_rows(&self) -> usize;

    /// Takes the rows from `first_row` on, in the source's own bytes, and in the last pass writes their codes.
    ///
    /// `words` is exactly the words of these rows, [`Format::words_len`] of `[rows, i]`, in the last pass, and empty
    /// in passes before it. Whatever it holds is overwritten.
    ///
    /// # Panics
    ///
    /// When the caller breaks the order above: our bug, never bad input.
    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8], words: &mut [u32]);

    /// The scales, after every tile of every pass: [`Format::scales_len`] words.
    fn finish(self: Box<Self>) -> Vec<u32>;
}

/// Packs a whole weight from its bytes, as one tile.
///
/// # Panics
///
/// When the bytes are not those of the packer's shape.
pub fn pack_whole(mut packer: Box<dyn Packer>, bytes: &[u8]) -> Packed {
    let (format, shape, passes) = (packer.format(), packer.shape(), packer.passes());
    let mut words = vec![0; format.words_len(shape)];
    for pass in 0..passes {
        let to = if pass + 1 == passes {
            &mut words[..]
        } else {
            &mut []
        };
        packer.feed(pass, 0, bytes, to);
    }
    Packed {
        format,
        shape,
        words,
        scales: packer.finish(),
    }
}

/// Refuses a weight whose bytes cannot be counted, before anything is allocated for it.
pub(crate) fn check_size([rows, cols]: [usize; 2]) -> Result<(), FormatError> {
    match rows
        .checked_mul(cols)
        .and_then(|n| n.checked_mul(size_of::<f32>()))
    {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(FormatError::Size { rows, cols }),
    }
}

/// The largest magnitude among `bytes`; NaN when there is one.
pub(crate) fn largest(source: DType, bytes: &[u8]) -> f32 {
    let chunks = bytes.par_chunks((1 << 15) * source.size());
    chunks
        .map(|chunk| absmax_stored(source, chunk))
        .reduce(|| 0.0, |a, b| absmax(&[a, b]))
}

/// Chooses the 8-bit codes of a tile, straight into its words, in jobs side by side.
///
/// `choose(k, bytes, codes)` gets the rest of a job, which begins at weight `k` of the tile. It sets the codes of one
/// weight or more, and returns their number.
pub(crate) fn choose8(
    source: DType,
    tile: &[u8],
    words: &mut [u32],
    choose: impl Fn(usize, &[u8], &mut [u8]) -> usize + Sync,
) {
    /// Weights of a job.
    const JOB: usize = 16_384;
    let jobs = tile.par_chunks(JOB * source.size());
    jobs.zip(words.par_chunks_mut(JOB / CODES8))
        .enumerate()
        .for_each(|(job, (bytes, words))| {
            let mut codes = [0; JOB];
            let n = bytes.len() / source.size();
            let mut done = 0;
            while done < n {
                let bytes = &bytes[done * source.size()..];
                done += choose(job * JOB + done, bytes, &mut codes[done..n]);
            }
            // The codes after the last weight are still zero.
            for (word, four) in words.iter_mut().zip(codes.as_chunks().0) {
                *word = u32::from_le_bytes(*four);
            }
        });
}

/// Sets the codes of weights as a part of vector code.
#[inline(always)]
pub(crate) fn code8(source: DType, bytes: &[u8], codes: &mut [u8], code: impl Fn(f32) -> u8) {
    let mut values = [0.0; STREAM];
    let pieces = bytes.chunks(STREAM * source.size());
    let (whole, tail) = codes.as_chunks_mut::<STREAM>();
    for (bytes, codes) in pieces.clone().zip(whole) {
        source.widen_here(bytes, &mut values);
        *codes = values.map(&code);
    }
    if let Some(bytes) = pieces.last().filter(|_| !tail.is_empty()) {
        source.widen_here(bytes, &mut values[..tail.len()]);
        let chosen = values.map(code);
        tail.copy_from_slice(&chosen[..tail.len()]);
    }
}

/// The methods of [`Packer`] that a packer's [`FeedOrder`] answers.
macro_rules! in_order {
    () => {
        fn format(&self) -> crate::format::Format {
            self.order.format
        }

        fn shape(&self) -> [usize; 2] {
            self.order.shape
        }

        fn passes(&self) -> usize {
            self.order.passes()
        }

        fn tile_rows(&self) -> usize {
            self.order.tile_rows()
        }
    };
}

pub(crate) use in_order;

/// Holds the caller to the order that [`Packer`] describes.
#[derive(Debug)]
pub(crate) struct FeedOrder {
    pub(crate) format: Format,
    /// `[o, i]`.
    pub(crate) shape: [usize; 2],
    row_bytes: usize,
    tile_rows: usize,
    passes: usize,
    pass: usize,
    next_row: usize,
}

impl FeedOrder {
    pub(crate) const fn new(
        format: Format,
        shape: [usize; 2],
        source: DType,
        tile_rows: usize,
        passes: usize,
    ) -> Self {
        let row_bytes = shape[1] * source.size();
        Self {
            format,
            shape,
            row_bytes,
            tile_rows,
            passes,
            pass: 0,
            next_row: 0,
        }
    }

    pub(crate) const fn passes(&self) -> usize {
        self.passes
    }

    pub(crate) const fn tile_rows(&self) -> usize {
        self.tile_rows
    }

    /// Rows of this tile.
    pub(crate) fn accept(
        &mut self,
        pass: usize,
        first_row: usize,
        tile: &[u8],
        words: &[u32],
    ) -> usize {
        let [o, i] = self.shape;
        if pass == self.pass + 1 && pass < self.passes && self.next_row == o {
            (self.pass, self.next_row) = (pass, 0);
        }
        assert_eq!(
            (pass, first_row),
            (self.pass, self.next_row),
            "pass and first row of a tile"
        );
        let left = o - first_row;
        // Rows without columns have no bytes to count them by.
        let rows = tile.len().checked_div(self.row_bytes).unwrap_or(left);
        assert_eq!(tile.len(), rows * self.row_bytes, "bytes of {rows} rows");
        assert!(rows <= left, "{rows} rows where {left} are left");
        assert!(
            rows.is_multiple_of(self.tile_rows) || rows == left,
            "{rows} rows cut a tile"
        );
        let len = if pass + 1 == self.passes {
            self.format.words_len([rows, i])
        } else {
            0
        };
        assert_eq!(words.len(), len, "words of {rows} rows in pass {pass}");
        self.next_row += rows;
        rows
    }

    /// Asserts that every tile has come.
    pub(crate) fn finish(&self) {
        let [o, i] = self.shape;
        let all = self.pass + 1 == self.passes && self.next_row == o;
        assert!(
            all || o == 0 || i == 0,
            "row {} of {o}, pass {}",
            self.next_row,
            self.pass
        );
    }
}
