//! The expressions of every `tokenizer.ggml.pre`: those of the tokenizers of the models themselves, as `llama-vocab.cpp` of
//! llama.cpp (MIT License, Georgi Gerganov and contributors) lists them. Left out are those that it computes by code of its own
//! (afmoe, chameleon, kimi-k2, superbpe) and those that know no bytes (gemma4, sarvam-moe, whitespace).

/// How a text is cut.
#[derive(Debug)]
pub(super) struct Cutting {
    /// What `tokenizer.ggml.pre` says; the first is written.
    pub(super) names: &'static [&'static str],
    /// One after another, each in the pieces of the one before.
    pub(super) cuts: &'static [TextCut],
    /// Whether texts are brought into the normal form C.
    pub(super) normal_form: bool,
    /// Whether a word that is a token needs no merges.
    pub(super) whole_words: bool,
    /// Whether a text begins with a token unless a key says otherwise.
    pub(super) begins: bool,
}

/// Where a text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextCut {
    /// Before and after what an expression finds.
    At(&'static str),
    /// Around each digit.
    Digits,
    /// As GPT-2 does.
    Gpt2,
}

pub(super) static CUTTINGS: [Cutting; 29] = [
    Cutting {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        cuts: &[TextCut::At(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: true,
        begins: true,
    },
    Cutting {
        names: &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"],
        cuts: &[TextCut::At(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        normal_form: true,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        cuts: &[TextCut::Gpt2],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        cuts: &[TextCut::Digits, TextCut::Gpt2],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"],
        cuts: &[
            TextCut::At(r"\p{N}{1,3}"),
            TextCut::At(r"[一-龥぀-ゟ゠-ヿ]+"),
            TextCut::At(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
            ),
        ],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["tekken"],
        cuts: &[TextCut::At(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: true,
        begins: true,
    },
    Cutting {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        cuts: &[TextCut::At(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["default"],
        cuts: &[
            TextCut::At(r"[\p{P}\$\+<=>\^~\|]+"),
            TextCut::Gpt2,
            TextCut::At(r"\p{N}+"),
            TextCut::At(r"[0-9][0-9][0-9]"),
        ],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["minicpm5"],
        cuts: &[
            TextCut::At(r"\p{N}{1,3}"),
            TextCut::At(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
        ],
        normal_form: false,
        whole_words: true,
        begins: false,
    },
    Cutting {
        names: &["deepseek-llm"],
        cuts: &[
            TextCut::At(r"[\r\n]"),
            TextCut::At(
                r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
            ),
            TextCut::At(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            TextCut::At(r"\s+$"),
            TextCut::At(r"[一-龥ࠀ-一가-퟿]+"),
            TextCut::At(r"\p{N}+"),
        ],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["deepseek-coder"],
        cuts: &[
            TextCut::At(r"[\r\n]"),
            TextCut::At(r"\s?\p{L}+"),
            TextCut::At(r"\s?\p{P}+"),
            TextCut::At(r"[一-龥ࠀ-一가-퟿]+"),
            TextCut::Digits,
        ],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["spark2_5"],
        cuts: &[
            TextCut::At(r"\p{N}{1,3}"),
            TextCut::At(r"[一-龥぀-ゟ゠-ヿ]+"),
            TextCut::At(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##,
            ),
            TextCut::Digits,
        ],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["youtu"],
        cuts: &[
            TextCut::At(r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"),
            TextCut::At(
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
        ],
        normal_form: false,
        whole_words: true,
        begins: false,
    },
    Cutting {
        names: &["falcon"],
        cuts: &[
            TextCut::At(r"[\p{P}\$\+<=>\^~\|`]+"),
            TextCut::Gpt2,
            TextCut::At(r"[0-9][0-9][0-9]"),
        ],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["jais-2"],
        cuts: &[TextCut::At(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
        )],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["qwen35"],
        cuts: &[TextCut::At(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["stablelm2", "hunyuan", "grok-2", "solar-open"],
        cuts: &[TextCut::At(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["dbrx", "smaug-bpe"],
        cuts: &[TextCut::At(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["poro-chat", "bloom", "gpt3-finnish"],
        cuts: &[TextCut::At(r" ?[^(\s|.,!?…。，、।۔،)]+")],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["glm4", "glm5"],
        cuts: &[TextCut::At(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: true,
        begins: false,
    },
    Cutting {
        names: &["chatglm-bpe"],
        cuts: &[TextCut::At(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["viking"],
        cuts: &[TextCut::At(r" ?[^(\s|.,!?…。，、।۔،)]+"), TextCut::Digits],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["exaone-moe"],
        cuts: &[TextCut::At(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["granite-embed-multi-97m"],
        cuts: &[TextCut::At(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: true,
        begins: false,
    },
    Cutting {
        names: &["tiny_aya", "cohere2moe"],
        cuts: &[
            TextCut::At(r"\d{1,3}(?=(?:\d{3})*\b)"),
            TextCut::At(
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
        ],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        cuts: &[TextCut::At(
            r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["seed-coder"],
        cuts: &[TextCut::At(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["ufakzeka"],
        cuts: &[TextCut::At(
            r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
    Cutting {
        names: &["laguna"],
        cuts: &[
            TextCut::At(r"[^\n]+|[\n]+"),
            TextCut::At(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
        ],
        normal_form: false,
        whole_words: false,
        begins: false,
    },
];
