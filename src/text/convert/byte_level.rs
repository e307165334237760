//! `vocab.json` and `merges.txt`: pairs of bytes, by class.

use tokenizers::{
    ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    models::bpe::{Merges, Vocab},
    normalizers::NFC,
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence as PreTokenizers,
        split::{Split, SplitPattern},
    },
};

use super::{
    class::Class,
    pairs,
    rules::{ClassOptions, Rules},
};
use crate::{
    source::json,
    text::{
        error::{BoxError, TokenizerError},
        files::TokenizerFiles,
    },
};

/// How Qwen2 cuts text (`models/qwen2/tokenization_qwen2.py`); Qwen 1 does the same.
pub(super) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How Qwen3.5 does: combining marks belong to letters (`models/qwen3_5/tokenization_qwen3_5.py`).
const QWEN3_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How Llama 3 does (`TikTokenConverter` in transformers' `convert_slow_tokenizer.py`).
pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The rules of a class for two files.
pub(super) fn byte_level(
    files: &TokenizerFiles<'_>,
    class: Class,
    vocab: &[u8],
    merges: &[u8],
    options: &ClassOptions<'_>,
) -> Result<Rules, TokenizerError> {
    let vocab = read_vocab(vocab).map_err(|error| files.invalid("vocab.json", error))?;
    let merges = read_merges(merges, &vocab).map_err(|error| files.invalid("merges.txt", error))?;
    let model = pairs::model(vocab, merges, |builder| builder);
    let model = model.map_err(|error| files.invalid("merges.txt", error))?;
    rules(class, model.into(), options).map_err(|error| files.invalid("vocab.json", error))
}

fn rules(class: Class, model: ModelWrapper, options: &ClassOptions<'_>) -> Result<Rules, BoxError> {
    let prefix = options.is_set("add_prefix_space");
    let words = || PreTokenizerWrapper::from(ByteLevel::default().add_prefix_space(prefix));
    let (normalizer, pre_tokenizer) = match class {
        Class::Qwen2 => (Some(NFC), cut_by(QWEN2, prefix)?),
        Class::Qwen35 => (Some(NFC), cut_by(QWEN3_5, prefix)?),
        Class::GptNeoX => (Some(NFC), words()),
        Class::Cohere => {
            let steps = vec![Digits::new(true).into(), words()];
            (Some(NFC), PreTokenizers::new(steps).into())
        }
        _ => (None, words()),
    };
    Ok(Rules {
        model,
        normalizer: normalizer.map(NormalizerWrapper::from),
        pre_tokenizer: Some(pre_tokenizer),
        decoder: Some(ByteLevel::default().into()),
    })
}

/// Cuts text by a pattern, then writes its bytes as letters.
pub(super) fn cut_by(pattern: &str, prefix: bool) -> Result<PreTokenizerWrapper, BoxError> {
    let pattern = SplitPattern::Regex(pattern.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::default()
        .add_prefix_space(prefix)
        .use_regex(false);
    Ok(PreTokenizers::new(vec![split.into(), bytes.into()]).into())
}

fn read_vocab(bytes: &[u8]) -> Result<Vocab, BoxError> {
    let read: std::collections::HashMap<String, u64> = json::read(bytes)?;
    let ids = read.into_iter().map(|(token, id)| {
        let id = pairs::check_id(&token, id)?;
        Ok((token, id))
    });
    let vocab = ids.collect::<Result<Vocab, pairs::PairsError>>()?;
    pairs::check_ids(&vocab)?;
    Ok(vocab)
}

/// A line has the two halves of a merge; the first line may name the version.
fn read_merges(bytes: &[u8], vocab: &Vocab) -> Result<Merges, BoxError> {
    let text = std::str::from_utf8(bytes)?;
    let mut merges = Merges::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        let halves = line
            .split_once(' ')
            .filter(|(_, right)| !right.contains(' '));
        let (left, right) = halves
            .ok_or_else(|| format!("line {number} is not two tokens with a space between"))?;
        merges.push((left.to_owned(), right.to_owned()));
    }
    pairs::check_merges(
        pairs::halves(&merges),
        |token| vocab.contains_key(token),
        "",
    )?;
    Ok(merges)
}
