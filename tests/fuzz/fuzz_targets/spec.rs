//! Quantizations, sizes and budgets in words: printed and read again, they are the same.
//!
//! Input: the words.

#![cfg_attr(fuzzing, no_main)]

use firebox::{
    config::{Budget, Bytes},
    quant::QuantSpec,
};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

pub(crate) fn run(words: &[u8]) {
    let Ok(words) = core::str::from_utf8(words) else {
        return;
    };
    if let Ok(spec) = words.parse::<QuantSpec>() {
        let printed = spec.to_string();
        let again: Result<QuantSpec, _> = printed.parse();
        assert_eq!(again.as_ref(), Ok(&spec), "{words:?} prints {printed:?}");
    }
    if let Ok(Bytes(bytes)) = words.parse() {
        // Two digits after the point are printed.
        let printed = Bytes(bytes).to_string();
        let Bytes(again) = printed.parse().expect(&printed);
        assert!(
            again.abs_diff(bytes) <= bytes / 100,
            "{words:?} prints {printed:?}"
        );
    }
    if let Ok(budget) = words.parse::<Budget>() {
        let most = budget
            .resolve(Some(1 << 40))
            .expect("the memory has a size");
        assert!(
            matches!(budget, Budget::Bytes(_)) || most <= 1 << 40,
            "{words:?}"
        );
        let printed = budget.to_string();
        printed.parse::<Budget>().expect(&printed);
    }
}
