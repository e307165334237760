//! Bytes in letters, as RFC 4648 writes them, padded.

/// Letters to bytes, `None` where the text is no base64.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text
        .iter()
        .rev()
        .take_while(|letter| **letter == b'=')
        .count();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for quad in text.chunks(4) {
        let mut bits = 0_u32;
        for letter in quad {
            let value = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' => 0,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        out.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    let data = &text[..text.len() - padding];
    out.truncate(out.len() - padding);
    (!data.contains(&b'=')).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::decode;

    /// The test vectors of RFC 4648, and texts that are no base64.
    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(decode(b"+/+/"), Some(vec![0xFB, 0xFF, 0xBF]));
        for none in ["Z", "Zg=", "Z===", "====", "Z=g=", "Zg==Zg==", "Z g=", "Zé"] {
            assert_eq!(decode(none.as_bytes()), None, "{none}");
        }
    }
}
