//! Ids one at a time to whole characters.
//!
//! A token is not a piece of text: it may hold half a character, and a space in front of it may belong
//! to the text or not, depending on what came before. Decoding everything so far again for each token
//! would be right and quadratic. Instead the decoder of `tokenizer.json` is sorted into one of three
//! decodings when the file is read:
//!
//! | decoding | decoder | held back |
//! |---|---|---|
//! | `Bytes` | byte-level (GPT-2, Llama 3, Qwen) | at most 3 bytes |
//! | `Pieces` | replace, byte fallback, fuse, strip (Llama 2, Mistral, Gemma) | one run of byte tokens |
//! | `Window` | anything else | at most [`WINDOW`] tokens |
//!
//! The first two give exactly the text that decoding everything at once gives. That is why the second
//! holds a whole run of byte tokens back: the library turns *every* byte of a run to U+FFFD when the run
//! as a whole is not valid UTF-8, so no character of it is certain before it ends.

use std::collections::VecDeque;

use tokenizers::{Decoder, DecoderWrapper};

use super::{
    SpecialTokens, TokenizerError, alphabet::byte_of, clean_up::CleanUp, growth::Factor,
    guard::guarded,
};

/// Tokens that `Decoding::Window` takes together, and so the bound on its work for one token. A
/// character is at most four tokens; the rest is room for decoders that look around.
const WINDOW: usize = 16;

/// How one id becomes text.
#[derive(Debug)]
pub(super) enum Decoding {
    /// Tokens are bytes, written in GPT-2's alphabet.
    Bytes,
    /// Tokens are text, or a single byte written `<0xE2>`.
    Pieces {
        /// Applied to each token.
        replace: Vec<DecoderWrapper>,
        /// Whether `<0xE2>` is a byte.
        byte_fallback: bool,
        /// Cut from the front of the whole text: this character, at most this often.
        strip: Option<(char, usize)>,
    },
    /// Nothing is known: decode the last few tokens together and take what is new.
    Window,
}

impl Decoding {
    /// The one for a decoder.
    pub(super) fn of(decoder: Option<&DecoderWrapper>) -> Self {
        let steps = match decoder {
            Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders(),
            Some(one) => std::slice::from_ref(one),
            None => return Self::Window,
        };
        match steps {
            [DecoderWrapper::ByteLevel(_)] => Self::Bytes,
            steps => Self::pieces(steps).unwrap_or(Self::Window),
        }
    }

    /// `Replace* ByteFallback? Fuse Strip?`, in this order and nothing else: in another order the steps
    /// mean something else.
    fn pieces(steps: &[DecoderWrapper]) -> Option<Self> {
        let is_replace = |step: &&DecoderWrapper| matches!(step, DecoderWrapper::Replace(_));
        let replace: Vec<_> = steps.iter().take_while(is_replace).cloned().collect();
        let rest = &steps[replace.len()..];
        let (byte_fallback, rest) = match rest {
            [DecoderWrapper::ByteFallback(_), rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let strip = match rest {
            [DecoderWrapper::Fuse(_)] => None,
            [DecoderWrapper::Fuse(_), DecoderWrapper::Strip(strip)] if strip.stop == 0 => {
                Some((strip.content, strip.start))
            }
            _ => return None,
        };
        Some(Self::Pieces {
            replace,
            byte_fallback,
            strip,
        })
    }
}

/// Turns ids into text as they come. Made by [`Tokenizer::stream`](super::Tokenizer::stream).
///
/// The pieces joined are the text that decoding all ids at once gives. A character that is not complete
/// yet is held back, never shown as U+FFFD. The work for one id does not grow with the text before it.
///
/// ```
/// # use firebox::text::{SpecialTokens, Tokenizer, TokenizerFiles};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let tokenizer_json = include_bytes!("../../assets/tinyrust/tokenizer.json");
/// # let tokenizer = Tokenizer::from_bytes(TokenizerFiles { tokenizer_json: Some(tokenizer_json), ..TokenizerFiles::default() })?;
/// let mut stream = tokenizer.stream(SpecialTokens::Omit);
/// let mut text = String::new();
/// for id in tokenizer.encode("let crab = \"🦀\";", SpecialTokens::Include)? {
///     if let Some(piece) = stream.push(id)? {
///         text += &piece; // print it, and flush
///     }
/// }
/// text += &stream.finish()?;
/// assert_eq!(text, "let crab = \"🦀\";");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t tokenizers::Tokenizer,
    decoding: &'t Decoding,
    special: SpecialTokens,
    /// `Bytes`: the beginning of a character. `Pieces`: the run of byte tokens so far.
    bytes: Vec<u8>,
    /// `Pieces`: how many characters may still be stripped; 0 once text has been let through.
    strip_left: usize,
    /// `Window`: the last ids. The first of them has been shown and is context.
    window: VecDeque<u32>,
    /// `Window`: bytes of the window's text that have been shown.
    shown: usize,
    /// Where spaces are cleaned up: the last word.
    clean_up: Option<CleanUp>,
    growth: Factor,
}

impl<'t> StreamDecoder<'t> {
    pub(super) fn new(
        tokenizer: &'t tokenizers::Tokenizer,
        decoding: &'t Decoding,
        special: SpecialTokens,
        cleans_up: bool,
        growth: Factor,
    ) -> Self {
        let strip_left = match decoding {
            Decoding::Pieces {
                strip: Some((_, count)),
                ..
            } => *count,
            _ => 0,
        };
        Self {
            tokenizer,
            decoding,
            special,
            bytes: Vec::new(),
            strip_left,
            window: VecDeque::new(),
            shown: 0,
            clean_up: cleans_up.then(CleanUp::default),
            growth,
        }
    }

    /// Takes the next id and returns the characters that it completes, if any.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Decode`] when the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        // Ids without a token are left out, as `decode` leaves them out.
        let Some(token) = self.tokenizer.id_to_token(id) else {
            return Ok(None);
        };
        let is_special = || {
            self.tokenizer
                .get_added_vocabulary()
                .is_special_token(&token)
        };
        if self.special == SpecialTokens::Omit && is_special() {
            return Ok(None);
        }
        self.growth
            .check(|| token.len().saturating_mul(WINDOW))
            .map_err(|source| TokenizerError::Decode { source })?;
        let text = match self.decoding {
            Decoding::Bytes => self.push_bytes(&token),
            Decoding::Pieces {
                replace,
                byte_fallback,
                ..
            } => self.push_piece(token, replace, *byte_fallback)?,
            Decoding::Window => self.push_window(id)?,
        };
        let text = match &mut self.clean_up {
            Some(clean_up) => clean_up.push(&text),
            None => text,
        };
        Ok((!text.is_empty()).then_some(text))
    }

    /// Ends the text and returns what was held back. An unfinished character becomes U+FFFD, as it does
    /// in [`Tokenizer::decode`](super::Tokenizer::decode).
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Decode`] when the tokenizer's decoder fails.
    pub fn finish(mut self) -> Result<String, TokenizerError> {
        let text = match self.decoding {
            Decoding::Bytes => String::from_utf8_lossy(&self.bytes).into_owned(),
            Decoding::Pieces { .. } => {
                let run = self.end_run();
                self.stripped(run)
            }
            Decoding::Window => {
                let mut text = self.window_text()?;
                let shown = self.shown.min(text.len());
                // A decoder may write other text for the last token than it wrote before.
                if text.is_char_boundary(shown) {
                    text.split_off(shown)
                } else {
                    String::new()
                }
            }
        };
        Ok(match self.clean_up {
            Some(mut clean_up) => clean_up.push(&text) + &clean_up.finish(),
            None => text,
        })
    }

    fn push_bytes(&mut self, token: &str) -> String {
        let before = self.bytes.len();
        for c in token.chars() {
            if let Some(byte) = byte_of(c) {
                self.bytes.push(byte);
            } else {
                // Added tokens may be written in plain text: one letter outside the alphabet makes
                // the whole token plain.
                self.bytes.truncate(before);
                self.bytes.extend_from_slice(token.as_bytes());
                break;
            }
        }
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(rest) => {
                    text.push_str(rest);
                    self.bytes.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.bytes[..valid]));
                    match error.error_len() {
                        // Never valid, whatever follows.
                        Some(len) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            self.bytes.drain(..valid + len);
                        }
                        // The beginning of a character: wait.
                        None => {
                            self.bytes.drain(..valid);
                            return text;
                        }
                    }
                }
            }
        }
    }

    fn push_piece(
        &mut self,
        token: String,
        replace: &[DecoderWrapper],
        byte_fallback: bool,
    ) -> Result<String, TokenizerError> {
        let mut pieces = vec![token];
        for step in replace {
            pieces = guarded(|| step.decode_chain(pieces))
                .map_err(|source| TokenizerError::Decode { source })?;
        }
        let piece = pieces.concat();
        if byte_fallback && let Some(byte) = fallback_byte(&piece) {
            self.bytes.push(byte);
            return Ok(String::new());
        }
        let text = self.end_run() + &piece;
        Ok(self.stripped(text))
    }

    /// The text of the byte tokens held back: all of it, or U+FFFD for each byte.
    fn end_run(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.bytes)).unwrap_or_else(|error| {
            String::from(char::REPLACEMENT_CHARACTER).repeat(error.as_bytes().len())
        })
    }

    /// Cuts what is to be stripped from the front of the whole text.
    fn stripped(&mut self, text: String) -> String {
        let Decoding::Pieces {
            strip: Some((content, _)),
            ..
        } = self.decoding
        else {
            return text;
        };
        let mut rest = text.as_str();
        while self.strip_left > 0
            && let Some(after) = rest.strip_prefix(*content)
        {
            rest = after;
            self.strip_left -= 1;
        }
        if !rest.is_empty() {
            self.strip_left = 0;
        }
        rest.to_owned()
    }

    fn push_window(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.window.push_back(id);
        let mut text = self.window_text()?;
        // Unfinished, unless it has been unfinished for so long that it must be meant.
        let unfinished = text.ends_with(char::REPLACEMENT_CHARACTER) && self.window.len() < WINDOW;
        if unfinished || text.len() <= self.shown || !text.is_char_boundary(self.shown) {
            // Tokens without text of their own must not make the window grow either.
            if self.window.len() > WINDOW {
                self.restart_window(id)?;
            }
            return Ok(String::new());
        }
        let new = text.split_off(self.shown);
        self.restart_window(id)?;
        Ok(new)
    }

    /// Keeps only the last id, as context for the next.
    fn restart_window(&mut self, last: u32) -> Result<(), TokenizerError> {
        self.window.clear();
        self.window.push_back(last);
        self.shown = self.window_text()?.len();
        Ok(())
    }

    fn window_text(&mut self) -> Result<String, TokenizerError> {
        let omits = self.special == SpecialTokens::Omit;
        let ids = self.window.make_contiguous();
        guarded(|| self.tokenizer.decode(ids, omits))
            .map_err(|source| TokenizerError::Decode { source })
    }
}

/// `<0xE2>`, as the byte-fallback decoder recognises it.
fn fallback_byte(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2)
        .then(|| u8::from_str_radix(hex, 16).ok())
        .flatten()
}
