//! Rules for names of tensors: printed and read again, they are the same, and the rule for one tensor matches that tensor.
//!
//! Input: the rule in words.

#![cfg_attr(fuzzing, no_main)]

use firebox::{
    config::{Pattern, Role, Rule},
    quant::QuantSpec,
};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

const TENSOR: &str = "model.layers.0.mlp.up_proj.weight";

pub(crate) fn run(words: &[u8]) {
    let Ok(words) = core::str::from_utf8(words) else {
        return;
    };
    if let Ok(rule) = words.parse::<Rule>() {
        let printed = rule.to_string();
        let again: Result<Rule, _> = printed.parse();
        assert_eq!(again.as_ref(), Ok(&rule), "{words:?} prints {printed:?}");
    }
    if let Ok(pattern) = words.parse::<Pattern>() {
        let again: Pattern = pattern.to_string().parse().expect(words);
        let matches = |pattern: &Pattern| pattern.is_match(TENSOR, Role::Linear);
        assert_eq!(matches(&pattern), matches(&again), "{words:?}");
    }
    let own = Rule::tensor(words, QuantSpec::None).pattern;
    assert!(own.is_match(words, Role::Linear), "{words:?} is not itself");
}
