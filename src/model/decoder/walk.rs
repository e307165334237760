//! The one walk over a [`Spec`]: every tensor, in the order in which a token meets them.
//!
//! ```text
//!            ┌─ slots.rs   names and shapes        ─► Vec<Slot>
//! walk ─► V ─┼─ links.rs   names                   ─► Vec<Link>
//!            └─ build.rs   takes finished weights  ─► CausalLm
//! ```
//!
//! A visitor makes something of each matrix, table and norm; the walk returns them as a tree of the same shape as the
//! module. So slots, links and the module have the same tensors in the same order: there is no second list.

use super::{
    check::{Checked, checked},
    names::Part,
    spec::{NormPlaces, Spec},
    visit::{InLayer, Visit},
    walk_feed::{self, FeedForwardTree},
    walk_mixer::{self, MixerTree},
};
use crate::config::Role;

/// What a visitor made of a model.
pub(super) struct Tree<'s, V: Visit> {
    pub(super) embedding: V::Table,
    pub(super) positions: Option<V::Table>,
    pub(super) layers: Vec<LayerTree<'s, V>>,
    pub(super) norm: V::Norm,
    pub(super) head: Option<V::Matrix>,
}

/// What it made of a layer.
pub(super) struct LayerTree<'s, V: Visit> {
    pub(super) checked: Checked<'s>,
    pub(super) attention_norm: Option<V::Norm>,
    pub(super) mixer: MixerTree<'s, V>,
    pub(super) attention_norm_after: Option<V::Norm>,
    pub(super) mlp_norm: Option<V::Norm>,
    pub(super) feed_forward: FeedForwardTree<'s, V>,
    pub(super) mlp_norm_after: Option<V::Norm>,
}

/// Takes `visitor` from tensor to tensor.
///
/// # Errors
///
/// [`Unsupported`](super::Unsupported) before the first tensor; what the visitor says at any.
pub(super) fn walk<'s, V: Visit>(spec: &'s Spec, visitor: &mut V) -> Result<Tree<'s, V>, V::Error> {
    let layers = checked(spec)?;
    let table = [spec.vocabulary, spec.features];
    Ok(Tree {
        embedding: visitor.table(spec.path(None, Part::Embedding), table)?,
        positions: match spec.embedding.learned_positions {
            true => {
                let table = [spec.positions, spec.features];
                Some(visitor.table(spec.path(None, Part::Positions), table)?)
            }
            false => None,
        },
        layers: {
            let layers = layers.into_iter().enumerate();
            let layers = layers.map(|(nth, checked)| InLayer { spec, nth, visitor }.layer(checked));
            layers.collect::<Result<_, _>>()?
        },
        norm: visitor.norm(spec.path(None, Part::Norm), &[spec.features], spec.norm)?,
        head: match spec.head.tied {
            true => None,
            false => Some(visitor.matrix(
                spec.path(None, Part::Head),
                Role::Head,
                table,
                spec.head.bias,
            )?),
        },
    })
}

impl<'s, V: Visit> InLayer<'s, '_, V> {
    fn layer(mut self, checked: Checked<'s>) -> Result<LayerTree<'s, V>, V::Error> {
        use NormPlaces::{After, Around, Before, Parallel, ParallelApart};
        let places = checked.layer.norms;
        let first = matches!(places, Before | Around | Parallel | ParallelApart);
        let second = matches!(places, Before | Around | ParallelApart);
        let after = matches!(places, After | Around);
        let norm = |at: &mut Self, there: bool, part| {
            let shape = [at.spec.features];
            there
                .then(|| at.norm(part, &shape, checked.layer.norm))
                .transpose()
        };
        Ok(LayerTree {
            checked,
            attention_norm: norm(&mut self, first, Part::AttentionNorm)?,
            mixer: walk_mixer::mixer(&mut self, &checked.layer.mixer)?,
            attention_norm_after: norm(&mut self, after, Part::AttentionNormAfter)?,
            mlp_norm: norm(&mut self, second, Part::MlpNorm)?,
            feed_forward: walk_feed::feed_forward(&mut self, &checked.layer.feed_forward)?,
            mlp_norm_after: norm(&mut self, after, Part::MlpNormAfter)?,
        })
    }
}
