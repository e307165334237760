//! The family that a file may mean which names none of them.

use crate::config::letters;

/// The words of a class that says what a model is for.
const PURPOSES: [&str; 5] = [
    "ForCausalLM",
    "ForConditionalGeneration",
    "ForImageTextToText",
    "LMHeadModel",
    "Model",
];

/// The words of a class for a model that scores or sorts texts.
const OTHER_PURPOSES: [&str; 7] = [
    "Classification",
    "QuestionAnswering",
    "MultipleChoice",
    "MaskedLM",
    "Regression",
    "Reward",
    "ForScore",
];

/// Whether a class of transformers is of a model with a head that makes no tokens: `LlamaForSequenceClassification`.
pub(super) fn makes_no_text(class: &str) -> bool {
    OTHER_PURPOSES.iter().any(|purpose| class.contains(purpose))
}

/// Whether a class of transformers, as `architectures` has it, is that of a family: `GPTNeoXForCausalLM` is `gpt_neox`.
pub(super) fn is_class_of(class: &str, family: &str) -> bool {
    let mut purposes = PURPOSES.iter();
    let stem = purposes.find_map(|purpose| class.strip_suffix(purpose));
    // The text model of a multimodal one has the class of the whole.
    let family = family.strip_suffix("_text").unwrap_or(family);
    letters(stem.unwrap_or(class)) == letters(family)
}
