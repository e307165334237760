//! Memory over time, with what it should stay below.

use core::fmt::Write;

use super::{
    Series,
    axis::Area,
    markup::{Attributes, Markup, Px, WIDTH},
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
    markup.picture(264.0, |markup| {
        area.sizes(markup);
        area.times(markup);
        curve(markup, class, series, &area);
        for limit in &near {
            let y = area.y(limit.bytes as f64);
            markup.stroke("limit", [area.left, y], [area.right, y]);
            let said = format_args!("{}: {}", limit.name, Bytes(limit.bytes));
            markup.label("limit", "end", [area.right, y - 6.0], said);
        }
        let (x, y) = (area.x(peak_at), area.y(highest));
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
        // On the side where there is room.
        let (anchor, beside) = if x > WIDTH / 2.0 {
            ("end", -10.0)
        } else {
            ("start", 10.0)
        };
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
