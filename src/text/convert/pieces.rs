//! From the pieces of a sentencepiece model to a tokenizer, by class.

use std::collections::{HashMap, HashSet};

use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior,
    decoders::{
        byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders, strip::Strip,
    },
    models::{
        bpe::{BPE, Vocab},
        unigram::Unigram,
    },
    normalizers::{Precompiled, Replace, Sequence as Normalizers},
    pre_tokenizers::{
        metaspace::{Metaspace, PrependScheme},
        sequence::Sequence as PreTokenizers,
        split::{Split, SplitPattern},
        whitespace::WhitespaceSplit,
    },
};

use super::{
    charsmap,
    class::Class,
    pairs,
    rules::{ClassOptions, Rules},
    sentencepiece::{Algorithm, PieceKind, SentencePiece},
};
use crate::text::{
    added::Added,
    error::{BoxError, TokenizerError},
    files::TokenizerFiles,
    written::WrittenToken,
};

/// The letter of sentencepiece for a space.
const SPACE: char = '▁';

/// The sentinels of T5 where `extra_ids` says nothing.
const SENTINELS: u64 = 100;

/// More sentinels than this are a mistake.
const SENTINELS_MAX: u64 = 10_000;

/// The rules of a class for a model, and the tokens that it adds.
pub(super) fn from_pieces(
    files: &TokenizerFiles<'_>,
    file: &str,
    class: Class,
    model: &SentencePiece<'_>,
    options: &ClassOptions<'_>,
    added: &mut Added,
) -> Result<Rules, TokenizerError> {
    let whole = rules(class, model, options, added);
    whole.map_err(|error| files.invalid(file, error))
}

fn rules(
    class: Class,
    model: &SentencePiece<'_>,
    options: &ClassOptions<'_>,
    added: &mut Added,
) -> Result<Rules, BoxError> {
    let more = reserved(model);
    match class {
        Class::Llama => {
            added.assume_more(more);
            llama(model, None, options)
        }
        Class::CodeLlama => {
            added.assume_more(more);
            let unk = added.named("unk_token").unwrap_or("<unk>").to_owned();
            llama(model, Some(unk), options)
        }
        Class::Gemma => {
            added.assume_more(more);
            let unk = added.named("unk_token").unwrap_or("<unk>").to_owned();
            gemma(model, unk)
        }
        Class::T5 => t5(model, more, options, added),
        _ => {
            added.assume_more(more);
            generic(model, added)
        }
    }
}

/// Pieces that are found before the algorithm looks.
fn reserved(model: &SentencePiece<'_>) -> Vec<WrittenToken> {
    let pieces = model.pieces.iter();
    pieces
        .filter(|piece| piece.kind != PieceKind::Text)
        .map(|piece| {
            let is_special = piece.kind == PieceKind::Control;
            WrittenToken::known(AddedToken::from(piece.text, is_special).normalized(false))
        })
        .collect()
}

/// The pieces with their ids. Of two that are equal the later one counts.
fn vocab(model: &SentencePiece<'_>) -> Vocab {
    let pieces = model.pieces.iter().map(|piece| piece.text.to_owned());
    pieces.zip(0..).collect()
}

/// The pieces with their scores.
fn scores(model: &SentencePiece<'_>) -> Vec<(String, f64)> {
    let pieces = model.pieces.iter();
    pieces
        .map(|piece| (piece.text.to_owned(), piece.score.into()))
        .collect()
}

/// Pairs in the order of ids, whatever the model was trained as.
fn byte_pairs(vocab: Vocab, unk: Option<String>, byte_fallback: bool) -> Result<BPE, BoxError> {
    let merges = pairs::merges_by_id(&vocab);
    pairs::model(vocab, merges, |builder| {
        let builder = builder.fuse_unk(true).byte_fallback(byte_fallback);
        match unk {
            Some(unk) => builder.unk_token(unk),
            None => builder,
        }
    })
}

/// `▁` becomes a space, then bytes become characters, then the space in front is cut off where `strip` asks for that.
fn decoder(byte_fallback: bool, strip: bool) -> Result<DecoderWrapper, BoxError> {
    let mut steps: Vec<DecoderWrapper> = vec![Replace::new(String::from(SPACE), " ")?.into()];
    if byte_fallback {
        steps.extend([ByteFallback::new().into(), Fuse::new().into()]);
    }
    if strip {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    Ok(Decoders::new(steps).into())
}

/// `models/llama/tokenization_llama.py` and `models/code_llama/tokenization_code_llama.py`: a space in front of the text, or
/// of each part of it between added tokens where `legacy` asks for that.
fn llama(
    model: &SentencePiece<'_>,
    unk: Option<String>,
    options: &ClassOptions<'_>,
) -> Result<Rules, BoxError> {
    let is_code = unk.is_some();
    let prefix = options.given("add_prefix_space").unwrap_or(true);
    let scheme = match (prefix, options.is_set("legacy") && !is_code) {
        (false, _) => PrependScheme::Never,
        (true, false) => PrependScheme::First,
        (true, true) => PrependScheme::Always,
    };
    Ok(Rules {
        model: byte_pairs(vocab(model), unk, true)?.into(),
        normalizer: None,
        pre_tokenizer: Some(Metaspace::new(SPACE, scheme, false).into()),
        decoder: Some(decoder(true, prefix || is_code)?),
    })
}

/// `models/gemma/tokenization_gemma.py`.
fn gemma(model: &SentencePiece<'_>, unk: String) -> Result<Rules, BoxError> {
    let spaces = Split::new(
        SplitPattern::String(" ".to_owned()),
        SplitDelimiterBehavior::MergedWithPrevious,
        false,
    )?;
    Ok(Rules {
        model: byte_pairs(vocab(model), Some(unk), true)?.into(),
        normalizer: Some(Replace::new(" ", String::from(SPACE))?.into()),
        pre_tokenizer: Some(spaces.into()),
        decoder: Some(decoder(true, false)?),
    })
}

/// `models/t5/tokenization_t5.py`: the most probable pieces of each word, and sentinels behind the vocabulary.
fn t5(
    model: &SentencePiece<'_>,
    more: Vec<WrittenToken>,
    options: &ClassOptions<'_>,
    added: &mut Added,
) -> Result<Rules, BoxError> {
    let count = options.count("extra_ids").unwrap_or(SENTINELS);
    if count > SENTINELS_MAX {
        return Err(format!("`extra_ids` is {count}, at most {SENTINELS_MAX} are made").into());
    }
    let sentinel = |number: u64| format!("<extra_id_{number}>");
    let has = more
        .iter()
        .filter(|token| token.content().contains("<extra_id_"));
    match (has.count() as u64, count) {
        (0, _) => {
            let sentinels = (0..count).map(|number| WrittenToken::text(sentinel(number)));
            added.assume_more(more.into_iter().chain(sentinels).collect());
        }
        (has, count) if count > 0 && has != count => {
            return Err(format!(
                "the model has {has} pieces like <extra_id_0>, `extra_ids` says {count}"
            )
            .into());
        }
        _ => added.assume_more(more),
    }
    let mut scores = scores(model);
    scores.extend((0..count).rev().map(|number| (sentinel(number), 0.0)));
    let spaces = || Metaspace::new(SPACE, PrependScheme::Always, true);
    let words: Vec<PreTokenizerWrapper> = vec![WhitespaceSplit.into(), spaces().into()];
    Ok(Rules {
        model: Unigram::from(scores, Some(2), false)?.into(),
        normalizer: charsmap(model)?.map(NormalizerWrapper::from),
        pre_tokenizer: Some(PreTokenizers::new(words).into()),
        decoder: Some(spaces().into()),
    })
}

/// `SpmConverter.build_tokenizer_from_spm_proto` in transformers' `convert_slow_tokenizer.py`, and the special tokens that
/// `TokenizersBackend._convert_from_sentencepiece` takes from the model.
fn generic(model: &SentencePiece<'_>, added: &mut Added) -> Result<Rules, BoxError> {
    for (name, piece) in [
        ("bos_token", model.bos),
        ("eos_token", model.eos),
        ("unk_token", Some(model.unk)),
    ] {
        if let Some(piece) = piece {
            added.assume(name, piece);
        }
    }
    if model.add_dummy_prefix {
        tracing::warn!(
            "sentencepiece puts a space in front of a text with this tokenizer.model; transformers does not where \
             the class is not LlamaTokenizer, and neither does this tokenizer"
        );
    }
    let vocab = vocab(model);
    let (placeholders, renamed) = renamed(&vocab, added);
    let model_of: ModelWrapper = match model.algorithm {
        Algorithm::Unigram => {
            let mut scores = scores(model);
            for (id, content) in renamed {
                scores[id as usize].0 = content;
            }
            Unigram::from(scores, Some(model.unk_id), model.byte_fallback)?.into()
        }
        Algorithm::BytePairs => {
            let merges = pairs::merges_by_id(&vocab);
            let mut vocab = vocab;
            vocab.retain(|token, _| !placeholders.contains(token));
            vocab.extend(renamed.into_iter().map(|(id, content)| (content, id)));
            pairs::check_merges(
                pairs::halves(&merges),
                |token| vocab.contains_key(token),
                "",
            )?;
            pairs::model(vocab, merges, |builder| {
                let builder = builder.fuse_unk(true).byte_fallback(model.byte_fallback);
                builder.unk_token(model.unk.to_owned())
            })?
            .into()
        }
    };
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    steps.extend(charsmap(model)?.map(NormalizerWrapper::from));
    steps.push(Replace::new(" ", String::from(SPACE))?.into());
    Ok(Rules {
        model: model_of,
        normalizer: Some(Normalizers::new(steps).into()),
        pre_tokenizer: None,
        decoder: Some(decoder(model.byte_fallback, false)?),
    })
}

/// Pieces that hold the place of tokens of `added_tokens_decoder`, and these tokens with the ids of the pieces.
fn renamed(vocab: &Vocab, added: &Added) -> (Vec<String>, Vec<(u32, String)>) {
    let by_id: HashMap<u32, &str> = vocab
        .iter()
        .map(|(token, id)| (*id, token.as_str()))
        .collect();
    let mut contents: HashSet<&str> = vocab.keys().map(String::as_str).collect();
    let (mut placeholders, mut renamed) = (Vec::new(), Vec::new());
    for (id, token) in &added.by_id {
        if let Some(placeholder) = by_id.get(id)
            && *placeholder != token.content()
            && contents.insert(token.content())
        {
            placeholders.push((*placeholder).to_owned());
            renamed.push((*id, token.content().to_owned()));
        }
    }
    (placeholders, renamed)
}

/// The replacements of characters, checked.
fn charsmap(model: &SentencePiece<'_>) -> Result<Option<Precompiled>, BoxError> {
    if model.charsmap.is_empty() {
        return Ok(None);
    }
    charsmap::check(model.charsmap)?;
    Ok(Some(Precompiled::from(model.charsmap)?))
}
