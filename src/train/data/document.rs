//! Documents become tokens.

use std::{ops::Range, sync::Arc};

use super::{
    answers::{Answer, ChatWriter},
    config::DataConfig,
    error::RecordError,
    files::DataKind,
    index::text_of,
    packing::DocumentPiece,
    record::{Chat, Example, parse},
    split::part_of,
    summary::DataCounts,
};
use crate::text::{SpecialTokens, Tokenizer};

/// A token and the bytes of the text that it stands for.
type PlacedToken = (u32, Range<usize>);

/// Makes tokens of records.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    tokenizer: Arc<Tokenizer>,
    /// Tokens of the longest row.
    length: usize,
    date: u64,
}

/// What a record becomes.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) pieces: Vec<DocumentPiece>,
    pub(super) counts: DataCounts,
}

impl Encoder {
    pub(super) fn new(config: &DataConfig, tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            tokenizer,
            length: config.length,
            date: config.date,
        }
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether a record of JSON can be made to tokens, as far as that is seen without making them.
    pub(super) fn check(&self, record: &[u8]) -> Result<(), RecordError> {
        match parse(record)? {
            Example::Chat(_) if self.tokenizer.chat_template().is_none() => {
                Err(RecordError::NoTemplate)
            }
            _ => Ok(()),
        }
    }

    /// A record, or a part of a text with its place in the file.
    pub(super) fn document(
        &self,
        kind: DataKind,
        bytes: &[u8],
        [is_first, is_last]: [bool; 2],
    ) -> Result<Document, RecordError> {
        if kind == DataKind::Text {
            let piece = self.text(text_of(bytes)?, [is_first, is_last])?;
            let mut document = self.cut(&piece);
            let counts = &mut document.counts;
            // The first part counts for the file.
            counts.documents = is_first.into();
            counts.cut = (is_first && (document.pieces.len() > 1 || !is_last)).into();
            counts.without_text &= u64::from(is_first && is_last);
            return Ok(document);
        }
        let mut document = match parse(bytes)? {
            Example::Text(text) if text.trim().is_empty() => Document::left_out(|counts| {
                counts.without_text = 1;
            }),
            Example::Text(text) => {
                let mut document = self.cut(&self.text(&text, [true, true])?);
                document.counts.cut = (document.pieces.len() > 1).into();
                document
            }
            Example::Completion { prompt, completion } => self.completion(prompt, &completion)?,
            Example::Chat(chat) => self.chat(&chat)?,
            Example::Instruction(task) if self.tokenizer.chat_template().is_some() => {
                self.chat(&task.into_chat())?
            }
            Example::Instruction(task) => {
                let [prompt, completion] = task.into_texts();
                self.completion(prompt, &completion)?
            }
        };
        document.counts.documents = 1;
        Ok(document)
    }

    /// All tokens of a text. Its beginning has the tokens that the tokenizer puts there, its end the first token that ends
    /// generation.
    fn text(
        &self,
        text: &str,
        [is_first, is_last]: [bool; 2],
    ) -> Result<DocumentPiece, RecordError> {
        let mut ids = Vec::new();
        let (mut rest, mut special) = (text, is_first);
        while !rest.is_empty() {
            let len = part_of(rest.as_bytes()).unwrap_or(rest.len());
            let (part, after) = rest.split_at(len);
            let special_tokens = match special {
                true => SpecialTokens::Include,
                false => SpecialTokens::Omit,
            };
            ids.extend(self.tokenizer.encode(part, special_tokens)?);
            // The tokenizer ends each text that it is given.
            if special && ids.last().is_some_and(|id| self.ends(*id)) {
                ids.pop();
            }
            (rest, special) = (after, false);
        }
        if is_last {
            ids.extend(self.tokenizer.eos_ids().first());
        }
        Ok(DocumentPiece::new(&ids, |_| true))
    }

    fn completion(&self, prompt: String, completion: &str) -> Result<Document, RecordError> {
        if completion.trim().is_empty() {
            return Ok(Document::left_out(|counts| counts.without_answer = 1));
        }
        let from = prompt.len();
        let text = prompt + completion;
        let tokenizer = &self.tokenizer;
        let mut tokens = tokenizer.encode_with_places(&text, SpecialTokens::Include)?;
        if tokens.last().is_some_and(|(id, _)| self.ends(*id)) {
            tokens.pop();
        }
        let end = tokenizer.eos_ids().first();
        let len = text.len();
        tokens.extend(end.map(|end| (*end, len..len + 1)));
        Ok(self.truncated(&tokens, |place| tokens[place].1.end > from))
    }

    fn chat(&self, chat: &Chat) -> Result<Document, RecordError> {
        if chat.answers.is_empty() {
            return Ok(Document::left_out(|counts| counts.without_answer = 1));
        }
        let template = self.tokenizer.chat_template();
        let writer = ChatWriter {
            template: template.ok_or(RecordError::NoTemplate)?,
            date: self.date,
        };
        let marked = writer.mark(chat)?;
        // The template writes the token that begins the text.
        let tokenizer = &self.tokenizer;
        let tokens = tokenizer.encode_with_places(&marked.text, SpecialTokens::Omit)?;
        let mut trained = vec![false; tokens.len()];
        for answer in &marked.answers {
            let places = self.tokens_of(answer, &tokens);
            trained[places].fill(true);
        }
        if !trained.contains(&true) {
            return Ok(Document::left_out(|counts| counts.without_answer = 1));
        }
        Ok(self.truncated(&tokens, |place| trained[place]))
    }

    /// The tokens of an answer: all that have a byte of it, and those of the template's end up to the last one that is no
    /// text; all of the end where the template ends answers by text.
    fn tokens_of(&self, answer: &Answer, tokens: &[PlacedToken]) -> Range<usize> {
        let said = &answer.said;
        let begin = tokens.partition_point(|(_, bytes)| bytes.end <= said.start);
        let said = tokens.partition_point(|(_, bytes)| bytes.start < said.end);
        let said = said.max(begin);
        let Some(end) = &answer.end else {
            return begin..said;
        };
        let rest = &tokens[said..];
        let ends = rest.partition_point(|(_, bytes)| bytes.end <= end.end);
        let mut special = rest[..ends].iter();
        let len = match special.rposition(|(id, _)| self.tokenizer.is_special(*id)) {
            Some(last) => last + 1,
            // In some templates the mark of the next speaker ends an answer.
            None if ends == 0 => rest.first().is_some_and(|(id, _)| self.ends(*id)).into(),
            None => ends,
        };
        begin..said + len
    }

    /// Whether a token ends generation.
    fn ends(&self, id: u32) -> bool {
        self.tokenizer.eos_ids().contains(&id)
    }

    /// All tokens, in parts of a row's length.
    fn cut(&self, piece: &DocumentPiece) -> Document {
        Document::new(piece.cut(self.length).collect())
    }

    /// The tokens that a row has room for.
    fn truncated(&self, tokens: &[PlacedToken], is_trained: impl Fn(usize) -> bool) -> Document {
        let ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
        let piece = DocumentPiece::new(&ids, is_trained);
        let is_longer = piece.ids.len() > self.length;
        // The last input may have its label behind the row's end.
        let rest = piece.cut(self.length).next().map(DocumentPiece::trimmed);
        let Some(rest) = rest.filter(|rest| !rest.ids.is_empty()) else {
            return Document::left_out(|counts| match is_longer {
                true => counts.without_rest = 1,
                false => counts.without_answer = 1,
            });
        };
        let mut document = Document::new(vec![rest]);
        document.counts.truncated = is_longer.into();
        document
    }
}

impl Document {
    fn new(pieces: Vec<DocumentPiece>) -> Self {
        let mut counts = DataCounts::default();
        for piece in &pieces {
            counts.tokens += piece.ids.len() as u64;
            counts.trained += piece.labels.iter().flatten().count() as u64;
        }
        counts.without_text = pieces.is_empty().into();
        Self { pieces, counts }
    }

    fn left_out(why: impl FnOnce(&mut DataCounts)) -> Self {
        let mut document = Self::default();
        why(&mut document.counts);
        document
    }
}
