//! Which of transformers' tokenizer classes a checkpoint is of, where it has no `tokenizer.json`.
//!
//! The files say how text is cut in part only: the same `vocab.json` means other ids with GPT-2's rules and with
//! Qwen's. transformers keeps the rest in classes, and picks one by `tokenizer_class` and `model_type`
//! (`models/auto/tokenization_auto.py` of 5.23). This file has the same choice, and of each class the tokens that
//! stand where no file names others.

use serde_json::Value;

use crate::text::files::Object;

/// A class: the files that it reads, and its rules for text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::text) enum Class {
    /// `TokenizersBackend`: as the settings in the sentencepiece file say, or ranks as Llama 3 cuts text.
    Generic,
    Llama,
    CodeLlama,
    Gemma,
    T5,
    Gpt2,
    GptNeoX,
    Qwen2,
    Qwen35,
    Cohere,
}

/// The values of `model_type` that each class is registered for, with spaces between. With another type `tokenizer_class`
/// decides.
const REGISTERED: [(Class, &str); 9] = [
    (Class::CodeLlama, "code_llama"),
    (Class::Llama, "idefics idefics2"),
    (
        Class::Gemma,
        "diffusion_gemma gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma shieldgemma2 t5gemma \
         zaya",
    ),
    (
        Class::T5,
        "mt5 musicgen musicgen_melody switch_transformers t5",
    ),
    (
        Class::Gpt2,
        "blip-2 codegen dbrx emu3 gpt2 gpt_neo gptj hyperclovax_vision_v2 instructblip instructblipvideo jais2 opt \
         phi starcoder2",
    ),
    (
        Class::GptNeoX,
        "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmoe rwkv xlstm",
    ),
    (
        Class::Qwen2,
        "audioflamingo3 colqwen2 cosmos3_omni dots3_note fun_asr_nano hunyuan_vl internvl lighton_ocr \
         moss_transcribe_diarize ovis2 qianfan_ocr qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl \
         qwen3 qwen3_asr qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe vibevoice",
    ),
    (
        Class::Qwen35,
        "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen4_exp",
    ),
    (Class::Cohere, "aya_vision cohere cohere2"),
];

/// The types that transformers registers its generic class for: `tokenizer_class` does not count with them.
const GENERIC: &str = "arctic aria beam bigbird_pegasus canary chatlm cohere_asr ernie4_5 ernie4_5_moe flex_olmo fuyu glm glm4 \
     glm4_moe glm4_moe_lite glm4v glm4v_moe glm_image glmasr got_ocr2 gpt_bigcode gradium_phonon_tts granite \
     granitemoe granitemoehybrid granitemoeshared h2ovl_chat hyperclovax hyperclovax_vlm internlm2 internlm3 \
     iquestcoder jamba kimi_k25 kimi_linear kosmos-2 llava llava_next mimo_v2_flash minicpm3 minicpm_ocr minicpmv \
     minicpmv4_6 minicpmv4_7 minimax_m2 ministral ministral3 mistral mistral3 mistral_large4 mixtral modernbert \
     modernbert-decoder molmo molmo2 nemo_speechlm nemotron nvfp4 nystromformer olmo2 olmo3 olmo_hybrid opencua \
     openvla paddleocr_vl pegasus_x persimmon phi3 phi3_v phimoe pix2struct pixtral pocket_tts smolvlm stablelm \
     step3_vl umt5 vipllava voxtral voxtral_realtime xlm-roberta-xl";

/// The types whose checkpoints name a wrong class: the registered one counts.
const MISNAMED: &str = "hyperclovax_vision_v2 qwen2 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen4_exp";

/// Classes of transformers that are not converted, without `Tokenizer` at the end.
const UNSUPPORTED: &str = "Albert Bart Barthez Bartpho Bert BertGeneration BertJapanese Bertweet BigBird BioGpt Blenderbot BlenderbotSmall \
     ByT5 CLIP CTRL Camembert Canine Clvp ConvBert Cpm CpmAnt DPRContextEncoder DPRQuestionEncoder DPRReader Deberta \
     DebertaV2 Dia DistilBert Electra Esm Esmc FNet FSMT Flaubert Funnel GPTNeoXJapanese GPTSw3 Herbert LED Lasr \
     LayoutLM LayoutLMv2 LayoutLMv3 LayoutXLM Longformer Luke Lxmert M2M100 MBart MBart50 MLuke MPNet Marian \
     MarkupLM Mgpstr MobileBert Mvp MyT5 Nllb Nougat OpenAIGPT PLBart Parakeet Pegasus Perceiver Phobert ProphetNet \
     Rag Reformer RemBert RoCBert RoFormer Roberta SeamlessM4T Siglip Siglip2 Speech2Text SpeechT5 Splinter \
     SqueezeBert Tapas Tipsv2 Udop VideoPrism Vits Wav2Vec2CTC Wav2Vec2PhonemeCTC Whisper XGLM XLM XLMRoberta XLNet";

impl Class {
    /// The class for a checkpoint: as `AutoTokenizer.from_pretrained` picks it. An error is the name of a class of
    /// transformers with other rules, which are not converted here.
    pub(in crate::text) fn choose<'a>(
        config: Option<&'a Object>,
        model: Option<&'a Value>,
    ) -> Result<Self, &'a str> {
        let text = |value: Option<&'a Value>| value.and_then(Value::as_str);
        let named = text(config.and_then(|config| config.get("tokenizer_class")))
            .or_else(|| text(model.and_then(|model| model.get("tokenizer_class"))));
        let model_type = text(model.and_then(|model| model.get("model_type"))).unwrap_or_default();
        let registered = Self::registered(model_type);
        match (named, registered) {
            (Some(_), Some(registered)) if has(MISNAMED, model_type) => Ok(registered),
            (Some(_), Some(Self::Generic)) => Ok(Self::Generic),
            (Some(named), _) => Self::named(named),
            (None, registered) => Ok(registered.unwrap_or(Self::Generic)),
        }
    }

    /// The class that `tokenizer_class` names, or the one registered for the type, where it is one of `vocab.json` and
    /// `merges.txt`. transformers needs a `tokenizer.json` where its choice is another one.
    pub(in crate::text) fn of_byte_pairs(
        config: Option<&Object>,
        model: Option<&Value>,
    ) -> Option<Self> {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let named = text(config.and_then(|config| config.get("tokenizer_class")))
            .or_else(|| text(model.and_then(|model| model.get("tokenizer_class"))));
        let named = named.and_then(|named| Self::named(&named).ok());
        let model_type = text(model.and_then(|model| model.get("model_type")));
        let registered = model_type.and_then(|model_type| Self::registered(&model_type));
        [named, registered]
            .into_iter()
            .flatten()
            .find(|class| class.is_of_byte_pairs())
    }

    /// Whether the class reads `vocab.json` and `merges.txt`.
    pub(in crate::text) fn is_of_byte_pairs(self) -> bool {
        matches!(
            self,
            Self::Gpt2 | Self::GptNeoX | Self::Qwen2 | Self::Qwen35 | Self::Cohere
        )
    }

    fn registered(model_type: &str) -> Option<Self> {
        if has(GENERIC, model_type) {
            return Some(Self::Generic);
        }
        let (class, _) = REGISTERED
            .iter()
            .find(|(_, types)| has(types, model_type))?;
        Some(*class)
    }

    /// A name that transformers does not know is its generic class, as it is there.
    fn named(name: &str) -> Result<Self, &str> {
        let class = match name.strip_suffix("Fast").unwrap_or(name) {
            "LlamaTokenizer" | "Phi3Tokenizer" => Self::Llama,
            "CodeLlamaTokenizer" => Self::CodeLlama,
            "GemmaTokenizer" => Self::Gemma,
            "T5Tokenizer" => Self::T5,
            "GPT2Tokenizer" | "CodeGenTokenizer" => Self::Gpt2,
            "GPTNeoXTokenizer" => Self::GptNeoX,
            "Qwen2Tokenizer" => Self::Qwen2,
            "Qwen3_5Tokenizer" => Self::Qwen35,
            "CohereTokenizer" => Self::Cohere,
            other => match other.strip_suffix("Tokenizer") {
                Some(stem) if has(UNSUPPORTED, stem) => return Err(name),
                _ => Self::Generic,
            },
        };
        Ok(class)
    }

    /// The name of the class in transformers.
    pub(in crate::text) fn name(self) -> &'static str {
        match self {
            Self::Generic => "TokenizersBackend",
            Self::Llama => "LlamaTokenizer",
            Self::CodeLlama => "CodeLlamaTokenizer",
            Self::Gemma => "GemmaTokenizer",
            Self::T5 => "T5Tokenizer",
            Self::Gpt2 => "GPT2Tokenizer",
            Self::GptNeoX => "GPTNeoXTokenizer",
            Self::Qwen2 => "Qwen2Tokenizer",
            Self::Qwen35 => "Qwen3_5Tokenizer",
            Self::Cohere => "CohereTokenizer",
        }
    }

    /// The special tokens where no file names others: the defaults of the class's `__init__`.
    pub(in crate::text) fn special_tokens(self) -> &'static [(&'static str, &'static str)] {
        const END: &str = "<|endoftext|>";
        match self {
            Self::Generic => &[],
            Self::Llama => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
            ],
            Self::CodeLlama => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("prefix_token", "▁<PRE>"),
                ("middle_token", "▁<MID>"),
                ("suffix_token", "▁<SUF>"),
                ("eot_token", "▁<EOT>"),
                ("fill_token", "<FILL_ME>"),
            ],
            Self::Gemma => &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::T5 => &[
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
            ],
            Self::Gpt2 => &[("bos_token", END), ("eos_token", END), ("unk_token", END)],
            Self::GptNeoX => &[
                ("bos_token", END),
                ("eos_token", END),
                ("unk_token", END),
                ("pad_token", "<|padding|>"),
            ],
            Self::Qwen2 | Self::Qwen35 => {
                &[("eos_token", END), ("unk_token", END), ("pad_token", END)]
            }
            Self::Cohere => &[
                ("bos_token", "<BOS_TOKEN>"),
                ("eos_token", "<|END_OF_TURN_TOKEN|>"),
                ("unk_token", "<UNK>"),
                ("sep_token", "<SEP>"),
                ("pad_token", "<PAD>"),
                ("cls_token", "<CLS>"),
                ("mask_token", "<MASK_TOKEN>"),
            ],
        }
    }
}

/// Whether a name is one of those in a list with spaces between.
fn has(list: &str, name: &str) -> bool {
    list.split(' ').any(|one| one == name)
}
