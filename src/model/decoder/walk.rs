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

use core::ops::Range;

use super::{
    check::check,
    names::Part,
    spec::{LayerSpec, NormPlaces, PerLayerSpec, Spec},
    visit::{InLayer, Visit},
    walk_feed::{self, FeedForwardTree},
    walk_mixer::{self, MixerTree},
};
use crate::config::Role;

/// What a visitor made of a model.
pub(super) struct Tree<'s, V: Visit> {
    pub(super) embedding: V::Table,
    pub(super) positions: Option<V::Table>,
    pub(super) per_layer: Option<PerLayerTree<V>>,
    pub(super) layers: Vec<LayerTree<'s, V>>,
    pub(super) norm: V::Norm,
    pub(super) head: Option<V::Matrix>,
}

/// What it made of a layer.
pub(super) struct LayerTree<'s, V: Visit> {
    pub(super) spec: &'s LayerSpec,
    pub(super) attention_norm: Option<V::Norm>,
    pub(super) mixer: MixerTree<'s, V>,
    pub(super) attention_norm_after: Option<V::Norm>,
    pub(super) mlp_norm: Option<V::Norm>,
    pub(super) feed_forward: FeedForwardTree<'s, V>,
    pub(super) mlp_norm_after: Option<V::Norm>,
    pub(super) per_layer: Option<PerLayerInputTree<V>>,
    pub(super) scalar: Option<V::Values>,
}

/// What it made of what makes small embeddings.
pub(super) struct PerLayerTree<V: Visit> {
    pub(super) table: V::Table,
    pub(super) projection: V::Matrix,
    pub(super) norm: V::Norm,
}

/// What it made of what a layer does with its small embedding.
pub(super) struct PerLayerInputTree<V: Visit> {
    pub(super) gate: V::Matrix,
    pub(super) projection: V::Matrix,
    pub(super) norm: V::Norm,
}

/// Takes `visitor` from tensor to tensor.
///
/// # Errors
///
/// [`Unsupported`](super::Unsupported) before the first tensor; what the visitor says at any.
pub(super) fn walk<'s, V: Visit>(spec: &'s Spec, visitor: &mut V) -> Result<Tree<'s, V>, V::Error> {
    check(spec)?;
    let rows = spec.vocabulary_rows.as_ref();
    let table = [rows.map_or(spec.vocabulary, Range::len), spec.features];
    Ok(Tree {
        embedding: visitor.table(spec.path(None, Part::Embedding), table)?,
        positions: match spec.embedding.learned_positions {
            true => {
                let table = [spec.positions, spec.features];
                Some(visitor.table(spec.path(None, Part::Positions), table)?)
            }
            false => None,
        },
        per_layer: match &spec.embedding.per_layer {
            Some(small) => Some(per_layer(spec, small, visitor)?),
            None => None,
        },
        layers: {
            let layers = spec.layers.iter().enumerate();
            let layers = layers.map(|(nth, layer)| InLayer { spec, nth, visitor }.layer(layer));
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

/// What makes the small embeddings of all layers.
fn per_layer<V: Visit>(
    spec: &Spec,
    small: &PerLayerSpec,
    visitor: &mut V,
) -> Result<PerLayerTree<V>, V::Error> {
    let path = |part| spec.path(None, part);
    let (all, f) = (spec.layers.len() * small.features, spec.features);
    Ok(PerLayerTree {
        table: visitor.table(path(Part::PerLayerTable), [small.vocabulary, all])?,
        projection: {
            let path = path(Part::PerLayerModelProjection);
            visitor.matrix(path, Role::Linear, [all, f], false)?
        },
        norm: visitor.norm(path(Part::PerLayerModelNorm), &[small.features], spec.norm)?,
    })
}

impl<'s, V: Visit> InLayer<'s, '_, V> {
    fn layer(mut self, spec: &'s LayerSpec) -> Result<LayerTree<'s, V>, V::Error> {
        use NormPlaces::{After, Around, Before, Parallel, ParallelApart};
        let places = spec.norms;
        let first = matches!(places, Before | Around | Parallel | ParallelApart);
        let second = matches!(places, Before | Around | ParallelApart);
        let after = matches!(places, After | Around);
        let norm = |at: &mut Self, there: bool, part| {
            let shape = [at.spec.features];
            there.then(|| at.norm(part, &shape, spec.norm)).transpose()
        };
        Ok(LayerTree {
            spec,
            attention_norm: norm(&mut self, first, Part::AttentionNorm)?,
            mixer: walk_mixer::mixer(&mut self, &spec.mixer)?,
            attention_norm_after: norm(&mut self, after, Part::AttentionNormAfter)?,
            mlp_norm: norm(&mut self, second, Part::MlpNorm)?,
            feed_forward: walk_feed::feed_forward(&mut self, &spec.feed_forward, spec.norm)?,
            mlp_norm_after: norm(&mut self, after, Part::MlpNormAfter)?,
            per_layer: self.per_layer_input(spec)?,
            scalar: match spec.scalar {
                true => Some(self.values(Part::LayerScalar, &[1])?),
                false => None,
            },
        })
    }

    /// What the layer does with its small embedding, in a model that has them.
    fn per_layer_input(
        &mut self,
        layer: &LayerSpec,
    ) -> Result<Option<PerLayerInputTree<V>>, V::Error> {
        let Some(small) = &self.spec.embedding.per_layer else {
            return Ok(None);
        };
        let (f, p) = (self.spec.features, small.features);
        Ok(Some(PerLayerInputTree {
            gate: self.linear(Part::PerLayerGate, [p, f], false)?,
            projection: self.linear(Part::PerLayerProjection, [f, p], false)?,
            norm: self.norm(Part::PerLayerNorm, &[f], layer.norm)?,
        }))
    }
}
