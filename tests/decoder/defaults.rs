//! Fields that files may leave out: each family has defaults of its own. The numbers are those that the classes of
//! transformers 5.23 say.

use firebox::model::{
    Architecture, CausalLm,
    decoder::{Sees, Spec},
    layers::Activation,
};
use serde_json::json;

use super::file;

/// A file of a family that has no field with a default.
fn sizes_only(family: &str) -> Spec {
    let spec = file::read(family, [1024, 12, 64], &json!({}));
    spec.unwrap_or_else(|error| panic!("{family}: {error}"))
}

/// Catches one family's default given to another: heads, the epsilon of norms, a tied head, the base of frequencies.
#[test]
fn absent_fields_have_the_defaults_of_the_family() {
    let cases = [
        // Key and value heads, features of a head; epsilon; tied; base of the first layer.
        ("exaone4", (32, 16), 1e-5, false, 1e4),
        ("gemma2", (4, 256), 1e-6, true, 1e4),
        ("gemma3_text", (4, 256), 1e-6, true, 1e4),
        ("ministral3", (8, 128), 1e-5, false, 1e6),
        ("olmo2", (64, 16), 1e-5, false, 1e4),
        ("olmo3", (64, 16), 1e-5, false, 5e5),
        ("phi3", (64, 16), 1e-5, false, 1e4),
        ("smollm3", (4, 16), 1e-6, true, 2e6),
    ];
    for (family, heads, eps, tied, theta) in cases {
        let spec = sizes_only(family);
        let attention = spec.layers[0].attention().expect("grouped attention");
        let found = (attention.key_value_heads, attention.head_features);
        assert_eq!(found, heads, "{family}");
        assert_eq!((spec.norm.eps, spec.head.tied), (eps, tied), "{family}");
        assert_eq!(spec.layers[0].norm, spec.norm, "{family}");
        let rotary = attention.rotary.as_ref().expect("a rotation");
        assert_eq!(rotary.theta, theta, "{family}");
        let biases = (attention.qkv_bias, attention.o_bias);
        assert_eq!(biases, (false, false), "{family}");
    }
}

/// Catches the pattern of one family for that of another, and a window that is no default.
#[test]
fn absent_windows_are_where_the_family_puts_them() {
    let w = Sees::Window(4096);
    let cases = [
        ("exaone4", vec![w, w, w, Sees::All]),
        ("gemma2", vec![w, Sees::All]),
        ("gemma3_text", vec![w, w, w, w, w, Sees::All]),
        ("ministral3", vec![Sees::All]),
        ("olmo2", vec![Sees::All]),
        ("olmo3", vec![w, w, w, Sees::All]),
        ("phi3", vec![Sees::All]),
        ("smollm3", vec![Sees::All]),
    ];
    for (family, pattern) in cases {
        let layers = sizes_only(family).layers;
        let found = layers
            .iter()
            .map(|layer| layer.attention().expect("attention").sees);
        let expected = pattern.iter().copied().cycle().take(12);
        assert!(found.eq(expected), "{family}");
    }
}

/// What Gemma does with scores, logits and embeddings. Catches a bend of Gemma 2 in Gemma 3, and a scale that follows from
/// the features of a head.
#[test]
fn gemma_bends_scores_and_logits_in_its_second_version_only() {
    let (two, three) = (sizes_only("gemma2"), sizes_only("gemma3_text"));
    for (spec, scores, logits) in [(&two, Some(50.0), Some(30.0)), (&three, None, None)] {
        let attention = spec.layers[0].attention().expect("grouped attention");
        assert_eq!((attention.soft_cap, spec.head.soft_cap), (scores, logits));
        assert_eq!(attention.scale, 1.0 / 16.0);
        assert_eq!(spec.embedding.multiplier, Some(32.0));
        assert_eq!(
            spec.layers[0].mlp().expect("an MLP").activation,
            Activation::GeluTanh
        );
    }
}

/// Files of the multimodal Gemma 3 on the hub leave out heads, vocabulary and positions. Catches a file that is refused for
/// a field that none of them has.
#[test]
fn a_multimodal_gemma_has_fewer_fields_than_any_other() {
    let json = json!({
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "vision_config": {"hidden_size": 1152},
    });

    let spec = CausalLm::config(&json).expect("a file of the hub");

    assert_eq!((spec.vocabulary, spec.positions), (262_208, 131_072));
    let attention = spec.layers[0].attention().expect("grouped attention");
    assert_eq!((attention.heads, attention.key_value_heads), (8, 4));
    assert_eq!(attention.sees, Sees::Window(1024));
    assert!(spec.head.tied);
    let error = CausalLm::config(&json!({"model_type": "gemma3"})).expect_err("no text model");
    assert!(
        error.to_string().contains("`text_config` is missing"),
        "{error}"
    );
    let unread = json!({"model_type": "gemma3", "text_config": {"hidden_size": "wide"}});
    let error = CausalLm::config(&unread).expect_err("no width").to_string();
    assert!(error.contains("`text_config."), "{error}");
}
