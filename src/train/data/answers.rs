//! Where the answers are in the text of a chat.
//!
//! A template that marks them with `generation` blocks is believed. Those of published models do not, so that each answer is found
//! by writing the chat again:
//!
//! ```text
//! the chat                      … <|assistant|> It is blue.<|end|> <|user|> …
//! the same with another answer  … <|assistant|> ANSWER<|end|> <|user|> …      what follows ANSWER must end the chat too
//! up to the question, with the  … <|assistant|>                               the answer begins here, if both texts above
//!   prompt of generation                                                      begin so; else at the place of ANSWER
//! up to the other answer        … <|assistant|> ANSWER<|end|>                 what is common to this and the second line
//!                                                                             after ANSWER ends an answer
//! ```
//!
//! Templates that write an answer in another way once the chat goes on (Qwen 3 removes thoughts) pass, since the end is compared
//! with whole chats alone. Where a template refuses the other answer, as one in place of a call whose result follows, the answer is
//! what the chat has more than its question, if the text begins with both. A text that passes no comparison is an error.

use std::ops::Range;

use serde_json::{Value, json};

use super::{error::RecordError, record::Chat};
use crate::text::{ChatTemplate, GenerationPrompt, Rendered};

/// The text of a chat and its answers.
#[derive(Debug)]
pub(super) struct Marked {
    pub(super) text: String,
    pub(super) answers: Vec<Answer>,
}

/// The bytes of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// What the model says.
    pub(super) said: Range<usize>,
    /// How the template goes on after any answer: the mark that ends it is in there. `None` where the template marks all that is
    /// to be trained on.
    pub(super) end: Option<Range<usize>>,
}

/// Writes chats.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChatWriter<'w> {
    pub(super) template: &'w ChatTemplate,
    /// In seconds since 1970.
    pub(super) date: u64,
}

impl ChatWriter<'_> {
    /// The text of a chat, with the answers that are trained on.
    pub(super) fn mark(&self, chat: &Chat) -> Result<Marked, RecordError> {
        let Rendered { text, answers } =
            self.write(chat, &chat.messages, GenerationPrompt::Omit)?;
        let answers = match answers {
            Some(blocks) => marked(chat, blocks)?,
            None => self.found(chat, &text)?,
        };
        Ok(Marked { text, answers })
    }

    fn write(
        &self,
        chat: &Chat,
        messages: &[Value],
        prompt: GenerationPrompt,
    ) -> Result<Rendered, RecordError> {
        let messages = Value::Array(messages.to_vec());
        let text = self
            .template
            .render(messages, prompt, &chat.variables, self.date);
        Ok(text?)
    }

    /// The answers by comparison of texts.
    fn found(&self, chat: &Chat, text: &str) -> Result<Vec<Answer>, RecordError> {
        // A word that no text has, and that no template treats in a special way.
        let mut word = (0..).map(|nth| format!("Answer{nth}Answer"));
        let word = word.find(|word| !text.contains(word)).unwrap_or_default();
        let mut before = 0;
        let mut answers = Vec::new();
        for nth in &chat.answers {
            let answer = match self.compared(chat, *nth, text, &word) {
                // The template takes no word for this answer.
                Err(RecordError::Tokenizer(fault)) => {
                    self.between(chat, *nth, text).ok_or(fault)?
                }
                compared => compared?,
            };
            if answer.said.start < before {
                return Err(unverifiable(
                    *nth,
                    "it lies in the text of the answer before",
                ));
            }
            before = answer.said.end;
            answers.push(answer);
        }
        Ok(answers)
    }

    /// An answer by comparison with chats in which it is a word.
    fn compared(
        &self,
        chat: &Chat,
        nth: usize,
        text: &str,
        word: &str,
    ) -> Result<Answer, RecordError> {
        let mut other = chat.messages.clone();
        other[nth] = json!({"role": other[nth]["role"], "content": word});
        let whole = self.write(chat, &other, GenerationPrompt::Omit)?.text;
        let begun = self
            .write(chat, &other[..=nth], GenerationPrompt::Omit)?
            .text;
        // Templates may refuse a chat that ends so.
        let asked = self.write(chat, &other[..nth], GenerationPrompt::Add);
        let asked = asked.ok().map(|asked| asked.text);

        let (Some((front, after)), Some((_, end))) = (around(&whole, word), around(&begun, word))
        else {
            let reason = "the template does not write it once and as it is";
            return Err(unverifiable(nth, reason));
        };
        let Some(upto) = text.strip_suffix(after) else {
            return Err(unverifiable(nth, "the text after it depends on it"));
        };
        let asked = asked.filter(|asked| whole.starts_with(asked));
        let mut begin = [asked.as_deref(), Some(front)].into_iter().flatten();
        let Some(begin) = begin.find(|begin| upto.starts_with(begin)) else {
            return Err(unverifiable(nth, "the text before it depends on it"));
        };
        let end = common(after, end);
        Ok(Answer {
            said: begin.len()..upto.len(),
            end: Some(upto.len()..upto.len() + end),
        })
    }

    /// What the chat up to an answer has more than the chat up to its question, where the text begins with both: for answers that
    /// no word can take the place of, as a call of a tool that is followed by its result.
    fn between(&self, chat: &Chat, nth: usize, text: &str) -> Option<Answer> {
        let begin = |upto: &[Value], prompt| {
            let begin = self.write(chat, upto, prompt).ok()?.text;
            text.starts_with(&begin).then_some(begin)
        };
        let asked = begin(&chat.messages[..nth], GenerationPrompt::Add)?;
        let answered = begin(&chat.messages[..=nth], GenerationPrompt::Omit)?;
        // Line breaks behind the mark that ends it.
        let end = answered.trim_end().len();
        (asked.len() < end).then_some(Answer {
            said: asked.len()..end,
            end: None,
        })
    }
}

fn unverifiable(nth: usize, reason: &'static str) -> RecordError {
    RecordError::Unverifiable {
        message: nth + 1,
        reason,
    }
}

/// The texts before and after a word that comes once.
fn around<'t>(text: &'t str, word: &str) -> Option<(&'t str, &'t str)> {
    text.split_once(word)
        .filter(|(_, after)| !after.contains(word))
}

/// Bytes of the letters that both begin with.
fn common(one: &str, other: &str) -> usize {
    let same = one.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    same.map(|(letter, _)| letter.len_utf8()).sum()
}

/// The blocks of the answers that are trained on, of one for each message of the assistant.
fn marked(chat: &Chat, blocks: Vec<Range<usize>>) -> Result<Vec<Answer>, RecordError> {
    let answer = |said| Answer { said, end: None };
    let all: Vec<usize> = chat.assistants().collect();
    if chat.answers == all {
        return Ok(blocks.into_iter().map(answer).collect());
    }
    if blocks.len() != all.len() {
        let nth = chat.answers.first().copied().unwrap_or_default();
        let reason =
            "not all answers are trained on, and the template does not mark each with one block";
        return Err(unverifiable(nth, reason));
    }
    let blocks = all.iter().zip(blocks);
    let trained = blocks.filter(|(nth, _)| chat.answers.contains(nth));
    Ok(trained.map(|(_, block)| answer(block)).collect())
}
