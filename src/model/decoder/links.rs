//! Which matrices of a decoder share an input, and what makes it.
//!
//! A link is there only where a factor of a feature can be moved exactly: a norm that stores its scale minus one, a
//! matrix whose output is split, and a function that bends what goes into it have none.

use super::{
    check::Unsupported,
    spec::Spec,
    visit::Visit,
    walk::{self, LayerTree},
    walk_feed::{FeedForwardTree, MlpMatrices, MlpTree},
    walk_mixer::{MixerTree, ProjectionsTree, QkvTree, QueryTree},
};
use crate::model::{layers::NormSpec, link::Link, slot::Role};

/// What makes the input of the matrices inside each layer: a norm, the values that attention mixes, and the half of the
/// MLP that its gate lets through.
pub(super) fn links(spec: &Spec) -> Result<Vec<Link>, Unsupported> {
    let tree = walk::walk(spec, &mut NameWalk)?;
    let layers = tree.layers.iter().enumerate();
    let links = layers.flat_map(|(nth, layer)| of_layer(layer, spec.lends(nth)));
    Ok(links.collect())
}

/// `lends`: later layers use its keys and values.
fn of_layer(layer: &LayerTree<'_, NameWalk>, lends: bool) -> Vec<Link> {
    let (into_mixer, in_mixer) = of_mixer(&layer.mixer, lends);
    let into_mlp = inputs(&layer.feed_forward);
    // In parallel, one norm makes the input of both halves.
    let parallel = layer.spec.norms == super::spec::NormPlaces::Parallel;
    let (first, second) = match parallel {
        true => ([into_mixer, into_mlp].concat(), Vec::new()),
        false => (into_mixer, into_mlp),
    };
    let before = |norm: &Option<LinkedNorm>, to: Vec<&LinkedMatrix>| {
        norm.as_ref().and_then(|norm| from_norm(norm, to))
    };
    let mlps = mlps(&layer.feed_forward).into_iter();
    let in_mlps = mlps.filter_map(|mlp| match &mlp.matrices {
        // A clamp bends.
        MlpMatrices::Gated { up, down, .. } if mlp.spec.clamp.is_none() => {
            Some(Link::new(up.rows(), [down.weight.clone()]))
        }
        _ => None,
    });
    before(&layer.attention_norm, first)
        .into_iter()
        .chain(in_mixer)
        .chain(before(&layer.mlp_norm, second))
        .chain(in_both(&layer.feed_forward))
        .chain(in_mlps)
        .collect()
}

/// The matrices that multiply the input of a mixer, and the links inside.
fn of_mixer<'t>(
    tree: &'t MixerTree<'_, NameWalk>,
    lends: bool,
) -> (Vec<&'t LinkedMatrix>, Vec<Link>) {
    match tree {
        MixerTree::Attention(spec, tree) => {
            let (inputs, values) = match &tree.qkv {
                // The root of a norm of values mixes their features.
                QkvTree::Apart { q, k, v } => {
                    let plain = (spec.value_norm.is_none() && !lends).then_some(v);
                    (vec![q, k, v], plain)
                }
                QkvTree::SharedRows { q, kv } => (vec![q, kv], None),
                QkvTree::Queries(qkv) | QkvTree::Blocks(qkv) | QkvTree::ByHead(qkv) => {
                    (vec![qkv], None)
                }
            };
            let shared = spec.heads / spec.key_value_heads;
            let values = values.map(|v| {
                Link::new(v.rows(), [tree.o.weight.clone()]).repeated(spec.head_features, shared)
            });
            (inputs, values.into_iter().collect())
        }
        // Values are rows of a matrix that has keys too.
        MixerTree::Latent(_, tree) => {
            let (q, in_query) = match &tree.query {
                QueryTree::Whole(q) => (q, None),
                QueryTree::Small { a, norm, b } => (a, from_norm(norm, vec![b])),
            };
            let in_kv = from_norm(&tree.kv_a_norm, vec![&tree.kv_b]);
            let links = in_query.into_iter().chain(in_kv);
            (vec![q, &tree.kv_a], links.collect())
        }
        MixerTree::Delta(spec, tree) => {
            let inputs = match &tree.projections {
                ProjectionsTree::Apart { qkv, z, b, a } => vec![qkv, z, b, a],
                ProjectionsTree::ByHead { qkvz, ba } => vec![qkvz, ba],
            };
            let out = from_norm(&tree.norm, vec![&tree.out]);
            let out = out.map(|link| link.repeated(spec.value_features, spec.value_heads));
            (inputs, out.into_iter().collect())
        }
    }
}

/// The features that a norm makes for `to`.
fn from_norm(norm: &LinkedNorm, to: Vec<&LinkedMatrix>) -> Option<Link> {
    let to = to.into_iter().map(|matrix| matrix.weight.clone());
    Some(Link::new(norm.clone()?, to))
}

/// Every MLP of a feed-forward half.
fn mlps<'t, 's>(half: &'t FeedForwardTree<'s, NameWalk>) -> Vec<&'t MlpTree<'s, NameWalk>> {
    match half {
        FeedForwardTree::Mlp(mlp) => vec![mlp],
        FeedForwardTree::Experts(experts) => {
            let shared = experts.shared.iter().map(|shared| &shared.mlp);
            experts.experts.iter().chain(shared).collect()
        }
        FeedForwardTree::Both(both) => [&both.mlp]
            .into_iter()
            .chain(&both.experts.experts)
            .collect(),
    }
}

/// The input of the experts that are beside an MLP; their router reads another one.
fn in_both(half: &FeedForwardTree<'_, NameWalk>) -> Option<Link> {
    match half {
        FeedForwardTree::Mlp(_) | FeedForwardTree::Experts(_) => None,
        FeedForwardTree::Both(both) => {
            let experts = both.experts.experts.iter().flat_map(into_mlp);
            from_norm(&both.experts_norm, experts.collect())
        }
    }
}

/// The matrices that the input of an MLP is multiplied by.
fn into_mlp<'t>(mlp: &'t MlpTree<'_, NameWalk>) -> Vec<&'t LinkedMatrix> {
    match &mlp.matrices {
        MlpMatrices::Gated { gate, up, .. } => vec![gate, up],
        MlpMatrices::Fused { gate_up, .. } => vec![gate_up],
        MlpMatrices::Plain { up, .. } => vec![up],
    }
}

/// The matrices that the input of a feed-forward half is multiplied by.
fn inputs<'t>(half: &'t FeedForwardTree<'_, NameWalk>) -> Vec<&'t LinkedMatrix> {
    let beside = match half {
        FeedForwardTree::Both(both) => return into_mlp(&both.mlp),
        FeedForwardTree::Mlp(_) => Vec::new(),
        FeedForwardTree::Experts(experts) => {
            let gate = experts
                .shared
                .iter()
                .filter_map(|shared| shared.gate.as_ref());
            [&experts.router].into_iter().chain(gate).collect()
        }
    };
    let of_mlps = mlps(half).into_iter().flat_map(into_mlp);
    beside.into_iter().chain(of_mlps).collect()
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
    type Values = ();
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

    fn values(&mut self, _: String, _: &[usize]) -> Result<(), Unsupported> {
        Ok(())
    }
}
