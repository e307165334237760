//! Normalisation of rows.

use crate::arith::lanes::{LANES, for_processors, sum};

/// How rows are normalised.
#[derive(Debug, Clone, Copy)]
pub struct NormRows<'a> {
    /// Whether the mean of a row is subtracted first.
    pub centred: bool,
    /// Is added to the mean square.
    pub eps: f32,
    /// `[features]`: a factor for each feature.
    pub scale: Option<&'a [f32]>,
    /// `[features]`: is added at the end.
    pub bias: Option<&'a [f32]>,
}

impl NormRows<'_> {
    /// Normalises `x` `[.., features]` where it is: `(x - mean) / sqrt(mean((x - mean)²) + eps) · scale + bias`.
    ///
    /// # Panics
    ///
    /// When scale or bias has another number of features.
    pub fn apply(&self, x: &mut [f32], features: usize) {
        let lengths = [self.scale, self.bias].map(|values| values.map_or(features, <[f32]>::len));
        assert_eq!(lengths, [features; 2], "features of scale and bias");
        super::rows(x, features, |_, row| {
            unit(row, self.centred, self.eps);
            change(row, self.scale, self.bias);
        });
    }
}

for_processors! {
    /// `x` normalised, without scale and bias.
    fn unit(x: &mut [f32], centred: bool, eps: f32) {
        let len = x.len() as f32;
        if centred {
            let mean = total(x, |x| x) / len;
            for x in x.iter_mut() {
                *x -= mean;
            }
        }
        let mean_square = total(x, |x| x * x) / len;
        let factor = (mean_square + eps).sqrt().recip();
        for x in x.iter_mut() {
            *x *= factor;
        }
    }
}

for_processors! {
    /// `x · scale + bias`.
    fn change(x: &mut [f32], scale: Option<&[f32]>, bias: Option<&[f32]>) {
        if let Some(scale) = scale {
            for (x, scale) in x.iter_mut().zip(scale) {
                *x *= scale;
            }
        }
        if let Some(bias) = bias {
            for (x, bias) in x.iter_mut().zip(bias) {
                *x += bias;
            }
        }
    }
}

/// The sum of `of(x)` over a row, in sixteen sums and then theirs.
#[inline(always)]
fn total(x: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for k in 0..LANES {
            sums[k] += of(x[k]);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += of(*x);
    }
    sum(sums)
}
