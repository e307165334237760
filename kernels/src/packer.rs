//! Packing a weight that arrives in tiles of rows, so that no weight has to be whole in memory.

use crate::format::Packed;

/// Chooses codes for one weight, fed tile by tile.
///
/// ```text
/// for pass in 0..passes { for tile in rows in order { feed(pass, first_row, bytes) } }  finish()
/// ```
///
/// Tiles begin at multiples of [`tile_rows`](Self::tile_rows) and every one but the last is a
/// multiple of it long. Work inside a tile is spread over the current rayon pool.
pub trait Packer: Send {
    /// How often the source has to be read: 2 where a scale needs the whole weight first.
    fn passes(&self) -> usize;

    /// Rows that have to stay together.
    fn tile_rows(&self) -> usize;

    /// Takes the rows from `first_row` on, in the source's own bytes.
    ///
    /// # Panics
    ///
    /// When the caller breaks the order above: our bug, never bad input.
    fn feed(&mut self, pass: usize, first_row: usize, tile: &[u8]);

    /// The packed weight, after every tile of every pass.
    fn finish(self: Box<Self>) -> Packed;
}
