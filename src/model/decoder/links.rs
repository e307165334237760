//! Which matrices of a decoder share an input, and what makes it.
//!
//! A link is there only where a factor of a feature can be moved exactly: a norm that stores its scale minus one, a
//! matrix whose output is split, and a function that bends what goes into it have none.

use super::{
    check::Unsupported,
    spec::Spec,
    visit::Visit,
    walk::{self, LayerTree, MlpTree},
    walk_mixer::{MixerTree, QkvTree},
};
use crate::model::{layers::NormSpec, link::Link, slot::Role};

/// What makes the input of the matrices inside each layer: a norm, the values that attention mixes, and the half of the
/// MLP that its gate lets through.
pub(super) fn links(spec: &Spec) -> Result<Vec<Link>, Unsupported> {
    let tree = walk::walk(spec, &mut NameWalk)?;
    Ok(tree.layers.iter().flat_map(of_layer).collect())
}

fn of_layer(layer: &LayerTree<'_, NameWalk>) -> Vec<Link> {
    let attention = layer.checked.attention;
    let MixerTree::Attention(mixer) = &layer.mixer;
    let (qkv, values) = match &mixer.qkv {
        QkvTree::Apart { q, k, v } => (vec![q, k, v], Some(v)),
        QkvTree::Blocks(qkv) | QkvTree::ByHead(qkv) => (vec![qkv], None),
    };
    let (into_mlp, let_through, down) = match &layer.mlp {
        MlpTree::Gated { gate, up, down } => (vec![gate, up], Some(up), down),
        MlpTree::Fused { gate_up, down } => (vec![gate_up], None, down),
        MlpTree::Plain { up, down } => (vec![up], None, down),
    };
    // In parallel, one norm makes the input of both halves.
    let parallel = layer.checked.layer.norms == super::spec::NormPlaces::Parallel;
    let (first, second) = match parallel {
        true => ([qkv, into_mlp].concat(), Vec::new()),
        false => (qkv, into_mlp),
    };
    let weights = |matrices: Vec<&LinkedMatrix>| -> Vec<String> {
        matrices
            .into_iter()
            .map(|matrix| matrix.weight.clone())
            .collect()
    };
    let norm = |norm: &Option<LinkedNorm>, to: Vec<&LinkedMatrix>| {
        let from = norm.clone().flatten()?;
        Some(Link::new(from, weights(to)))
    };
    let shared = attention.heads / attention.key_value_heads;
    [
        norm(&layer.attention_norm, first),
        values.map(|v| {
            Link::new(v.rows(), [mixer.o.weight.clone()]).repeated(attention.head_features, shared)
        }),
        norm(&layer.mlp_norm, second),
        let_through.map(|up| Link::new(up.rows(), [down.weight.clone()])),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Remembers names.
struct NameWalk;

struct LinkedMatrix {
    weight: String,
    bias: Option<String>,
}

/// The tensors that features are proportional to, if they are.
type LinkedNorm = Option<Vec<String>>;

impl LinkedMatrix {
    /// The tensors that have a row for each feature that comes out.
    fn rows(&self) -> impl Iterator<Item = String> {
        [self.weight.clone()].into_iter().chain(self.bias.clone())
    }
}

impl Visit for NameWalk {
    type Table = ();
    type Matrix = LinkedMatrix;
    type Norm = LinkedNorm;
    type Error = Unsupported;

    fn table(&mut self, _: String, _: [usize; 2]) -> Result<(), Unsupported> {
        Ok(())
    }

    fn matrix(
        &mut self,
        path: String,
        _: Role,
        _: [usize; 2],
        bias: bool,
    ) -> Result<LinkedMatrix, Unsupported> {
        Ok(LinkedMatrix {
            weight: format!("{path}.weight"),
            bias: bias.then(|| format!("{path}.bias")),
        })
    }

    fn norm(
        &mut self,
        path: String,
        _: &[usize],
        spec: NormSpec,
    ) -> Result<LinkedNorm, Unsupported> {
        let bias = spec.bias.then(|| format!("{path}.bias"));
        let names = [format!("{path}.weight")].into_iter().chain(bias);
        Ok((!spec.plus_one).then(|| names.collect()))
    }
}
