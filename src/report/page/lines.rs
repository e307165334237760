//! Values over steps: lines in one picture, with marks at both sides.

use core::fmt::Write;

use super::{
    axis::decimal,
    markup::{Markup, Px, WIDTH},
};

/// A line of a picture: a value at each of some steps, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// The word beside it.
    pub name: &'static str,
    /// Steps and values. Values that are not finite leave a gap.
    pub points: Vec<(f64, f64)>,
}

/// Points of a line at most; the values of neighbours are replaced by their mean.
const POINTS_MAX: usize = 1500;

/// Classes of lines, in their order.
const CLASSES: [&str; 2] = ["host", "device"];

/// A rectangle to draw in, and the values at its sides.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: [f64; 2],
    y: [f64; 2],
}

impl Frame {
    fn x(&self, step: f64) -> f64 {
        let [from, to] = self.x;
        self.left + (self.right - self.left) * (step - from) / (to - from)
    }

    fn y(&self, value: f64) -> f64 {
        let [from, to] = self.y;
        self.bottom - (self.bottom - self.top) * (value - from) / (to - from)
    }

    fn marks(&self, markup: &mut Markup) {
        for value in marks(self.y, 5.0) {
            let y = self.y(value);
            markup.stroke("grid", [self.left, y], [self.right, y]);
            markup.label("mark", "end", [self.left - 8.0, y + 4.0], MarkNumber(value));
        }
        for step in marks(self.x, 8.0) {
            let x = self.x(step);
            markup.stroke("grid", [x, self.top], [x, self.bottom]);
            markup.label("mark", "middle", [x, self.bottom + 16.0], MarkNumber(step));
        }
    }
}

/// Round numbers between two others, about as many as asked for.
fn marks([from, to]: [f64; 2], count: f64) -> impl Iterator<Item = f64> {
    let step = decimal((to - from) / count);
    let first = (from / step - 1e-9).ceil();
    let last = (to / step + 1e-9).floor();
    (0..=(last - first).max(0.0) as u64).map(move |nth| (first + nth as f64) * step)
}

/// A number with as many digits as tell it from its neighbours.
struct MarkNumber(f64);

impl core::fmt::Display for MarkNumber {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self(value) = *self;
        if value != 0.0 && (value.abs() < 1e-3 || value.abs() >= 1e6) {
            return write!(f, "{}", Trimmed(format!("{value:.2e}")));
        }
        let text = format!("{value:.4}");
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// `2.50e-5` as `2.5e-5`.
struct Trimmed(String);

impl core::fmt::Display for Trimmed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (number, power) = self.0.split_once('e').unwrap_or((&self.0, "0"));
        let number = number.trim_end_matches('0').trim_end_matches('.');
        write!(f, "{number}e{power}")
    }
}

/// Draws the curves over their steps, all in one picture. Draws nothing where no curve has a finite value.
pub(super) fn curves(markup: &mut Markup, curves: &[Curve]) {
    let finite = |(step, value): &&(f64, f64)| step.is_finite() && value.is_finite();
    let points = || {
        curves
            .iter()
            .flat_map(|curve| curve.points.iter().filter(finite))
    };
    let ends = |of: fn(&(f64, f64)) -> f64| {
        let start = [f64::INFINITY, f64::NEG_INFINITY];
        let found = points()
            .map(of)
            .fold(start, |[low, high], next| [low.min(next), high.max(next)]);
        // A single value is in the middle.
        let [low, high] = found;
        let around = if low == high {
            0.5 * low.abs().max(1e-9)
        } else {
            0.0
        };
        [low - around, high + around]
    };
    if points().next().is_none() {
        return;
    }
    let drawn = || {
        let curves = curves.iter().zip(CLASSES.iter().cycle());
        curves.filter(|(curve, _)| !curve.points.is_empty())
    };
    let [low, high] = ends(|point| point.1);
    let air = 0.05 * (high - low);
    let frame = Frame {
        left: 80.0,
        right: WIDTH - 16.0,
        top: 24.0,
        bottom: 236.0,
        x: ends(|point| point.0),
        y: [low - air, high + air],
    };
    markup.picture(264.0, |markup| {
        frame.marks(markup);
        for (curve, class) in drawn() {
            line(markup, curve, class, &frame);
        }
    });
    if drawn().count() > 1 {
        markup.within("p", &[("class", &"legend note")], |markup| {
            for (curve, class) in drawn() {
                markup.within("span", &[], |markup| {
                    let class = format!("key {class}");
                    markup.element("span", &[("class", &class)], "");
                    markup.text(curve.name);
                });
            }
        });
    }
}

fn line(markup: &mut Markup, curve: &Curve, class: &str, frame: &Frame) {
    let mut path = String::new();
    let mut begins = true;
    for (step, value) in thin(&curve.points) {
        if !value.is_finite() {
            begins = true;
            continue;
        }
        let (x, y) = (Px(frame.x(step)), Px(frame.y(value)));
        let _ = write!(path, "{}{x} {y}", if begins { 'M' } else { 'L' });
        begins = false;
    }
    let class = format!("{class} line");
    markup.empty("path", &[("class", &class), ("d", &path)]);
}

/// Neighbours joined until there are few enough.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let together = points.len().div_ceil(POINTS_MAX).max(1);
    let mean = |some: &[(f64, f64)]| {
        let count = some.len() as f64;
        let sum = some
            .iter()
            .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / count, sum.1 / count)
    };
    points.chunks(together).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::*;

    /// Would catch a picture upside down, values that are drawn beside their marks, and a gap that is drawn over.
    #[test]
    fn values_are_drawn_at_their_marks() {
        let mut markup = Markup::default();
        let curve = Curve {
            name: "loss",
            points: vec![(0.0, 4.0), (1.0, f64::NAN), (2.0, 2.0), (4.0, 2.0)],
        };
        markup.within("p", &[], |markup| curves(markup, &[curve]));
        let markup = markup.into_string();
        let document = Document::parse(&markup).expect("sound");
        let path = document
            .descendants()
            .find(|node| node.has_tag_name("path"));
        let path = path.and_then(|node| node.attribute("d")).expect("a path");
        let numbers = |text: &str| -> Vec<f64> {
            let numbers = text.split(['M', 'L', ' ']).filter(|text| !text.is_empty());
            numbers
                .map(|text| text.parse().expect("a number"))
                .collect()
        };
        assert_eq!(path.matches('M').count(), 2, "{path}");
        let points = numbers(path);
        let mark = |said: &str| -> f64 {
            let label = document.descendants().find(|node| {
                node.attribute("text-anchor") == Some("end") && node.text() == Some(said)
            });
            let y = label.and_then(|label| label.attribute("y"));
            y.expect(said).parse().expect("a number")
        };
        assert!((points[1] + 4.0 - mark("4")).abs() < 0.2, "{points:?}");
        assert!((points[3] + 4.0 - mark("2")).abs() < 0.2, "{points:?}");
        assert!(points[1] < points[3]);
        assert_eq!([points[0], points[4]], [80.0, WIDTH - 16.0]);
    }

    #[test]
    fn numbers_are_short() {
        let said =
            [0.0, 2.5, 100.0, 2e-4, 0.00025, 0.25].map(|value| MarkNumber(value).to_string());
        assert_eq!(said, ["0", "2.5", "100", "2e-4", "2.5e-4", "0.25"]);
    }
}
