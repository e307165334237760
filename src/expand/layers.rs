//! Which layers of an expanded model are new.

use super::ExpandError;

/// A copy after every `split` layers.
///
/// ```
/// use firebox::expand::Expansion;
///
/// let expansion = Expansion::new(32, 8)?;
/// assert_eq!(expansion.all(), 40);
/// assert_eq!(expansion.new_blocks()[..3], [4, 9, 14]);
/// assert_eq!(expansion.place(4), 5);
/// # Ok::<(), firebox::expand::ExpandError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expansion {
    layers: usize,
    blocks: usize,
    split: usize,
}

impl Expansion {
    /// `blocks` copies among `layers` layers.
    ///
    /// # Errors
    ///
    /// [`ExpandError::Count`] where `blocks` does not divide `layers`.
    pub fn new(layers: usize, blocks: usize) -> Result<Self, ExpandError> {
        match blocks > 0 && layers.is_multiple_of(blocks) {
            true => Ok(Self::every(layers, layers / blocks)),
            false => {
                let divisors = (1..=layers).filter(|blocks| layers.is_multiple_of(*blocks));
                let divisors: Vec<String> = divisors.map(|blocks| blocks.to_string()).collect();
                Err(ExpandError::Count {
                    layers,
                    blocks,
                    divisors: divisors.join(", "),
                })
            }
        }
    }

    /// A copy after every `split` layers. The last layers, fewer than `split`, have none.
    pub(super) const fn every(layers: usize, split: usize) -> Self {
        Self {
            layers,
            blocks: layers / split,
            split,
        }
    }

    /// Layers before.
    pub const fn layers(self) -> usize {
        self.layers
    }

    /// Layers after.
    pub const fn all(self) -> usize {
        self.layers + self.blocks
    }

    /// The new number of the layer `old`, or of what comes after the last layer.
    pub const fn place(self, old: usize) -> usize {
        if old > self.layers {
            return old + self.blocks;
        }
        old + old / self.split
    }

    /// The number of the copy of the layer `old`, where it has one.
    pub const fn copy(self, old: usize) -> Option<usize> {
        if old < self.layers && (old + 1).is_multiple_of(self.split) {
            Some(self.place(old) + 1)
        } else {
            None
        }
    }

    /// The new number of the layer `old`, and that of its copy.
    pub(super) fn places(self, old: usize) -> impl Iterator<Item = usize> {
        [self.place(old)].into_iter().chain(self.copy(old))
    }

    /// For each new layer the old one that it is, or is a copy of.
    pub(super) fn origins(self) -> impl Iterator<Item = usize> {
        (0..self.layers).flat_map(move |old| self.places(old).map(move |_| old))
    }

    /// The numbers of the copies, from the first to the last.
    pub fn new_blocks(self) -> Vec<usize> {
        (0..self.layers).filter_map(|old| self.copy(old)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of both public scripts, found by running their loops by hand: 4 layers to 6, 6 to 9, 32 to 40.
    #[test]
    fn copies_follow_every_split_layers() {
        let small = Expansion::new(4, 2).expect("2 divides 4");
        let places: Vec<usize> = (0..4).map(|old| small.place(old)).collect();
        assert_eq!(places, [0, 1, 3, 4]);
        assert_eq!(small.new_blocks(), [2, 5]);
        assert_eq!(small.origins().collect::<Vec<_>>(), [0, 1, 1, 2, 3, 3]);

        let even = Expansion::new(6, 3).expect("3 divides 6");
        assert_eq!(even.new_blocks(), [2, 5, 8]);
        let large = Expansion::new(32, 8).expect("8 divides 32");
        assert_eq!(large.new_blocks(), [4, 9, 14, 19, 24, 29, 34, 39]);
        // Layers that predict further tokens come after all others.
        assert_eq!(
            (large.place(31), large.place(32), large.place(33)),
            (38, 40, 41)
        );

        // Three of 32: a copy after every tenth, and two layers more.
        let rest = Expansion::every(32, 10);
        assert_eq!((rest.all(), rest.new_blocks()), (35, vec![10, 21, 32]));
        assert_eq!(rest.place(31), 34);
    }

    #[test]
    fn a_count_that_does_not_divide_names_those_that_do() {
        let error = Expansion::new(12, 5).expect_err("5 does not divide 12");
        let ExpandError::Count {
            layers,
            blocks,
            divisors,
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!((*layers, *blocks), (12, 5));
        assert_eq!(divisors, "1, 2, 3, 4, 6, 12");
        assert!(Expansion::new(4, 8).is_err());
    }
}
