//! How files say that frequencies are stretched. Expectations are what transformers 5.23 makes of the same fields
//! (`modeling_rope_utils.py`); a golden model has few of the ways to say it.

use burn::tensor::{DType, Tensor};
use firebox::{
    model::{
        ConfigError, Rope, RopeScaling,
        decoder::Spec,
        layers::{Pairs, RotarySpec},
    },
    target::{Cpu, Target},
};
use serde_json::{Value, json};

use super::{
    common::values,
    file::{self, with},
};

/// A small Llama with some fields replaced.
fn small(change: &Value) -> Result<Spec, ConfigError> {
    file::read("llama", [64, 4, 4], change)
}

/// The rotations of its layers.
fn rotations(change: Value) -> Vec<Option<RotarySpec>> {
    let spec = small(&change).unwrap_or_else(|error| panic!("{change}: {error}"));
    let layers = spec.layers.iter();
    layers.map(|layer| layer.rotary().cloned()).collect()
}

fn first(change: Value) -> RotarySpec {
    rotations(change)[0].clone().expect("a rotation")
}

/// Both spellings of one rotation.
fn spelled(rope: Value) -> [RotarySpec; 2] {
    let mut old = rope.clone();
    old["type"] = old["rope_type"].take();
    [
        first(json!({"rope_parameters": rope})),
        first(json!({"rope_scaling": old})),
    ]
}

/// What YaRN multiplies cosines and sines by, in the ways in which files decide it: nothing, two scales, a scale that is 0
/// and counts as absent, the factor itself; and a factor that is left to the positions. Catches a default taken for
/// another and a scale that is read alone.
#[test]
fn yarn_has_the_defaults_of_transformers() {
    let yarn = json!({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64});
    let of = |change: Value| with(&yarn, &change);
    // The factor of attention in each case: 0.1 ln 4 + 1, and (0.0707 ln 4 + 1) / (0.1 ln 4 + 1).
    let (alone, both) = (1.138_629_4, 0.964_326_9);
    let cases = [
        (json!({}), 4.0, alone),
        (json!({"factor": null}), 4.0, alone),
        (json!({"mscale": 0.707, "mscale_all_dim": 1}), 4.0, both),
        (json!({"mscale": 0.707, "mscale_all_dim": 0}), 4.0, alone),
        (json!({"mscale": 0.707}), 4.0, alone),
        (
            json!({"mscale": 0.707, "mscale_all_dim": 1, "attention_factor": 1.5}),
            4.0,
            1.5,
        ),
        (json!({"factor": 0.5}), 0.5, 1.0),
    ];
    for (change, factor, attention_factor) in cases {
        for rotary in spelled(of(change.clone())) {
            let expected = RopeScaling::Yarn {
                factor,
                original_positions: 64,
                beta_fast: 32.0,
                beta_slow: 1.0,
                truncate: true,
                attention_factor,
            };
            assert_eq!(rotary.scaling, expected, "{change}");
        }
    }
    // A flag that is written as nothing is off.
    let other = |truncate| json!({"beta_fast": 16, "beta_slow": 2, "truncate": truncate});
    for rotary in [json!(false), json!(null)]
        .into_iter()
        .flat_map(|flag| spelled(of(other(flag))))
    {
        let expected = RopeScaling::Yarn {
            factor: 4.0,
            original_positions: 64,
            beta_fast: 16.0,
            beta_slow: 2.0,
            truncate: false,
            attention_factor: alone,
        };
        assert_eq!(rotary.scaling, expected);
    }
}

/// Positions of the first training: the field beside the others, the one among them, all positions. Catches a frequency
/// that is stretched from the wrong length.
#[test]
fn positions_of_the_first_training_are_found_where_transformers_finds_them() {
    let original = |change: Value| first(change).scaling.original_positions();
    let yarn = json!({"rope_type": "yarn", "factor": 4});
    let named = json!({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64});
    // Not the 1024 that the stretched model reaches, where a layer reads its rotation later than others.
    let latent = json!({"model_type": "deepseek_v3", "rope_scaling": yarn});
    assert_eq!(original(latent), Some(256));
    let types = ["sliding_attention"; 4];
    let near = json!({"model_type": "olmo3", "layer_types": types,
        "rope_parameters": {"full_attention": named, "sliding_attention": yarn}});
    assert_eq!(original(near), Some(256));
    let llama3 =
        json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4});
    assert_eq!(original(json!({"rope_scaling": yarn})), Some(256));
    assert_eq!(original(json!({"rope_scaling": llama3})), Some(256));
    assert_eq!(original(json!({"rope_scaling": named})), Some(64));
    let beside = json!({"rope_scaling": named, "original_max_position_embeddings": 32});
    assert_eq!(original(beside), Some(32));
    // The base of a growing text grows from the model's positions, whatever else the file says.
    let dynamic =
        json!({"rope_type": "dynamic", "factor": 4, "original_max_position_embeddings": 64});
    assert_eq!(original(json!({"rope_scaling": dynamic})), Some(256));
    // Phi-3 has a default beside the others, which wins over the field among them.
    let factors = [1, 1, 1, 1, 1, 1, 1, 1];
    let long = json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors,
        "original_max_position_embeddings": 64});
    let phi3 = json!({"model_type": "phi3", "rope_parameters": long});
    assert_eq!(original(phi3), Some(4096));
}

/// Files of LongRoPE say how much longer texts get, or leave it to the positions. Catches the factor of one way for that
/// of the other, and a list of the whole head for a part of it.
#[test]
fn longrope_has_the_defaults_of_transformers() {
    let (short, long) = ([1.0, 1.5], [2.0, 4.0]);
    let rope = json!({"type": "su", "short_factor": short, "long_factor": long});
    // sqrt(1 + ln r / ln 64), where r is 256 / 64 or the factor.
    let cases = [
        (json!({}), 1.154_700_5),
        (json!({"factor": 64}), 2f32.sqrt()),
        (json!({"factor": 0.5}), 1.0),
        (json!({"factor": 64, "attention_factor": 1.25}), 1.25),
    ];
    for (change, attention_factor) in cases {
        let rope = with(&rope, &change);
        let rotary = first(json!({
            "model_type": "phi3",
            "original_max_position_embeddings": 64,
            "partial_rotary_factor": 0.25,
            "rope_scaling": rope,
        }));
        let expected = RopeScaling::LongRope {
            short: short.map(|factor| factor as f32).into(),
            long: long.map(|factor| factor as f32).into(),
            original_positions: 64,
            attention_factor,
        };
        assert_eq!(rotary.scaling, expected, "{change}");
        assert_eq!(rotary.features, 4);
    }
}

/// Layers that turn in their own ways. Catches a base of near layers for far ones, in the dialect that no golden file of
/// the family has, and a stretch that is applied to both.
#[test]
fn near_and_far_layers_turn_in_their_own_ways() {
    let types = ["sliding_attention", "full_attention"].repeat(2);
    let scaling = json!({"rope_type": "linear", "factor": 8});
    let linear = RopeScaling::Linear { factor: 8.0 };
    let gemma3 = json!({"model_type": "gemma3_text", "layer_types": types});
    let olmo3 = json!({"model_type": "olmo3", "layer_types": types});
    // The file's fields; base of near layers; base and stretch of far ones.
    let cases = [
        (&gemma3, json!({}), 1e4, (1e6, RopeScaling::None)),
        (
            &gemma3,
            json!({"rope_theta": 2e6, "rope_local_base_freq": 3e4}),
            3e4,
            (2e6, RopeScaling::None),
        ),
        (
            &gemma3,
            json!({"rope_scaling": scaling}),
            1e4,
            (1e6, linear.clone()),
        ),
        (
            &gemma3,
            json!({"rope_parameters": {"full_attention": scaling}}),
            1e4,
            (1e6, linear.clone()),
        ),
        (
            &gemma3,
            json!({"rope_parameters": {"sliding_attention": {"rope_theta": 5e4}}}),
            5e4,
            (1e6, RopeScaling::None),
        ),
        (&olmo3, json!({}), 5e5, (5e5, RopeScaling::None)),
        (
            &olmo3,
            json!({"rope_scaling": scaling}),
            5e5,
            (5e5, linear.clone()),
        ),
    ];
    for (family, change, near, (far, stretch)) in cases {
        for (layer, rotary) in rotations(with(family, &change)).into_iter().enumerate() {
            let rotary = rotary.expect("a rotation");
            let expected = match layer % 2 {
                0 => (near, RopeScaling::None),
                _ => (far, stretch.clone()),
            };
            assert_eq!(
                (rotary.theta, rotary.scaling),
                expected,
                "{change} layer {layer}"
            );
        }
    }
    let error = small(&json!({
        "model_type": "olmo3",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }));
    let error = error.expect_err("one rotation for both").to_string();
    assert!(error.contains("`rope_parameters.rope_"), "{error}");
    let both = json!({"rope_parameters": {"full_attention": scaling}, "rope_scaling": scaling});
    for family in ["olmo3", "gemma3_text"] {
        let error = small(&with(&json!({"model_type": family}), &both));
        let error = error.expect_err("two rotations").to_string();
        assert!(error.contains("`rope_scaling`"), "{error}");
    }
}

/// Catches layers that turn where they should not, and the reverse.
#[test]
fn layers_without_positions_do_not_turn() {
    let turns =
        |change: Value| -> Vec<bool> { rotations(change).iter().map(Option::is_some).collect() };
    let smollm3 = |change: Value| turns(with(&json!({"model_type": "smollm3"}), &change));
    assert_eq!(smollm3(json!({})), [true, true, true, false]);
    assert_eq!(
        smollm3(json!({"no_rope_layer_interval": 2})),
        [true, false, true, false]
    );
    assert_eq!(
        smollm3(json!({"no_rope_layers": [0, 1, 1, 0]})),
        [false, true, true, false]
    );
    let exaone4 = |window: Value| {
        turns(json!({"model_type": "exaone4", "num_key_value_heads": 4, "sliding_window": window}))
    };
    assert_eq!(exaone4(json!(8)), [true, true, true, false]);
    assert_eq!(exaone4(Value::Null), [true; 4]);
}

/// Catches a part of a head that is rounded up, and pairs of one family given to another.
#[test]
fn parts_of_heads_and_pairs_are_those_of_the_family() {
    let phi3 = first(json!({"model_type": "phi3", "partial_rotary_factor": 0.7}));
    assert_eq!((phi3.features, phi3.pairs), (11, Pairs::Halves));
    let whole = first(json!({"model_type": "phi3"}));
    assert_eq!(whole.features, 16);
    // Written as nothing is the whole, not written is the half of the family.
    for (family, part) in [("glm4", 64), ("glm4_moe", 8), ("nemotron", 8)] {
        let file = json!({"model_type": family, "num_key_value_heads": 4});
        assert_eq!(first(file.clone()).features, part, "{family}");
        let null = with(&file, &json!({"partial_rotary_factor": null}));
        assert_eq!(first(null).features, 2 * part, "{family}");
    }
    // Of 3 features no two turn together in YaRN; without it, 4 turn.
    let odd = json!({"model_type": "gpt_neox", "rotary_pct": 0.2});
    assert_eq!(first(odd.clone()).features, 3);
    let yarn = with(
        &odd,
        &json!({"rope_scaling": {"rope_type": "yarn", "factor": 4}}),
    );
    let error = small(&yarn).expect_err("an odd part").to_string();
    assert!(
        error.contains("`rotary_pct`") && error.contains("16 features"),
        "{error}"
    );
}

/// Radians a position of some pairs of a head of 128 features, in a text of `tokens`, and what cosines and sines are
/// multiplied by: from a head that is 1 in its first half, turned at position 1.
fn turned(theta: f64, scaling: RopeScaling, tokens: usize, pairs: &[usize]) -> Vec<(f32, f32)> {
    let rope = Rope::new(RotarySpec {
        scaling,
        ..RotarySpec::new(128, theta)
    });
    let device = Cpu::device(0).expect("there is always a CPU");
    let half = |fill: f32| Tensor::<4>::full([1, 1, tokens, 64], fill, (&device, DType::F32));
    let x = Tensor::cat(vec![half(1.0), half(0.0)], 3);
    let turned = rope.at(0..tokens, &device, DType::F32).apply(x);
    let turned = values(turned.narrow(2, 1, 1));
    let of_pair = |pair: &usize| {
        let (cos, sin) = (turned[*pair], turned[pair + 64]);
        (sin.atan2(cos), cos.hypot(sin))
    };
    pairs.iter().map(of_pair).collect()
}

/// Frequencies of heads and lengths that models have: golden models are so small that all waves are long. The functions of
/// `modeling_rope_utils.py` gave these numbers, in f64. Catches bounds of the blend that are rounded, or are not, and a
/// base that grows from another length.
#[test]
fn frequencies_are_those_of_transformers() {
    let yarn = |truncate| RopeScaling::Yarn {
        factor: 4.0,
        original_positions: 32_768,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate,
        attention_factor: 1.138_629_4,
    };
    let dynamic = || RopeScaling::Dynamic {
        factor: 2.0,
        original_positions: 4096,
    };
    let cases = [
        (
            1e6,
            yarn(true),
            2,
            1.138_629_4,
            [
                (22, 8.659_643e-3),
                (24, 5.375_321_5e-3),
                (36, 1.798_411_6e-4),
                (63, 3.102_344_4e-7),
            ],
        ),
        (
            1e6,
            yarn(false),
            2,
            1.138_629_4,
            [
                (22, 8.659_643e-3),
                (24, 5.517_270_5e-3),
                (36, 1.773_442_5e-4),
                (63, 3.102_344_4e-7),
            ],
        ),
        (
            1e4,
            dynamic(),
            100,
            1.0,
            [
                (0, 1.0),
                (1, 8.659_643e-1),
                (30, 1.333_521_4e-2),
                (63, 1.154_782e-4),
            ],
        ),
        (
            1e4,
            dynamic(),
            10_000,
            1.0,
            [
                (0, 1.0),
                (1, 8.475_171e-1),
                (30, 6.989_628_4e-3),
                (63, 2.974_086_4e-5),
            ],
        ),
    ];
    for (theta, scaling, tokens, factor, expected) in cases {
        let name = format!("{scaling:?} {tokens}");
        let found = turned(theta, scaling, tokens, &expected.map(|(pair, _)| pair));
        for ((pair, expected), (angle, size)) in expected.into_iter().zip(found) {
            assert!(
                (angle / expected - 1.0).abs() < 2e-5,
                "{name} pair {pair}: {angle}"
            );
            assert!(
                (size / factor - 1.0).abs() < 1e-5,
                "{name} pair {pair}: {size}"
            );
        }
    }
}
