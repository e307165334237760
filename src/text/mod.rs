//! Text to token ids and back, as the checkpoint's own files say.
//!
//! ```text
//! messages ─► chat template ─► text ─► encode ─► ids ─► model ─► ids ─► stream ─► text
//! ```
//!
//! Nothing here reads files: the loader hands over the bytes it found ([`TokenizerFiles`]).
//!
//! # Where each rule comes from
//!
//! | question | answered by |
//! |---|---|
//! | how text becomes ids, and whether a beginning-of-sequence id is added | `tokenizer.json`, else a vocabulary of sentencepiece, tiktoken or byte pairs and the class of `tokenizer_config.json` |
//! | which tokens there are beside the vocabulary | `tokenizer_config.json`, else `special_tokens_map.json` and `added_tokens.json` |
//! | where generation stops | `generation_config.json`, else `config.json`, else `tokenizer_config.json` |
//! | which token begins a text, which one pads | the files of the tokenizer, else the two configurations |
//! | how a conversation becomes text | `chat_template.jinja` and `additional_chat_templates`, else `tokenizer_config.json`, else `chat_template.json` |

mod added;
mod alphabet;
mod base64;
mod chat;
mod clean_up;
mod convert;
mod error;
mod files;
mod growth;
mod guard;
mod jinja;
mod json;
mod special;
mod stream;
mod tokenizer;
mod written;

pub use chat::{ChatTemplate, GenerationPrompt, Message};
pub use error::{BoxError, TokenizerError};
pub use files::TokenizerFiles;
pub(crate) use jinja::Rendered;
pub use special::SpecialTokens;
pub use stream::StreamDecoder;
pub use tokenizer::Tokenizer;
