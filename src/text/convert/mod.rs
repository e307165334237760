//! Tokenizers of checkpoints without a `tokenizer.json`.
//!
//! ```text
//! sentencepiece  tokenizer.model, spiece.model ───────────────┐
//! ranks          tokenizer.model, qwen.tiktoken, tekken.json ──┼─► vocabulary ─► rules of a class ─► added ─► tokenizer
//! byte pairs     vocab.json and merges.txt ────────────────────┘    (checked)                        tokens
//! ```
//!
//! The result is that of transformers 5.23. Where its generic class differs from the library sentencepiece itself (no
//! space in front of a text), the result is still that of transformers; a warning says so.

mod byte_level;
mod charsmap;
mod class;
mod pairs;
mod pieces;
mod protobuf;
mod ranks;
mod rules;
mod sentencepiece;
mod tekken;
mod template;
mod tiktoken;

use tokenizers::{AddedToken, Tokenizer};

use self::{
    byte_level::byte_level, class::Class, pieces::from_pieces, rules::ClassOptions,
    sentencepiece::SentencePiece, template::template,
};
pub(super) use self::{
    charsmap::check as check_charsmap,
    pairs::{check_id, check_merges},
};
use super::{
    added::Added,
    error::TokenizerError,
    files::{Object, TokenizerFiles},
};

/// Bytes of the largest file of a vocabulary: 5 MB in those in use. Trees of pieces take a hundred times as much memory.
const VOCABULARY_BYTES_MAX: usize = 16 << 20;

/// The same for `tekken.json`, which has tokens twice and a line for each field: 20 MB in those in use.
const TEKKEN_BYTES_MAX: usize = 64 << 20;

/// The files that their name tells apart. Others are of sentencepiece or of tiktoken, whatever they are called.
const TEKKEN: &str = "tekken.json";
const WORD_PIECE: &str = "vocab.txt";

/// Two files together, in words.
const BYTE_PAIRS: &str = "vocab.json and merges.txt (byte pairs)";

/// How a file begins that stands for a large one until `git lfs pull` fetches that.
const POINTER: &[u8] = b"version https://git-lfs";

/// Makes a tokenizer of the files of a vocabulary, with its added tokens, and says from which files in words.
pub(super) fn convert(
    files: &TokenizerFiles<'_>,
    config: Option<&Object>,
    added: &mut Added,
) -> Result<(Tokenizer, String), TokenizerError> {
    let options = ClassOptions(config);
    let class = Class::choose(config, files.model_config);
    let class = class.map_err(|name| unsupported(files, name))?;
    let pairs = files.vocab_json.zip(files.merges_txt);
    let of_pairs = |class, (vocab, merges)| {
        let rules = byte_level(files, class, vocab, merges, &options)?;
        Ok((
            class,
            rules.assemble(files, "vocab.json")?,
            BYTE_PAIRS.to_owned(),
        ))
    };
    let (class, mut tokenizer, source) = match (files.vocabulary, pairs) {
        (_, Some(pairs)) if class.is_of_byte_pairs() => of_pairs(class, pairs)?,
        (Some((file, bytes)), _) => {
            let (tokenizer, kind) = from_vocabulary(files, class, file, bytes, &options, added)?;
            (class, tokenizer, format!("{file} ({kind})"))
        }
        (None, Some(pairs)) => {
            let class = Class::of_byte_pairs(config, files.model_config);
            of_pairs(class.ok_or_else(|| nameless(files))?, pairs)?
        }
        (None, None) => return Err(missing(files)),
    };
    for (name, content) in class.special_tokens() {
        added.assume(name, content);
    }
    let invalid = |source| files.invalid("tokenizer_config.json", source);
    added.add_to(&mut tokenizer).map_err(invalid)?;
    class.add_again(added, &mut tokenizer).map_err(invalid)?;
    let template = template(class, added, &options, &tokenizer).map_err(invalid)?;
    tokenizer.with_post_processor(template);
    Ok((tokenizer, format!("{source} as {}", class.name())))
}

/// A tokenizer of one file, and the kind of file in words.
fn from_vocabulary(
    files: &TokenizerFiles<'_>,
    class: Class,
    file: &str,
    bytes: &[u8],
    options: &ClassOptions<'_>,
    added: &mut Added,
) -> Result<(Tokenizer, &'static str), TokenizerError> {
    let max = if file == TEKKEN {
        TEKKEN_BYTES_MAX
    } else {
        VOCABULARY_BYTES_MAX
    };
    if bytes.len() > max {
        let message = format!(
            "the file has {} bytes, a vocabulary of at most {max} is read",
            bytes.len()
        );
        return Err(files.invalid(file, message));
    }
    if bytes.starts_with(POINTER) {
        let message = "the file is a pointer of git-lfs: `git lfs pull` fetches the vocabulary";
        return Err(files.invalid(file, message));
    }
    if file == WORD_PIECE {
        return Err(TokenizerError::Unsupported {
            file: files.label(file),
            found: "a vocabulary of WordPiece, which is not converted".to_owned(),
            remedy: SAVE,
        });
    }
    let ranks = if file == TEKKEN {
        Some(("tekken", tekken::from_json(bytes)))
    } else {
        tiktoken::is_tiktoken(bytes).then(|| ("tiktoken", tiktoken::from_lines(file, bytes, added)))
    };
    if let Some((kind, ranks)) = ranks {
        let (rules, special) = ranks.map_err(|error| files.invalid(file, error))?;
        let mut tokenizer = rules.assemble(files, file)?;
        let special = special
            .into_iter()
            .map(|token| AddedToken::from(token, true));
        tokenizer
            .add_tokens(special)
            .map_err(|error| files.invalid(file, error))?;
        return Ok((tokenizer, kind));
    }
    let model = SentencePiece::parse(bytes).map_err(|error| files.invalid(file, error))?;
    if class.is_of_byte_pairs() {
        return Err(TokenizerError::Unsupported {
            file: files.label(file),
            found: format!(
                "a sentencepiece model, and the class {} reads vocab.json and merges.txt",
                class.name()
            ),
            remedy: "name the class of the model in tokenizer_config.json, or add the two files",
        });
    }
    let rules = from_pieces(files, file, class, &model, options, added)?;
    Ok((rules.assemble(files, file)?, "sentencepiece"))
}

impl Class {
    /// Two classes add their special tokens once more when they are built, whereby the properties of these tokens change.
    fn add_again(self, added: &Added, tokenizer: &mut Tokenizer) -> Result<(), tokenizers::Error> {
        let again: Vec<AddedToken> = match self {
            Self::Qwen2 => added
                .special()
                .map(|token| AddedToken::from(token.content(), true))
                .collect(),
            Self::Cohere => added
                .special()
                .map(|token| {
                    let mut token = token.clone();
                    token.specialize();
                    token.token().clone()
                })
                .collect(),
            _ => return Ok(()),
        };
        tokenizer.add_tokens(again).map(drop)
    }
}

/// The way out with a vocabulary that only transformers converts.
const SAVE: &str = "load it with transformers and call save_pretrained, which writes a tokenizer.json, or take that file \
     from a model with the same vocabulary";

fn unsupported(files: &TokenizerFiles<'_>, class: &str) -> TokenizerError {
    TokenizerError::Unsupported {
        file: files.label("tokenizer_config.json"),
        found: format!("`tokenizer_class` is {class}, which is read from a tokenizer.json only"),
        remedy: SAVE,
    }
}

/// `vocab.json` and `merges.txt` alone do not say how text is cut before pairs merge.
fn nameless(files: &TokenizerFiles<'_>) -> TokenizerError {
    TokenizerError::Unsupported {
        file: files.label("vocab.json"),
        found: "no `tokenizer_class` says how text is cut into words".to_owned(),
        remedy: "name GPT2Tokenizer, GPTNeoXTokenizer, Qwen2Tokenizer, Qwen3_5Tokenizer or CohereTokenizer in \
                 tokenizer_config.json, or take the tokenizer.json of a model with the same vocabulary",
    }
}

fn missing(files: &TokenizerFiles<'_>) -> TokenizerError {
    let half = |file, lacks| TokenizerError::Unsupported {
        file: files.label(file),
        found: format!("half of a vocabulary, the other half is {lacks}"),
        remedy: "put both into the folder",
    };
    match (files.vocab_json, files.merges_txt) {
        (Some(_), None) => half("vocab.json", "merges.txt"),
        (None, Some(_)) => half("merges.txt", "vocab.json"),
        _ => TokenizerError::Missing {
            at: files.at.to_owned(),
        },
    }
}
