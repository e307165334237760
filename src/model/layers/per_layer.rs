//! A small embedding of the token for each layer (Gemma 3n and 4; transformers' `modeling_gemma4.py`).
//!
//! Letters: `b` batch, `t` tokens, `f` features of the model, `l` layers, `p` features of a small embedding.

use burn::{
    module::Module,
    tensor::{Int, Tensor},
};

use super::{embedding::Embedding, linear::Linear, mlp::Activation, norm::Norm};

/// Makes the small embeddings of all layers.
#[derive(Module, Debug)]
pub struct PerLayerEmbedding {
    /// `[vocabulary, l·p]`.
    pub table: Embedding,
    /// `[l·p, f]`, from what goes into the first layer.
    pub projection: Linear,
    /// Over `[p]`, of what `projection` makes.
    pub norm: Norm,
    /// `p`.
    #[module(skip)]
    pub features: usize,
}

/// What a layer does with its small embedding, at its end.
#[derive(Module, Debug)]
pub struct PerLayerInput {
    /// `[p, f]`.
    pub gate: Linear,
    /// `[f, p]`.
    pub projection: Linear,
    /// Over `[f]`, of what is added to the shortcut.
    pub norm: Norm,
    /// After `gate`.
    #[module(skip)]
    pub activation: Activation,
}

impl PerLayerEmbedding {
    /// `ids` `[b, t]` and `x` `[b, t, f]`, which goes into the first layer, to `[b, t, l, p]`.
    pub fn forward(&self, ids: Tensor<2, Int>, x: Tensor<3>) -> Tensor<4> {
        let ([b, t, f], p) = (x.dims(), self.features);
        let by_layer = |rows: Tensor<3>| {
            let [_, _, all] = rows.dims();
            rows.reshape([b, t, all / p, p])
        };
        let token = by_layer(self.table.forward(ids)) * (p as f64).sqrt();
        let context = by_layer(self.projection.forward(x) / (f as f64).sqrt());
        (self.norm.forward(context) + token) * 0.5f64.sqrt()
    }
}

impl PerLayerInput {
    /// `x` `[b, t, f]` and the layer's small embedding `[b, t, p]` to what is added to `x`.
    pub fn forward(&self, x: Tensor<3>, small: Tensor<3>) -> Tensor<3> {
        let y = self.activation.forward(self.gate.forward(x)) * small;
        self.norm.forward(self.projection.forward(y))
    }

    /// Its matrices, in the order in which a token meets them.
    pub fn linears(&self) -> Vec<&Linear> {
        vec![&self.gate, &self.projection]
    }

    /// The same, to be changed.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        vec![&mut self.gate, &mut self.projection]
    }
}
