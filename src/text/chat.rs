//! Conversations to text, by the template that the model was trained with.
//!
//! A chat template is a Jinja program in the checkpoint. It runs here as transformers runs it
//! (`transformers/utils/chat_template_utils.py`): blocks trimmed, an immutable sandbox, the functions `raise_exception`
//! and `strftime_now`, the filter `tojson` without HTML escapes, `{% break %}` and `{% continue %}`, and
//! `{% generation %}` blocks, whose only effect there is to mark what a trainer should learn.
//!
//! Not the same as in Python: `strftime_now` uses UTC, and a template that takes too many steps, too much memory or too
//! deep a stack ends with an error.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    TokenizerError, TokenizerFiles,
    files::Object,
    jinja::{JinjaError, Rendered, render},
};

/// The name of the only template of a checkpoint.
const DEFAULT: &str = "default";

/// The folder of templates that have names.
const ADDITIONAL: &str = "additional_chat_templates";

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
    /// The template without a name.
    pub(crate) fn usual(&self) -> Option<&str> {
        self.templates.get(DEFAULT).map(String::as_str)
    }

    /// The files of templates first, as transformers does: `chat_template.jinja` and the named ones beside it. Then
    /// `chat_template` of the configuration, which is one template or a list of named ones; then the file of a model of text
    /// and pictures.
    pub(super) fn find(
        files: &TokenizerFiles<'_>,
        config: Option<&Object>,
        special: BTreeMap<String, String>,
    ) -> Result<Option<Self>, TokenizerError> {
        const JINJA: &str = "chat_template.jinja";
        const JSON: &str = "chat_template.json";

        let source = |file: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(source) => Ok(source.to_owned()),
            Err(error) => Err(files.invalid(file, error)),
        };
        let mut templates = BTreeMap::new();
        if let Some(bytes) = files.chat_template_jinja {
            templates.insert(DEFAULT.to_owned(), source(JINJA, bytes)?);
        }
        for (name, bytes) in files.additional_chat_templates {
            let file = format!("{ADDITIONAL}/{name}.jinja");
            templates.insert((*name).to_owned(), source(&file, bytes)?);
        }
        if !templates.is_empty() {
            let file = match files.chat_template_jinja {
                Some(_) => files.label(JINJA),
                None => files.label(ADDITIONAL),
            };
            return Ok(Some(Self {
                file,
                templates,
                special,
            }));
        }
        let is_given = |template: &&Value| !template.is_null();
        let field = |object: &Object| object.get("chat_template").filter(is_given).cloned();
        let (file, template) = match config.and_then(field) {
            Some(template) => ("tokenizer_config.json", Some(template)),
            None => {
                let object = files.object(JSON, files.chat_template_json)?;
                (JSON, object.as_ref().and_then(field))
            }
        };
        let templates = match &template {
            None => return Ok(None),
            Some(Value::String(source)) => BTreeMap::from([(DEFAULT.to_owned(), source.clone())]),
            Some(Value::Array(list)) => list
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

    /// The template of a name, as one that stands alone; `None` where there is none.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Self> {
        let source = self.templates.get(name)?;
        Some(Self {
            file: self.file.clone(),
            templates: BTreeMap::from([(DEFAULT.to_owned(), source.clone())]),
            special: self.special.clone(),
        })
    }

    /// Writes a conversation as text.
    ///
    /// # Errors
    ///
    /// * [`TokenizerError::Refused`] when the template calls `raise_exception`, say because it knows no
    ///   system message;
    /// * [`TokenizerError::Template`] when it does not parse, fails in another way, or asks for too much time or memory;
    /// * [`TokenizerError::NoDefaultTemplate`] when there are only templates of other names.
    pub fn apply(
        &self,
        messages: &[Message],
        prompt: GenerationPrompt,
    ) -> Result<String, TokenizerError> {
        self.apply_with(messages, prompt, &Map::new())
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
        variables: &Map<String, Value>,
    ) -> Result<String, TokenizerError> {
        let messages = messages.iter();
        let messages = messages.map(|turn| json!({"role": turn.role, "content": turn.content}));
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let rendered = self.render(messages.collect(), prompt, variables, now)?;
        Ok(rendered.text)
    }

    /// A conversation whose messages are any JSON, at a time in seconds since 1970.
    pub(crate) fn render(
        &self,
        messages: Value,
        prompt: GenerationPrompt,
        variables: &Map<String, Value>,
        now: u64,
    ) -> Result<Rendered, TokenizerError> {
        let has_tools = variables.get("tools").is_some_and(|tools| !tools.is_null());
        let source = has_tools
            .then(|| self.templates.get(TOOL_USE))
            .flatten()
            .or_else(|| self.templates.get(DEFAULT))
            .ok_or_else(|| TokenizerError::NoDefaultTemplate {
                file: self.file.clone(),
                names: self.templates.keys().cloned().collect(),
            })?;

        let mut context = Map::new();
        for (name, text) in &self.special {
            context.insert(name.clone(), Value::from(text.as_str()));
        }
        context.insert("messages".to_owned(), messages);
        let adds = prompt == GenerationPrompt::Add;
        context.insert("add_generation_prompt".to_owned(), Value::from(adds));
        // Templates ask `tools is not none`: transformers passes None, not nothing.
        context.insert("tools".to_owned(), Value::Null);
        context.insert("documents".to_owned(), Value::Null);
        context.extend(variables.clone());

        render(source, &context, now).map_err(|error| match error {
            JinjaError::Raised(message) => TokenizerError::Refused { message },
            error => TokenizerError::Template {
                file: self.file.clone(),
                source: error.into(),
            },
        })
    }
}
