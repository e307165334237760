//! Words of other programs, and what is nearest to them here.

use super::super::near::{letters, nearest};

/// The quantization that is nearest to a word that is none, as it would be written here; `names` are the first words of all.
pub(super) fn nearest_spec(word: &str, names: &[&str]) -> Option<String> {
    let plain: String = letters(word.split(':').next().unwrap_or_default())
        .into_iter()
        .collect();
    let known = WORDS.iter().find(|(words, _)| words.contains(&&*plain));
    if let Some((_, ours)) = known {
        return Some((*ours).to_owned());
    }
    if let Some(ours) = of_bits(&plain) {
        return Some(ours);
    }
    nearest(&plain, names.iter().copied()).map(str::to_owned)
}

/// Words of other programs, as their letters, and what is nearest here.
static WORDS: &[(&[&str], &str)] = &[
    // bitsandbytes and transformers.
    (
        &[
            "bnb",
            "bitsandbytes",
            "qlora",
            "4bit",
            "4bits",
            "loadin4bit",
            "bnb4bit",
            "bnbnf4",
            "normalfloat4",
        ],
        "nf4",
    ),
    (
        &["nf4dq", "nf4doublequant", "nf4nested", "doublequant"],
        "nf4:nested",
    ),
    (
        &[
            "8bit",
            "8bits",
            "loadin8bit",
            "bnb8bit",
            "llmint8",
            "eetq",
            "smoothquant",
            "8",
        ],
        "int8",
    ),
    // torchao, quanto, llm-compressor, GPTQ and AWQ.
    (
        &[
            "4",
            "int4",
            "uint4",
            "i4",
            "int4wo",
            "int4weightonly",
            "qint4",
            "gptq",
            "awq",
            "autoround",
            "marlin",
        ],
        "wna16:bits=4,group=128",
    ),
    (
        &[
            "int8wo",
            "int8weightonly",
            "qint8",
            "w8a8",
            "w8a8int8",
            "i8",
            "uint8",
            "int8dynamic",
        ],
        "int8",
    ),
    (
        &[
            "fp8e4m3",
            "e4m3",
            "fp8e4m3fn",
            "float8",
            "float8e4m3fn",
            "f8",
            "fp8wo",
            "fp8dynamic",
            "float8wo",
            "float8weightonly",
            "qfloat8",
            "w8a8fp8",
            "fp8channel",
        ],
        "fp8:e4m3,scale=channel",
    ),
    (&["fp8e5m2", "e5m2", "float8e5m2"], "fp8:e5m2,scale=channel"),
    (
        &[
            "fp8block",
            "fp8blockwise",
            "finegrained",
            "finegrainedfp8",
            "deepseek",
        ],
        "fp8:e4m3,scale=block",
    ),
    (&["nvfp4a16", "fp4nv", "modelopt", "modeloptfp4"], "nvfp4"),
    (&["mxfp4a16", "mx4", "gptoss", "mx"], "mxfp4"),
    (&["mx8", "mxfp8e4m3"], "mxfp8"),
    (&["gguf", "ggml", "llamacpp"], "q4_k"),
    // Formats of which only the number of bits is alike.
    (&["affine", "mlx4bit", "mlxlm"], "mlx:bits=4,group=32"),
    (
        &[
            "exl2",
            "exl3",
            "exllama",
            "exllamav2",
            "exllamav3",
            "unsloth",
        ],
        "auto:bits=4.5",
    ),
    (&["bitnet", "ternary", "158bit", "158"], "hqq:bits=1.58"),
    (&["aqlm", "quip", "vptq", "spqr"], "hqq:bits=2,group=64"),
    (
        &[
            "no", "off", "dense", "false", "null", "0", "bfloat16", "fp16", "float16", "half",
            "fp32", "float32", "float",
        ],
        "none",
    ),
    (&["best", "fit", "automatic"], "auto"),
];

/// What is nearest to a word that says little more than a number of bits: `Q4_K_M`, `w4a16`, `int3`, `6bit`.
fn of_bits(word: &str) -> Option<String> {
    let digit = word.chars().find(char::is_ascii_digit)?;
    let bits = digit
        .to_digit(10)
        .filter(|bits| matches!(bits, 2..=6 | 8))?;
    let (before, after) = word.split_once(digit)?;
    match (before, after) {
        ("q", "0" | "1") if matches!(bits, 4 | 5) => Some(format!("q{bits}_{after}")),
        ("q", "0") if bits == 8 => Some("q8_0".to_owned()),
        ("q", "ks" | "km") if matches!(bits, 3..=5) => Some(format!("q{bits}_k_{}", &after[1..])),
        ("q", "kl") if bits == 3 => Some("q3_k_l".to_owned()),
        ("q", _) if after.starts_with('k') && bits <= 6 => Some(format!("q{bits}_k")),
        ("iq", _) if bits == 4 => Some("iq4_nl".to_owned()),
        // llama.cpp has groups of 32.
        ("q" | "iq" | "tq", _) => Some(format!("mlx:bits={bits},group=32")),
        ("w", "a16" | "a16asym" | "" | "abf16") => Some(format!("wna16:bits={bits},group=128")),
        ("w", "a8" | "a4") => Some(match bits {
            8 => "int8".to_owned(),
            _ => format!("wna16:bits={bits},group=128"),
        }),
        ("int" | "uint" | "i" | "u" | "bits" | "bit" | "", "" | "bit" | "bits" | "wo") => {
            Some(format!("mlx:bits={bits},group=64"))
        }
        ("hqq", _) => Some(format!("hqq:bits={bits},group=64")),
        ("mlx", _) => Some(format!("mlx:bits={bits},group=64")),
        _ => None,
    }
}
