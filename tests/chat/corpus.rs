//! Constructs of chat templates, compared with what transformers and jinja2 make of them (`golden/templates.py`).

use firebox::text::{GenerationPrompt, TokenizerError};
use serde_json::Value;

use crate::with_template;

const GOLDEN: &str = include_str!("../golden/templates.json");

/// A construct that differs by a space is a prompt that no model was trained with. Where Jinja2 fails, the error is that of a
/// template or a refusal, whatever its words.
#[test]
fn every_construct_is_that_of_jinja() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len() as u64, golden["count"].as_u64().unwrap());
    assert!(cases.len() > 240);
    let mut differ = Vec::new();
    for case in cases {
        let template = case["template"].as_str().unwrap();
        // Of the day; a test of the library below has the fixed time.
        if template.contains("strftime_now") {
            continue;
        }
        let tokenizer = with_template(template);
        let variables = golden["context"].as_object().unwrap();
        let found = tokenizer.chat_template().unwrap();
        let found = found.apply_with(&[], GenerationPrompt::Omit, variables);
        let agrees = match (&found, &case["expected"]) {
            (Ok(text), Value::String(expected)) => text == expected,
            (Err(TokenizerError::Refused { .. }), Value::Null) => case["error"] == "TemplateError",
            (Err(TokenizerError::Template { .. }), Value::Null) => true,
            _ => false,
        };
        if !agrees {
            differ.push(format!("{template:?}\n  {found:?}\n  {case}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
