//! Columns whose heads are in another order: those of the matrix out of a layer with the delta rule.
//!
//! Blocks that lie within a head change places. Blocks that reach over heads cannot: such a matrix is shown in `f32`.

use firebox_kernels::{
    arith::{float::DType, pack},
    format::Format,
};

use super::{near::BESIDE_MAX, order::TiledHeads, read_bytes::ReadBytes};
use crate::{
    dialect::plain,
    source::{SourceError, gguf::GgufType},
};

/// The columns of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadColumns {
    kind: GgufType,
    heads: TiledHeads,
    cols: usize,
}

impl HeadColumns {
    /// Those of a matrix; `None` where its columns are not whole heads.
    pub(super) fn new(kind: GgufType, heads: TiledHeads, cols: usize) -> Option<Self> {
        let fits = cols.is_multiple_of(heads.count()) && cols > 0;
        let is_float = match kind {
            GgufType::Plain(dtype) => plain(dtype).is_some(),
            GgufType::Blocks(_) => true,
        };
        (fits && is_float).then_some(Self { kind, heads, cols })
    }

    /// Columns of a head.
    const fn head(&self) -> usize {
        self.cols / self.heads.count()
    }

    /// Bytes of a head in a row, where they are its alone.
    fn bytes_of_head(&self) -> Option<usize> {
        match self.kind {
            GgufType::Plain(dtype) => Some(self.head() * dtype.bits() as usize / 8),
            GgufType::Blocks(kind) => {
                (self.head().is_multiple_of(kind.block())).then(|| kind.row_bytes(self.head()))
            }
        }
    }

    /// Whether the matrix is shown in `f32`.
    pub(super) fn is_unpacked(&self) -> bool {
        self.bytes_of_head().is_none()
    }

    /// A row of the container as it is in transformers, or the other way round.
    pub(super) fn moved(&self, row: &[u8], to_container: bool) -> Option<Vec<u8>> {
        let bytes = self.bytes_of_head()?;
        let mut moved = vec![0; row.len()];
        for head in 0..self.heads.count() {
            let stored = self.heads.stored(head);
            let (from, to) = if to_container {
                (head, stored)
            } else {
                (stored, head)
            };
            moved[to * bytes..][..bytes].copy_from_slice(&row[from * bytes..][..bytes]);
        }
        Some(moved)
    }

    /// The values of a row in the order of transformers, in `f32`.
    fn unpacked(&self, row: &[u8]) -> Vec<u8> {
        let mut values = vec![0.0; self.cols];
        match self.kind {
            GgufType::Plain(dtype) => plain(dtype).unwrap_or(DType::F32).widen(row, &mut values),
            GgufType::Blocks(kind) => {
                let words = pack::from_bytes(row);
                let format = Format::Gguf(kind);
                format.dequantize_rows([1, self.cols], &words, &[], 0..1, &mut values);
            }
        }
        let head = self.head();
        let heads = (0..self.heads.count()).map(|nth| self.heads.stored(nth));
        let moved = heads.flat_map(|stored| &values[stored * head..][..head]);
        moved.flat_map(|value| value.to_le_bytes()).collect()
    }

    /// Fills `into` with the bytes from `within` on of the matrix that begins at byte `from`.
    pub(super) fn fill(
        &self,
        from: u64,
        within: usize,
        into: &mut [u8],
        read: ReadBytes<'_>,
    ) -> Result<(), SourceError> {
        let stored = self.kind.bytes(&[self.cols]) as usize;
        let shown = match self.is_unpacked() {
            true => self.cols * size_of::<f32>(),
            false => stored,
        };
        if into.is_empty() {
            return Ok(());
        }
        let end = within + into.len();
        let rows = within / shown..end.div_ceil(shown);
        // Some rows by one read, which may be a request.
        let some = (BESIDE_MAX / stored).max(1);
        let mut band = Vec::new();
        for first in rows.clone().step_by(some) {
            let count = some.min(rows.end - first);
            band.resize(count * stored, 0);
            read(from + (first * stored) as u64, &mut band)?;
            for (nth, row) in band.chunks_exact(stored).enumerate() {
                let moved = self.moved(row, false).unwrap_or_else(|| self.unpacked(row));
                let begins = (first + nth) * shown;
                let [start, end] = [begins.max(within), (begins + shown).min(end)];
                into[start - within..end - within]
                    .copy_from_slice(&moved[start - begins..end - begins]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use firebox_kernels::format::Gguf;

    use super::*;

    const HEADS: TiledHeads = TiledHeads { keys: 2, each: 2 };

    /// Of two key heads with two value heads each, the second and the third change places. Would catch the order of a
    /// square of heads in the wrong direction, by three value heads of two key heads.
    #[test]
    fn heads_of_one_number_lie_together() {
        let stored = |keys, each| {
            let heads = TiledHeads { keys, each };
            (0..heads.count())
                .map(|head| heads.stored(head))
                .collect::<Vec<_>>()
        };
        assert_eq!(stored(2, 2), [0, 2, 1, 3]);
        assert_eq!(stored(2, 3), [0, 2, 4, 1, 3, 5]);
    }

    /// Two rows of four blocks, each of them a head.
    #[test]
    fn blocks_within_a_head_change_places() {
        let kind = GgufType::Blocks(Gguf::Q8_0);
        let columns = HeadColumns::new(kind, HEADS, 128).expect("whole heads");
        assert!(!columns.is_unpacked());
        let block = |label: u8| vec![label; 34];
        let stored: Vec<u8> = [0, 1, 2, 3, 4, 5, 6, 7]
            .into_iter()
            .flat_map(block)
            .collect();
        let read = |at: u64, into: &mut [u8]| {
            into.copy_from_slice(&stored[at as usize..][..into.len()]);
            Ok(())
        };
        let expected: Vec<u8> = [0, 2, 1, 3, 4, 6, 5, 7]
            .into_iter()
            .flat_map(block)
            .collect();
        for within in [0, 33, 34, 140] {
            let mut found = vec![0; stored.len() - within];
            columns.fill(0, within, &mut found, &read).expect("filled");
            assert!(found == expected[within..], "from {within}");
        }
        let back = columns.moved(&expected[..136], true);
        assert_eq!(back.as_deref(), Some(&stored[..136]));
    }

    /// Blocks of 256 values over two heads of 128: `d` is 1, and a value is its own code less 32 times the scale of its
    /// sixteen, which is that of its place.
    #[test]
    fn blocks_over_heads_become_numbers() {
        let kind = GgufType::Blocks(Gguf::Q6K);
        let columns = HeadColumns::new(kind, HEADS, 512).expect("whole heads");
        assert!(columns.is_unpacked());
        // All codes are 33: each value is its scale.
        let block = |first: u8| {
            let mut block = vec![0x11; 128];
            block.extend([0xaa; 64]);
            block.extend((0..16).map(|nth| first + nth));
            block.extend([0x00, 0x3c]);
            block
        };
        let stored = [block(1), block(17)].concat();
        let read = |at: u64, into: &mut [u8]| {
            into.copy_from_slice(&stored[at as usize..][..into.len()]);
            Ok(())
        };
        let mut found = vec![0; 512 * 4];
        columns.fill(0, 0, &mut found, &read).expect("filled");
        let (values, _) = found.as_chunks();
        let values: Vec<f32> = values
            .iter()
            .map(|four| f32::from_le_bytes(*four))
            .collect();
        let scales = [1u8, 17, 9, 25]
            .into_iter()
            .flat_map(|first| first..first + 8);
        let expected: Vec<f32> = scales.flat_map(|scale| [f32::from(scale); 16]).collect();
        assert_eq!(values, expected);
    }

    #[test]
    fn columns_that_are_no_whole_heads_are_refused() {
        let kind = GgufType::Blocks(Gguf::Q8_0);
        assert_eq!(HeadColumns::new(kind, HEADS, 130), None);
        assert_eq!(HeadColumns::new(kind, HEADS, 0), None);
    }
}
