//! How far weights are from their source, layer by layer: a dot for each weight.

use super::{
    axis::decimal,
    markup::{Attributes, Markup, Px, WIDTH},
    stages::{self, ROW, RowGroup},
};

const RIGHT: f64 = WIDTH - 70.0;
const TOP: f64 = 22.0;

/// Dots at most, with the least and the most of each row instead of all.
const DOTS_MAX: usize = 2000;

/// Draws the signal to noise of every weight of `groups` that was verified.
pub(super) fn errors(markup: &mut Markup, groups: &[RowGroup<'_>]) {
    let rows: Vec<(&RowGroup<'_>, Vec<Ratio<'_>>)> = groups
        .iter()
        .map(|group| (group, ratios(group)))
        .filter(|(_, ratios)| !ratios.is_empty())
        .collect();
    let all = || rows.iter().flat_map(|(_, ratios)| ratios);
    let finite = || {
        all()
            .map(|(_, ratio)| *ratio)
            .filter(|ratio| ratio.is_finite())
    };
    let most = finite().fold(10.0, f64::max);
    let least = finite().fold(most, f64::min);
    let step = decimal((most - least) / 8.0).max(10.0);
    let [low, high] = [(least / step).floor() * step, (most / step).ceil() * step];
    let left = stages::beside_names(rows.iter().map(|(group, _)| *group));
    let x = |ratio: f64| left + (RIGHT - left) * (ratio - low) / (high - low).max(step);

    let bottom = TOP + ROW * rows.len() as f64;
    markup.picture(bottom + 8.0, |markup| {
        for k in 0..=((high - low) / step) as usize {
            let decibels = low + step * k as f64;
            let x = x(decibels);
            markup.stroke("grid", [x, TOP - 4.0], [x, bottom]);
            markup.label("mark", "middle", [x, 12.0], format_args!("{decibels} dB"));
        }
        let many = all().count() > DOTS_MAX;
        for (k, (group, ratios)) in rows.iter().enumerate() {
            let y = TOP + ROW * (k as f64 + 0.5);
            stages::name(markup, &group.name, left, y + 4.0);
            let order = |a: &&Ratio<'_>, b: &&Ratio<'_>| a.1.total_cmp(&b.1);
            let ends = [ratios.iter().min_by(order), ratios.iter().max_by(order)];
            let ends = ends.into_iter().flatten().filter(|_| many);
            for (tensor, ratio) in ratios.iter().filter(|_| !many).chain(ends) {
                // What is lossless is at the right end, beyond the last number.
                let lossless = *ratio > high;
                let at = if lossless {
                    RIGHT + 20.0
                } else {
                    x(ratio.max(low))
                };
                let (cx, cy) = (Px(at), Px(y));
                let dot: Attributes<'_> =
                    &[("class", &"error"), ("cx", &cx), ("cy", &cy), ("r", &3.5)];
                markup.within("circle", dot, |markup| {
                    markup.element("title", &[], format_args!("{tensor}: {ratio:.2} dB"));
                });
            }
        }
    });
}

/// Name and signal to noise of a weight.
type Ratio<'a> = (&'a str, f64);

/// Of the weights that were verified.
fn ratios<'a>(group: &RowGroup<'a>) -> Vec<Ratio<'a>> {
    let tensors = group.tensors.iter();
    tensors
        .filter_map(|tensor| Some((&*tensor.name, tensor.error.as_ref()?.sqnr)))
        .collect()
}
