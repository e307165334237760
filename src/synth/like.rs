//! The models that a synthetic checkpoint can be like.

use std::fmt;

use serde_json::{Value, json};

use crate::model::{Architecture, CausalLm, Role, Slot};

/// A published model whose shapes a synthetic checkpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Like {
    /// `llama-3-8b`: 32 layers of 4096, 16.1 GB.
    Llama3_8b,
    /// `llama-3.2-1b`: 16 layers of 2048, tied embeddings, 2.5 GB.
    Llama3_2_1b,
    /// `qwen2.5-7b`: 28 layers of 3584 with biases, 15.2 GB.
    Qwen2_5_7b,
    /// `mistral-7b`: 32 layers of 4096 and a small vocabulary, 14.5 GB.
    Mistral7b,
    /// `qwen3-30b-a3b`: 48 layers of 2048, each with 128 experts of 768 of which a token goes through 8, 61.1 GB.
    Qwen3_30bA3b,
    /// `tinyrust`: 4 layers of 256, tied embeddings, 7 MB. For tests.
    TinyRust,
}

impl Like {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Llama3_8b,
        Self::Llama3_2_1b,
        Self::Qwen2_5_7b,
        Self::Mistral7b,
        Self::Qwen3_30bA3b,
        Self::TinyRust,
    ];

    /// The name it is asked for by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama3_8b => "llama-3-8b",
            Self::Llama3_2_1b => "llama-3.2-1b",
            Self::Qwen2_5_7b => "qwen2.5-7b",
            Self::Mistral7b => "mistral-7b",
            Self::Qwen3_30bA3b => "qwen3-30b-a3b",
            Self::TinyRust => "tinyrust",
        }
    }

    /// The numbers of its published `config.json`.
    pub(super) fn shape(self) -> Shape {
        match self {
            Self::Llama3_8b => Shape {
                family: LikeFamily::Llama,
                hidden: 4096,
                intermediate: 14336,
                layers: 32,
                heads: 32,
                kv_heads: 8,
                head_dim: 128,
                vocab: 128_256,
                tied: false,
                rope_theta: 500_000.0,
                rope_llama3: false,
                max_position: 8192,
                rms_eps: 1e-5,
                bos: 128_000,
                eos: 128_001,
            },
            Self::Llama3_2_1b => Shape {
                family: LikeFamily::Llama,
                hidden: 2048,
                intermediate: 8192,
                layers: 16,
                heads: 32,
                kv_heads: 8,
                head_dim: 64,
                vocab: 128_256,
                tied: true,
                rope_theta: 500_000.0,
                rope_llama3: true,
                max_position: 131_072,
                rms_eps: 1e-5,
                bos: 128_000,
                eos: 128_001,
            },
            Self::Qwen2_5_7b => Shape {
                family: LikeFamily::Qwen2,
                hidden: 3584,
                intermediate: 18944,
                layers: 28,
                heads: 28,
                kv_heads: 4,
                head_dim: 128,
                vocab: 152_064,
                tied: false,
                rope_theta: 1_000_000.0,
                rope_llama3: false,
                max_position: 131_072,
                rms_eps: 1e-6,
                bos: 151_643,
                eos: 151_643,
            },
            // v0.3, the first without a sliding window.
            Self::Mistral7b => Shape {
                family: LikeFamily::Mistral,
                hidden: 4096,
                intermediate: 14336,
                layers: 32,
                heads: 32,
                kv_heads: 8,
                head_dim: 128,
                vocab: 32_768,
                tied: false,
                rope_theta: 1_000_000.0,
                rope_llama3: false,
                max_position: 32_768,
                rms_eps: 1e-5,
                bos: 1,
                eos: 2,
            },
            Self::Qwen3_30bA3b => Shape {
                family: LikeFamily::Qwen3Moe,
                hidden: 2048,
                intermediate: 6144,
                layers: 48,
                heads: 32,
                kv_heads: 4,
                head_dim: 128,
                vocab: 151_936,
                tied: false,
                rope_theta: 1_000_000.0,
                rope_llama3: false,
                max_position: 40_960,
                rms_eps: 1e-6,
                bos: 151_643,
                eos: 151_645,
            },
            Self::TinyRust => Shape {
                family: LikeFamily::Llama,
                hidden: 256,
                intermediate: 704,
                layers: 4,
                heads: 8,
                kv_heads: 4,
                head_dim: 32,
                vocab: 2048,
                tied: true,
                rope_theta: 10_000.0,
                rope_llama3: false,
                max_position: 1024,
                rms_eps: 1e-5,
                bos: 0,
                eos: 1,
            },
        }
    }
}

impl fmt::Display for Like {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What differs between families beside the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LikeFamily {
    Llama,
    Qwen2,
    Qwen3Moe,
    Mistral,
}

/// The numbers of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) family: LikeFamily,
    pub(super) hidden: u64,
    pub(super) intermediate: u64,
    pub(super) layers: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head_dim: u64,
    pub(super) vocab: u64,
    pub(super) tied: bool,
    pub(super) rope_theta: f64,
    /// Llama 3.1's stretched rotary frequencies.
    pub(super) rope_llama3: bool,
    pub(super) max_position: u64,
    pub(super) rms_eps: f64,
    pub(super) bos: u64,
    pub(super) eos: u64,
}

/// One tensor to be.
#[derive(Debug, Clone)]
pub(super) struct SynthTensor {
    pub(super) name: String,
    pub(super) role: Role,
    /// `[o, i]` or `[i]`.
    pub(super) shape: Vec<u64>,
}

impl SynthTensor {
    pub(super) fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Two bytes an element: everything is bf16.
    pub(super) fn bytes(&self) -> u64 {
        2 * self.elements()
    }
}

impl Shape {
    /// The same model with its first `layers` layers, and a vocabulary cut in the same proportion.
    ///
    /// Embedding and head of Llama 3 alone are 2.1 GB: with all of it, a small checkpoint would be
    /// nothing else. Cut together with the layers, they keep their share of the bytes.
    pub(super) fn with_layers(self, layers: u64) -> Self {
        if layers >= self.layers {
            return self;
        }
        let vocab = (self.vocab * layers / self.layers / 64 * 64).max(64);
        // Special tokens past the end move to the last places.
        let inside = |id: u64, last: u64| if id < vocab { id } else { vocab - last };
        Self {
            layers,
            vocab,
            bos: inside(self.bos, 2),
            eos: inside(self.eos, 1),
            ..self
        }
    }

    /// Every tensor, in the order of the forward pass, which is the order of the file: the slots of the decoder that
    /// [`config`](Self::config) describes.
    pub(super) fn tensors(&self, like: Like) -> Vec<SynthTensor> {
        let spec = CausalLm::config(&self.config(like, 0));
        let slots = CausalLm::slots(&spec.expect("a published model is of a known family"));
        let tensor = |slot: Slot| SynthTensor {
            name: slot.name,
            role: slot.role,
            shape: slot.shape.into_iter().map(|size| size as u64).collect(),
        };
        slots.into_iter().map(tensor).collect()
    }

    /// `config.json`, with the keys of transformers 5.
    pub(super) fn config(&self, like: Like, seed: u64) -> Value {
        let mut rope = json!({"rope_theta": self.rope_theta, "rope_type": "default"});
        if self.rope_llama3 {
            rope = json!({
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_theta": self.rope_theta,
                "rope_type": "llama3",
            });
        }
        let (architecture, model_type) = match self.family {
            LikeFamily::Llama => ("LlamaForCausalLM", "llama"),
            LikeFamily::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
            LikeFamily::Qwen3Moe => ("Qwen3MoeForCausalLM", "qwen3_moe"),
            LikeFamily::Mistral => ("MistralForCausalLM", "mistral"),
        };
        let mut config = json!({
            "architectures": [architecture],
            "attention_dropout": 0.0,
            "bos_token_id": self.bos,
            "dtype": "bfloat16",
            "eos_token_id": self.eos,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.max_position,
            "model_type": model_type,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": self.rms_eps,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tied,
            "use_cache": true,
            "vocab_size": self.vocab,
            // So that nobody takes noise for a model.
            "firebox_synth": {"like": like.name(), "seed": seed},
        });
        match self.family {
            LikeFamily::Llama => {
                config["attention_bias"] = json!(false);
                config["mlp_bias"] = json!(false);
                config["pretraining_tp"] = json!(1);
            }
            LikeFamily::Qwen2 => {
                config["sliding_window"] = Value::Null;
                config["use_sliding_window"] = json!(false);
            }
            LikeFamily::Qwen3Moe => {
                config["attention_bias"] = json!(false);
                config["decoder_sparse_step"] = json!(1);
                config["mlp_only_layers"] = json!([]);
                config["moe_intermediate_size"] = json!(768);
                config["norm_topk_prob"] = json!(true);
                config["num_experts"] = json!(128);
                config["num_experts_per_tok"] = json!(8);
                config["sliding_window"] = Value::Null;
                config["use_sliding_window"] = json!(false);
            }
            LikeFamily::Mistral => config["sliding_window"] = Value::Null,
        }
        config
    }

    /// `generation_config.json`.
    pub(super) fn generation_config(&self) -> Value {
        json!({
            "bos_token_id": self.bos,
            "do_sample": false,
            "eos_token_id": self.eos,
            "use_cache": true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Like, SynthTensor};

    /// `metadata.total_size` in the index of each published checkpoint (the length of its one file
    /// without the header for Llama 3.2). A wrong width, a missing bias or a head that is tied and
    /// should not be changes the sum.
    #[test]
    fn full_models_are_as_large_as_the_real_ones() {
        let cases = [
            (Like::Llama3_8b, 16_060_522_496),
            (Like::Llama3_2_1b, 2_471_628_800),
            (Like::Qwen2_5_7b, 15_231_233_024),
            (Like::Mistral7b, 14_496_047_104),
            (Like::Qwen3_30bA3b, 61_064_245_248),
            (Like::TinyRust, 6_951_424),
        ];
        for (like, bytes) in cases {
            let sum: u64 = like
                .shape()
                .tensors(like)
                .iter()
                .map(SynthTensor::bytes)
                .sum();
            assert_eq!(sum, bytes, "{like}");
        }
    }

    /// The share of embeddings stays what it is, to a row of 64; otherwise small checkpoints would be
    /// embeddings and nothing else.
    #[test]
    fn embeddings_keep_their_share() {
        for like in Like::ALL {
            let share = |layers| {
                let tensors = like.shape().with_layers(layers).tensors(like);
                let all: u64 = tensors.iter().map(SynthTensor::bytes).sum();
                let blocks = tensors
                    .iter()
                    .filter(|tensor| tensor.name.contains("layers."));
                1.0 - blocks.map(SynthTensor::bytes).sum::<u64>() as f64 / all as f64
            };
            for layers in 1..=like.shape().layers {
                let error = (share(layers) - share(like.shape().layers)).abs();
                assert!(error < 0.01, "{like} with {layers} layers: {error}");
            }
        }
    }
}
