//! From seconds and bytes to places in a drawing, and the marks beside it.

use super::markup::Markup;
use crate::config::Bytes;

/// A rectangle to draw in: seconds to the right, bytes upwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
    /// What is at the right.
    pub(super) seconds: f64,
    /// What is at the top.
    pub(super) bytes: f64,
}

impl Area {
    pub(super) fn x(&self, seconds: f64) -> f64 {
        self.left + (self.right - self.left) * seconds / self.seconds.max(f64::MIN_POSITIVE)
    }

    pub(super) fn y(&self, bytes: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * bytes / self.bytes.max(1.0)
    }

    /// Marks of time below, with lines up.
    pub(super) fn times(&self, markup: &mut Markup) {
        let step = decimal(self.seconds / 8.0);
        let digits = (-step.log10().floor()).max(0.0) as usize;
        for k in 0..=(self.seconds / step) as usize {
            let seconds = k as f64 * step;
            let x = self.x(seconds);
            markup.stroke("grid", [x, self.top], [x, self.bottom]);
            let below = [x, self.bottom + 16.0];
            markup.label(
                "mark",
                "middle",
                below,
                format_args!("{seconds:.digits$} s"),
            );
        }
    }

    /// Marks of memory to the left, with lines across.
    pub(super) fn sizes(&self, markup: &mut Markup) {
        let step = binary(self.bytes / 5.0);
        for k in 0..=(self.bytes / step) as usize {
            let bytes = k as f64 * step;
            let y = self.y(bytes);
            markup.stroke("grid", [self.left, y], [self.right, y]);
            markup.label("mark", "end", [self.left - 8.0, y + 4.0], round(bytes));
        }
    }
}

/// The next of 1, 2 and 5 times a power of ten.
pub(super) fn decimal(least: f64) -> f64 {
    let least = least.max(1e-6);
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let step = steps.into_iter().find(|step| *step >= least);
    step.unwrap_or(steps[3])
}

/// The next power of two.
fn binary(least: f64) -> f64 {
    2_f64.powf(least.max(1.0).log2().ceil())
}

/// A size whose last binary digits are zeros: `1.5 GiB`.
fn round(bytes: f64) -> String {
    let text = Bytes(bytes as u64).to_string();
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            let number = number.trim_end_matches('0').trim_end_matches('.');
            format!("{number} {unit}")
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch labels that round differently than the lines, and steps that are none.
    #[test]
    fn steps_are_numbers_that_people_count_in() {
        let tens = [0.003, 0.01, 0.011, 0.3, 1.0, 4.0, 7.0, 61.0].map(decimal);
        let expected = [0.005, 0.01, 0.02, 0.5, 1.0, 5.0, 10.0, 100.0];
        for (found, expected) in tens.into_iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-9 * expected,
                "{found} {expected}"
            );
        }
        assert_eq!(
            [0.0, 1.0, 700.0, 1024.0, 1025.0].map(binary),
            [1.0, 1.0, 1024.0, 1024.0, 2048.0]
        );
        let sizes = [0.0, 512.0, 1024.0, 1.5 * 1048576.0, 1073741824.0].map(round);
        assert_eq!(sizes, ["0 B", "512 B", "1 KiB", "1.5 MiB", "1 GiB"]);
    }
}
