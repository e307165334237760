//! The matrices that end the halves of a layer: what they are zero in adds nothing to the features.

use crate::model::decoder::{Part, Spec};

/// Parts whose matrix adds to the features of the model.
const ENDS: [Part; 5] = [
    Part::O,
    Part::DeltaOut,
    Part::Down,
    Part::SharedDown,
    Part::ExpertDown,
];

/// What comes after the path of a module that has its tensors without a dot: `experts.down_proj_bias`.
const WITHOUT_DOT: [&str; 3] = ["_bias", "_blocks", "_scales"];

/// The matrices that end the halves of a layer, as a family names them.
#[derive(Debug)]
pub(super) struct Ends {
    /// Paths in a layer; `{}` stands for the number of an expert.
    paths: Vec<String>,
    /// The path of the number that what comes out of a layer is multiplied by.
    pub(super) scalar: String,
}

impl Ends {
    pub(super) fn of(spec: &Spec) -> Self {
        let path = |part| in_layer(spec, part);
        let mut paths: Vec<String> = ENDS.into_iter().map(path).collect();
        let experts = path(Part::ExpertDown);
        // All experts in one tensor.
        paths.push(experts.replace(".{}", ""));
        paths.push(experts.replace("experts.{}", spec.names.switch));
        Self {
            paths,
            scalar: path(Part::LayerScalar),
        }
    }

    /// The module that a tensor belongs to, where that ends a half; `rest` is the name of the tensor in its layer.
    pub(super) fn module<'n>(&self, rest: &'n str) -> Option<&'n str> {
        let mut ends = self.paths.iter().filter_map(|path| end_of(path, rest));
        let end = ends.find(|end| {
            let after = &rest[*end..];
            after.is_empty() || after.starts_with('.') || WITHOUT_DOT.contains(&after)
        })?;
        Some(&rest[..end])
    }
}

/// The path of a part below its layer: `mlp.down_proj`.
pub(super) fn in_layer(spec: &Spec, part: Part) -> String {
    let path = spec.path(Some(0), part);
    let layer = format!("{}{}.0.", spec.prefixes.body, spec.names.layers);
    path.strip_prefix(&layer).unwrap_or(&path).to_owned()
}

/// The length of the beginning of `rest` that `path` stands for.
fn end_of(path: &str, rest: &str) -> Option<usize> {
    let Some((before, after)) = path.split_once("{}") else {
        return rest.starts_with(path).then_some(path.len());
    };
    let digits = rest.strip_prefix(before)?;
    let count = digits.bytes().take_while(u8::is_ascii_digit).count();
    let is_there = count > 0 && digits[count..].starts_with(after);
    is_there.then_some(before.len() + count + after.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(paths: &[&str]) -> Ends {
        Ends {
            paths: paths.iter().map(ToString::to_string).collect(),
            scalar: "layer_scalar".to_owned(),
        }
    }

    /// A name that only begins like the module is another's: GPT-NeoX has `dense` and `dense_h_to_4h`.
    #[test]
    fn modules_are_told_by_their_whole_path() {
        let neox = ends(&["attention.dense", "mlp.dense_4h_to_h"]);
        assert_eq!(neox.module("attention.dense.bias"), Some("attention.dense"));
        assert_eq!(
            neox.module("mlp.dense_4h_to_h.weight"),
            Some("mlp.dense_4h_to_h")
        );
        assert_eq!(neox.module("mlp.dense_h_to_4h.weight"), None);

        let oss = ends(&["mlp.experts.{}.down_proj", "mlp.experts.down_proj"]);
        assert_eq!(
            oss.module("mlp.experts.12.down_proj.weight"),
            Some("mlp.experts.12.down_proj")
        );
        for end in ["", "_bias", "_blocks", "_scales"] {
            let name = format!("mlp.experts.down_proj{end}");
            assert_eq!(oss.module(&name), Some("mlp.experts.down_proj"));
        }
        assert_eq!(oss.module("mlp.experts.down_proj_other"), None);
        assert_eq!(oss.module("mlp.experts.12.up_proj.weight"), None);
    }
}
