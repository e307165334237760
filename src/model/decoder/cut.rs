//! A decoder cut for several ranks: whole heads of its mixers, and an equal part of the features inside of its MLPs.
//!
//! | matrices | cut |
//! |---|---|
//! | to queries, keys, values, gates, ups | rows, whole heads; each part of a fused one by itself |
//! | out of a mixer or an MLP | columns: the ranks' products are summed |
//! | embedding and head | rows of the vocabulary where they divide, else whole |
//! | norms, routers, what is made before heads, small embeddings | whole |
//!
//! Where there are fewer key heads than ranks, several ranks have the same key head.

#![expect(
    clippy::single_range_in_vec_init,
    reason = "a list of ranges may have one"
)]

use core::ops::Range;

use super::{
    names::{MlpPart, Part},
    spec::{
        AttentionSpec, DeltaSpec, ExpertsSpec, FeedForwardSpec, Gate, LatentSpec, MixerSpec,
        MlpSpec, Projections, Spec,
    },
};
use crate::model::{
    cut::{CutError, WeightCut},
    layers::NormOver,
};

/// The decoder of the rank `rank` of `ranks`, and how its weights are cut out of those of the whole one.
pub(super) fn of_rank(
    spec: &Spec,
    rank: usize,
    ranks: usize,
) -> Result<(Spec, Vec<WeightCut>), CutError> {
    let mut cutter = Cutter {
        spec,
        rank,
        ranks,
        cuts: Vec::new(),
    };
    let mut cut = spec.clone();
    if spec.vocabulary.is_multiple_of(ranks) && ranks > 1 {
        let rows = share(spec.vocabulary, rank, ranks);
        cut.vocabulary_rows = Some(rows.clone());
        cutter.rows(spec.path(None, Part::Embedding), vec![rows.clone()], false);
        if !spec.head.tied {
            cutter.rows(spec.path(None, Part::Head), vec![rows], spec.head.bias);
        }
    }
    for (nth, layer) in cut.layers.iter_mut().enumerate() {
        match &mut layer.mixer {
            MixerSpec::Attention(attention) => cutter.attention(nth, attention)?,
            MixerSpec::Latent(latent) => cutter.latent(nth, latent)?,
            MixerSpec::Delta(delta) => cutter.delta(nth, delta)?,
        }
        match &mut layer.feed_forward {
            FeedForwardSpec::Mlp(mlp) => cutter.mlp_of_layer(nth, mlp)?,
            FeedForwardSpec::Experts(experts) => cutter.experts(nth, experts)?,
            FeedForwardSpec::Both { mlp, experts } => {
                cutter.mlp_of_layer(nth, mlp)?;
                cutter.experts(nth, experts)?;
            }
        }
    }
    Ok((cut, cutter.cuts))
}

struct Cutter<'s> {
    spec: &'s Spec,
    rank: usize,
    ranks: usize,
    cuts: Vec<WeightCut>,
}

impl Cutter<'_> {
    /// Rows of a matrix, and of its bias if it has one.
    fn rows(&mut self, path: String, rows: Vec<Range<usize>>, bias: bool) {
        if bias {
            self.named(format!("{path}.bias"), rows.clone());
        }
        self.named(format!("{path}.weight"), rows);
    }

    fn named(&mut self, name: String, rows: Vec<Range<usize>>) {
        let cols = None;
        self.cuts.push(WeightCut { name, rows, cols });
    }

    /// Columns of a matrix of so many rows. Its bias is whole: it is added once.
    fn cols(&mut self, path: &str, rows: usize, cols: Range<usize>) {
        self.cuts.push(WeightCut {
            name: format!("{path}.weight"),
            rows: vec![0..rows],
            cols: Some(cols),
        });
    }

    /// The rank's share of `count` things.
    fn share(
        &self,
        path: &str,
        what: &'static str,
        count: usize,
    ) -> Result<Range<usize>, CutError> {
        if count.is_multiple_of(self.ranks) && count > 0 {
            return Ok(share(count, self.rank, self.ranks));
        }
        Err(CutError::Uneven {
            module: path.to_owned(),
            what,
            count,
            ranks: self.ranks,
        })
    }

    /// The rank's key heads: its share, or the one that it has together with others.
    fn key_heads(&self, path: &str, count: usize) -> Result<Range<usize>, CutError> {
        if count.is_multiple_of(self.ranks) && count > 0 {
            return Ok(share(count, self.rank, self.ranks));
        }
        if count > 0 && self.ranks.is_multiple_of(count) {
            let head = self.rank / (self.ranks / count);
            return Ok(head..head + 1);
        }
        Err(CutError::KeyHeads {
            module: path.to_owned(),
            count,
            ranks: self.ranks,
        })
    }

    fn attention(&mut self, nth: usize, attention: &mut AttentionSpec) -> Result<(), CutError> {
        let path = |part| self.spec.path(Some(nth), part);
        let [q, k, v, qkv, o] = [Part::Q, Part::K, Part::V, Part::Qkv, Part::O].map(path);
        let [q_norm, k_norm, sinks] = [Part::QNorm, Part::KNorm, Part::Sinks].map(path);
        let whole = attention.clone();
        let d = whole.head_features;
        let fused = whole.projections != Projections::Apart;
        let place = if fused { &qkv } else { &q };
        let heads = self.share(place, "query heads", whole.heads)?;
        let keys = match whole.projections {
            // The queries of a key head lie beside it.
            Projections::ByHead => self.share(&qkv, "key heads", whole.key_value_heads)?,
            _ => self.key_heads(if fused { &qkv } else { &k }, whole.key_value_heads)?,
        };
        let bias = whole.qkv_bias;
        match whole.projections {
            Projections::Apart => {
                let width = if whole.gate { 2 * d } else { d };
                self.rows(q, vec![times(&heads, width)], bias);
                if whole.keys_of.is_none() {
                    self.rows(k, vec![times(&keys, d)], bias);
                    if !whole.values_are_keys {
                        self.rows(v, vec![times(&keys, d)], bias);
                    }
                }
            }
            Projections::Blocks => {
                let (q, kv) = (whole.heads * d, whole.key_value_heads * d);
                let keys = times(&keys, d);
                let rows = vec![times(&heads, d), after(q, &keys), after(q + kv, &keys)];
                self.rows(qkv, rows, bias);
            }
            Projections::ByHead => {
                let each = (whole.heads / whole.key_value_heads + 2) * d;
                self.rows(qkv, vec![times(&keys, each)], bias);
            }
        }
        if let Some(norm) = whole.query_key_norm.filter(|norm| norm.scaled) {
            let own = whole.keys_of.is_none();
            for (norm_path, heads) in [(q_norm, &heads)]
                .into_iter()
                .chain(own.then_some((k_norm, &keys)))
            {
                match norm.over {
                    NormOver::Head => {}
                    NormOver::OwnHead => self.rows(norm_path, vec![heads.clone()], norm.norm.bias),
                    NormOver::All => self.rows(norm_path, vec![times(heads, d)], norm.norm.bias),
                }
            }
        }
        if whole.sinks {
            self.named(sinks, vec![heads.clone()]);
        }
        self.cols(&o, self.spec.features, times(&heads, d));
        (attention.heads, attention.key_value_heads) = (heads.len(), keys.len());
        Ok(())
    }

    fn latent(&mut self, nth: usize, latent: &mut LatentSpec) -> Result<(), CutError> {
        let path = |part| self.spec.path(Some(nth), part);
        let [q, q_b, kv_b, o] = [Part::Q, Part::QueryB, Part::KeyValueB, Part::O].map(path);
        let q = if latent.query_rank.is_some() { q_b } else { q };
        let heads = self.share(&q, "heads", latent.heads)?;
        let query = latent.plain_features + latent.rotary.features;
        let unfolded = latent.plain_features + latent.value_features;
        self.rows(q, vec![times(&heads, query)], false);
        self.rows(kv_b, vec![times(&heads, unfolded)], false);
        self.cols(&o, self.spec.features, times(&heads, latent.value_features));
        latent.heads = heads.len();
        Ok(())
    }

    fn delta(&mut self, nth: usize, delta: &mut DeltaSpec) -> Result<(), CutError> {
        let path = |part| self.spec.path(Some(nth), part);
        let out = path(Part::DeltaOut);
        let keys = self.share(&out, "key heads", delta.key_heads)?;
        let values = self.share(&out, "value heads", delta.value_heads)?;
        let all_keys = delta.key_heads * delta.key_features;
        let (key_rows, value_rows) = (
            times(&keys, delta.key_features),
            times(&values, delta.value_features),
        );
        // Queries, keys, values.
        let channels = vec![
            key_rows.clone(),
            after(all_keys, &key_rows),
            after(2 * all_keys, &value_rows),
        ];
        if delta.fused {
            let each = delta.value_heads / delta.key_heads;
            let width = 2 * delta.key_features + 2 * each * delta.value_features;
            self.rows(path(Part::DeltaQkvGate), vec![times(&keys, width)], false);
            let small = path(Part::DeltaStrengthFade);
            self.rows(small, vec![times(&keys, 2 * each)], false);
        } else {
            self.rows(path(Part::DeltaQkv), channels.clone(), false);
            self.rows(path(Part::DeltaGate), vec![value_rows.clone()], false);
            for part in [Part::DeltaStrength, Part::DeltaFade] {
                self.rows(path(part), vec![values.clone()], false);
            }
        }
        self.named(path(Part::DeltaConvolution), channels);
        for part in [Part::DeltaFadeBias, Part::DeltaFadeFactor] {
            self.named(path(part), vec![values.clone()]);
        }
        self.cols(&out, self.spec.features, value_rows);
        (delta.key_heads, delta.value_heads) = (keys.len(), values.len());
        Ok(())
    }

    fn mlp_of_layer(&mut self, nth: usize, mlp: &mut MlpSpec) -> Result<(), CutError> {
        let paths = |part: MlpPart| self.spec.path(Some(nth), part.of_layer());
        let paths = MLP_PARTS.map(paths);
        self.mlp(paths, mlp)
    }

    fn experts(&mut self, nth: usize, experts: &mut ExpertsSpec) -> Result<(), CutError> {
        let each = MLP_PARTS.map(|part| self.spec.path(Some(nth), part.of_expert()));
        let whole = experts.each.clone();
        for expert in 0..experts.count {
            let number = expert.to_string();
            let paths = each.clone().map(|path| path.replace("{}", &number));
            experts.each = whole.clone();
            self.mlp(paths, &mut experts.each)?;
        }
        if let Some(shared) = &mut experts.shared {
            let paths = MLP_PARTS.map(|part| self.spec.path(Some(nth), part.of_shared()));
            self.mlp(paths, &mut shared.mlp)?;
        }
        Ok(())
    }

    fn mlp(
        &mut self,
        [gate, up, gate_up, down]: [String; 4],
        mlp: &mut MlpSpec,
    ) -> Result<(), CutError> {
        let m = mlp.features;
        let inner = self.share(&down, "features inside", m)?;
        match mlp.gate {
            Gate::None => self.rows(up, vec![inner.clone()], mlp.bias),
            Gate::Apart => {
                self.rows(gate, vec![inner.clone()], mlp.bias);
                self.rows(up, vec![inner.clone()], mlp.bias);
            }
            Gate::Fused => {
                let rows = vec![inner.clone(), after(m, &inner)];
                self.rows(gate_up, rows, mlp.bias);
            }
            Gate::Interleaved => self.rows(gate_up, vec![times(&inner, 2)], mlp.bias),
        }
        self.cols(&down, self.spec.features, inner.clone());
        mlp.features = inner.len();
        Ok(())
    }
}

const MLP_PARTS: [MlpPart; 4] = [MlpPart::Gate, MlpPart::Up, MlpPart::GateUp, MlpPart::Down];

/// The share of one of several ranks in `count` things, which divide.
const fn share(count: usize, rank: usize, ranks: usize) -> Range<usize> {
    let each = count / ranks;
    rank * each..(rank + 1) * each
}

/// The rows of things of so many rows each.
const fn times(of: &Range<usize>, each: usize) -> Range<usize> {
    of.start * each..of.end * each
}

/// The same rows after others.
const fn after(others: usize, rows: &Range<usize>) -> Range<usize> {
    others + rows.start..others + rows.end
}
