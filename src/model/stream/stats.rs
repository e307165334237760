//! What products with streamed weights waited for.

use core::fmt;

use serde::Serialize;

use crate::config::Bytes;

/// Counts of a ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StreamStats {
    /// Weights on the device now, in use or ahead.
    pub weights: usize,
    /// Most of them at once.
    pub weights_peak: usize,
    /// Their bytes now.
    pub bytes: u64,
    /// Most of them at once.
    pub bytes_peak: u64,
    /// Products whose weight was there.
    pub ahead: u64,
    /// Products whose weight was expected and not there yet.
    pub waited: u64,
    /// Products whose weight was not expected: the order was not known yet, or broken.
    pub missed: u64,
    /// Products with an expert that was on the device since an earlier one.
    pub experts_found: u64,
    /// Products with an expert that was fetched for it.
    pub experts_fetched: u64,
    /// Bytes of the experts that are on the device for a later product, now.
    pub experts_bytes: u64,
    /// Most of them at once.
    pub experts_bytes_peak: u64,
}

impl StreamStats {
    /// The share of products with an expert whose expert was on the device already, from 0 to 1; `None` before the first.
    pub fn hit_rate(&self) -> Option<f64> {
        let all = self.experts_found + self.experts_fetched;
        (all > 0).then(|| self.experts_found as f64 / all as f64)
    }
}

/// One line: what products waited for, and what is on the device.
impl fmt::Display for StreamStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ahead,
            waited,
            missed,
            bytes_peak,
            ..
        } = self;
        let bytes_peak = Bytes(*bytes_peak);
        write!(
            f,
            "streamed: {ahead} products had their weight, {waited} waited, {missed} did not expect it; {bytes_peak} at most"
        )?;
        let Some(rate) = self.hit_rate() else {
            return Ok(());
        };
        let (found, fetched) = (self.experts_found, self.experts_fetched);
        let (rate, peak) = (100.0 * rate, Bytes(self.experts_bytes_peak));
        write!(
            f,
            "; experts: {found} found and {fetched} fetched ({rate:.1} % found), {peak} at most"
        )
    }
}
