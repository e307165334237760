//! Values over time, as many as a picture can show.

use std::time::Duration;

use serde::Serialize;

/// Points at most.
const POINTS_MAX: usize = 2000;

/// Bytes over time, of a bounded number of points: each is the most of some consecutive samples, so that no peak is
/// lost. `[seconds since the beginning, bytes]` in JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Series {
    points: Vec<(f64, u64)>,
    /// Samples in a point; 0 before the first.
    #[serde(skip)]
    samples: usize,
    /// Samples in the last point.
    #[serde(skip)]
    last: usize,
}

impl Series {
    /// The points in the order of time: seconds since the beginning, and bytes.
    pub fn points(&self) -> &[(f64, u64)] {
        &self.points
    }

    /// The most bytes, and when they were first seen.
    pub fn peak(&self) -> Option<(f64, u64)> {
        let later = |best: (f64, u64), next: (f64, u64)| if next.1 > best.1 { next } else { best };
        self.points.iter().copied().reduce(later)
    }

    pub(crate) fn push(&mut self, at: Duration, bytes: u64) {
        let sample = (at.as_secs_f64(), bytes);
        match self.points.last_mut() {
            Some(point) if self.last < self.samples => {
                if sample.1 > point.1 {
                    *point = sample;
                }
                self.last += 1;
            }
            _ => {
                if self.points.len() == POINTS_MAX {
                    self.halve();
                }
                self.points.push(sample);
                self.last = 1;
            }
        }
    }

    /// Joins every two points.
    fn halve(&mut self) {
        let larger = |pair: &[(f64, u64)]| match *pair {
            [a, b] if b.1 > a.1 => b,
            [a, ..] => a,
            [] => unreachable!("chunks are not empty"),
        };
        self.points = self.points.chunks(2).map(larger).collect();
        self.samples = 2 * self.samples.max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A saw of a million samples with one tooth higher than all. Would catch a series that grows, that loses the
    /// peak or moves it, and that forgets the beginning or the end.
    #[test]
    fn a_million_samples_are_two_thousand_points_and_the_peak() {
        let mut series = Series::default();
        for k in 0..1_000_000_u64 {
            let bytes = if k == 654_321 { 5000 } else { k % 100 };
            series.push(Duration::from_millis(2 * k), bytes);
        }
        let points = series.points();
        assert!(
            (1000..=POINTS_MAX).contains(&points.len()),
            "{}",
            points.len()
        );
        assert_eq!(series.peak(), Some((1308.642, 5000)));
        assert!(points.is_sorted_by(|a, b| a.0 < b.0));
        assert!(points[0].0 < 2.0 && points[points.len() - 1].0 > 1998.0);
        assert!(
            points[..points.len() - 1].iter().all(|point| point.1 >= 99),
            "{points:?}"
        );
    }

    #[test]
    fn few_samples_stay_as_they_are() {
        let mut series = Series::default();
        for k in [3, 1, 2] {
            series.push(Duration::from_secs(k), 10 * k);
        }
        assert_eq!(series.points(), [(3.0, 30), (1.0, 10), (2.0, 20)]);
        assert_eq!(
            serde_json::json!(series),
            serde_json::json!([[3.0, 30], [1.0, 10], [2.0, 20]])
        );
    }
}
