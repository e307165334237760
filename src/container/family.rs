//! The architectures of llama.cpp that are read and written, and how they differ from those of transformers.

use crate::model::decoder::Part;

/// An architecture.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GgufFamily {
    /// Its name in files.
    pub(super) name: &'static str,
    /// The `model_type` of transformers.
    pub(super) model_type: &'static str,
    /// Other `model_type`s that are the same in a file, but for what their keys say.
    pub(super) others: &'static [&'static str],
    /// Whether the rows of queries and keys are in the order that turns pairs of neighbours.
    pub(super) pairs: bool,
    /// The key and the field of the number that norms add to a variance.
    pub(super) norm: (&'static str, &'static str),
    /// Keys of floats and the fields that they are.
    pub(super) floats: &'static [(&'static str, &'static str)],
    /// The field of the part of a head that turns; `None` where all of it does.
    pub(super) rotary_part: Option<&'static str>,
    /// Parts whose names are not those of most files.
    pub(super) names: &'static [(Part, &'static str)],
    /// Which layers have a window.
    pub(super) window: LayerWindow,
    /// Whether llama.cpp takes heads for the features of the model, divided among them.
    pub(super) square: bool,
    /// Flags of biases, and the tensors that say them.
    pub(super) biases: &'static [(&'static str, &'static str)],
    /// The experts of its layers.
    pub(super) experts: Option<ExpertKeys>,
}

/// Which layers have a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerWindow {
    /// None that a file would say.
    Never,
    /// All but every so many, unless a key lists them.
    But(usize),
    /// The layers that a key lists; the key has to be there.
    Listed,
}

/// The keys and fields of experts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExpertKeys {
    /// The field of their number.
    pub(super) count: &'static str,
    /// The field of their features; `None` for that of an MLP.
    pub(super) features: Option<&'static str>,
    /// The field of the features of the MLP beside them.
    pub(super) shared: Option<&'static str>,
}

const RMS: (&str, &str) = ("attention.layer_norm_rms_epsilon", "rms_norm_eps");

/// The key of norms with means.
const MEAN: &str = "attention.layer_norm_epsilon";

/// The flags of the biases of attention, and of MLPs.
const ATTENTION_BIAS: (&str, &str) = ("attention_bias", "blk.0.attn_q.bias");
const MLP_BIAS: (&str, &str) = ("mlp_bias", "blk.0.ffn_up.bias");

/// The experts of DeepSeek V3 and GLM-4.5.
const DEEP_EXPERTS: ExpertKeys = ExpertKeys {
    count: "n_routed_experts",
    features: Some("moe_intermediate_size"),
    shared: None,
};

/// The experts of Qwen 3.5 and Qwen 3 Next.
const HYBRID_EXPERTS: Option<ExpertKeys> = Some(ExpertKeys {
    count: "num_experts",
    features: Some("moe_intermediate_size"),
    shared: Some("shared_expert_intermediate_size"),
});

/// The experts of Gemma 4.
const GEMMA4_EXPERTS: Option<ExpertKeys> = Some(ExpertKeys {
    count: "num_experts",
    features: Some("moe_intermediate_size"),
    shared: None,
});

/// The parts of Qwen 3.5 and Qwen 3 Next: of layers with the delta rule, and of the others.
const HYBRID: &[(Part, &str)] = &[
    (Part::MlpNorm, "post_attention_norm"),
    (Part::DeltaQkv, "attn_qkv"),
    (Part::DeltaGate, "attn_gate"),
    (Part::DeltaStrength, "ssm_beta"),
    (Part::DeltaFade, "ssm_alpha"),
    (Part::DeltaQkvGate, "ssm_in"),
    (Part::DeltaStrengthFade, "ssm_ba"),
    (Part::DeltaConvolution, "ssm_conv1d"),
    (Part::DeltaFadeBias, "ssm_dt"),
    (Part::DeltaFadeFactor, "ssm_a"),
    (Part::DeltaNorm, "ssm_norm"),
    (Part::DeltaOut, "ssm_out"),
];

impl GgufFamily {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            model_type: name,
            others: &[],
            pairs: false,
            norm: RMS,
            floats: &[],
            rotary_part: None,
            names: &[],
            window: LayerWindow::Never,
            square: false,
            biases: &[],
            experts: None,
        }
    }

    const fn in_pairs(self) -> Self {
        Self {
            pairs: true,
            ..self
        }
    }

    /// Whether keys and values are unfolded from a small row.
    pub(super) fn is_latent(&self) -> bool {
        self.name == "deepseek2"
    }

    /// Whether some layers have the delta rule in place of attention.
    pub(super) fn is_hybrid(&self) -> bool {
        ["qwen35", "qwen35moe", "qwen3next"].contains(&self.name)
    }

    /// Whether it is the one of models with experts.
    pub(super) const fn has_experts(&self) -> bool {
        self.experts.is_some()
    }
}

/// Llama is Mistral as well: both are converted to it. Of two with one name, one has experts.
static FAMILIES: [GgufFamily; 32] = [
    GgufFamily::new("arcee").in_pairs(),
    GgufFamily {
        model_type: "glm",
        rotary_part: Some("partial_rotary_factor"),
        biases: &[ATTENTION_BIAS],
        names: &[(Part::GateUp, "ffn_up")],
        square: true,
        ..GgufFamily::new("chatglm")
    },
    GgufFamily {
        model_type: "cohere2",
        norm: (MEAN, "layer_norm_eps"),
        floats: &[("logit_scale", "logit_scale")],
        window: LayerWindow::But(4),
        square: true,
        ..GgufFamily::new("cohere2")
    },
    GgufFamily {
        model_type: "cohere",
        norm: (MEAN, "layer_norm_eps"),
        floats: &[("logit_scale", "logit_scale")],
        square: true,
        ..GgufFamily::new("command-r")
    },
    GgufFamily {
        model_type: "deepseek_v3",
        experts: Some(DEEP_EXPERTS),
        biases: &[("attention_bias", "blk.0.attn_kv_a_mqa.bias")],
        ..GgufFamily::new("deepseek2")
    },
    GgufFamily {
        window: LayerWindow::But(4),
        square: true,
        ..GgufFamily::new("exaone4")
    },
    GgufFamily {
        window: LayerWindow::But(2),
        ..GgufFamily::new("gemma2")
    },
    GgufFamily {
        model_type: "gemma3_text",
        window: LayerWindow::But(6),
        ..GgufFamily::new("gemma3")
    },
    GgufFamily {
        model_type: "gemma4_text",
        window: LayerWindow::Listed,
        experts: GEMMA4_EXPERTS,
        ..GgufFamily::new("gemma4")
    },
    GgufFamily {
        model_type: "gemma4_text",
        window: LayerWindow::Listed,
        ..GgufFamily::new("gemma4")
    },
    GgufFamily {
        rotary_part: Some("partial_rotary_factor"),
        biases: &[ATTENTION_BIAS],
        names: &[(Part::GateUp, "ffn_up")],
        ..GgufFamily::new("glm4")
    },
    GgufFamily {
        model_type: "glm4_moe",
        rotary_part: Some("partial_rotary_factor"),
        names: &[(Part::MlpNorm, "post_attention_norm")],
        biases: &[ATTENTION_BIAS, ("use_qk_norm", "blk.0.attn_q_norm.weight")],
        experts: Some(DEEP_EXPERTS),
        ..GgufFamily::new("glm4moe")
    },
    GgufFamily {
        norm: (MEAN, "layer_norm_epsilon"),
        square: true,
        ..GgufFamily::new("gpt2")
    },
    GgufFamily {
        model_type: "gpt_neox",
        norm: (MEAN, "layer_norm_eps"),
        rotary_part: Some("rotary_pct"),
        biases: &[("attention_bias", "blk.0.attn_qkv.bias")],
        square: true,
        ..GgufFamily::new("gptneox")
    },
    GgufFamily {
        model_type: "gpt_oss",
        window: LayerWindow::But(2),
        names: &[(Part::MlpNorm, "post_attention_norm")],
        biases: &[ATTENTION_BIAS],
        experts: Some(ExpertKeys {
            count: "num_local_experts",
            features: Some("intermediate_size"),
            shared: None,
        }),
        ..GgufFamily::new("gpt-oss")
    },
    GgufFamily {
        floats: &[
            ("attention.scale", "attention_multiplier"),
            ("embedding_scale", "embedding_multiplier"),
            ("residual_scale", "residual_multiplier"),
            ("logit_scale", "logits_scaling"),
        ],
        biases: &[ATTENTION_BIAS, MLP_BIAS],
        ..GgufFamily::new("granite").in_pairs()
    },
    GgufFamily {
        others: &["mistral"],
        biases: &[ATTENTION_BIAS, MLP_BIAS],
        ..GgufFamily::new("llama").in_pairs()
    },
    GgufFamily {
        model_type: "mixtral",
        experts: Some(ExpertKeys {
            count: "num_local_experts",
            features: None,
            shared: None,
        }),
        ..GgufFamily::new("llama").in_pairs()
    },
    GgufFamily {
        model_type: "llama4_text",
        experts: Some(ExpertKeys {
            count: "num_local_experts",
            features: Some("intermediate_size"),
            shared: None,
        }),
        ..GgufFamily::new("llama4")
    },
    GgufFamily {
        model_type: "ministral3",
        ..GgufFamily::new("mistral3").in_pairs()
    },
    GgufFamily {
        norm: (MEAN, "norm_eps"),
        rotary_part: Some("partial_rotary_factor"),
        biases: &[ATTENTION_BIAS, MLP_BIAS],
        square: true,
        ..GgufFamily::new("nemotron")
    },
    GgufFamily {
        others: &["olmo3"],
        window: LayerWindow::But(4),
        square: true,
        ..GgufFamily::new("olmo2")
    },
    GgufFamily {
        rotary_part: Some("partial_rotary_factor"),
        names: &[(Part::GateUp, "ffn_up")],
        square: true,
        ..GgufFamily::new("phi3")
    },
    GgufFamily {
        square: true,
        ..GgufFamily::new("qwen2")
    },
    GgufFamily {
        model_type: "qwen2_moe",
        experts: Some(ExpertKeys {
            count: "num_experts",
            features: Some("moe_intermediate_size"),
            shared: Some("shared_expert_intermediate_size"),
        }),
        biases: &[("qkv_bias", "blk.0.attn_q.bias")],
        square: true,
        ..GgufFamily::new("qwen2moe")
    },
    GgufFamily::new("qwen3"),
    GgufFamily {
        model_type: "qwen3_5_text",
        rotary_part: Some("partial_rotary_factor"),
        names: HYBRID,
        ..GgufFamily::new("qwen35")
    },
    GgufFamily {
        model_type: "qwen3_5_moe_text",
        rotary_part: Some("partial_rotary_factor"),
        names: HYBRID,
        experts: HYBRID_EXPERTS,
        ..GgufFamily::new("qwen35moe")
    },
    GgufFamily {
        model_type: "qwen3_moe",
        experts: Some(ExpertKeys {
            count: "num_experts",
            features: Some("moe_intermediate_size"),
            shared: None,
        }),
        ..GgufFamily::new("qwen3moe")
    },
    GgufFamily {
        model_type: "qwen3_next",
        rotary_part: Some("partial_rotary_factor"),
        names: HYBRID,
        experts: HYBRID_EXPERTS,
        ..GgufFamily::new("qwen3next")
    },
    GgufFamily::new("smollm3").in_pairs(),
    GgufFamily {
        norm: (MEAN, "norm_epsilon"),
        biases: &[("use_bias", "blk.0.attn_q.bias")],
        square: true,
        ..GgufFamily::new("starcoder2")
    },
];

/// The architecture of this name, with experts or without.
pub(super) fn family(name: &str, experts: bool) -> Option<&'static GgufFamily> {
    let named = || FAMILIES.iter().filter(|family| family.name == name);
    let same = named().find(|family| family.has_experts() == experts);
    same.or_else(|| named().next())
}

/// The architecture that a model of this `model_type` is written as.
pub(super) fn of_model_type(model_type: &str) -> Option<&'static GgufFamily> {
    let is_named = |family: &&GgufFamily| {
        family.model_type == model_type || family.others.contains(&model_type)
    };
    FAMILIES.iter().find(is_named)
}

/// All of them, each once.
pub(super) fn known(word: impl Fn(&GgufFamily) -> &'static str) -> String {
    let mut known: Vec<&str> = FAMILIES.iter().map(word).collect();
    known.sort_unstable();
    known.dedup();
    known.join(", ")
}
