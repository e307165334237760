//! Conversations to text, by the template that the model was trained with.
//!
//! A chat template is a Jinja program in the checkpoint. It runs here as transformers runs it
//! (`transformers/utils/chat_template_utils.py`): blocks trimmed, Python's string methods, and the
//! functions `raise_exception` and `strftime_now`, the filter `tojson` without HTML escapes, `{% break %}`
//! and `{% continue %}`, and `{% generation %}` blocks, whose only effect there is to mark what a trainer
//! should learn.
//!
//! Not the same as in Python: `strftime_now` uses UTC, and a dictionary *written in a
//! template* loses the order of its keys. Dictionaries that come from outside keep it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde::{Deserialize, Serialize};

use super::jinja::{strftime::strftime, tojson::tojson};
use super::{TokenizerError, TokenizerFiles};

/// The name of the only template of a checkpoint.
const DEFAULT: &str = "default";

/// The template that transformers takes when tools are given and there is one.
const TOOL_USE: &str = "tool_use";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// The speaker: `"system"`, `"user"`, `"assistant"`, or another role that the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A turn of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }

    /// Instructions for the whole conversation. Some templates refuse them.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the person says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// Whether the text ends with the opening of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GenerationPrompt {
    /// The model is to speak next: open its turn.
    Add,
    /// The conversation is complete, as for training or scoring.
    Omit,
}

/// The chat template of a checkpoint.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    /// The file the templates came from, for messages.
    file: String,
    /// By name.
    templates: BTreeMap<String, String>,
    /// `bos_token` and its like, which templates write out.
    special: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// `chat_template.jinja` first, as transformers does; then `chat_template` of the configuration,
    /// which is one template or a list of named ones; then the file of a model of text and pictures.
    pub(super) fn find(
        files: &TokenizerFiles<'_>,
        config: Option<&super::files::Object>,
        special: BTreeMap<String, String>,
    ) -> Result<Option<Self>, TokenizerError> {
        const JINJA: &str = "chat_template.jinja";
        const JSON: &str = "chat_template.json";

        if let Some(bytes) = files.chat_template_jinja {
            let source = std::str::from_utf8(bytes).map_err(|error| files.invalid(JINJA, error))?;
            return Ok(Some(Self {
                file: files.label(JINJA),
                templates: BTreeMap::from([(DEFAULT.to_owned(), source.to_owned())]),
                special,
            }));
        }
        let is_given = |template: &&serde_json::Value| !template.is_null();
        let field =
            |object: &super::files::Object| object.get("chat_template").filter(is_given).cloned();
        let (file, template) = match config.and_then(field) {
            Some(template) => ("tokenizer_config.json", Some(template)),
            None => {
                let object = files.object(JSON, files.chat_template_json)?;
                (JSON, object.as_ref().and_then(field))
            }
        };
        let templates = match &template {
            None => return Ok(None),
            Some(serde_json::Value::String(source)) => {
                BTreeMap::from([(DEFAULT.to_owned(), source.clone())])
            }
            Some(serde_json::Value::Array(list)) => list
                .iter()
                .map(|entry| {
                    let field = |key: &str| Some(entry.get(key)?.as_str()?.to_owned());
                    field("name").zip(field("template")).ok_or_else(|| {
                        files.invalid(file, "an entry of chat_template has no name or no template")
                    })
                })
                .collect::<Result<_, _>>()?,
            Some(_) => {
                return Err(files.invalid(
                    file,
                    "chat_template is neither a template nor a list of named templates",
                ));
            }
        };
        Ok(Some(Self {
            file: files.label(file),
            templates,
            special,
        }))
    }

    /// Names of the templates there are. Mostly one, `"default"`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// Writes a conversation as text.
    ///
    /// # Errors
    ///
    /// * [`TokenizerError::Refused`] when the template calls `raise_exception`, say because it knows no
    ///   system message;
    /// * [`TokenizerError::Template`] when it does not compile or fails in another way;
    /// * [`TokenizerError::NoDefaultTemplate`] when there are only templates of other names.
    pub fn apply(
        &self,
        messages: &[Message],
        prompt: GenerationPrompt,
    ) -> Result<String, TokenizerError> {
        self.apply_with(messages, prompt, &serde_json::Map::new())
    }

    /// As [`ChatTemplate::apply`], with more variables for the template: `tools`, `documents`,
    /// `enable_thinking` and what else a model's page names. They win over those of the same name.
    ///
    /// # Errors
    ///
    /// Those of [`ChatTemplate::apply`].
    pub fn apply_with(
        &self,
        messages: &[Message],
        prompt: GenerationPrompt,
        variables: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<String, TokenizerError> {
        let has_tools = variables.get("tools").is_some_and(|tools| !tools.is_null());
        let source = has_tools
            .then(|| self.templates.get(TOOL_USE))
            .flatten()
            .or_else(|| self.templates.get(DEFAULT))
            .ok_or_else(|| TokenizerError::NoDefaultTemplate {
                file: self.file.clone(),
                names: self.templates.keys().cloned().collect(),
            })?;

        let mut context = Ordered::default();
        for (name, text) in &self.special {
            context.set(name, Value::from(text.as_str()));
        }
        let messages = messages.iter().map(|message| {
            let mut map = Ordered::default();
            map.set("role", Value::from(message.role.as_str()));
            map.set("content", Value::from(message.content.as_str()));
            Value::from_object(map)
        });
        context.set("messages", messages.collect());
        context.set(
            "add_generation_prompt",
            Value::from(prompt == GenerationPrompt::Add),
        );
        // Templates ask `tools is not none`: transformers passes None, not nothing.
        context.set("tools", Value::from(()));
        context.set("documents", Value::from(()));
        for (name, value) in variables {
            context.set(name, value_of(value));
        }

        render(&generation_as_scope(source), Value::from_object(context)).map_err(|error| {
            match refusal(&error) {
                Some(Refusal(message)) => TokenizerError::Refused {
                    message: message.clone(),
                },
                None => TokenizerError::Template {
                    file: self.file.clone(),
                    source: error.into(),
                },
            }
        })
    }
}

/// Compiles and runs. Compiling takes well under a millisecond, so that nothing is kept between calls.
fn render(source: &str, context: Value) -> Result<String, Error> {
    let mut env = Environment::new();
    env.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    // The output is text for a model. Names of templates must not switch HTML escapes on.
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function(
        "raise_exception",
        |message: Value| -> Result<Value, Error> {
            let refusal = Refusal(message.to_string());
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(refusal))
        },
    );
    env.add_function("strftime_now", |format: String| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        strftime(&format, now).map_err(|directive| {
            Error::new(
                ErrorKind::InvalidOperation,
                format!("strftime_now does not know {directive:?}"),
            )
        })
    });
    env.add_filter("tojson", tojson);
    env.render_str(source, context)
}

/// What a template passed to `raise_exception`, on its way through the engine's errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn refusal(error: &Error) -> Option<&Refusal> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal);
        }
        cause = error.source();
    }
    None
}

/// Rewrites `{% generation %}` … `{% endgeneration %}` to `{% with %}` … `{% endwith %}`.
///
/// In transformers the block gives its content, in its own scope, and notes where it was; the
/// engine knows no tags of ours, and `with` is the block that does the rest. Only the word changes, so
/// that whitespace control stays as written.
fn generation_as_scope(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let word_at = tag.len() - tag.trim_start_matches(['-', '+']).trim_start().len();
        let (open, word) = tag.split_at(word_at);
        let replaced = [("endgeneration", "endwith"), ("generation", "with")]
            .into_iter()
            .find_map(|(from, to)| {
                let after = word.strip_prefix(from)?;
                let end = after.trim_start();
                let closes = ["%}", "-%}", "+%}"].iter().any(|tag| end.starts_with(tag));
                closes.then_some((to, after))
            });
        rest = match replaced {
            Some((to, after)) => {
                out.push_str(open);
                out.push_str(to);
                after
            }
            None => tag,
        };
    }
    out + rest
}

/// A dictionary that keeps the order of its keys, as Python's do.
///
/// The order shows when a template prints a tool's description with `tojson`, and a model sees the
/// difference.
#[derive(Debug, Default)]
struct Ordered(Vec<(String, Value)>);

impl Ordered {
    fn set(&mut self, key: &str, value: Value) {
        match self.0.iter_mut().find(|(found, _)| found == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }
}

impl Object for Ordered {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        let (_, value) = self.0.iter().find(|(found, _)| found == key)?;
        Some(value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let keys = self.0.iter().map(|(key, _)| Value::from(key.as_str()));
        Enumerator::Values(keys.collect())
    }
}

fn value_of(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => {
            if let Some(value) = number.as_i64() {
                Value::from(value)
            } else if let Some(value) = number.as_u64() {
                Value::from(value)
            } else {
                Value::from(number.as_f64().unwrap_or(f64::NAN))
            }
        }
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(list) => list.iter().map(value_of).collect(),
        serde_json::Value::Object(map) => {
            let entries = map
                .iter()
                .map(|(key, value)| (key.clone(), value_of(value)));
            Value::from_object(Ordered(entries.collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::generation_as_scope;

    /// A rewrite that eats the dash changes the whitespace of every turn; one that matches a prefix
    /// breaks variables whose name begins with `generation`.
    #[test]
    fn only_the_word_of_a_generation_tag_changes() {
        let cases = [
            (
                "{% generation %}x{% endgeneration %}",
                "{% with %}x{% endwith %}",
            ),
            (
                "{%- generation -%}x{%-endgeneration-%}",
                "{%- with -%}x{%-endwith-%}",
            ),
            ("{%+ generation +%}", "{%+ with +%}"),
            (
                "{% generation_x %} {{ generation }}",
                "{% generation_x %} {{ generation }}",
            ),
            ("{% if generation %}{%", "{% if generation %}{%"),
            ("a { % generation %}", "a { % generation %}"),
        ];
        for (source, expected) in cases {
            assert_eq!(generation_as_scope(source), expected);
        }
    }
}
