//! Fields of families with experts: what files may leave out, and what cannot be. The numbers are those that the classes of
//! transformers 5.23 say.

use firebox::model::{
    ConfigError, RopeScaling,
    decoder::{ExpertStorage, ExpertsSpec, FeedForwardSpec, QueryGrowth, Sees, Spec},
    layers::{Clamp, RouterGroups, RouterScore},
};
use serde_json::{Value, json};

use super::file::{self, attention};

/// A file of a family that has no field with a default, with some fields added.
fn read(family: &str, change: Value) -> Result<Spec, ConfigError> {
    file::read(family, [1024, 8, 64], &change)
}

fn sizes_only(family: &str) -> Spec {
    read(family, json!({})).unwrap_or_else(|error| panic!("{family}: {error}"))
}

fn experts(spec: &Spec, layer: usize) -> Option<&ExpertsSpec> {
    match &spec.layers[layer].feed_forward {
        FeedForwardSpec::Experts(experts) => Some(experts),
        _ => None,
    }
}

/// Catches one family's default given to another: how many experts there are and how many a token goes through, their
/// features, what makes their scores, and the layers that have them.
#[test]
fn absent_experts_are_those_of_the_family() {
    use RouterScore::{Sigmoid, Softmax, SoftmaxOfChosen};
    let cases = [
        // Experts, chosen ones, features of each; scores, divided by their sum, times; features of the MLP beside them;
        // the first layer that has them.
        ("mixtral", (8, 2, 112), (Softmax, true, 1.0), None, 0),
        (
            "qwen2_moe",
            (60, 4, 1408),
            (Softmax, false, 1.0),
            Some(5632),
            0,
        ),
        ("qwen3_moe", (128, 8, 768), (Softmax, false, 1.0), None, 0),
        (
            "qwen3_5_moe_text",
            (256, 8, 512),
            (Softmax, true, 1.0),
            Some(512),
            0,
        ),
        (
            "glm4_moe",
            (128, 8, 1408),
            (Sigmoid, true, 1.0),
            Some(1408),
            1,
        ),
        (
            "deepseek_v3",
            (256, 8, 2048),
            (Sigmoid, true, 2.5),
            Some(2048),
            3,
        ),
        (
            "gpt_oss",
            (128, 4, 112),
            (SoftmaxOfChosen, false, 1.0),
            None,
            0,
        ),
        (
            "llama4_text",
            (16, 1, 112),
            (Sigmoid, false, 1.0),
            Some(112),
            0,
        ),
    ];
    for (family, sizes, router, shared, first) in cases {
        let spec = sizes_only(family);
        for layer in 0..8 {
            let found = experts(&spec, layer);
            assert_eq!(found.is_some(), layer >= first, "{family}, layer {layer}");
            let Some(found) = found else { continue };
            assert_eq!(
                (found.count, found.chosen, found.each.features),
                sizes,
                "{family}"
            );
            let by = found.router;
            assert_eq!((by.score, by.normalised, by.scaling), router, "{family}");
            let beside = found.shared.as_ref();
            assert_eq!(beside.map(|shared| shared.mlp.features), shared, "{family}");
            let gated = beside.is_some_and(|shared| shared.gated);
            assert_eq!(gated, ["qwen2_moe", "qwen3_5_moe_text"].contains(&family));
            let groups = (family == "deepseek_v3").then_some(RouterGroups {
                count: 8,
                chosen: 4,
            });
            assert_eq!(by.groups, groups, "{family}");
        }
    }
}

/// Catches attention of another family: heads, epsilon, base, biases, the part of a head that turns.
#[test]
fn absent_fields_of_attention_are_those_of_the_family() {
    let cases = [
        // Key and value heads, features of a head, of which turn; epsilon; base; biases.
        ("mixtral", (8, 16, 16), 1e-5, 1e6, (false, false)),
        ("qwen2_moe", (16, 16, 16), 1e-6, 1e4, (true, false)),
        ("qwen3_moe", (4, 16, 16), 1e-6, 1e4, (false, false)),
        ("glm4_moe", (8, 16, 8), 1e-5, 1e4, (false, false)),
        ("gpt_oss", (8, 64, 64), 1e-5, 150_000.0, (true, true)),
        ("llama4_text", (8, 128, 128), 1e-5, 5e5, (false, false)),
    ];
    for (family, heads, eps, theta, biases) in cases {
        let spec = sizes_only(family);
        let attention = attention(&spec, 0);
        let rotary = attention.rotary.as_ref().expect("a rotation");
        let found = (
            attention.key_value_heads,
            attention.head_features,
            rotary.features,
        );
        assert_eq!(found, heads, "{family}");
        assert_eq!((spec.norm.eps, rotary.theta), (eps, theta), "{family}");
        let found = (attention.qkv_bias, attention.o_bias);
        assert_eq!(found, biases, "{family}");
        assert!(!spec.head.tied, "{family}");
    }
}

/// Catches a window on the wrong half of the layers, an expert without its clamp, and a rotation that is not stretched.
#[test]
fn absent_fields_of_gpt_oss() {
    let spec = sizes_only("gpt_oss");
    let empty = read("gpt_oss", json!({"rope_scaling": {}})).expect("a valid file");
    assert_eq!(empty, spec, "an object without fields is none");
    for layer in 0..8 {
        let attention = attention(&spec, layer);
        let sees = if layer % 2 == 0 {
            Sees::Window(128)
        } else {
            Sees::All
        };
        assert_eq!((attention.sees, attention.sinks), (sees, true));
        let rotary = attention.rotary.as_ref().expect("a rotation");
        let RopeScaling::Yarn {
            factor,
            original_positions,
            truncate,
            attention_factor,
            ..
        } = rotary.scaling
        else {
            panic!("{:?}", rotary.scaling);
        };
        assert_eq!((factor, original_positions, truncate), (32.0, 4096, false));
        assert!((attention_factor - 1.346_573_6).abs() < 1e-6);
        let each = &experts(&spec, layer).expect("experts").each;
        let clamp = Clamp {
            limit: 7.0,
            slope: 1.702,
        };
        assert_eq!((each.clamp, each.bias), (Some(clamp), true));
    }
}

/// Catches layers that turn and should not, chunks where everything is seen, and experts on the wrong layers.
#[test]
fn layers_of_llama_4() {
    let growth = QueryGrowth {
        factor: 0.1,
        positions: 8192,
        offset: 1,
    };
    let spec = sizes_only("llama4_text");
    for layer in 0..8 {
        let attention = attention(&spec, layer);
        let turns = layer % 4 != 3;
        assert_eq!(attention.rotary.is_some(), turns, "{layer}");
        let sees = if turns { Sees::Chunk(8192) } else { Sees::All };
        assert_eq!(attention.sees, sees, "{layer}");
        assert_eq!(
            attention.query_growth,
            (!turns).then_some(growth),
            "{layer}"
        );
        assert_eq!(attention.query_key_norm.is_some(), turns, "{layer}");
        let stored = experts(&spec, layer).expect("experts").stored;
        assert_eq!(stored, ExpertStorage::StackedTransposed);
    }
    let change = json!({
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 48,
        "no_rope_layers": [1, 0, 1, 1, 1, 1, 1, 1],
        "attn_temperature_tuning": 0,
        "use_qk_norm": false,
    });
    let spec = read("llama4_text", change).expect("a valid file");
    assert_eq!(spec.layers[0].mlp().expect("an MLP").features, 48);
    assert!(experts(&spec, 1).is_some() && experts(&spec, 2).is_none());
    let second = attention(&spec, 1);
    assert!(second.rotary.is_none() && second.query_growth.is_none());
    assert!(attention(&spec, 0).query_key_norm.is_none());
    let listed = json!({"moe_layers": [0, 5]});
    let spec = read("llama4_text", listed).expect("a valid file");
    let found: Vec<usize> = (0..8)
        .filter(|nth| experts(&spec, *nth).is_some())
        .collect();
    assert_eq!(found, [0, 5]);
}

/// Both names of one number: files of transformers 4 and 5. Catches the default taken in place of it.
#[test]
fn the_number_of_experts_has_two_names() {
    for family in ["mixtral", "qwen3_moe", "gpt_oss"] {
        for name in ["num_experts", "num_local_experts"] {
            let spec = read(family, json!({ name: 12 })).expect(family);
            assert_eq!(
                experts(&spec, 1).expect("experts").count,
                12,
                "{family}, {name}"
            );
        }
    }
}

/// Catches a panic, or a model that is silently another one. Each message names the field.
#[test]
fn experts_that_cannot_be_are_refused_by_field() {
    let groups = |groups: usize, chosen: usize| json!({"n_routed_experts": 12, "n_group": groups, "topk_group": chosen, "num_experts_per_tok": 5});
    let cases = [
        (
            "mixtral",
            json!({"num_experts_per_tok": 9}),
            "num_experts_per_tok",
        ),
        (
            "mixtral",
            json!({"num_local_experts": 0}),
            "num_local_experts",
        ),
        (
            "qwen2_moe",
            json!({"decoder_sparse_step": 0}),
            "decoder_sparse_step",
        ),
        (
            "qwen3_moe",
            json!({"mlp_only_layers": [-1]}),
            "mlp_only_layers",
        ),
        ("glm4_moe", groups(5, 3), "n_group"),
        // One expert in a group has no best two.
        ("glm4_moe", groups(12, 5), "n_group"),
        ("glm4_moe", groups(3, 4), "topk_group"),
        ("glm4_moe", groups(3, 1), "topk_group"),
        (
            "gpt_oss",
            json!({"layer_types": ["full_attention"]}),
            "layer_types",
        ),
        ("gpt_oss", json!({"swiglu_limit": -1}), "swiglu_limit"),
        (
            "llama4_text",
            json!({"no_rope_layers": [1, 0]}),
            "no_rope_layers",
        ),
        (
            "llama4_text",
            json!({"layer_types": vec!["sliding_attention"; 8]}),
            "layer_types",
        ),
        (
            "llama4_text",
            json!({"attention_chunk_size": null}),
            "attention_chunk_size",
        ),
    ];
    for (family, change, expected) in cases {
        let error = read(family, change.clone()).expect_err(&change.to_string());
        let field = match &error {
            ConfigError::Missing { field }
            | ConfigError::Value { field, .. }
            | ConfigError::Unsupported { field, .. } => field,
            other => panic!("{change}: {other}"),
        };
        assert_eq!(field, expected, "{change}: {error}");
    }
}

/// Which layers of Qwen 3.5 MoE have attention, and its heads: two for keys, where Qwen 3.5 has four.
#[test]
fn attention_of_qwen_3_5_moe() {
    // The files of this family have no `intermediate_size`.
    let spec = read("qwen3_5_moe_text", json!({ "intermediate_size": null }));
    let spec = spec.expect("a valid file");
    for layer in 0..8 {
        let found = spec.layers[layer].attention();
        assert_eq!(found.is_some(), layer % 4 == 3, "{layer}");
        let Some(found) = found else { continue };
        assert_eq!((found.key_value_heads, found.head_features), (2, 256));
        assert!(found.gate);
    }
}

/// Fields that few files set. The classes of transformers: every second layer before `max_window_layers` has a window in Qwen 2
/// MoE, and shared experts are one MLP of all their features. Catches a field that is read and not used.
#[test]
fn fields_that_few_files_set_are_used() {
    let windows = json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 3});
    let spec = read("qwen2_moe", windows).expect("a valid file");
    let seen: Vec<Sees> = (0..8).map(|layer| attention(&spec, layer).sees).collect();
    let window = Sees::Window(16);
    let expected = [
        window,
        Sees::All,
        window,
        Sees::All,
        Sees::All,
        Sees::All,
        Sees::All,
        Sees::All,
    ];
    assert_eq!(seen, expected);

    let spec = read("nemotron", json!({"norm_eps": 0.125})).expect("a valid file");
    assert_eq!(spec.norm.eps, 0.125);

    for (uses, has) in [(true, true), (false, false)] {
        let spec = read("glm4_moe", json!({"use_qk_norm": uses})).expect("a valid file");
        assert_eq!(attention(&spec, 2).query_key_norm.is_some(), has);
    }
    for (family, features) in [("glm4_moe", 1408), ("deepseek_v3", 2048)] {
        let spec = read(family, json!({"n_shared_experts": 3})).expect("a valid file");
        let shared = experts(&spec, 7).and_then(|experts| experts.shared.as_ref());
        assert_eq!(shared.expect(family).mlp.features, 3 * features, "{family}");
    }
}
