//! Memory over time, with what it should stay below.

use core::fmt::Write;

use super::{
    Series,
    axis::{Area, WIDTH},
    markup::{Markup, Px},
};
use crate::config::Bytes;

/// A line across the picture.
pub(super) struct Limit {
    pub(super) name: &'static str,
    pub(super) bytes: u64,
}

/// Limits further above than so many times the peak are said and not drawn: the curve would be flat.
const BEYOND: f64 = 4.0;

/// Draws `series`, which has a point at least, over `seconds`.
pub(super) fn memory(
    markup: &mut Markup,
    class: &str,
    series: &Series,
    limits: &[Limit],
    seconds: f64,
) {
    let Some((peak_at, peak)) = series.peak() else {
        return;
    };
    let highest = peak as f64;
    let (near, far): (Vec<&Limit>, Vec<&Limit>) = limits
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
    let view = format!("0 0 {WIDTH} 264");
    markup.within("svg", &[("viewBox", &view), ("role", &"img")], |markup| {
        area.sizes(markup);
        area.times(markup);
        curve(markup, class, series, &area);
        for limit in &near {
            let y = area.y(limit.bytes as f64);
            let (left, right, at) = (Px(area.left), Px(area.right), Px(y));
            markup.empty(
                "line",
                &[
                    ("class", &"limit"),
                    ("x1", &left),
                    ("x2", &right),
                    ("y1", &at),
                    ("y2", &at),
                ],
            );
            let above = Px(y - 6.0);
            markup.element(
                "text",
                &[
                    ("class", &"limit"),
                    ("x", &right),
                    ("y", &above),
                    ("text-anchor", &"end"),
                ],
                format_args!("{}: {}", limit.name, Bytes(limit.bytes)),
            );
        }
        let (x, y) = (area.x(peak_at), area.y(highest));
        let (cx, cy) = (Px(x), Px(y));
        markup.within(
            "circle",
            &[
                ("class", &"peak"),
                ("cx", &cx),
                ("cy", &cy),
                ("r", &4),
                ("data-bytes", &peak),
            ],
            |markup| {
                markup.element("title", &[], format_args!("{peak} bytes at {peak_at:.3} s"));
            },
        );
        // Beside it, on the side where there is room, and not on a limit's line.
        let (anchor, beside) = if x > WIDTH / 2.0 {
            ("end", -10.0)
        } else {
            ("start", 10.0)
        };
        let (x, y) = (Px(x + beside), Px(y - 6.0));
        markup.element(
            "text",
            &[
                ("class", &"peak"),
                ("x", &x),
                ("y", &y),
                ("text-anchor", &anchor),
            ],
            format_args!("peak {}", Bytes(peak)),
        );
    });
    markup.line();
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
