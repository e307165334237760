//! A decoder that is divided among ranks: what is added up, and what goes from one rank to the next.
//!
//! | division | each rank has | together they |
//! |---|---|---|
//! | tensor | some heads, some features inside of each MLP, some of the vocabulary | add up what comes out of a mixer and of an MLP, and rows of the embedding; put logits beside each other |
//! | layers | some layers, one after another | hand on what comes out of the last of them |
//! | shard | some bytes of each matrix | put a matrix together before its product, inside of the matrix |

use burn::tensor::{DType, Tensor};

use super::{
    forward::CausalLm,
    passage::Passage,
    ranks::{DecoderRanks, ModelEnd},
};
use crate::{
    collective::{CollectiveError, Together},
    model::{
        divided::Divided,
        layers::{Attention, Experts, FeedForward, Linear, Mixer, NormOver, Remember, Summand},
    },
    target::ToBurn,
};

impl CausalLm {
    /// Computes with the other ranks from now on.
    pub(super) fn joined(&mut self, together: &Together, divided: Divided) {
        let stages = match divided {
            Divided::Tensor => {
                self.add_up(together);
                Vec::new()
            }
            Divided::Layers(stages) => stages,
            Divided::Shard => Vec::new(),
        };
        self.ranks = Some(DecoderRanks {
            together: together.clone(),
            stages,
        });
    }

    /// Whether all that was done with other ranks has succeeded.
    pub(super) fn check_ranks(&self) -> Result<(), CollectiveError> {
        let ranks = self.ranks.as_ref();
        ranks.map_or(Ok(()), |ranks| ranks.together.check())
    }

    /// Marks all that is a part of a sum.
    fn add_up(&mut self, together: &Together) {
        if let Some(rows) = &self.spec.vocabulary_rows {
            self.embedding.part = Some((together.clone(), rows.start));
        }
        for block in &mut self.blocks {
            match &mut block.mixer {
                Mixer::Attention(attention) => add_up_heads(attention, together),
                Mixer::Latent(latent) => add_up(&mut latent.o_proj, together),
                Mixer::Delta(delta) => add_up(&mut delta.out_proj, together),
            }
            match &mut block.feed_forward {
                FeedForward::Mlp(mlp) => add_up(mlp.down_mut(), together),
                FeedForward::Experts(experts) => add_up_experts(experts, together),
                FeedForward::Both(both) => {
                    add_up(both.mlp.down_mut(), together);
                    add_up_experts(&mut both.experts, together);
                }
            }
        }
    }

    /// Logits of the whole vocabulary, of those of this rank's part.
    pub(super) fn whole_logits(&self, logits: Tensor<3>) -> Tensor<3> {
        match (&self.ranks, &self.spec.vocabulary_rows) {
            (Some(ranks), Some(_)) => ranks.together.beside(logits),
            _ => logits,
        }
    }

    /// What one end of the model makes, a tensor of this shape: the first rank of those with stages, or the last.
    pub(super) fn at_end<const D: usize>(
        &self,
        end: ModelEnd,
        shape: [usize; D],
        dtype: DType,
        make: impl FnOnce() -> Tensor<D>,
    ) -> Tensor<D> {
        let Some(ranks) = self.ranks.as_ref().filter(|ranks| !ranks.stages.is_empty()) else {
            return make();
        };
        let from = match end {
            ModelEnd::First => 0,
            ModelEnd::Last => ranks.stages.len() - 1,
        };
        let is_here = ranks.together.ranks().rank() == from;
        let device = self.device();
        ranks
            .together
            .share(is_here.then(make), from, shape, (&device, dtype))
    }

    /// `x` `[b, t, f]` through all layers, each with its memory.
    pub(super) fn through<'m, R: Remember + 'm>(
        &self,
        mut x: Tensor<3>,
        passage: &mut Passage,
        memories: impl IntoIterator<Item = &'m mut R>,
    ) -> Tensor<3> {
        for (block, memory) in self.blocks.iter().zip(memories) {
            x = match &self.ranks {
                Some(ranks) if !ranks.stages.is_empty() => ranks.through(block, x, passage, memory),
                _ => block.forward(x, passage, memory),
            };
        }
        x
    }

    /// The type of what goes from layer to layer.
    pub(super) fn activations(&self) -> DType {
        self.embedding.dtype().burn().into()
    }
}

fn add_up(linear: &mut Linear, together: &Together) {
    linear.summand = Summand::Summed(together.clone());
}

fn add_up_heads(attention: &mut Attention, together: &Together) {
    add_up(&mut attention.o_proj, together);
    if attention.heads.norm_over == NormOver::All {
        for norm in attention.q_norm.iter_mut().chain(&mut attention.k_norm) {
            norm.part = Some(together.clone());
        }
    }
}

/// Experts are added up once, all together.
fn add_up_experts(experts: &mut Experts, together: &Together) {
    let adds_bias = together.ranks().rank() == 0;
    let shared = experts.shared.iter_mut().map(|shared| &mut shared.mlp);
    for mlp in experts.experts.iter_mut().chain(shared) {
        mlp.down_mut().summand = Summand::Part { adds_bias };
    }
    experts.part = Some(together.clone());
}
