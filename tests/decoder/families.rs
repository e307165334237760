//! What families read where a file says nothing: the defaults of transformers 5.23, whose classes have these numbers.

use firebox::model::{
    ConfigError,
    decoder::{NormPlaces, Sees, Spec},
    layers::{Activation, Pairs},
};
use serde_json::{Value, json};

use super::file::{self, attention};

/// A file with sizes only, and `change`.
fn spec(family: &str, change: Value) -> Result<Spec, ConfigError> {
    file::read(family, [64, 4, 4], &change)
}

fn read(family: &str) -> Spec {
    spec(family, json!({})).expect(family)
}

/// Base, rotated features and pairs of a layer.
fn rotation(spec: &Spec, layer: usize) -> Option<(f64, usize, Pairs)> {
    let rotary = attention(spec, layer).rotary.as_ref()?;
    Some((rotary.theta, rotary.features, rotary.pairs))
}

/// Catches a head that is untied, a base of another family, and a part of a head that is the whole.
#[test]
fn absent_fields_of_families_with_means_have_the_defaults_of_transformers() {
    let (halves, neighbours) = (Pairs::Halves, Pairs::Interleaved);
    let cases = [
        // Tied; key and value heads; base, rotated features and pairs of the first layer; epsilon; activation.
        (
            "cohere",
            true,
            4,
            (500_000.0, 16, neighbours),
            1e-5,
            Activation::Silu,
        ),
        (
            "cohere2",
            true,
            4,
            (10_000.0, 16, neighbours),
            1e-5,
            Activation::Silu,
        ),
        (
            "glm",
            false,
            2,
            (10_000.0, 64, neighbours),
            1.5625e-7,
            Activation::Silu,
        ),
        (
            "glm4",
            false,
            2,
            (10_000.0, 64, neighbours),
            1.5625e-7,
            Activation::Silu,
        ),
        (
            "nemotron",
            false,
            4,
            (10_000.0, 8, halves),
            1e-5,
            Activation::ReluSquared,
        ),
        (
            "starcoder2",
            true,
            2,
            (10_000.0, 16, halves),
            1e-5,
            Activation::GeluTanh,
        ),
        (
            "gpt_neox",
            false,
            4,
            (10_000.0, 4, halves),
            1e-5,
            Activation::Gelu,
        ),
        (
            "arcee",
            false,
            4,
            (10_000.0, 16, halves),
            1e-5,
            Activation::ReluSquared,
        ),
    ];
    for (family, tied, heads, turns, eps, activation) in cases {
        let spec = read(family);
        assert_eq!(spec.head.tied, tied, "{family}");
        assert_eq!(attention(&spec, 0).key_value_heads, heads, "{family}");
        assert_eq!(rotation(&spec, 0), Some(turns), "{family}");
        assert_eq!(spec.norm.eps, eps, "{family}");
        assert_eq!(
            spec.layers[0].mlp().expect("an MLP").activation,
            activation,
            "{family}"
        );
    }
    for family in ["cohere", "cohere2"] {
        assert_eq!(read(family).head.multiplier, Some(0.0625));
    }
}

/// Catches a window where there is none, and a rotation on the layers of Cohere 2 that have no positions.
#[test]
fn windows_of_families_with_means_are_where_transformers_puts_them() {
    let all = |family: &str| {
        let spec = read(family);
        spec.layers
            .iter()
            .all(|layer| layer.attention().expect("attention").sees == Sees::All)
    };
    assert!(
        ["starcoder2", "nemotron", "glm4", "gpt_neox", "cohere"]
            .into_iter()
            .all(all)
    );

    let sees = |change| {
        let spec = spec("cohere2", change).expect("a valid file");
        (0..4)
            .map(|layer| {
                (
                    attention(&spec, layer).sees,
                    rotation(&spec, layer).is_some(),
                )
            })
            .collect::<Vec<_>>()
    };
    let (near, far) = ((Sees::Window(4096), true), (Sees::All, false));
    assert_eq!(sees(json!({})), [near, near, near, far]);
    assert_eq!(
        sees(json!({"sliding_window_pattern": 2})),
        [near, far, near, far]
    );
    let near = (Sees::Window(8), true);
    let types = [
        "full_attention",
        "sliding_attention",
        "full_attention",
        "full_attention",
    ];
    assert_eq!(
        sees(json!({"sliding_window": 8, "layer_types": types})),
        [far, near, far, far]
    );
}

/// Catches a field that is read and ignored.
#[test]
fn fields_of_one_family_decide() {
    let places = |change| spec("gpt_neox", change).expect("a valid file").layers[0].norms;
    assert_eq!(places(json!({})), NormPlaces::ParallelApart);
    assert_eq!(
        places(json!({"use_parallel_residual": false})),
        NormPlaces::Before
    );

    let old = json!({"rotary_pct": 0.5, "rotary_emb_base": 500.0, "rope_theta": 7.0});
    let neox = spec("gpt_neox", old).expect("a valid file");
    assert_eq!(rotation(&neox, 0), Some((500.0, 8, Pairs::Halves)));

    let biases = |family: &str, change| {
        let spec = spec(family, change).expect(family);
        let first = attention(&spec, 0);
        (
            first.qkv_bias,
            first.o_bias,
            spec.layers[0].mlp().expect("an MLP").bias,
        )
    };
    assert_eq!(
        biases("starcoder2", json!({"use_bias": false})),
        (false, false, false)
    );
    assert_eq!(biases("glm4", json!({})), (true, false, false));
    assert_eq!(
        biases("gpt_neox", json!({"attention_bias": false})),
        (false, false, true)
    );
    assert_eq!(
        biases("internlm3", json!({"qkv_bias": true, "bias": true})),
        (true, true, true)
    );
}

/// Each message names the field. Catches a field that changes numbers and is ignored.
#[test]
fn what_is_not_read_is_refused_by_field() {
    let near = ["sliding_attention"; 4];
    let cases = [
        (
            "gpt2",
            json!({"add_cross_attention": true}),
            "add_cross_attention",
        ),
        ("gpt2", json!({"n_embd": 66}), "n_embd"),
        (
            "gpt2",
            json!({"activation_function": "quick_gelu"}),
            "activation_function",
        ),
        ("cohere2", json!({"sliding_window": null}), "sliding_window"),
        (
            "internlm3",
            json!({"qkv_bias": true, "bias": false}),
            "qkv_bias",
        ),
        ("iquestcoder", json!({"clip_qkv": 8.0}), "clip_qkv"),
        (
            "iquestcoder",
            json!({"use_sliding_window": true}),
            "use_sliding_window",
        ),
        (
            "nemotron",
            json!({"partial_rotary_factor": 1.5}),
            "partial_rotary_factor",
        ),
        ("gpt_neox", json!({"rotary_pct": 1.5}), "rotary_pct"),
        ("cohere", json!({"logit_scale": null}), "logit_scale"),
        (
            "gemma2",
            json!({"layer_types": near, "sliding_window": null}),
            "layer_types",
        ),
        (
            "qwen2",
            json!({"layer_types": near, "num_key_value_heads": 4}),
            "layer_types",
        ),
        (
            "deepseek_v3",
            json!({"head_dim": 64, "qk_rope_head_dim": 9}),
            "qk_rope_head_dim",
        ),
        (
            "deepseek_v3",
            json!({"head_dim": 8194, "qk_rope_head_dim": 8194}),
            "qk_rope_head_dim",
        ),
    ];
    for (family, change, expected) in cases {
        let error = spec(family, change.clone()).expect_err(&change.to_string());
        let (ConfigError::Value { field, .. } | ConfigError::Unsupported { field, .. }) = &error
        else {
            panic!("{change}: {error}");
        };
        assert_eq!(field, expected, "{change}: {error}");
    }
}

/// GPT-2 has words of its own, and takes those of others. Catches scores that are divided twice.
#[test]
fn scores_of_gpt2_are_scaled_as_its_file_says() {
    let scales = |change| {
        let spec = spec("gpt2", change).expect("a valid file");
        (0..2)
            .map(|layer| attention(&spec, layer).scale)
            .collect::<Vec<_>>()
    };
    assert_eq!(scales(json!({})), [0.25, 0.25]);
    assert_eq!(scales(json!({"n_head": 16})), [0.5, 0.5]);
    assert_eq!(scales(json!({"scale_attn_weights": false})), [1.0, 1.0]);
    assert_eq!(
        scales(json!({"scale_attn_by_inverse_layer_idx": true})),
        [0.25, 0.125]
    );
}
