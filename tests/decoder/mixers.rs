//! `config.json` of families whose layers have other mixers than Llama's: defaults, and what cannot be.

use firebox::model::{
    ConfigError,
    decoder::{MixerSpec, Sees, Spec},
    layers::Pairs,
};
use serde_json::{Value, json};

use super::file::{self, attention};

/// A small file with some fields replaced.
fn config(family: &str, change: &Value) -> Result<Spec, ConfigError> {
    file::read(family, [64, 8, 8], change)
}

/// The defaults of transformers 5.23, whose classes said these numbers. Catches a default of Llama in their place.
#[test]
fn absent_fields_have_the_defaults_of_transformers() {
    let none = json!({});
    let qwen = config("qwen3_5_text", &none).expect("valid");
    let delta = |layer: usize| match &qwen.layers[layer].mixer {
        MixerSpec::Delta(delta) => Some(delta),
        _ => None,
    };
    let whole: Vec<usize> = (0..8).filter(|layer| delta(*layer).is_none()).collect();
    assert_eq!(whole, [3, 7]);
    let delta = delta(0).expect("a delta layer");
    let heads = [delta.key_heads, delta.value_heads];
    let features = [delta.key_features, delta.value_features];
    assert_eq!((heads, features, delta.kernel), ([16, 32], [128, 128], 4));
    let whole = attention(&qwen, 3);
    assert_eq!((whole.key_value_heads, whole.head_features), (4, 256));
    let rotary = whole.rotary.as_ref().expect("a rotation");
    assert_eq!((rotary.features, rotary.theta), (64, 10_000.0));

    let deepseek = config("deepseek_v3", &none).expect("valid");
    let MixerSpec::Latent(latent) = &deepseek.layers[0].mixer else {
        panic!("{:?}", deepseek.layers[0].mixer)
    };
    assert_eq!(
        (latent.query_rank, latent.key_value_rank),
        (Some(1536), 512)
    );
    assert_eq!((latent.plain_features, latent.value_features), (128, 128));
    assert_eq!(
        (latent.rotary.features, latent.rotary.pairs),
        (64, Pairs::Interleaved)
    );
    assert_eq!(latent.scale, 192f64.sqrt().recip());
    let mlp = |layer: usize| deepseek.layers[layer].mlp().is_some();
    assert_eq!([2, 3].map(mlp), [true, false]);

    let gemma = config("gemma4_text", &none).expect("valid");
    let kinds: Vec<bool> = (0..8)
        .map(|layer| attention(&gemma, layer).sees == Sees::Window(512))
        .collect();
    // Each sixth is a full one, and the last.
    assert_eq!(kinds, [true, true, true, true, true, false, true, false]);
    let heads = |layer| {
        let attention = attention(&gemma, layer);
        let rotary = attention.rotary.as_ref().expect("a rotation");
        let turning = rotary.features / 2 - rotary.still;
        let heads = [attention.key_value_heads, attention.head_features];
        (heads, rotary.theta, turning)
    };
    assert_eq!(heads(0), ([4, 256], 1e4, 128));
    assert_eq!(heads(7), ([4, 512], 1e6, 64));
    let small = gemma.embedding.per_layer.expect("small embeddings");
    assert_eq!((small.vocabulary, small.features), (262_144, 256));
    assert!(gemma.head.tied);
}

/// The numbers of a layer as the hub spells them, and as transformers does where there are more than ten layers. Catches a
/// number with a zero before it that names no layer, and key heads that are counted where values are not keys.
#[test]
fn heads_of_full_layers_are_read_in_both_spellings() {
    let twelve = json!({
        "num_hidden_layers": 12,
        "per_layer_config": {"05": {"head_dim": 32}, "11": {"head_dim": 32, "num_key_value_heads": 2}},
    });
    let gemma = config("gemma4_text", &twelve).expect("valid");
    let heads = |spec: &Spec, layer| {
        let attention = attention(spec, layer);
        [attention.key_value_heads, attention.head_features]
    };
    assert_eq!(
        [0, 5, 11].map(|layer| heads(&gemma, layer)),
        [[4, 256], [4, 32], [2, 32]]
    );
    for (values_are_keys, key_heads) in [(false, 4), (true, 2)] {
        let hub = json!({
            "global_head_dim": 32,
            "num_global_key_value_heads": 2,
            "attention_k_eq_v": values_are_keys,
        });
        let gemma = config("gemma4_text", &hub).expect("valid");
        assert_eq!(heads(&gemma, 5), [key_heads, 32]);
        assert_eq!(attention(&gemma, 5).values_are_keys, values_are_keys);
    }
}

/// Each layer uses the keys of the last layer of its kind that has its own. Catches keys of the first such layer, and of
/// another kind.
#[test]
fn layers_without_keys_use_those_of_the_last_layer_of_their_kind() {
    let change = json!({"num_kv_shared_layers": 2, "use_double_wide_mlp": true});
    let gemma = config("gemma4_text", &change).expect("valid");
    let keys: Vec<Option<usize>> = (0..8)
        .map(|layer| attention(&gemma, layer).keys_of)
        .collect();
    let own = [None; 6];
    assert_eq!(keys, [&own[..], &[Some(4), Some(5)]].concat());
    let widths: Vec<usize> = gemma
        .layers
        .iter()
        .filter_map(|layer| layer.mlp().map(|mlp| mlp.features))
        .collect();
    assert_eq!(widths, [112, 112, 112, 112, 112, 112, 224, 224]);
}

/// Catches a panic, and a model that is silently another one. Each message names the field.
#[test]
fn values_that_cannot_be_are_refused_by_field() {
    let experts = json!({"enable_moe_block": true, "num_experts": 4, "top_k_experts": 5, "moe_intermediate_size": 8});
    let yarn = json!({"rope_parameters": {"rope_type": "yarn", "mscale_all_dim": 1}});
    let cases = [
        ("qwen3_5_text", json!({"hidden_act": "gelu"}), "hidden_act"),
        (
            "qwen3_5_text",
            json!({"linear_num_value_heads": 24}),
            "linear_num_value_heads",
        ),
        (
            "qwen3_5_text",
            json!({"linear_conv_kernel_dim": 1}),
            "linear_conv_kernel_dim",
        ),
        (
            "qwen3_5_text",
            json!({"layer_types": ["full_attention"]}),
            "layer_types",
        ),
        (
            "qwen3_5_text",
            json!({"layer_types": vec!["conv"; 8]}),
            "layer_types",
        ),
        (
            "deepseek_v3",
            json!({"num_key_value_heads": 2}),
            "num_key_value_heads",
        ),
        (
            "deepseek_v3",
            json!({"scoring_func": "softmax"}),
            "scoring_func",
        ),
        (
            "deepseek_v3",
            json!({"topk_method": "greedy"}),
            "topk_method",
        ),
        ("deepseek_v3", json!({"kv_lora_rank": 0}), "kv_lora_rank"),
        ("deepseek_v3", json!({"n_group": 7}), "n_group"),
        ("deepseek_v3", yarn, "rope_parameters.factor"),
        (
            "gemma4_text",
            json!({"use_bidirectional_attention": "all"}),
            "use_bidirectional_attention",
        ),
        (
            "gemma4_text",
            json!({"num_kv_shared_layers": 9}),
            "num_kv_shared_layers",
        ),
        (
            "gemma4_text",
            json!({"num_kv_shared_layers": 4}),
            "num_kv_shared_layers",
        ),
        (
            "gemma4_text",
            json!({"vocab_size_per_layer_input": 511}),
            "vocab_size_per_layer_input",
        ),
        (
            "gemma4_text",
            json!({"global_head_dim": 33}),
            "global_head_dim",
        ),
        (
            "gemma4_text",
            json!({"global_head_dim": 8194}),
            "global_head_dim",
        ),
        (
            "gemma4_text",
            json!({"attention_k_eq_v": true, "num_global_key_value_heads": 3}),
            "num_global_key_value_heads",
        ),
        (
            "gemma4_text",
            json!({"per_layer_config": {"0": {"intermediate_size": 8}}}),
            "per_layer_config.0.intermediate_size",
        ),
        (
            "gemma4_text",
            json!({"enable_moe_block": true}),
            "num_experts",
        ),
        ("gemma4_text", experts, "top_k_experts"),
    ];
    for (family, change, expected) in cases {
        let error = config(family, &change).expect_err(&change.to_string());
        let field = match &error {
            ConfigError::Missing { field }
            | ConfigError::Value { field, .. }
            | ConfigError::Unsupported { field, .. } => field,
            other => panic!("{change}: {other}"),
        };
        assert_eq!(field, expected, "{change}: {error}");
    }
}
