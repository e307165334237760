//! Which type llama-quantize gives each matrix of a mixture: `llama_tensor_get_type` of llama.cpp, without an importance matrix.
//!
//! Its choices go by the names of files and by counts of tensors that it has met, which are the layers of a model whose layers
//! are alike. A model with experts gets those that name them; the choices of llama.cpp for Falcon are left out, since Falcon is not read here.

use firebox_kernels::{format::Gguf, packing::Packing};

use super::ContainerError;
use crate::{
    config::{Pattern, Policy, Rule},
    model::decoder::{FeedForwardSpec, MixerSpec, Part, Projections, Spec},
    quant::{Mixture, QuantSpec},
};

/// What llama-quantize looks at in a model.
struct MixedModel<'s> {
    spec: &'s Spec,
    mixture: Mixture,
    /// How many queries share a key.
    queries_of_key: usize,
    /// Whether there are eight experts, as in Mixtral.
    eight_experts: bool,
    /// Whether it is what llama.cpp takes for a model of 70B.
    seventy: bool,
}

/// What a mixture chooses for the matrices that no rule names, and the type of all others.
///
/// # Errors
///
/// [`ContainerError`] for a name that no pattern can be.
pub(crate) fn mix(
    policy: &mut Policy,
    mixture: Mixture,
    spec: &Spec,
) -> Result<(), ContainerError> {
    let first = spec.layers.first();
    let heads = first.and_then(|layer| layer.attention());
    let queries_of_key = heads.map_or(1, |heads| heads.heads / heads.key_value_heads.max(1));
    let mut experts = spec.layers.iter().filter_map(|layer| layer.experts());
    let model = MixedModel {
        spec,
        mixture,
        queries_of_key,
        eight_experts: experts.any(|experts| experts.count == 8),
        seventy: spec.layers.len() == 80 && queries_of_key > 1,
    };
    let mut rules = Vec::new();
    let mut put = |path: String, kind: Option<Gguf>| -> Result<(), ContainerError> {
        let quant = kind.map_or(QuantSpec::None, |kind| QuantSpec::Pack(Packing::Gguf(kind)));
        let pattern = path.parse::<Pattern>();
        let pattern = pattern.map_err(|error| ContainerError::Mixture {
            mixture: mixture.to_string(),
            reason: error.to_string(),
        })?;
        rules.push(Rule { pattern, quant });
        Ok(())
    };
    let usual = mixture.usual();
    let head = if usual == Gguf::Q8_0 {
        usual
    } else {
        Gguf::Q6K
    };
    let table = if spec.head.tied { head } else { usual };
    put(spec.path(None, Part::Head), Some(head))?;
    put(spec.path(None, Part::Embedding), Some(table))?;
    if spec.embedding.per_layer.is_some() {
        put(spec.path(None, Part::PerLayerTable), Some(table))?;
        put(spec.path(None, Part::PerLayerModelProjection), None)?;
    }
    // Of all matrices that make values, whatever layers have none.
    let count = (0..spec.layers.len()).filter(|nth| model.values(*nth).is_some());
    let count = count.count();
    let mut met = 0;
    for nth in 0..spec.layers.len() {
        if let Some(part) = model.values(nth) {
            put(
                spec.path(Some(nth), part),
                Some(model.of_values(met, count)),
            )?;
            met += 1;
        }
        if model.eight_experts {
            put(spec.path(Some(nth), Part::K), Some(Gguf::Q8_0))?;
        }
        put(spec.path(Some(nth), Part::O), Some(model.of_output()))?;
        for path in model.downs(nth) {
            put(path, Some(model.of_down(nth)))?;
        }
    }
    policy.mixed = rules;
    policy.linear = QuantSpec::Pack(Packing::Gguf(usual));
    Ok(())
}

impl MixedModel<'_> {
    /// The matrix of a layer that makes values.
    fn values(&self, nth: usize) -> Option<Part> {
        match &self.spec.layers[nth].mixer {
            MixerSpec::Attention(attention) => match attention.projections {
                _ if attention.keys_of.is_some() || attention.values_are_keys => None,
                Projections::Apart => Some(Part::V),
                Projections::Blocks | Projections::ByHead => Some(Part::Qkv),
            },
            MixerSpec::Latent(_) => Some(Part::KeyValueB),
            MixerSpec::Delta(delta) if delta.fused => None,
            MixerSpec::Delta(_) => Some(Part::DeltaQkv),
        }
    }

    /// The paths of the matrices out of an MLP, those of experts included: one each, or all in a stack.
    fn downs(&self, nth: usize) -> Vec<String> {
        let path = |part| self.spec.path(Some(nth), part);
        let mut paths = Vec::new();
        let layer = &self.spec.layers[nth];
        if let FeedForwardSpec::Mlp(_) | FeedForwardSpec::Both { .. } = layer.feed_forward {
            paths.push(path(Part::Down));
        }
        if let Some(experts) = layer.experts() {
            let each = path(Part::ExpertDown);
            paths.push(each.replace("{}", "*"));
            paths.push(each.replace("{}.", ""));
            paths.push(each.replace("experts.{}", self.spec.names.switch));
            if experts.shared.is_some() {
                paths.push(path(Part::SharedDown));
            }
        }
        paths
    }

    /// Of the `nth` matrix of `count` that make values.
    fn of_values(&self, nth: usize, count: usize) -> Gguf {
        if self.eight_experts {
            return Gguf::Q8_0;
        }
        let usual = self.mixture.usual();
        let shared = self.queries_of_key >= 4;
        let kind = match self.mixture {
            Mixture::Of(Gguf::Q2K) if shared => Gguf::Q4K,
            Mixture::Of(Gguf::Q2K) => Gguf::Q3K,
            Mixture::Of(Gguf::Iq4Nl) if shared => Gguf::Q5K,
            Mixture::Q3KMedium if nth < 2 => Gguf::Q5K,
            Mixture::Q3KMedium => Gguf::Q4K,
            Mixture::Q3KLarge => Gguf::Q5K,
            Mixture::Q4KSmall if nth < 4 => Gguf::Q5K,
            Mixture::Q4KMedium | Mixture::Q5KMedium if has_more(nth, count) => Gguf::Q6K,
            _ => usual,
        };
        match kind {
            Gguf::Q3K | Gguf::Q4K if self.seventy => Gguf::Q5K,
            kind => kind,
        }
    }

    /// Of the matrix out of the MLP of layer `nth`.
    fn of_down(&self, nth: usize) -> Gguf {
        let count = self.spec.layers.len();
        match self.mixture {
            Mixture::Of(Gguf::Q2K) => Gguf::Q3K,
            Mixture::Of(Gguf::Iq4Nl) if nth < count / 8 => Gguf::Q5K,
            Mixture::Q3KMedium if nth < count / 16 => Gguf::Q5K,
            Mixture::Q3KMedium => Gguf::Q4K,
            Mixture::Q3KLarge => Gguf::Q5K,
            Mixture::Q4KSmall if nth < count / 8 => Gguf::Q5K,
            Mixture::Q4KMedium | Mixture::Q5KMedium if has_more(nth, count) => Gguf::Q6K,
            mixture => mixture.usual(),
        }
    }

    /// Of a matrix out of attention.
    const fn of_output(&self) -> Gguf {
        match (self.mixture, self.eight_experts) {
            (
                Mixture::Of(Gguf::Q2K | Gguf::Iq4Nl)
                | Mixture::Q3KSmall
                | Mixture::Q3KMedium
                | Mixture::Q4KSmall
                | Mixture::Q4KMedium,
                true,
            ) => Gguf::Q5K,
            (Mixture::Of(Gguf::Q2K), false) => Gguf::Q3K,
            (Mixture::Q3KMedium, false) => Gguf::Q4K,
            (Mixture::Q3KLarge, false) => Gguf::Q5K,
            (mixture, _) => mixture.usual(),
        }
    }
}

/// The first and the last eighth, and each third between them (`use_more_bits`).
const fn has_more(nth: usize, count: usize) -> bool {
    nth < count / 8 || nth >= 7 * count / 8 || (nth - count / 8) % 3 == 2
}
