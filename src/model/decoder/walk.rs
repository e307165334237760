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
//!
//! Letters: `v` vocabulary, `f` features of the model, `m` features inside an MLP, `h` query heads, `kv` key and value
//! heads, `d` features of a head.

use super::{
    check::{Checked, Unsupported, checked},
    names::Part,
    spec::{Gate, NormPlaces, Projections, Spec},
};
use crate::{
    config::Role,
    model::layers::{NormOver, NormSpec},
};

/// What is made of each tensor.
pub(super) trait Visit {
    /// Of a table of rows.
    type Table;
    /// Of a matrix and its bias.
    type Matrix;
    /// Of a norm.
    type Norm;
    /// Why nothing can be made of one.
    type Error: From<Unsupported>;

    /// `{path}.weight` `[rows, columns]`.
    fn table(&mut self, path: String, shape: [usize; 2]) -> Result<Self::Table, Self::Error>;

    /// `{path}.weight` `[out, in]` and, with a `bias`, `{path}.bias` `[out]`.
    fn matrix(
        &mut self,
        path: String,
        role: Role,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<Self::Matrix, Self::Error>;

    /// `{path}.weight` and, where the norm has a bias, `{path}.bias`, both of `shape`.
    fn norm(
        &mut self,
        path: String,
        shape: &[usize],
        spec: NormSpec,
    ) -> Result<Self::Norm, Self::Error>;
}

/// What a visitor made of a model.
pub(super) struct Tree<'s, V: Visit> {
    pub(super) embedding: V::Table,
    pub(super) layers: Vec<LayerTree<'s, V>>,
    pub(super) norm: V::Norm,
    pub(super) head: Option<V::Matrix>,
}

/// What it made of a layer.
pub(super) struct LayerTree<'s, V: Visit> {
    pub(super) checked: Checked<'s>,
    pub(super) attention_norm: Option<V::Norm>,
    pub(super) attention: AttentionTree<V>,
    pub(super) attention_norm_after: Option<V::Norm>,
    pub(super) mlp_norm: Option<V::Norm>,
    pub(super) mlp: MlpTree<V>,
    pub(super) mlp_norm_after: Option<V::Norm>,
}

/// What it made of attention.
pub(super) struct AttentionTree<V: Visit> {
    pub(super) qkv: QkvTree<V>,
    pub(super) q_norm: Option<V::Norm>,
    pub(super) k_norm: Option<V::Norm>,
    pub(super) o: V::Matrix,
}

/// What it made of the projections to queries, keys and values.
pub(super) enum QkvTree<V: Visit> {
    Apart {
        q: V::Matrix,
        k: V::Matrix,
        v: V::Matrix,
    },
    Blocks(V::Matrix),
    ByHead(V::Matrix),
}

/// What it made of an MLP.
pub(super) enum MlpTree<V: Visit> {
    Gated {
        gate: V::Matrix,
        up: V::Matrix,
        down: V::Matrix,
    },
    Fused {
        gate_up: V::Matrix,
        down: V::Matrix,
    },
    Plain {
        up: V::Matrix,
        down: V::Matrix,
    },
}

/// Takes `visitor` from tensor to tensor.
///
/// # Errors
///
/// [`Unsupported`] before the first tensor; what the visitor says at any.
pub(super) fn walk<'s, V: Visit>(spec: &'s Spec, visitor: &mut V) -> Result<Tree<'s, V>, V::Error> {
    let layers = checked(spec)?;
    let (names, table) = (spec.names, [spec.vocabulary, spec.features]);
    Ok(Tree {
        embedding: visitor.table(names.path(None, Part::Embedding), table)?,
        layers: {
            let layers = layers.into_iter().enumerate();
            let layers = layers.map(|(nth, checked)| InLayer { spec, nth, visitor }.layer(checked));
            layers.collect::<Result<_, _>>()?
        },
        norm: visitor.norm(names.path(None, Part::Norm), &[spec.features], spec.norm)?,
        head: match spec.head.tied {
            true => None,
            false => Some(visitor.matrix(
                names.path(None, Part::Head),
                Role::Head,
                table,
                spec.head.bias,
            )?),
        },
    })
}

/// The walk through one layer.
struct InLayer<'s, 'v, V> {
    spec: &'s Spec,
    nth: usize,
    visitor: &'v mut V,
}

impl<'s, V: Visit> InLayer<'s, '_, V> {
    fn layer(mut self, checked: Checked<'s>) -> Result<LayerTree<'s, V>, V::Error> {
        use NormPlaces::{After, Around, Before, Parallel, ParallelApart};
        let places = checked.layer.norms;
        let first = matches!(places, Before | Around | Parallel | ParallelApart);
        let second = matches!(places, Before | Around | ParallelApart);
        let after = matches!(places, After | Around);
        Ok(LayerTree {
            checked,
            attention_norm: self.norm(first, Part::AttentionNorm, checked)?,
            attention: self.attention(checked)?,
            attention_norm_after: self.norm(after, Part::AttentionNormAfter, checked)?,
            mlp_norm: self.norm(second, Part::MlpNorm, checked)?,
            mlp: self.mlp(checked)?,
            mlp_norm_after: self.norm(after, Part::MlpNormAfter, checked)?,
        })
    }

    fn attention(&mut self, checked: Checked<'s>) -> Result<AttentionTree<V>, V::Error> {
        let attention = checked.attention;
        let (f, d) = (self.spec.features, attention.head_features);
        let (h, kv) = (attention.heads, attention.key_value_heads);
        let bias = attention.qkv_bias;

        let fused = [(h + 2 * kv) * d, f];
        let qkv = match attention.projections {
            Projections::Apart => QkvTree::Apart {
                q: self.linear(Part::Q, [h * d, f], bias)?,
                k: self.linear(Part::K, [kv * d, f], bias)?,
                v: self.linear(Part::V, [kv * d, f], bias)?,
            },
            Projections::Blocks => QkvTree::Blocks(self.linear(Part::Qkv, fused, bias)?),
            Projections::ByHead => QkvTree::ByHead(self.linear(Part::Qkv, fused, bias)?),
        };
        let mut norm = |part, n| {
            let Some(norm) = attention.query_key_norm else {
                return Ok(None);
            };
            let shape = match norm.over {
                NormOver::Head => vec![d],
                NormOver::OwnHead => vec![n, d],
                NormOver::All => vec![n * d],
            };
            let path = self.path(part);
            self.visitor.norm(path, &shape, norm.norm).map(Some)
        };
        Ok(AttentionTree {
            qkv,
            q_norm: norm(Part::QNorm, h)?,
            k_norm: norm(Part::KNorm, kv)?,
            o: self.linear(Part::O, [f, h * d], attention.o_bias)?,
        })
    }

    fn mlp(&mut self, checked: Checked<'s>) -> Result<MlpTree<V>, V::Error> {
        let mlp = checked.mlp;
        let (f, m, bias) = (self.spec.features, mlp.features, mlp.bias);
        Ok(match mlp.gate {
            Gate::None => MlpTree::Plain {
                up: self.linear(Part::Up, [m, f], bias)?,
                down: self.linear(Part::Down, [f, m], bias)?,
            },
            Gate::Apart => MlpTree::Gated {
                gate: self.linear(Part::Gate, [m, f], bias)?,
                up: self.linear(Part::Up, [m, f], bias)?,
                down: self.linear(Part::Down, [f, m], bias)?,
            },
            Gate::Fused | Gate::Interleaved => MlpTree::Fused {
                gate_up: self.linear(Part::GateUp, [2 * m, f], bias)?,
                down: self.linear(Part::Down, [f, m], bias)?,
            },
        })
    }

    fn linear(&mut self, part: Part, shape: [usize; 2], bias: bool) -> Result<V::Matrix, V::Error> {
        let path = self.path(part);
        self.visitor.matrix(path, Role::Linear, shape, bias)
    }

    fn norm(
        &mut self,
        there: bool,
        part: Part,
        checked: Checked<'s>,
    ) -> Result<Option<V::Norm>, V::Error> {
        if !there {
            return Ok(None);
        }
        let (path, shape) = (self.path(part), [self.spec.features]);
        self.visitor
            .norm(path, &shape, checked.layer.norm)
            .map(Some)
    }

    fn path(&self, part: Part) -> String {
        self.spec.names.path(Some(self.nth), part)
    }
}
