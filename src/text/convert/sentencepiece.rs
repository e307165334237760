//! `tokenizer.model`: the file of the library sentencepiece.
//!
//! The file is one message of `sentencepiece_model.proto` (google/sentencepiece, `src/`): the pieces with their scores,
//! and how the trainer and the normalizer were set. Numbers of fields and defaults are those of that file.

use super::protobuf::{WireError, WireFields};

/// Bytes of the longest piece. sentencepiece trains pieces of 16 characters; the longest ones in use are runs of
/// spaces. The work on a piece grows with the square of its length.
const PIECE_BYTES_MAX: usize = 512;

/// A sentencepiece model that is not well-formed, or has a vocabulary that is not converted.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum SentencePieceError {
    #[error("the file is no sentencepiece model")]
    Wire(#[from] WireError),

    #[error("piece {id}")]
    Piece { id: usize, source: WireError },

    #[error("the model has no pieces")]
    NoPieces,

    #[error("piece {id} is empty")]
    Empty { id: usize },

    #[error("piece {id} has {len} bytes, at most {PIECE_BYTES_MAX} are read")]
    Long { id: usize, len: usize },

    #[error("the score of piece {id} is {score}")]
    Score { id: usize, score: f32 },

    #[error("`unk_id` is {unk_id}, the model has {pieces} pieces")]
    UnknownId { unk_id: i32, pieces: usize },

    #[error(
        "`model_type` is {model_type}; unigram (1) and byte pairs (2) are converted, words (3) and characters (4) \
         are not"
    )]
    ModelType { model_type: i32 },
}

/// A sentencepiece model: pieces, and the settings that conversions use.
#[derive(Debug, PartialEq)]
pub(super) struct SentencePiece<'a> {
    /// A piece's place is its id.
    pub(super) pieces: Vec<VocabPiece<'a>>,
    pub(super) algorithm: Algorithm,
    /// Whether characters without a piece become the bytes `<0x00>` to `<0xFF>`.
    pub(super) byte_fallback: bool,
    /// The id of the unknown piece.
    pub(super) unk_id: usize,
    /// The unknown piece.
    pub(super) unk: &'a str,
    /// The piece that begins a text, where the model has one.
    pub(super) bos: Option<&'a str>,
    /// The piece that ends a text, where the model has one.
    pub(super) eos: Option<&'a str>,
    /// Replacements of characters in a trie; empty where text stays as it is.
    pub(super) charsmap: &'a [u8],
    /// Whether sentencepiece itself puts a space in front of every text.
    pub(super) add_dummy_prefix: bool,
}

/// A row of the vocabulary.
#[derive(Debug, PartialEq)]
pub(super) struct VocabPiece<'a> {
    pub(super) text: &'a str,
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

/// `ModelProto.SentencePiece.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// Found in text by the algorithm: normal pieces, bytes, the unknown piece, unused ones.
    Text,
    /// Never found by the algorithm: `<s>`, `</s>`.
    Control,
    /// Found before the algorithm looks.
    UserDefined,
}

/// `TrainerSpec.ModelType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// The most probable way to cut a text.
    Unigram,
    /// Pairs are merged, the one with the smallest id first.
    BytePairs,
}

impl<'a> SentencePiece<'a> {
    /// Reads a file.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, SentencePieceError> {
        let mut pieces = Vec::new();
        let mut trainer = Trainer::default();
        let (mut charsmap, mut add_dummy_prefix): (&[u8], _) = (&[], true);
        for field in WireFields::new(bytes) {
            let field = field?;
            match field.number {
                1 => pieces.push(VocabPiece::parse(field.bytes()?, pieces.len())?),
                2 => trainer.read(field.bytes()?)?,
                3 => {
                    for field in WireFields::new(field.bytes()?) {
                        let field = field?;
                        match field.number {
                            2 => charsmap = field.bytes()?,
                            3 => add_dummy_prefix = field.bool()?,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if pieces.is_empty() {
            return Err(SentencePieceError::NoPieces);
        }
        let algorithm = match trainer.model_type {
            1 => Algorithm::Unigram,
            2 => Algorithm::BytePairs,
            model_type => return Err(SentencePieceError::ModelType { model_type }),
        };
        let unk_id = usize::try_from(trainer.unk_id)
            .ok()
            .filter(|id| *id < pieces.len())
            .ok_or(SentencePieceError::UnknownId {
                unk_id: trainer.unk_id,
                pieces: pieces.len(),
            })?;
        Ok(Self {
            pieces,
            algorithm,
            byte_fallback: trainer.byte_fallback,
            unk_id,
            unk: trainer.unk,
            bos: (trainer.bos_id >= 0).then_some(trainer.bos),
            eos: (trainer.eos_id >= 0).then_some(trainer.eos),
            charsmap,
            add_dummy_prefix,
        })
    }
}

impl<'a> VocabPiece<'a> {
    fn parse(bytes: &'a [u8], id: usize) -> Result<Self, SentencePieceError> {
        let wire = |source| SentencePieceError::Piece { id, source };
        let mut piece = Self {
            text: "",
            score: 0.0,
            kind: PieceKind::Text,
        };
        for field in WireFields::new(bytes) {
            let field = field.map_err(wire)?;
            match field.number {
                1 => piece.text = field.text().map_err(wire)?,
                2 => piece.score = field.float().map_err(wire)?,
                3 => {
                    piece.kind = match field.int().map_err(wire)? {
                        3 => PieceKind::Control,
                        4 => PieceKind::UserDefined,
                        _ => PieceKind::Text,
                    }
                }
                _ => {}
            }
        }
        let (len, score) = (piece.text.len(), piece.score);
        match len {
            0 => Err(SentencePieceError::Empty { id }),
            1..=PIECE_BYTES_MAX if score.is_finite() => Ok(piece),
            1..=PIECE_BYTES_MAX => Err(SentencePieceError::Score { id, score }),
            _ => Err(SentencePieceError::Long { id, len }),
        }
    }
}

/// `TrainerSpec`, with its defaults.
struct Trainer<'a> {
    model_type: i32,
    byte_fallback: bool,
    unk_id: i32,
    bos_id: i32,
    eos_id: i32,
    unk: &'a str,
    bos: &'a str,
    eos: &'a str,
}

impl Default for Trainer<'_> {
    fn default() -> Self {
        Self {
            model_type: 1,
            byte_fallback: false,
            unk_id: 0,
            bos_id: 1,
            eos_id: 2,
            unk: "<unk>",
            bos: "<s>",
            eos: "</s>",
        }
    }
}

impl<'a> Trainer<'a> {
    fn read(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        for field in WireFields::new(bytes) {
            let field = field?;
            match field.number {
                3 => self.model_type = field.int()?,
                35 => self.byte_fallback = field.bool()?,
                40 => self.unk_id = field.int()?,
                41 => self.bos_id = field.int()?,
                42 => self.eos_id = field.int()?,
                45 => self.unk = field.text()?,
                46 => self.bos = field.text()?,
                47 => self.eos = field.text()?,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, PIECE_BYTES_MAX, PieceKind, SentencePiece, SentencePieceError};

    /// A field whose bytes follow.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut len = bytes.len();
        let mut out = vec![number << 3 | 2];
        while len >= 0x80 {
            out.push(0x80 | len as u8);
            len >>= 7;
        }
        out.push(len as u8);
        [out, bytes.to_vec()].concat()
    }

    fn piece(text: &str, rest: &[u8]) -> Vec<u8> {
        field(1, &[field(1, text.as_bytes()), rest.to_vec()].concat())
    }

    /// Defaults of the `.proto`: a file that leaves fields out is one of sentencepiece too.
    #[test]
    fn absent_fields_have_the_defaults_of_the_proto() {
        let file = [piece("<unk>", &[0x18, 2]), piece("a", &[])].concat();
        let model = SentencePiece::parse(&file).unwrap();
        assert_eq!(model.algorithm, Algorithm::Unigram);
        assert_eq!((model.unk_id, model.unk), (0, "<unk>"));
        assert_eq!((model.bos, model.eos), (Some("<s>"), Some("</s>")));
        assert!(model.add_dummy_prefix && !model.byte_fallback && model.charsmap.is_empty());
        assert_eq!(model.pieces[1].kind, PieceKind::Text);
    }

    /// A converter would panic at each of these, or compute nonsense.
    #[test]
    fn a_model_that_cannot_be_converted_is_refused_with_the_piece() {
        let long = "a".repeat(PIECE_BYTES_MAX + 1);
        let nan = [&[0x15][..], &f32::NAN.to_le_bytes()].concat();
        let unk_id = [piece("a", &[]), field(2, &[0xC0, 2, 1])].concat();
        let words = [piece("a", &[]), field(2, &[0x18, 3])].concat();
        let refused = |file: &[u8]| SentencePiece::parse(file).unwrap_err();
        assert_eq!(refused(&[]), SentencePieceError::NoPieces);
        assert_eq!(
            refused(&[piece("a", &[]), piece("", &[])].concat()),
            SentencePieceError::Empty { id: 1 }
        );
        assert_eq!(
            refused(&piece(&long, &[])),
            SentencePieceError::Long { id: 0, len: 513 }
        );
        assert!(matches!(
            refused(&piece("a", &nan)),
            SentencePieceError::Score { id: 0, .. }
        ));
        assert_eq!(
            refused(&unk_id),
            SentencePieceError::UnknownId {
                unk_id: 1,
                pieces: 1
            }
        );
        assert_eq!(
            refused(&words),
            SentencePieceError::ModelType { model_type: 3 }
        );
        let not_text = field(1, &field(1, b"\xFF"));
        assert!(matches!(
            refused(&not_text),
            SentencePieceError::Piece { id: 0, .. }
        ));
        assert!(matches!(
            refused(&unk_id[..unk_id.len() - 1]),
            SentencePieceError::Wire(_)
        ));
    }
}
