//! The tokens that encoding adds to a text.

use serde_json::json;
use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::{class::Class, rules::ClassOptions};
use crate::text::{added::Added, error::BoxError};

/// The template of a class: `update_post_processor` in transformers' `tokenization_utils_tokenizers.py`, and T5's own.
/// `None` where nothing is added.
pub(super) fn template(
    class: Class,
    added: &Added,
    options: &ClassOptions<'_>,
    tokenizer: &Tokenizer,
) -> Result<Option<PostProcessorWrapper>, BoxError> {
    let named = |name: &str| {
        let content = added.named(name)?;
        Some((content.to_owned(), tokenizer.token_to_id(content)?))
    };
    // CodeLlama's class alone begins texts without being asked.
    let unasked = class == Class::CodeLlama;
    let asked = |field, name, unasked| {
        let is_asked = options.given(field).unwrap_or(unasked);
        is_asked.then(|| named(name)).flatten()
    };
    let (bos, eos) = if class == Class::T5 {
        let eos = named("eos_token").map(|(_, id)| ("</s>".to_owned(), id));
        (None, eos)
    } else {
        let bos = asked("add_bos_token", "bos_token", unasked);
        (bos, asked("add_eos_token", "eos_token", false))
    };
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let special = |token: &Option<(String, u32)>| {
        let (content, _) = token.as_ref()?;
        Some(json!({"SpecialToken": {"id": content, "type_id": 0}}))
    };
    let around = |id| {
        let text = Some(json!({"Sequence": {"id": id, "type_id": 0}}));
        [special(&bos), text, special(&eos)].into_iter().flatten()
    };
    let tokens = [&bos, &eos].into_iter().flatten();
    let tokens: serde_json::Map<_, _> = tokens
        .map(|(content, id)| {
            let token = json!({"id": content, "ids": [id], "tokens": [content]});
            (content.clone(), token)
        })
        .collect();
    let template = json!({
        "type": "TemplateProcessing",
        "single": around("A").collect::<Vec<_>>(),
        "pair": around("A").chain(around("B")).collect::<Vec<_>>(),
        "special_tokens": tokens,
    });
    Ok(Some(serde_json::from_value(template)?))
}
