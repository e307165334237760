//! Values that do not lie one after another: transposed, cut out of rows, or in big-endian order.

use super::read_bytes::ReadBytes;
use crate::source::{SourceError, StoredType};

/// The most bytes that are read at once while values are collected.
const BLOCK: u64 = 4 << 20;

/// How the values of a tensor lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Strided {
    shape: Vec<u64>,
    /// Values from one to the next along each dimension.
    strides: Vec<u64>,
    /// Dimensions with more than one value, the widest step first: the step, how many, and values from one to the next in order.
    by_step: Vec<[u64; 3]>,
    /// Bytes of a value.
    size: usize,
    /// Bytes of a number that are in the other order, if they are.
    turned: Option<usize>,
}

/// A view that has a value at two places, or whose places are not those of a matrix that was cut and turned.
#[derive(Debug)]
pub(super) struct Overlapping;

impl Strided {
    /// How values lie, or `None` where they lie one after another in little-endian order.
    pub(super) fn new(
        dtype: StoredType,
        shape: &[usize],
        strides: &[u64],
        big_endian: bool,
    ) -> Result<Option<Self>, Overlapping> {
        let size = (dtype.bits() / 8) as usize;
        let number = match dtype {
            StoredType::C64 => size / 2,
            _ => size,
        };
        let turned = (big_endian && number > 1).then_some(number);
        let shape: Vec<u64> = shape.iter().map(|side| *side as u64).collect();
        let mut by_step: Vec<usize> = (0..shape.len()).filter(|axis| shape[*axis] > 1).collect();
        let mut row_major = 1;
        let in_order = by_step.iter().rev().all(|axis| {
            let fits = strides[*axis] == row_major;
            row_major = row_major.saturating_mul(shape[*axis]);
            fits
        });
        let empty = shape.contains(&0);
        if (in_order || empty) && turned.is_none() {
            return Ok(None);
        }
        by_step.sort_by_key(|axis| core::cmp::Reverse(strides[*axis]));
        // A step has to be wider than all that the narrower steps reach.
        let mut reach: u64 = 0;
        for axis in by_step.iter().rev().filter(|_| !empty) {
            if strides[*axis] <= reach {
                return Err(Overlapping);
            }
            reach = reach.saturating_add((shape[*axis] - 1).saturating_mul(strides[*axis]));
        }
        Ok(Some(Self {
            by_step: (by_step.iter())
                .map(|axis| [strides[*axis], shape[*axis], row_major_of(&shape, *axis)])
                .collect(),
            strides: strides.to_vec(),
            shape,
            size,
            turned,
        }))
    }

    /// Fills `into` with the bytes from `within` on of the values in order, the first of which is at byte `from`.
    pub(super) fn fill(
        &self,
        from: u64,
        within: u64,
        into: &mut [u8],
        read: ReadBytes<'_>,
    ) -> Result<(), SourceError> {
        let size = self.size as u64;
        let first = within / size;
        let start = (within % size) as usize;
        let last = (within + into.len() as u64).div_ceil(size);
        if start == 0 && into.len().is_multiple_of(self.size) {
            return self.collect(from, first..last, into, read);
        }
        let mut whole = vec![0; ((last - first) * size) as usize];
        self.collect(from, first..last, &mut whole, read)?;
        into.copy_from_slice(&whole[start..start + into.len()]);
        Ok(())
    }

    /// Collects some values in order: every byte between the first and the last place is read once, a block at a time.
    fn collect(
        &self,
        from: u64,
        values: core::ops::Range<u64>,
        into: &mut [u8],
        read: ReadBytes<'_>,
    ) -> Result<(), SourceError> {
        if values.is_empty() {
            return Ok(());
        }
        let size = self.size as u64;
        let (low, high) = self.places(values.start, values.end - 1);
        let mut block = Vec::new();
        let mut at = low;
        while at <= high {
            let count = (high - at + 1).min(BLOCK / size);
            block.resize((count * size) as usize, 0);
            read(from + at * size, &mut block)?;
            for (place, value) in (at..).zip(block.chunks_exact(self.size)) {
                let nth = self.value_at(place).filter(|nth| values.contains(nth));
                if let Some(nth) = nth {
                    let to = ((nth - values.start) * size) as usize;
                    into[to..to + self.size].copy_from_slice(value);
                }
            }
            at += count;
        }
        if let Some(number) = self.turned {
            for number in into.chunks_exact_mut(number) {
                number.reverse();
            }
        }
        Ok(())
    }

    /// Which value lies at a place, if one does.
    fn value_at(&self, mut place: u64) -> Option<u64> {
        let mut at = 0;
        for [stride, side, row_major] in &self.by_step {
            let step = place / stride;
            if step >= *side {
                return None;
            }
            place -= step * stride;
            at += step * row_major;
        }
        (place == 0).then_some(at)
    }

    /// The lowest and the highest place of the values from the `first` to the `last`.
    fn places(&self, first: u64, last: u64) -> (u64, u64) {
        let (mut low, mut high, mut differ) = (0, 0, false);
        for axis in 0..self.shape.len() {
            let row_major = row_major_of(&self.shape, axis);
            let [a, b] = [first, last].map(|nth| nth / row_major % self.shape[axis]);
            let stride = self.strides[axis];
            if differ {
                high += (self.shape[axis] - 1) * stride;
            } else {
                (low, high) = (low + a * stride, high + b * stride);
                differ = a != b;
            }
        }
        (low, high)
    }
}

/// Values from one to the next along a dimension, where they are in order.
fn row_major_of(shape: &[u64], axis: usize) -> u64 {
    shape[axis + 1..].iter().product()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every part of a turned view with gaps is what its places say. Would catch an exchanged dimension, and a part that begins
    /// or ends inside a value.
    #[test]
    fn parts_of_a_view_are_what_its_places_say() {
        let stored: Vec<u8> = (0..=255).cycle().take(3000).collect();
        let (shape, strides) = ([3, 5, 1, 4], [2_u64, 60, 7, 15]);
        let strided = Strided::new(StoredType::U16, &shape, &strides, true);
        let strided = strided.expect("no overlap").expect("out of order");
        let mut expected = Vec::new();
        for (i, j, k) in
            (0..3).flat_map(|i| (0..5).flat_map(move |j| (0..4).map(move |k| (i, j, k))))
        {
            let at = 10 + 2 * (2 * i + 60 * j + 15 * k);
            expected.extend([stored[at + 1], stored[at]]);
        }
        let read = |at: u64, into: &mut [u8]| {
            into.copy_from_slice(&stored[at as usize..][..into.len()]);
            Ok(())
        };
        for start in 0..expected.len() {
            for end in start..=expected.len() {
                let mut into = vec![0; end - start];
                let filled = strided.fill(10, start as u64, &mut into, &read);
                filled.expect("there");
                assert_eq!(into, expected[start..end], "{start}..{end}");
            }
        }
    }

    #[test]
    fn values_at_one_place_are_refused() {
        let of =
            |shape: &[usize], strides: &[u64]| Strided::new(StoredType::F32, shape, strides, false);
        assert!(of(&[2, 3], &[0, 1]).is_err());
        assert!(of(&[4, 3], &[1, 1]).is_err());
        assert!(matches!(of(&[2, 3], &[3, 1]), Ok(None)));
        assert!(matches!(of(&[1, 3], &[0, 1]), Ok(None)));
        assert!(matches!(of(&[0, 3], &[7, 7]), Ok(None)));
        assert!(matches!(of(&[], &[]), Ok(None)));
    }
}
