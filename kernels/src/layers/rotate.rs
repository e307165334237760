//! Rotation of pairs of features by the position of their token.

/// Cosines and sines, and which features turn together.
#[derive(Debug, Clone, Copy)]
pub struct Turns<'a> {
    /// `[b, t, r/2]`, or `[1, t, r/2]` for all sequences.
    pub cos: &'a [f32],
    /// The same.
    pub sin: &'a [f32],
    /// `r/2`.
    pub pairs: usize,
    /// Neighbours turn together, and not those of both halves.
    pub interleaved: bool,
}

impl Turns<'_> {
    /// Turns the first `r` of the `d` features of each head of `x` `[b, t, h, d]` where they are.
    ///
    /// # Panics
    ///
    /// When heads have fewer than `r` features, or the tokens are not those of the angles.
    pub fn apply(&self, x: &mut [f32], heads: usize, features: usize) {
        let (pairs, token) = (self.pairs, heads * features);
        if pairs == 0 || token == 0 {
            return;
        }
        let tokens = self.cos.len() / pairs;
        assert!(
            2 * pairs <= features,
            "{pairs} pairs of {features} features"
        );
        assert_eq!(self.sin.len(), self.cos.len(), "cosines and sines");
        assert_eq!(
            x.len() / token % tokens.max(1),
            0,
            "tokens of {tokens} angles"
        );
        super::rows(x, token, |nth, x| {
            let at = nth % tokens * pairs..(nth % tokens + 1) * pairs;
            let (cos, sin) = (&self.cos[at.clone()], &self.sin[at]);
            for head in x.chunks_mut(features) {
                match self.interleaved {
                    true => turn_neighbours(&mut head[..2 * pairs], cos, sin),
                    false => {
                        let (first, rest) = head.split_at_mut(pairs);
                        turn_halves(first, &mut rest[..pairs], cos, sin);
                    }
                }
            }
        });
    }
}

fn turn_halves(first: &mut [f32], second: &mut [f32], cos: &[f32], sin: &[f32]) {
    let pairs = first.iter_mut().zip(second).zip(cos.iter().zip(sin));
    for ((first, second), (cos, sin)) in pairs {
        let (a, b) = (*first, *second);
        *first = a * cos - b * sin;
        *second = b * cos + a * sin;
    }
}

fn turn_neighbours(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let pairs = x.as_chunks_mut::<2>().0.iter_mut();
    for ([first, second], (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
        let (a, b) = (*first, *second);
        *first = a * cos - b * sin;
        *second = b * cos + a * sin;
    }
}
