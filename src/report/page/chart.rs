//! Memory over time, with what it should stay below.

use core::fmt::Write;

use super::{
    axis::Area,
    markup::{Attributes, Markup, Px, WIDTH},
};
use crate::{config::Bytes, report::Series};

/// A line across the picture.
pub(super) struct LimitLine {
    pub(super) name: &'static str,
    pub(super) bytes: u64,
}

/// Limits above this multiple of the peak are written, not drawn: the curve would be flat.
const BEYOND: f64 = 4.0;

/// Draws `series`, which has a point at least, over `seconds`.
pub(super) fn memory(
    markup: &mut Markup,
    class: &str,
    series: &Series,
    limits: &[LimitLine],
    seconds: f64,
) {
    let Some((peak_at, peak)) = series.peak() else {
        return;
    };
    let highest = peak as f64;
    let (near, far): (Vec<&LimitLine>, Vec<&LimitLine>) = limits
        .iter()
        .partition(|limit| limit.bytes as f64 <= BEYOND * highest);
    let top = near
        .iter()
        .map(|limit| limit.bytes as f64)
        .fold(highest, f64::max);
    let area = Area {
        left: 80.0,
        right: WIDTH - 16.0,
        top: 24.0,
        bottom: 236.0,
        seconds,
        bytes: 1.1 * top,
    };
    markup.picture(264.0, |markup| {
        area.sizes(markup);
        area.times(markup);
        curve(markup, class, series, &area);
        let (x, y) = (area.x(peak_at), area.y(highest));
        // The peak's words go where there is room, those of limits to the other side.
        let right = x > WIDTH / 2.0;
        let (anchor, beside) = if right {
            ("end", -10.0)
        } else {
            ("start", 10.0)
        };
        let (other, at) = if right {
            ("start", area.left + 8.0)
        } else {
            ("end", area.right)
        };
        for limit in &near {
            let y = area.y(limit.bytes as f64);
            markup.stroke("limit", [area.left, y], [area.right, y]);
            let said = format_args!("{}: {}", limit.name, Bytes(limit.bytes));
            markup.label("limit", other, [at, y - 6.0], said);
        }
        let (cx, cy) = (Px(x), Px(y));
        let dot: Attributes<'_> = &[
            ("class", &"peak"),
            ("cx", &cx),
            ("cy", &cy),
            ("r", &4),
            ("data-bytes", &peak),
        ];
        markup.within("circle", dot, |markup| {
            markup.element("title", &[], format_args!("{peak} bytes at {peak_at:.3} s"));
        });
        let said = format_args!("peak {}", Bytes(peak));
        markup.label("peak", anchor, [x + beside, y - 6.0], said);
    });
    for limit in far {
        let (name, bytes) = (limit.name, Bytes(limit.bytes));
        markup.element(
            "p",
            &[("class", &"note")],
            format_args!("Above the picture: {name}, {bytes}."),
        );
    }
}

/// The line and the area below it.
fn curve(markup: &mut Markup, class: &str, series: &Series, area: &Area) {
    let mut line = String::new();
    for (k, &(seconds, bytes)) in series.points().iter().enumerate() {
        let (x, y) = (Px(area.x(seconds)), Px(area.y(bytes as f64)));
        let _ = write!(line, "{}{x} {y}", if k == 0 { 'M' } else { 'L' });
    }
    let ends = [series.points().first(), series.points().last()];
    let [first, last] = ends.map(|end| Px(end.map_or(area.left, |(seconds, _)| area.x(*seconds))));
    let bottom = Px(area.bottom);
    let below = format!("{line}L{last} {bottom}L{first} {bottom}Z");
    let of = |kind: &str| format!("{class} {kind}");
    markup.empty("path", &[("class", &of("area")), ("d", &below)]);
    markup.empty("path", &[("class", &of("line")), ("d", &line)]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use roxmltree::{Document, Node};

    use super::*;

    /// Would catch a limit at another height than its bytes, one far away that flattens the curve, and a peak that is
    /// not the highest.
    #[test]
    fn limits_are_as_high_as_they_say_or_only_said() {
        let mut series = Series::default();
        for (k, bytes) in [100, 300, 700, 200].into_iter().enumerate() {
            series.push(Duration::from_secs(k as u64), bytes << 20);
        }
        let mib = |name, bytes: u64| LimitLine {
            name,
            bytes: bytes << 20,
        };
        let mut markup = Markup::default();
        let limits = [mib("near", 1400), mib("far", 2801)];
        markup.within("p", &[], |markup| {
            memory(markup, "device", &series, &limits, 3.0);
        });
        let markup = markup.into_string();
        let document = Document::parse(&markup).expect("sound");
        let of = |name: &str, class: &str| -> Vec<Node<'_, '_>> {
            let all = document.descendants();
            all.filter(|node| node.has_tag_name(name) && node.attribute("class") == Some(class))
                .collect()
        };
        let number = |node: &Node<'_, '_>, name| -> f64 {
            let value = node.attribute(name).expect("there");
            value.parse().expect("a number")
        };
        let limits = of("line", "limit");
        assert_eq!(limits.len(), 1);
        let peak = number(&of("circle", "peak")[0], "cy");
        let limit = number(&limits[0], "y1");
        assert!(
            (236.0 - limit - 2.0 * (236.0 - peak)).abs() < 0.3,
            "{limit} {peak}"
        );
        assert!(markup.contains("near: 1.37 GiB") && markup.contains("peak 700.00 MiB"));
        assert!(markup.contains("Above the picture: far, 2.74 GiB."));
        assert_eq!(of("path", "device line").len(), 1);
    }
}
