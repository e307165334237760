//! One record of JSON.
//!
//! | fields | is | trained on |
//! |---|---|---|
//! | `text` | a text | all of it |
//! | `messages` (`role`, `content`) or `conversations` (`from`, `value`) | a chat | answers of the assistant |
//! | `prompt`, `completion` | two texts, or two lists of messages | the completion |
//! | `instruction`, `input`, `output` | a chat of two messages; a text where the model has no chat template | the output |

use serde_json::{Map, Value};

use super::{
    error::{RecordError, type_of},
    index::text_of,
};
use crate::source::json;

/// The role whose messages are trained on.
const ASSISTANT: &str = "assistant";

/// A record, before it is made to tokens.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Example {
    Text(String),
    Completion { prompt: String, completion: String },
    Chat(Chat),
    Instruction(Instruction),
}

/// A conversation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chat {
    /// As the template sees them: objects with `role` and `content`, and their other fields.
    pub(super) messages: Vec<Value>,
    /// The messages that are trained on.
    pub(super) answers: Vec<usize>,
    /// Other variables for the template.
    pub(super) variables: Map<String, Value>,
}

impl Chat {
    /// The messages of the assistant.
    pub(super) fn assistants(&self) -> impl Iterator<Item = usize> {
        let messages = self.messages.iter().enumerate();
        messages.filter_map(|(nth, message)| (message["role"] == ASSISTANT).then_some(nth))
    }
}

/// A task as the Alpaca data have them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Instruction {
    pub(super) instruction: String,
    /// Empty where there is none.
    pub(super) input: String,
    pub(super) output: String,
}

impl Instruction {
    /// The task as a chat of two messages.
    pub(super) fn into_chat(self) -> Chat {
        let Self {
            instruction,
            input,
            output,
        } = self;
        let task = match input.is_empty() {
            true => instruction,
            false => format!("{instruction}\n\n{input}"),
        };
        let message =
            |role: &str, content: String| serde_json::json!({"role": role, "content": content});
        Chat {
            messages: vec![message("user", task), message(ASSISTANT, output)],
            answers: vec![1],
            variables: Map::new(),
        }
    }

    /// The task as Alpaca writes it (`train.py` of tatsu-lab/stanford_alpaca): the text before the output, and the output.
    pub(super) fn into_texts(self) -> [String; 2] {
        let Self {
            instruction,
            input,
            output,
        } = self;
        let prompt = match input.is_empty() {
            true => format!(
                "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
                 ### Instruction:\n{instruction}\n\n### Response:"
            ),
            false => format!(
                "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
                 response that appropriately completes the request.\n\n\
                 ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
            ),
        };
        [prompt, output]
    }
}

/// Reads a record.
pub(super) fn parse(bytes: &[u8]) -> Result<Example, RecordError> {
    text_of(bytes)?;
    let record: Value =
        json::read(bytes.trim_ascii_end()).map_err(|error| RecordError::Json(error.to_string()))?;
    let Value::Object(mut record) = record else {
        return Err(RecordError::wrong_type("record", &record, "an object"));
    };
    let mut take = |field: &str| record.remove(field).filter(|value| !value.is_null());
    if let Some(text) = take("text") {
        return Ok(Example::Text(text_in("text", text)?));
    }
    if let Some(messages) = take("messages") {
        let messages = list("messages", messages)?;
        let messages = enumerated("messages", messages, message)?;
        return Ok(Example::Chat(chat(messages, 0, &mut record)?));
    }
    if let Some(turns) = take("conversations") {
        let turns = list("conversations", turns)?;
        let messages = enumerated("conversations", turns, turn)?;
        return Ok(Example::Chat(chat(messages, 0, &mut record)?));
    }
    if let Some([prompt, completion]) = both(["prompt", "completion"], &mut take)? {
        let Value::Array(prompt) = prompt else {
            return Ok(Example::Completion {
                prompt: text_in("prompt", prompt)?,
                completion: text_in("completion", completion)?,
            });
        };
        let mut messages = enumerated("prompt", prompt, message)?;
        let from = messages.len();
        let completion = list("completion", completion)?;
        messages.extend(enumerated("completion", completion, message)?);
        return Ok(Example::Chat(chat(messages, from, &mut record)?));
    }
    if let Some([instruction, output]) = both(["instruction", "output"], &mut take)? {
        let input = take("input").map_or(Ok(String::new()), |input| text_in("input", input))?;
        return Ok(Example::Instruction(Instruction {
            instruction: text_in("instruction", instruction)?,
            input,
            output: text_in("output", output)?,
        }));
    }
    let found: Vec<String> = record.keys().map(|field| format!("`{field}`")).collect();
    Err(RecordError::NoField {
        found: match found.is_empty() {
            true => "none".to_owned(),
            false => found.join(", "),
        },
    })
}

/// Two fields that belong together, where one of them is there.
fn both(
    fields: [&'static str; 2],
    take: &mut impl FnMut(&str) -> Option<Value>,
) -> Result<Option<[Value; 2]>, RecordError> {
    let half = |given, missing| Err(RecordError::Half { given, missing });
    match fields.map(take) {
        [Some(first), Some(second)] => Ok(Some([first, second])),
        [None, None] => Ok(None),
        [Some(_), None] => half(fields[0], fields[1]),
        [None, Some(_)] => half(fields[1], fields[0]),
    }
}

fn text_in(field: &str, value: Value) -> Result<String, RecordError> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(RecordError::wrong_type(field, &other, "a text")),
    }
}

fn list(field: &str, value: Value) -> Result<Vec<Value>, RecordError> {
    match value {
        Value::Array(list) => Ok(list),
        other => Err(RecordError::wrong_type(field, &other, "a list of messages")),
    }
}

/// Reads the entries of a list. Their fields are named `list[2].role`.
fn enumerated(
    field: &str,
    entries: Vec<Value>,
    read: impl Fn(&str, Map<String, Value>) -> Result<Map<String, Value>, RecordError>,
) -> Result<Vec<Map<String, Value>>, RecordError> {
    let entries = entries.into_iter().enumerate();
    let entries = entries.map(|(nth, entry)| {
        let place = format!("{field}[{nth}]");
        match entry {
            Value::Object(entry) => read(&place, entry),
            other => Err(RecordError::wrong_type(place, &other, "an object")),
        }
    });
    entries.collect()
}

/// A message with `role` and `content`. The content is a text, or a list of parts for templates that take such; a message with
/// calls of tools may have none.
fn message(place: &str, message: Map<String, Value>) -> Result<Map<String, Value>, RecordError> {
    let field = |name: &str| format!("{place}.{name}");
    let role = message.get("role").unwrap_or(&Value::Null);
    if !role.is_string() {
        return Err(RecordError::wrong_type(field("role"), role, "a text"));
    }
    match message.get("content").unwrap_or(&Value::Null) {
        Value::String(_) | Value::Array(_) => Ok(message),
        Value::Null if message.contains_key("tool_calls") => Ok(message),
        other => Err(RecordError::wrong_type(field("content"), other, "a text")),
    }
}

/// A message with `from` and `value`, as ShareGPT has them.
fn turn(place: &str, mut turn: Map<String, Value>) -> Result<Map<String, Value>, RecordError> {
    let field = |name: &str| format!("{place}.{name}");
    if !turn.contains_key("from") && turn.contains_key("role") {
        return message(place, turn);
    }
    let mut take = |name: &str| text_in(&field(name), turn.remove(name).unwrap_or(Value::Null));
    let (from, value) = (take("from")?, take("value")?);
    let role = match from.as_str() {
        "human" | "user" => "user",
        "gpt" | "chatgpt" | "assistant" | "model" | "bot" => ASSISTANT,
        "system" => "system",
        "tool" | "observation" => "tool",
        _ => {
            return Err(RecordError::Role {
                field: field("from"),
                role: from,
                expected: "human, gpt, system or tool",
            });
        }
    };
    // Other fields, as `weight`, stay.
    turn.insert("role".to_owned(), role.into());
    turn.insert("content".to_owned(), value.into());
    Ok(turn)
}

/// A chat whose answers are trained on from a message on.
fn chat(
    messages: Vec<Map<String, Value>>,
    from: usize,
    record: &mut Map<String, Value>,
) -> Result<Chat, RecordError> {
    let mut answers = Vec::new();
    for (nth, message) in messages.iter().enumerate() {
        let counts = weight(nth, message)?;
        if nth >= from && counts && message["role"] == ASSISTANT && says_something(message) {
            answers.push(nth);
        }
    }
    let mut variables = match record.remove("chat_template_kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(variables)) => variables,
        Some(other) => {
            let field = "chat_template_kwargs";
            return Err(RecordError::wrong_type(field, &other, "an object"));
        }
    };
    if let Some(tools) = record.remove("tools").filter(|tools| !tools.is_null()) {
        if !tools.is_array() {
            return Err(RecordError::wrong_type("tools", &tools, "a list"));
        }
        variables.insert("tools".to_owned(), tools);
    }
    Ok(Chat {
        messages: messages.into_iter().map(Value::Object).collect(),
        answers,
        variables,
    })
}

/// Whether a message is trained on, as far as its `weight` says.
fn weight(nth: usize, message: &Map<String, Value>) -> Result<bool, RecordError> {
    let Some(weight) = message.get("weight").filter(|weight| !weight.is_null()) else {
        return Ok(true);
    };
    match weight.as_f64() {
        Some(1.0) => Ok(true),
        Some(0.0) => Ok(false),
        other => Err(RecordError::Type {
            field: format!("weight of message {}", nth + 1),
            found: other.map_or(type_of(weight), |_| "another number"),
            expected: "0 (not trained on) or 1",
        }),
    }
}

/// Whether there is more than spaces in a message.
fn says_something(message: &Map<String, Value>) -> bool {
    let is_blank = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    let mut fields = ["content", "reasoning_content", "thinking", "tool_calls"].into_iter();
    fields.any(|field| !message.get(field).is_none_or(is_blank))
}
