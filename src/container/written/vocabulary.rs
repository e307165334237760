//! The tokenizer of a checkpoint as keys of a file.
//!
//! | `tokenizer.json` | `tokenizer.ggml.model` |
//! |---|---|
//! | byte pairs over bytes | `gpt2`: merges, and the name of the expressions that cut texts |
//! | byte pairs that fall back to bytes (sentencepiece) | `llama`: a score for each token, by which pairs merge |

use std::collections::HashMap;

use serde_json::Value;

use crate::{
    container::{ContainerError, cuttings::Cutting},
    source::gguf::GgufKeys,
};

/// Types of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// A tokenizer.
#[derive(Debug)]
pub(crate) struct GgufVocabulary<'a> {
    /// Its `tokenizer.json`.
    pub(crate) json: &'a Value,
    /// The token that begins a text.
    pub(crate) bos: Option<u32>,
    /// The tokens that end one.
    pub(crate) eos: &'a [u32],
    /// The token that fills up.
    pub(crate) pad: Option<u32>,
    /// How conversations are written.
    pub(crate) chat_template: Option<&'a str>,
}

/// A token.
#[derive(Debug, Clone)]
struct VocabularyToken<'a> {
    text: &'a str,
    kind: i32,
}

impl GgufVocabulary<'_> {
    /// Writes the keys of a model with `rows` rows of the embedding, a token each.
    pub(super) fn write(
        &self,
        keys: &mut GgufKeys,
        label: &str,
        rows: usize,
    ) -> Result<(), ContainerError> {
        self.try_write(keys, rows)
            .map_err(|reason| ContainerError::Vocabulary {
                file: label.to_owned(),
                reason,
            })
    }

    fn try_write(&self, keys: &mut GgufKeys, rows: usize) -> Result<(), String> {
        let model = &self.json["model"];
        if model["type"] != "BPE" {
            let kind = model["type"].as_str().unwrap_or("of no type");
            return Err(format!("it is {kind}, and BPE is written"));
        }
        let by_bytes = has(&self.json["pre_tokenizer"], "ByteLevel");
        let pieces = model["byte_fallback"] == true && !by_bytes;
        let texts = self.tokens(rows, pieces)?;
        let texts: Vec<VocabularyToken<'_>> = texts
            .iter()
            .map(|(text, kind)| VocabularyToken { text, kind: *kind })
            .collect();
        if pieces {
            keys.text("tokenizer.ggml.model", "llama");
            keys.text("tokenizer.ggml.pre", "default");
        } else {
            let cutting = Cutting::of(self.json)?;
            keys.text("tokenizer.ggml.model", "gpt2");
            keys.text("tokenizer.ggml.pre", cutting.names[0]);
        }
        keys.texts(
            "tokenizer.ggml.tokens",
            texts.iter().map(|token| token.text),
        );
        keys.i32s(
            "tokenizer.ggml.token_type",
            texts.iter().map(|token| token.kind),
        );
        let merges = merges(model)?;
        if pieces {
            let scores = scores(&texts, &merges);
            keys.f32s("tokenizer.ggml.scores", scores.into_iter());
            keys.flag("tokenizer.ggml.add_space_prefix", self.begins_with_space());
        } else {
            let merges: Vec<String> = merges
                .iter()
                .map(|[left, right]| format!("{left} {right}"))
                .collect();
            keys.texts("tokenizer.ggml.merges", merges.iter().map(String::as_str));
        }
        let unknown = model["unk_token"].as_str();
        let unknown = unknown.and_then(|text| texts.iter().position(|token| token.text == text));
        for (name, id) in [
            ("bos", self.bos),
            ("eos", self.eos.first().copied()),
            ("unknown", unknown.map(|id| id as u32)),
            ("padding", self.pad),
        ] {
            if let Some(id) = id.filter(|id| (*id as usize) < rows) {
                keys.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
            }
        }
        // Of several ends, llama.cpp has one more by name; the others it knows by their texts.
        if let Some(id) = self.eos.get(1).filter(|id| (**id as usize) < rows) {
            keys.u32("tokenizer.ggml.eot_token_id", *id);
        }
        let ends = self.special_in_single();
        keys.flag("tokenizer.ggml.add_bos_token", ends[0]);
        keys.flag("tokenizer.ggml.add_eos_token", ends[1]);
        if let Some(template) = self.chat_template {
            keys.text("tokenizer.chat_template", template);
        }
        Ok(())
    }

    /// A text and a type for each row of the embedding.
    fn tokens(&self, rows: usize, pieces: bool) -> Result<Vec<(String, i32)>, String> {
        let mut tokens: Vec<(String, i32)> =
            (0..rows).map(|id| (format!("[PAD{id}]"), UNUSED)).collect();
        let mut put = |text: &str, id: u64, kind: i32| {
            let place = usize::try_from(id).ok().and_then(|id| tokens.get_mut(id));
            match place {
                Some(place) => {
                    *place = (text.to_owned(), kind);
                    Ok(())
                }
                None => Err(format!(
                    "token {text:?} has the id {id}, and the embedding has {rows} rows"
                )),
            }
        };
        let model = &self.json["model"];
        let vocabulary = model["vocab"].as_object();
        let unknown = model["unk_token"].as_str();
        for (text, id) in vocabulary.into_iter().flatten() {
            let kind = match &**text {
                text if Some(text) == unknown => UNKNOWN,
                text if pieces && is_byte(text) => BYTE,
                _ => NORMAL,
            };
            put(text, id.as_u64().unwrap_or(u64::MAX), kind)?;
        }
        let added = self.json["added_tokens"].as_array();
        for token in added.into_iter().flatten() {
            let text = token["content"].as_str().unwrap_or_default();
            let kind = match token["special"] == true {
                true if Some(text) == unknown => UNKNOWN,
                true => CONTROL,
                false => USER,
            };
            put(text, token["id"].as_u64().unwrap_or(u64::MAX), kind)?;
        }
        Ok(tokens)
    }

    /// Whether a space is put before a text.
    fn begins_with_space(&self) -> bool {
        let normalizer = &self.json["normalizer"];
        let cutter = &self.json["pre_tokenizer"];
        let metaspace = find(cutter, "Metaspace");
        let by_metaspace = metaspace.is_some_and(|metaspace| {
            metaspace["prepend_scheme"] != "never" && metaspace["add_prefix_space"] != false
        });
        by_metaspace || has(normalizer, "Prepend")
    }

    /// Whether one text begins and ends with a token.
    fn special_in_single(&self) -> [bool; 2] {
        let Some(template) = find(&self.json["post_processor"], "TemplateProcessing") else {
            return [false; 2];
        };
        let Some(single) = template["single"].as_array() else {
            return [false; 2];
        };
        let is_token =
            |part: Option<&Value>| part.is_some_and(|part| part["SpecialToken"].is_object());
        [is_token(single.first()), is_token(single.last())]
    }
}

/// The part of this type, itself or in a sequence.
fn find<'v>(part: &'v Value, kind: &str) -> Option<&'v Value> {
    if part["type"] == kind {
        return Some(part);
    }
    let inner = ["pretokenizers", "normalizers", "processors"]
        .into_iter()
        .filter_map(|name| part[name].as_array());
    inner.flatten().find_map(|part| find(part, kind))
}

fn has(part: &Value, kind: &str) -> bool {
    find(part, kind).is_some()
}

/// Whether a token stands for a byte: `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let digits = text
        .strip_prefix("<0x")
        .and_then(|text| text.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// The pairs that merge, the first first.
fn merges(model: &Value) -> Result<Vec<[&str; 2]>, String> {
    let merges = model["merges"].as_array();
    let merges = merges.into_iter().flatten().map(|merge| {
        let pair = match merge {
            Value::String(text) => text.split_once(' ').map(|(left, right)| [left, right]),
            Value::Array(pair) => match &pair[..] {
                [left, right] => left.as_str().zip(right.as_str()).map(|(l, r)| [l, r]),
                _ => None,
            },
            _ => None,
        };
        pair.ok_or_else(|| format!("the merge {merge} is no pair"))
    });
    merges.collect()
}

/// The score of each token: llama.cpp merges the pair whose token has the highest one, and sentencepiece scores a token by the
/// order of merges. A token that no pair makes comes last.
fn scores(tokens: &[VocabularyToken<'_>], merges: &[[&str; 2]]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for [left, right] in merges {
        let next = ranks.len();
        ranks.entry(format!("{left}{right}")).or_insert(next);
    }
    let last = ranks.len();
    let scores = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| match token.kind {
            NORMAL => match ranks.get(token.text) {
                Some(rank) => -(*rank as f32),
                None => -((last + id) as f32),
            },
            // As the converter of llama.cpp has it.
            USER => -1000.0,
            UNUSED => -10_000.0,
            _ => 0.0,
        });
    scores.collect()
}
