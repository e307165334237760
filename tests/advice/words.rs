//! Words of other programs.

use firebox::{config::To, quant::QuantSpec};

/// What people write elsewhere, and what they mean. Catches a list of all words as the only answer.
#[test]
fn a_quantization_of_another_program_is_answered_with_the_nearest() {
    for (word, nearest) in [
        ("int4", "wna16:bits=4,group=128"),
        ("4bit", "nf4"),
        ("8bit", "int8"),
        ("Q4_K_M", "q4_k_m"),
        ("q3_K_L", "q3_k_l"),
        ("q6_k_l", "q6_k"),
        ("Q8_0", "q8_0"),
        ("q5_1_m", "mlx:bits=5,group=32"),
        ("gguf", "q4_k"),
        ("iq3_xxs", "mlx:bits=3,group=32"),
        ("gptq", "wna16:bits=4,group=128"),
        ("awq", "wna16:bits=4,group=128"),
        ("w4a16", "wna16:bits=4,group=128"),
        ("W8A16", "wna16:bits=8,group=128"),
        ("w8a8", "int8"),
        ("bnb", "nf4"),
        ("nf4-dq", "nf4:nested"),
        ("load_in_4bit", "nf4"),
        ("load_in_8bit", "int8"),
        ("int4wo", "wna16:bits=4,group=128"),
        ("fp8_e4m3", "fp8:e4m3,scale=channel"),
        ("fp8_e5m2", "fp8:e5m2,scale=channel"),
        ("bitsandbytes", "nf4"),
        ("4", "wna16:bits=4,group=128"),
        ("hqq4", "hqq:bits=4,group=64"),
        // Misspelt.
        ("nf5", "nf4"),
        ("mxpf4", "mxfp4"),
        ("nvfp44", "nvfp4"),
        ("wna-16:bits=3", "wna16"),
        ("non", "none"),
    ] {
        let error = word.parse::<QuantSpec>().expect_err(word).to_string();
        assert!(
            error.contains(&format!("nearest to it is `{nearest}`")),
            "{error}"
        );
        assert!(error.contains(&format!("`{word}`")), "{error}");
        assert!(nearest.parse::<QuantSpec>().is_ok(), "{nearest}");
    }
    // Nothing is near.
    let error = "zzzzzz"
        .parse::<QuantSpec>()
        .expect_err("is no word")
        .to_string();
    assert!(
        !error.contains("nearest") && error.contains("nf4"),
        "{error}"
    );
}

#[test]
fn a_dialect_of_another_name_is_answered_with_the_nearest() {
    for (word, nearest) in [
        ("bnb", To::BitsAndBytes),
        ("bits-and-bytes", To::BitsAndBytes),
        ("BitsAndBytes", To::BitsAndBytes),
        ("ct", To::CompressedTensors),
        ("compressed_tensors", To::CompressedTensors),
        ("gptq", To::CompressedTensors),
        ("awq", To::CompressedTensors),
        ("vllm", To::CompressedTensors),
        ("mlx-lm", To::Mlx),
        ("fp-8", To::Fp8),
        ("gpt-oss", To::Mxfp4),
    ] {
        let error = word.parse::<To>().expect_err(word);
        assert_eq!(error.nearest, Some(nearest), "{word}");
        assert!(
            error.to_string().contains(&format!("nearest is {nearest}")),
            "{error}"
        );
    }
}
