//! What products with streamed weights waited for.

use core::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Serialize, Serializer};

use crate::config::Bytes;

/// The counts of the rings of a model, one for each of its devices, while it is in use; clones count the same rings.
#[derive(Debug, Clone)]
pub struct StreamTally(pub(super) Vec<Arc<Mutex<StreamStats>>>);

impl StreamTally {
    /// The counts so far, of all rings together. Peaks are sums of those of the rings.
    pub fn stats(&self) -> StreamStats {
        let of_each = self.0.iter();
        let of_each = of_each.map(|ring| *ring.lock().unwrap_or_else(PoisonError::into_inner));
        of_each.reduce(StreamStats::join).unwrap_or_default()
    }
}

/// Counts of a ring. Serialises with [`hit_rate`](Self::hit_rate) and [`ahead_rate`](Self::ahead_rate) beside the fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(remote = "Self")]
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
    /// Bytes that were brought to the device so far: those of weights and experts, and of looked up rows.
    pub bytes_moved: u64,
    /// Products with an expert that was on the device since an earlier one.
    pub experts_found: u64,
    /// Products with an expert that was fetched for it.
    pub experts_fetched: u64,
    /// Bytes of the experts that are on the device for a later product, now.
    pub experts_bytes: u64,
    /// Most of them at once.
    pub experts_bytes_peak: u64,
    /// Bytes that they may have: what the budget of the device leaves beside all other weights.
    pub experts_bytes_max: u64,
}

impl StreamStats {
    /// Whether a product needed a weight.
    pub(crate) fn is_used(&self) -> bool {
        self.others() + self.experts_found + self.experts_fetched > 0
    }

    /// Products with a weight that is no expert.
    fn others(&self) -> u64 {
        self.ahead + self.waited + self.missed
    }

    /// The share of products whose weight was there when it was needed, from 0 to 1, experts left out; `None` before the first.
    pub fn ahead_rate(&self) -> Option<f64> {
        let all = self.others();
        (all > 0).then(|| self.ahead as f64 / all as f64)
    }

    /// The counts of two rings.
    fn join(self, other: Self) -> Self {
        Self {
            weights: self.weights + other.weights,
            weights_peak: self.weights_peak + other.weights_peak,
            bytes: self.bytes + other.bytes,
            bytes_peak: self.bytes_peak + other.bytes_peak,
            ahead: self.ahead + other.ahead,
            waited: self.waited + other.waited,
            missed: self.missed + other.missed,
            bytes_moved: self.bytes_moved + other.bytes_moved,
            experts_found: self.experts_found + other.experts_found,
            experts_fetched: self.experts_fetched + other.experts_fetched,
            experts_bytes: self.experts_bytes + other.experts_bytes,
            experts_bytes_peak: self.experts_bytes_peak + other.experts_bytes_peak,
            experts_bytes_max: self.experts_bytes_max + other.experts_bytes_max,
        }
    }

    /// The share of products with an expert whose expert was on the device already, from 0 to 1; `None` before the first.
    pub fn hit_rate(&self) -> Option<f64> {
        let all = self.experts_found + self.experts_fetched;
        (all > 0).then(|| self.experts_found as f64 / all as f64)
    }
}

impl Serialize for StreamStats {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct WithRate {
            // The fields alone, as derived.
            #[serde(flatten, with = "StreamStats")]
            stats: StreamStats,
            hit_rate: Option<f64>,
            ahead_rate: Option<f64>,
        }
        let with_rate = WithRate {
            stats: *self,
            hit_rate: self.hit_rate(),
            ahead_rate: self.ahead_rate(),
        };
        Serialize::serialize(&with_rate, to)
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
            bytes_moved,
            ..
        } = self;
        let [bytes_peak, bytes_moved] = [bytes_peak, bytes_moved].map(|bytes| Bytes(*bytes));
        write!(
            f,
            "streamed: {ahead} products had their weight, {waited} waited, {missed} did not expect it; {bytes_peak} at most, {bytes_moved} moved"
        )?;
        let Some(rate) = self.hit_rate() else {
            return Ok(());
        };
        let (found, fetched) = (self.experts_found, self.experts_fetched);
        let rate = 100.0 * rate;
        let [peak, max] = [self.experts_bytes_peak, self.experts_bytes_max].map(Bytes);
        write!(
            f,
            "; experts: {found} found and {fetched} fetched ({rate:.1} % found), {peak} of {max} at most"
        )
    }
}
