//! A row as text.

use crate::{
    text::{SpecialTokens, Tokenizer, TokenizerError},
    train::batch::Batch,
};

/// A row of a batch as text: its documents one below the other, with `⟦ ⟧` around all that the model is trained on.
///
/// The last token of a document is a label alone, and is shown too. Tokens that fill the row up are left out, and so is a row
/// that the batch does not have.
///
/// # Errors
///
/// [`TokenizerError::Decode`] when the decoder of the tokenizer fails.
pub fn shown(batch: &Batch, row: usize, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
    let [rows, length] = batch.shape();
    let mut documents = Vec::new();
    let mut rest = match row < rows {
        true => row * length..(row + 1) * length,
        false => 0..0,
    };
    while !rest.is_empty() {
        let starts = &batch.starts()[rest.clone()];
        let len = starts
            .iter()
            .take_while(|start| **start == starts[0])
            .count();
        let document = rest.start..rest.start + len;
        rest.start += len;
        let labels = &batch.labels()[document.clone()];
        if labels.iter().any(Option::is_some) {
            documents.push(marked(&batch.ids()[document], labels, tokenizer)?);
        }
    }
    Ok(documents.join("\n"))
}

/// One document.
fn marked(
    ids: &[u32],
    labels: &[Option<u32>],
    tokenizer: &Tokenizer,
) -> Result<String, TokenizerError> {
    let follows = labels.iter().map(Option::is_some);
    let tokens = ids.iter().copied().chain(labels.last().copied().flatten());
    let mut stream = tokenizer.stream(SpecialTokens::Include);
    let (mut text, mut is_open) = (String::new(), false);
    for (id, is_trained) in tokens.zip(std::iter::once(false).chain(follows)) {
        if is_trained != is_open {
            text.push(if is_trained { '⟦' } else { '⟧' });
            is_open = is_trained;
        }
        text.extend(stream.push(id)?);
    }
    text += &stream.finish()?;
    if is_open {
        text.push('⟧');
    }
    Ok(text)
}
