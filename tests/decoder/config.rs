//! `config.json` of the family: defaults, older words for the same, and what cannot be.

use firebox::model::{
    Architecture, CausalLm, ConfigError, RopeScaling,
    decoder::{Sees, Spec},
};
use serde_json::{Value, json};

use super::common::models;

/// Those of transformers 4 and 5, and that of the hub. Catches a field that is read in one of them only: the model would
/// load and answer with default frequencies.
#[test]
fn all_spellings_of_a_configuration_say_the_same() {
    for golden in models() {
        let new = CausalLm::config(&golden.json("config.json")).expect(golden.0);
        for file in golden.other_configs() {
            let old = CausalLm::config(&golden.json(&file)).expect(golden.0);
            assert_eq!(new, old, "{} {file}", golden.0);
        }
    }
}

/// The choices of a family that these tests ask about. Every layer of these files is alike but for its window.
#[derive(Debug)]
struct Read {
    key_value_heads: usize,
    head_features: usize,
    norm_eps: f64,
    rope_theta: f64,
    rope_scaling: RopeScaling,
    windows: Vec<Option<usize>>,
    tied: bool,
    qkv_bias: bool,
    o_bias: bool,
    mlp_bias: bool,
    qk_norm: bool,
}

fn read(json: &Value) -> Result<Read, ConfigError> {
    let spec: Spec = CausalLm::config(json)?;
    let attention = |layer: usize| spec.layers[layer].attention().expect("grouped attention");
    let first = attention(0);
    let rotary = first.rotary.clone().expect("rotated heads");
    let window = |layer| match attention(layer).sees {
        Sees::Window(window) => Some(window),
        _ => None,
    };
    Ok(Read {
        key_value_heads: first.key_value_heads,
        head_features: first.head_features,
        norm_eps: spec.norm.eps,
        rope_theta: rotary.theta,
        rope_scaling: rotary.scaling,
        windows: (0..spec.layers.len()).map(window).collect(),
        tied: spec.head.tied,
        qkv_bias: first.qkv_bias,
        o_bias: first.o_bias,
        mlp_bias: spec.layers[0].mlp().expect("an MLP").bias,
        qk_norm: first.query_key_norm.is_some(),
    })
}

/// A small file that is right, with some fields replaced.
fn config(change: Value) -> Result<Read, ConfigError> {
    let mut json = json!({
        "model_type": "llama",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
    });
    for (field, value) in change.as_object().expect("an object") {
        json[field] = value.clone();
    }
    read(&json)
}

/// A file of a family that has no field with a default.
fn sizes_only(family: &str, heads: usize) -> Result<Read, ConfigError> {
    read(&json!({
        "model_type": family,
        "vocab_size": 512,
        "hidden_size": 16 * heads,
        "intermediate_size": 112,
        "num_hidden_layers": 4,
        "num_attention_heads": heads,
        "max_position_embeddings": 256,
    }))
}

/// The defaults of transformers 5.23, whose classes said these numbers. Catches a tied head where none was
/// asked for, and one family's default given to another: keys shared where they are not.
#[test]
fn absent_fields_have_the_defaults_of_transformers() {
    let cases = [
        // Query heads; key and value heads and features of a head that follow.
        ("llama", 4, (4, 16)),
        ("llama", 64, (64, 16)),
        ("mistral", 64, (8, 16)),
        ("qwen2", 64, (32, 16)),
        ("qwen3", 64, (32, 128)),
    ];
    for (family, heads, expected) in cases {
        let config = sizes_only(family, heads).expect(family);
        assert_eq!(
            (config.key_value_heads, config.head_features),
            expected,
            "{family}"
        );
        assert_eq!(config.norm_eps, 1e-6);
        assert_eq!(config.rope_theta, 10_000.0);
        assert_eq!(config.rope_scaling, RopeScaling::None);
        let window = (family == "mistral").then_some(4096);
        assert_eq!(config.windows, [window; 4], "{family}");
        assert!(!(config.tied || config.o_bias || config.mlp_bias));
        assert_eq!(config.qkv_bias, family == "qwen2");
        assert_eq!(config.qk_norm, family == "qwen3");
    }
    let error = sizes_only("qwen2", 4).unwrap_err().to_string();
    for part in [
        "`num_key_value_heads` is absent, which is 32 for qwen2",
        "the 4 of",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

/// `null` is no default of a family. Catches 8 heads read into a file that says there is nothing to say.
#[test]
fn heads_that_are_null_follow_from_the_query_heads() {
    for family in ["llama", "mistral", "qwen2", "qwen3"] {
        let nulls = json!({"model_type": family, "num_key_value_heads": null, "head_dim": null});
        let config = config(nulls).expect(family);
        assert_eq!(
            (config.key_value_heads, config.head_features),
            (4, 16),
            "{family}"
        );
    }
}

/// Catches `rope_scaling` read by its new key only: older files say `type`.
#[test]
fn rope_scaling_is_read_in_its_oldest_form() {
    let old = json!({"rope_scaling": {"type": "linear", "factor": 4}, "rope_theta": 5e5});

    let config = config(old).expect("a valid file");

    assert_eq!(config.rope_scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!(config.rope_theta, 5e5);
}

/// Catches a window on layers that have none, and the reverse.
#[test]
fn windows_are_where_each_family_puts_them() {
    let windows = |change| config(change).expect("a valid file").windows;
    let w = Some(32);
    let cases = [
        // Mistral: on every layer; `null` is none, absent is 4096.
        (
            json!({"model_type": "mistral", "sliding_window": 32}),
            [w; 4],
        ),
        (
            json!({"model_type": "mistral", "sliding_window": null}),
            [None; 4],
        ),
        (json!({"model_type": "mistral"}), [Some(4096); 4]),
        // Llama has no such field.
        (json!({"sliding_window": 32}), [None; 4]),
        // The Qwens: when asked for, by depth or by list.
        (
            json!({"model_type": "qwen2", "sliding_window": 32, "max_window_layers": 1}),
            [None; 4],
        ),
        (
            json!({"model_type": "qwen2", "sliding_window": 32, "max_window_layers": 1, "use_sliding_window": true}),
            [None, w, w, w],
        ),
        (
            json!({"model_type": "qwen3", "sliding_window": 32, "use_sliding_window": true, "layer_types":
                ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]}),
            [w, None, w, None],
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(windows(change.clone()), expected, "{change}");
    }
}

/// Catches biases of one family given to another. The golden models have them all, but for Qwen 3 with
/// biases.
#[test]
fn biases_are_where_each_family_puts_them() {
    let biases = |change| {
        let config = config(change).expect("a valid file");
        (config.qkv_bias, config.o_bias, config.mlp_bias)
    };
    let all = |family| json!({"model_type": family, "attention_bias": true, "mlp_bias": true});
    assert_eq!(biases(all("llama")), (true, true, true));
    assert_eq!(biases(all("mistral")), (false, false, false));
    assert_eq!(biases(all("qwen2")), (true, false, false));
    assert_eq!(biases(all("qwen3")), (true, true, false));
}

/// Each tensor says its own type. Catches a model refused for how its author wrote the field.
#[test]
fn the_type_of_the_file_is_not_asked_for() {
    for written in ["auto", "torch.bfloat16", "float64"] {
        for field in ["dtype", "torch_dtype"] {
            config(json!({ field: written })).expect(written);
        }
    }
}

/// Catches another architecture read as this one: many have the same names of tensors and other
/// mathematics.
#[test]
fn another_architecture_is_refused_with_the_known_ones() {
    let error = config(json!({"model_type": "rwkv"})).unwrap_err();
    let text = error.to_string();
    let ConfigError::Architecture {
        found,
        nearest,
        known,
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((&*found, nearest), ("rwkv", None));
    for family in ["llama", "mistral", "qwen2", "qwen3"] {
        assert!(known.split(", ").any(|known| known == family), "{known}");
    }
    assert!(known.split(", ").all(|known| known != "rwkv"), "{known}");
    for works in ["inspected", "planned", "quantized", "converted", "verified"] {
        assert!(text.contains(works), "{text}");
    }
}

/// Catches a class that is told by a part of its name, and a name that is near nothing.
#[test]
fn the_nearest_family_is_named() {
    let nearest = |change: Value| match config(change.clone()).unwrap_err() {
        ConfigError::Architecture { nearest, .. } => nearest,
        other => panic!("{change}: {other}"),
    };
    let cases = [
        (json!({"model_type": "llama9"}), Some("llama, by its name")),
        (
            json!({"model_type": "gpt-neox"}),
            Some("gpt_neox, by its name"),
        ),
        (
            json!({"model_type": "tinyllama"}),
            Some("llama, by its name"),
        ),
        (
            json!({"model_type": "mine", "architectures": ["GPTNeoXForCausalLM"]}),
            Some("gpt_neox, by `architectures`"),
        ),
        (
            json!({"model_type": "mine", "architectures": ["Qwen2MoeForCausalLM"]}),
            Some("qwen2_moe, by `architectures`"),
        ),
        (
            json!({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}),
            None,
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(nearest(change.clone()).as_deref(), expected, "{change}");
    }
}

/// Catches a file without a `model_type` that is refused although its class is known.
#[test]
fn a_class_names_the_family_where_nothing_else_does() {
    let class = |class: &str| config(json!({"model_type": null, "architectures": [class]}));
    assert!(!class("LlamaForCausalLM").expect("a Llama").qk_norm);
    assert!(class("Qwen3ForCausalLM").expect("a Qwen 3").qk_norm);
    let error = class("MambaForCausalLM").unwrap_err();
    assert!(
        matches!(&error, ConfigError::Missing { field } if field == "model_type"),
        "{error}"
    );
}

/// Catches a panic, an overflow, or a model that is silently another one. Each message names the field.
#[test]
fn values_that_cannot_be_are_refused_by_field() {
    let cases = [
        (json!({"vocab_size": 0}), "vocab_size"),
        (json!({"vocab_size": null}), "vocab_size"),
        (json!({"hidden_size": -64}), "hidden_size"),
        (json!({"hidden_size": 66}), "hidden_size"),
        (json!({"hidden_size": u64::MAX}), "hidden_size"),
        (json!({"intermediate_size": "112"}), "intermediate_size"),
        (json!({"num_hidden_layers": 0}), "num_hidden_layers"),
        (json!({"num_hidden_layers": 1_000_000}), "num_hidden_layers"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"num_attention_heads": 2.5}), "num_attention_heads"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 8}), "num_key_value_heads"),
        (json!({"head_dim": 15}), "head_dim"),
        (json!({"head_dim": 8194}), "head_dim"),
        (
            json!({"max_position_embeddings": 0}),
            "max_position_embeddings",
        ),
        (json!({"rms_norm_eps": -1e-6}), "rms_norm_eps"),
        (json!({"rope_theta": 0}), "rope_theta"),
        // Numbers as f64, and 0 or infinity as the f32 that they are computed with.
        (json!({"rms_norm_eps": 1e-50}), "rms_norm_eps"),
        (json!({"rope_theta": 1e300}), "rope_theta"),
        (json!({"rope_theta": 1e-300}), "rope_theta"),
        (
            json!({"rope_scaling": {"rope_type": "linear", "factor": 1e300}}),
            "rope_scaling.factor",
        ),
        (
            json!({"rope_scaling": {"rope_type": "linear", "factor": 1e-300}}),
            "rope_scaling.factor",
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
                "high_freq_factor": 1e39, "original_max_position_embeddings": 16}}),
            "rope_parameters.high_freq_factor",
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
                "high_freq_factor": 4, "original_max_position_embeddings": 1e10}}),
            "rope_parameters.original_max_position_embeddings",
        ),
        // Each an f32, and together an angle that is none.
        (
            json!({"rope_scaling": {"rope_type": "linear", "factor": 1e-38}}),
            "rope_theta",
        ),
        (json!({"tie_word_embeddings": 1}), "tie_word_embeddings"),
        (json!({"hidden_act": "quick_gelu"}), "hidden_act"),
        (
            json!({"partial_rotary_factor": 0.5}),
            "partial_rotary_factor",
        ),
        (json!({"rope_scaling": 8}), "rope_scaling"),
        (
            json!({"rope_scaling": {"rope_type": "mrope", "factor": 4}}),
            "rope_scaling.rope_type",
        ),
        (
            json!({"rope_scaling": {"type": "mrope", "factor": 4}}),
            "rope_scaling.type",
        ),
        (
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1, 1, 1]}}),
            "rope_scaling.long_factor",
        ),
        (
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1, 1, 1], "long_factor": [1, 1, 1, 1, 1, 1, 1]}}),
            "rope_scaling.long_factor",
        ),
        (
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 0], "long_factor": [1, 1, 1, 1, 1, 1, 1, 1]}}),
            "rope_scaling.short_factor",
        ),
        (
            json!({"rope_scaling": {"rope_type": "linear"}}),
            "rope_scaling.factor",
        ),
        (
            json!({"rope_parameters": {"rope_theta": "1e4"}}),
            "rope_parameters.rope_theta",
        ),
        (
            json!({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}}),
            "rope_parameters.full_attention",
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                "high_freq_factor": 2, "original_max_position_embeddings": 16}}),
            "rope_parameters.low_freq_factor",
        ),
        (
            json!({"model_type": "qwen3", "layer_types": ["full_attention"]}),
            "layer_types",
        ),
        (
            json!({"model_type": "qwen3", "layer_types": ["full_attention", "full_attention", "linear_attention",
                "full_attention"]}),
            "layer_types",
        ),
    ];
    for (change, expected) in cases {
        let error = config(change.clone()).expect_err(&change.to_string());
        let field = match &error {
            ConfigError::Missing { field }
            | ConfigError::Value { field, .. }
            | ConfigError::Unsupported { field, .. } => field,
            other => panic!("{change}: {other}"),
        };
        assert_eq!(field, expected, "{change}: {error}");
    }
    assert!(CausalLm::config(&json!([])).is_err());
}
