//! Which matrices share an input, and what makes it: what has to be known to move a factor from one to the other.

/// Matrices that multiply the same features, and the weights that those features are proportional to.
///
/// ```text
/// input_layernorm ─► features ─► q_proj, k_proj, v_proj
/// up_proj         ─► features ─► down_proj                  (times what the gate lets through)
/// ```
///
/// Multiply feature `j` of every weight in [`from`](Self::from) by a number, divide column `j` of every matrix in
/// [`to`](Self::to) by it, and the model computes what it computed before.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Link {
    /// Names of slots that make the features: a scale or bias `[n]`, a matrix `[n, ..]`.
    pub from: Vec<String>,
    /// Names of slots of matrices `[.., n · times]`.
    pub to: Vec<String>,
    /// Features that are handed out together: `n`, or those of a head that several queries share.
    pub run: usize,
    /// How often each run is handed out before the next one is.
    pub times: usize,
}

impl Link {
    /// Features that go to `to` as they are.
    pub fn new(
        from: impl IntoIterator<Item = String>,
        to: impl IntoIterator<Item = String>,
    ) -> Self {
        Self {
            from: from.into_iter().collect(),
            to: to.into_iter().collect(),
            run: 1,
            times: 1,
        }
    }

    /// Features of which each `run` is repeated `times`: those of key and value heads, for the query heads that
    /// share them.
    pub fn repeated(self, run: usize, times: usize) -> Self {
        Self { run, times, ..self }
    }

    /// The feature that `column` of the matrices multiplies.
    pub(crate) fn feature(&self, column: usize) -> usize {
        column / (self.run * self.times) * self.run + column % self.run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two key heads of three features, each for two query heads. Would catch heads that are interleaved.
    #[test]
    fn query_heads_of_one_group_share_the_features_of_their_key_head() {
        let link = Link::new([], []).repeated(3, 2);
        let features: Vec<usize> = (0..12).map(|column| link.feature(column)).collect();
        assert_eq!(features, [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
        let plain = Link::new([], []);
        assert_eq!(plain.feature(7), 7);
    }
}
