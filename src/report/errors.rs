//! How far weights are from their source, layer by layer: a dot for each weight.

use super::{
    axis::WIDTH,
    markup::{Markup, Px},
    stages::{self, Group},
};

const ROW: f64 = 17.0;
const LEFT: f64 = 300.0;
const RIGHT: f64 = WIDTH - 70.0;
const TOP: f64 = 22.0;

/// Draws the signal to noise of every weight of `groups` that was verified.
pub(super) fn errors(markup: &mut Markup, groups: &[Group<'_>]) {
    let verified = |group: &&Group<'_>| ratios(group).next().is_some();
    let groups: Vec<&Group<'_>> = groups.iter().filter(verified).collect();
    let all = groups.iter().flat_map(|group| ratios(group));
    let finite: Vec<f64> = all
        .map(|(_, ratio)| ratio)
        .filter(|ratio| ratio.is_finite())
        .collect();
    let most = finite.iter().copied().fold(10.0, f64::max);
    let least = finite.iter().copied().fold(most, f64::min);
    // Whole tens of decibels around them.
    let [low, high] = [(least / 10.0).floor() * 10.0, (most / 10.0).ceil() * 10.0];
    let x = |ratio: f64| LEFT + (RIGHT - LEFT) * (ratio - low) / (high - low).max(10.0);

    let bottom = TOP + ROW * groups.len() as f64;
    let view = format!("0 0 {WIDTH} {}", bottom + 8.0);
    markup.within("svg", &[("viewBox", &view), ("role", &"img")], |markup| {
        for k in 0..=((high - low) / 10.0) as usize {
            let decibels = low + 10.0 * k as f64;
            let (x, top, bottom) = (Px(x(decibels)), Px(TOP - 4.0), Px(bottom));
            markup.empty(
                "line",
                &[
                    ("class", &"grid"),
                    ("x1", &x),
                    ("x2", &x),
                    ("y1", &top),
                    ("y2", &bottom),
                ],
            );
            markup.element(
                "text",
                &[("x", &x), ("y", &"12"), ("text-anchor", &"middle")],
                format_args!("{decibels} dB"),
            );
        }
        for (k, group) in groups.iter().enumerate() {
            let y = TOP + ROW * (k as f64 + 0.5);
            stages::name(markup, &group.name, LEFT - 8.0, y + 4.0);
            for (tensor, ratio) in ratios(group) {
                // What is lossless is at the right end, beyond the last number.
                let at = if ratio > high {
                    RIGHT + 20.0
                } else {
                    x(ratio.max(low))
                };
                let (cx, cy) = (Px(at), Px(y));
                markup.within(
                    "circle",
                    &[("class", &"error"), ("cx", &cx), ("cy", &cy), ("r", &3.5)],
                    |markup| {
                        markup.element("title", &[], format_args!("{tensor}: {ratio:.2} dB"));
                    },
                );
            }
        }
    });
    markup.line();
}

/// Name and signal to noise of each weight that was verified.
fn ratios<'a>(group: &'a Group<'_>) -> impl Iterator<Item = (&'a str, f64)> {
    let tensors = group.tensors.iter();
    tensors.filter_map(|tensor| Some((&*tensor.name, tensor.error.as_ref()?.sqnr)))
}
