//! JSON that Python and editors write and that is no JSON: `Infinity`, `NaN`, a byte-order mark.

use firebox::{
    model::{Architecture, CausalLm},
    source::CheckpointError,
};
use serde_json::{Value, json};

use super::{open, refused, two_shards};

/// The smallest configuration of a Llama, and fields before it.
fn config(fields: &str) -> String {
    let rest = r#""model_type":"llama","vocab_size":8,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,
        "num_attention_heads":1,"max_position_embeddings":32,"rms_norm_eps":1e-5"#;
    format!("{{{fields}{rest}}}")
}

#[test]
fn words_of_python_are_read_where_nobody_needs_them() {
    let text = r#""time_step_limit":[0.0,Infinity],"floor":-Infinity,"nothing" : NaN ,
        "text":"Infinity, -Infinity and NaN, \"NaN\" too",
        "nested":{"a":[[NaN],-Infinity]},"#;
    for file in ["config.json", "generation_config.json"] {
        let checkpoint = open(two_shards().with(file, config(text))).unwrap();
        let value = match file {
            "config.json" => checkpoint.config(),
            _ => checkpoint.generation_config().unwrap(),
        };
        assert_eq!(
            value["text"],
            json!("Infinity, -Infinity and NaN, \"NaN\" too")
        );
        assert_eq!(value["time_step_limit"][0], json!(0.0));
        // Whatever stands for them, nobody takes it for a number or an absent field.
        for word in [
            &value["time_step_limit"][1],
            &value["floor"],
            &value["nothing"],
        ] {
            assert!(!word.is_null() && !word.is_number(), "{word}");
        }
        assert_eq!(value["model_type"], "llama");
        if file == "config.json" {
            let shown = checkpoint.config_to_show();
            assert_eq!(shown["time_step_limit"], json!([0.0, "Infinity"]));
            assert_eq!(shown["nested"], json!({ "a": [["NaN"], "-Infinity"] }));
        }
    }
    let checkpoint = open(two_shards().with("config.json", config(text))).unwrap();
    CausalLm::config(checkpoint.config()).expect("no field of a Llama is odd");
}

#[test]
fn a_field_that_is_needed_is_refused_with_the_word() {
    for (field, word) in [
        ("rope_theta", "Infinity"),
        ("rms_norm_eps", "NaN"),
        ("hidden_act", "Infinity"),
        ("num_key_value_heads", "-Infinity"),
        ("tie_word_embeddings", "NaN"),
    ] {
        let text = config(&format!(r#""{field}":{word},"#));
        let text = text.replace(r#","rms_norm_eps":1e-5"#, "");
        let checkpoint = open(two_shards().with("config.json", text)).unwrap();
        let error = CausalLm::config(checkpoint.config())
            .expect_err(field)
            .to_string();
        assert!(
            error.contains(field) && error.contains(&format!(" {word},")),
            "{error}"
        );
    }
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    let marked = |text: &str| format!("\u{feff}{text}");
    let source = two_shards();
    let index = r#"{"metadata":{"total_size":NaN},
        "weight_map":{"a.one":"s1.safetensors","a.two":"s1.safetensors","b.one":"s2.safetensors"}}"#;
    let source = source
        .with("config.json", marked(&config("")))
        .with("generation_config.json", marked("{\"eos_token_id\": 3}"))
        .with("model.safetensors.index.json", marked(index));
    let checkpoint = open(source).unwrap();
    assert_eq!(checkpoint.config()["vocab_size"], json!(8));
    assert_eq!(
        checkpoint.generation_config(),
        Some(&json!({ "eos_token_id": 3 }))
    );
    assert_eq!(checkpoint.catalog().len(), 3);
}

#[test]
fn what_is_neither_json_nor_of_python_is_refused_with_its_line() {
    for text in [
        "{\"a\": nan}",
        "{\"a\": Infinit}",
        "{\"a\": NaNs}",
        "{\"a\": +Infinity}",
        "{\"a\": NaN,}",
        "{NaN: 1}",
        "NaN",
    ] {
        let error = refused(two_shards().with("config.json", text), &["config.json"]);
        let expected = match serde_json::from_str::<Value>(text) {
            Ok(_) => false,
            Err(_) => matches!(
                error,
                CheckpointError::Json { .. } | CheckpointError::NotAnObject { .. }
            ),
        };
        assert!(expected, "{text}: {error:?}");
    }
}
