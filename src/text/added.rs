//! Tokens beside the vocabulary: named ones like `eos_token`, and those that a fine-tune added.
//!
//! They stand in up to four files, and a `tokenizer.json` may lack some of them. The order of precedence is that of
//! transformers (`PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__` of 5.23):
//! `added_tokens_decoder` of `tokenizer_config.json` makes the older files count for nothing; without it,
//! `special_tokens_map.json` wins over `tokenizer_config.json`, and `added_tokens.json` is read.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use tokenizers::AddedToken;

use super::{
    error::TokenizerError,
    files::{Object, TokenizerFiles},
    written::WrittenToken,
};

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// The names that transformers knows, in its order. Other names that end with `_token` follow.
const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// The tokens beside the vocabulary, as the files have them.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// By name; `None` where a file says that there is none.
    named: Vec<(String, Option<WrittenToken>)>,
    /// How many of them no file names: they are the first.
    assumed: usize,
    /// By the id that the file gives.
    pub(super) by_id: BTreeMap<u32, WrittenToken>,
    /// More special tokens; `None` where no file lists any.
    pub(super) more: Option<Vec<WrittenToken>>,
    /// More special tokens of `special_tokens_map.json`, which count where nothing else is listed.
    older: Vec<WrittenToken>,
    /// Whether `by_id` is of `tokenizer_config.json`.
    configured: bool,
}

impl Added {
    /// Reads the files.
    pub(super) fn read(
        files: &TokenizerFiles<'_>,
        config: Option<&Object>,
        map: Option<&Object>,
    ) -> Result<Self, TokenizerError> {
        let mut added = Self::default();
        for (key, value) in config.into_iter().flatten() {
            added.read_named(key, value, None);
        }
        let listed = |key| config.and_then(|config| config.get(key));
        let more = match listed("extra_special_tokens") {
            Some(extra) if !is_empty(extra) => Some(extra),
            extra => listed("additional_special_tokens").or(extra),
        };
        match more {
            Some(Value::Object(named)) => {
                for (key, value) in named {
                    added.set(key, WrittenToken::read(value, None));
                }
            }
            Some(list) => added.more = Some(tokens(files, CONFIG, list, None)?),
            None => {}
        }
        match listed("added_tokens_decoder") {
            Some(Value::Object(by_id)) => {
                added.configured = true;
                for (id, value) in by_id {
                    let token = value
                        .as_object()
                        .and_then(|fields| WrittenToken::object(fields, None));
                    let parsed = id.parse().ok().zip(token);
                    let (id, token) = parsed.ok_or_else(|| {
                        let message = format!(
                            "`added_tokens_decoder`: the entry {id:?} is no id with a token"
                        );
                        files.invalid(CONFIG, message)
                    })?;
                    added.by_id.insert(id, token);
                }
            }
            None | Some(Value::Null) => added.read_older(files, config, map)?,
            Some(_) => {
                return Err(files.invalid(CONFIG, "`added_tokens_decoder` is no object"));
            }
        }
        // A named token has the properties that the list by id gives it.
        for (name, named) in &mut added.named {
            if let Some(named) = named
                && NAMES.contains(&name.as_str())
                && let Some(token) = added
                    .by_id
                    .values()
                    .find(|token| token.content() == named.content())
            {
                *named = token.clone();
            }
        }
        Ok(added)
    }

    fn read_older(
        &mut self,
        files: &TokenizerFiles<'_>,
        config: Option<&Object>,
        map: Option<&Object>,
    ) -> Result<(), TokenizerError> {
        for (key, value) in map.into_iter().flatten() {
            match (key.as_str(), value) {
                ("extra_special_tokens", Value::Object(named)) => {
                    for (key, value) in named {
                        self.set(key, WrittenToken::read(value, Some(true)));
                    }
                }
                ("extra_special_tokens", Value::Array(_)) => {
                    let more = self.more.get_or_insert_default();
                    for token in tokens(files, MAP, value, Some(true))? {
                        if !more.contains(&token) {
                            more.push(token);
                        }
                    }
                }
                ("additional_special_tokens", Value::Array(_)) => {
                    self.older = tokens(files, MAP, value, Some(true))?;
                }
                _ => self.read_named(key, value, Some(true)),
            }
        }
        let by_content = files.object(ADDED, files.added_tokens)?.unwrap_or_default();
        // A token that tokenizer_config.json names by an object counts as no special one here, as in transformers.
        let of_map = |name: &str| {
            Some(
                WrittenToken::read(map?.get(name)?, None)?
                    .content()
                    .to_owned(),
            )
        };
        let of_config = |name: &str| Some(config?.get(name)?.as_str()?.to_owned());
        let named = NAMES.iter().filter_map(|name| match map {
            Some(map) if map.contains_key(*name) => of_map(name),
            _ => of_config(name),
        });
        let more = ["extra_special_tokens", "additional_special_tokens"]
            .map(|key| config?.get(key)?.as_array());
        let more = more
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned);
        let special: HashSet<String> = named.chain(more).collect();
        for (content, id) in by_content {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| {
                files.invalid(
                    ADDED,
                    format!("the id of {content:?} is no number from 0 to 4294967295"),
                )
            })?;
            let is_special = special.contains(&content);
            let token = AddedToken::from(content, is_special);
            self.by_id.insert(id, WrittenToken::known(token));
        }
        Ok(())
    }

    /// Takes the value of a field that names a token. Others, such as `add_bos_token`, end in the same word.
    fn read_named(&mut self, key: &str, value: &Value, special: Option<bool>) {
        if !key.ends_with("_token") {
            return;
        }
        match value {
            Value::Null => self.set(key, None),
            Value::String(_) | Value::Object(_) => {
                if let Some(token) = WrittenToken::read(value, special) {
                    self.set(key, Some(token));
                }
            }
            _ => {}
        }
    }

    fn set(&mut self, name: &str, token: Option<WrittenToken>) {
        match self.named.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = token,
            None => self.named.push((name.to_owned(), token)),
        }
    }

    /// The token of a name where no file says anything about that name.
    pub(super) fn assume(&mut self, name: &str, content: &str) {
        if !self.named.iter().any(|(known, _)| known == name) {
            let token = Some(WrittenToken::text(content));
            self.named.insert(self.assumed, (name.to_owned(), token));
            self.assumed += 1;
        }
    }

    /// More special tokens where no file lists any: pieces of the vocabulary that are not to be cut.
    pub(super) fn assume_more(&mut self, tokens: Vec<WrittenToken>) {
        if self.more.is_none() {
            let older = std::mem::take(&mut self.older);
            self.more = Some([tokens, older].concat());
        }
    }

    fn named_contents(&self) -> impl Iterator<Item = &str> {
        let named = self.named.iter();
        named.filter_map(|(_, token)| Some(token.as_ref()?.content()))
    }

    /// The token of a name.
    pub(super) fn named(&self, name: &str) -> Option<&str> {
        let (_, token) = self.named.iter().find(|(known, _)| known == name)?;
        Some(token.as_ref()?.content())
    }

    /// Names and tokens, for chat templates.
    pub(super) fn into_named(self) -> BTreeMap<String, String> {
        let named = self.named.into_iter();
        named
            .filter_map(|(name, token)| Some((name, token?.content().to_owned())))
            .collect()
    }

    /// All named tokens and all more special ones: `all_special_tokens` in transformers.
    pub(super) fn special(&self) -> impl Iterator<Item = &WrittenToken> {
        let standard = NAMES.iter().filter_map(|name| {
            let (_, token) = self.named.iter().find(|(known, _)| known == name)?;
            token.as_ref()
        });
        let others = self
            .named
            .iter()
            .filter_map(|(name, token)| token.as_ref().filter(|_| !NAMES.contains(&name.as_str())));
        let more = self.more.as_ref().unwrap_or(&self.older);
        standard.chain(others).chain(more)
    }

    /// Adds the tokens that the tokenizer lacks. A token that the vocabulary has keeps its id; others get the next ids, in the
    /// order of the ids that the files give.
    pub(super) fn add_to(
        &self,
        tokenizer: &mut tokenizers::Tokenizer,
    ) -> Result<(), tokenizers::Error> {
        let has = tokenizer.get_added_tokens_decoder();
        let is_lacking = |id: &u32, token: &WrittenToken| match has.get(id) {
            Some(known) => self.configured && known != token.token(),
            None => true,
        };
        let by_id = self
            .by_id
            .iter()
            .filter(|(id, token)| is_lacking(id, token));
        let mut lacking: Vec<WrittenToken> = by_id.map(|(_, token)| token.clone()).collect();
        let known: HashSet<&str> = has
            .values()
            .map(|token| token.content.as_str())
            .chain(self.by_id.values().map(WrittenToken::content))
            .collect();
        for token in self.special() {
            if !known.contains(token.content()) && !lacking.contains(token) {
                lacking.push(token.clone());
            }
        }
        let named: HashSet<&str> = self.named_contents().collect();
        for token in &mut lacking {
            if named.contains(token.content()) {
                token.specialize();
            }
        }
        if !lacking.is_empty() {
            tokenizer.add_tokens(lacking.iter().map(|token| token.token().clone()))?;
        }
        for (id, token) in &self.by_id {
            let found = tokenizer.token_to_id(token.content());
            if found.is_some_and(|found| found != *id) {
                tracing::warn!(
                    token = token.content(),
                    said = id,
                    found,
                    "a token's id is another one than the file of added tokens says, as in transformers"
                );
            }
        }
        Ok(())
    }
}

/// `[]`, `{}` and `null`, which say that there are none.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn tokens(
    files: &TokenizerFiles<'_>,
    file: &str,
    list: &Value,
    special: Option<bool>,
) -> Result<Vec<WrittenToken>, TokenizerError> {
    let invalid = || files.invalid(file, "the list of special tokens is no list of tokens");
    match list {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list
            .iter()
            .map(|value| WrittenToken::read(value, special).ok_or_else(invalid))
            .collect(),
        _ => Err(invalid()),
    }
}
