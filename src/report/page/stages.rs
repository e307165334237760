//! When each tensor was read, converted and placed: a row each, or for many tensors a row for several.

use super::{
    axis::Area,
    markup::{Attributes, Markup, Px, WIDTH},
};
use crate::report::TensorReport;

/// Rows at most. More tensors are grouped by layer, and more layers several together.
pub(super) const ROWS_MAX: usize = 128;

/// Consecutive tensors that share a row.
#[derive(Debug)]
pub(super) struct RowGroup<'a> {
    pub(super) name: String,
    pub(super) tensors: &'a [TensorReport],
}

/// At most `most` groups of consecutive tensors: single ones, else layers, else as many layers together as it takes.
pub(super) fn groups(tensors: &[TensorReport], most: usize) -> Vec<RowGroup<'_>> {
    if tensors.len() > most {
        return layers(tensors, most);
    }
    let alone = tensors.iter().map(|tensor| RowGroup {
        name: tensor.name.clone(),
        tensors: std::slice::from_ref(tensor),
    });
    alone.collect()
}

/// At most `most` groups of whole layers.
pub(super) fn layers(tensors: &[TensorReport], most: usize) -> Vec<RowGroup<'_>> {
    let layers: Vec<&[TensorReport]> = tensors
        .chunk_by(|a, b| layer(&a.name) == layer(&b.name))
        .collect();
    let together = layers.len().div_ceil(most).max(1);
    let mut groups = Vec::new();
    let mut rest = tensors;
    for layers in layers.chunks(together) {
        let count = layers.iter().map(|layer| layer.len()).sum();
        let (tensors, after) = rest.split_at(count);
        rest = after;
        let name = match (tensors.first(), tensors.last()) {
            (Some(first), Some(last)) if layer(&first.name) != layer(&last.name) => {
                format!("{} … {}", layer(&first.name), layer(&last.name))
            }
            (Some(first), _) => layer(&first.name).to_owned(),
            (None, _) => continue,
        };
        groups.push(RowGroup { name, tensors });
    }
    groups
}

/// `model.layers.7` of `model.layers.7.mlp.up_proj.weight`: up to the first number, or all of it.
fn layer(name: &str) -> &str {
    let mut end = 0;
    for part in name.split_inclusive('.') {
        end += part.len();
        let part = part.trim_end_matches('.');
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            return name[..end].trim_end_matches('.');
        }
    }
    name
}

/// The stages, and the spans of a tensor's report that belong to them.
type Stage = (&'static str, fn(&TensorReport) -> Option<[f64; 2]>);
pub(super) const STAGES: [Stage; 3] = [
    ("read", |tensor| tensor.span_read),
    ("convert", |tensor| tensor.span_convert),
    ("place", |tensor| tensor.span_place),
];

/// Height of a row.
pub(super) const ROW: f64 = 17.0;
const BAR: f64 = 4.0;
/// Width of a letter of a name.
const LETTER: f64 = 6.1;
/// Letters of a name that are shown; the middle of longer ones is left out.
const LETTERS: usize = 46;

/// Draws a row for each group, over `seconds`.
pub(super) fn timeline(markup: &mut Markup, groups: &[RowGroup<'_>], seconds: f64) {
    let area = Area {
        left: beside_names(groups),
        right: WIDTH - 16.0,
        top: 8.0,
        bottom: 12.0 + ROW * groups.len() as f64,
        seconds,
        bytes: 0.0,
    };
    markup.picture(area.bottom + 28.0, |markup| {
        area.times(markup);
        for (k, group) in groups.iter().enumerate() {
            row(markup, group, &area, area.top + 4.0 + ROW * k as f64);
        }
    });
}

/// Where the names of `groups` leave room.
pub(super) fn beside_names<'a>(groups: impl IntoIterator<Item = &'a RowGroup<'a>>) -> f64 {
    let letters = groups.into_iter().map(|group| group.name.chars().count());
    16.0 + LETTER * letters.max().unwrap_or(0).min(LETTERS) as f64
}

fn row(markup: &mut Markup, group: &RowGroup<'_>, area: &Area, top: f64) {
    name(markup, &group.name, area.left, top + 10.0);
    for (k, (stage, span)) in STAGES.iter().enumerate() {
        let Some([from, to]) = hull(group.tensors.iter().filter_map(span)) else {
            continue;
        };
        let (x, y) = (Px(area.x(from)), Px(top + (BAR + 0.5) * k as f64));
        // What took no time to speak of is seen, too.
        let width = Px((area.x(to) - area.x(from)).max(1.2));
        markup.within(
            "rect",
            &[
                ("class", stage),
                ("x", &x),
                ("y", &y),
                ("width", &width),
                ("height", &BAR),
            ],
            |markup| {
                let name = &group.name;
                let said = format_args!("{name}: {stage} {from:.4} s to {to:.4} s");
                markup.element("title", &[], said);
            },
        );
    }
}

/// A name to the left of `x`, the whole of it as its title.
pub(super) fn name(markup: &mut Markup, name: &str, x: f64, y: f64) {
    let (x, y) = (Px(x - 8.0), Px(y));
    let at: Attributes<'_> = &[
        ("class", &"name"),
        ("x", &x),
        ("y", &y),
        ("text-anchor", &"end"),
    ];
    markup.within("text", at, |markup| {
        let letters: Vec<char> = name.chars().collect();
        if letters.len() <= LETTERS {
            markup.text(name);
            return;
        }
        let half = LETTERS / 2;
        let ends = [&letters[..half], &letters[letters.len() - half + 1..]];
        let [first, last] = ends.map(|end| end.iter().collect::<String>());
        markup.text(format_args!("{first}…{last}"));
        markup.element("title", &[], name);
    });
}

/// From the first beginning to the last end.
fn hull(spans: impl Iterator<Item = [f64; 2]>) -> Option<[f64; 2]> {
    spans.reduce(|[from, to], next| [from.min(next[0]), to.max(next[1])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_ends_with_its_number() {
        for (name, expected) in [
            ("model.layers.7.mlp.up_proj.weight", "model.layers.7"),
            ("h.10.attn", "h.10"),
            ("lm_head.weight", "lm_head.weight"),
            ("x2.weight", "x2.weight"),
            ("a.1", "a.1"),
            ("..", ".."),
            ("", ""),
        ] {
            assert_eq!(layer(name), expected, "{name}");
        }
    }
}
