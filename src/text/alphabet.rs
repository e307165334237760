//! Bytes as letters: how byte-level vocabularies write bytes that are no text.

/// The byte that a letter of GPT-2's alphabet stands for: printable Latin-1 is itself, and the 68 other
/// bytes, in order, are the letters from U+0100 (`bytes_to_unicode` in openai/gpt-2 `src/encoder.py`).
pub(super) fn byte_of(letter: char) -> Option<u8> {
    let code = u32::from(letter);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(), // 0x00..=0x20
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(), // 0x7F..=0xA0
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The letter that stands for a byte: the inverse of [`byte_of`].
pub(super) fn letter_of(byte: u8) -> char {
    let code = u32::from(byte);
    let code = match byte {
        0x00..=0x20 => code + 0x100,
        0x7F..=0xA0 => code - 0x7F + 0x121,
        0xAD => 0x143,
        _ => code,
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::{byte_of, letter_of};

    /// A byte whose letter means another byte turns half of a character into a third of another.
    #[test]
    fn each_byte_has_its_own_letter() {
        for byte in 0..=u8::MAX {
            assert_eq!(byte_of(letter_of(byte)), Some(byte));
        }
        // Of the vocabulary of GPT-2.
        assert_eq!(
            [b' ', b'\n', b'a', 0xAD].map(letter_of),
            ['Ġ', 'Ċ', 'a', 'Ń']
        );
    }
}
