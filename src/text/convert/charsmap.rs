//! The replacements of characters in a sentencepiece model, checked before they are used.
//!
//! The map is a trie as darts-clone writes it, and the texts that it points into: the bytes of the trie as a `u32`, then
//! units of 32 bits, then texts that end with a zero (`Normalizer::DecodePrecompiledCharsMap` of sentencepiece,
//! `src/normalizer.cc`). The crate that carries them out follows every offset without a look, so a broken one would
//! end the program.

/// Bytes of the largest map. Those of sentencepiece (`nmt_nfkc_cf`) have 240 KB.
const BYTES_MAX: usize = 16 << 20;

/// A map that is not well-formed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::text) enum CharsmapError {
    #[error("`precompiled_charsmap` has {len} bytes, at most {BYTES_MAX} are read")]
    Large { len: usize },

    #[error("`precompiled_charsmap` has {len} bytes, its trie is said to have {trie}")]
    Trie { trie: u64, len: usize },

    #[error("`precompiled_charsmap`: its texts are not UTF-8 from byte {at_byte} on")]
    NotText { at_byte: usize },

    #[error(
        "`precompiled_charsmap`: unit {unit} of its trie leads to unit {to}, there are {units}"
    )]
    Leads {
        unit: usize,
        to: usize,
        units: usize,
    },

    #[error(
        "`precompiled_charsmap`: unit {unit} of its trie means the text at byte {at}, the texts have {len} bytes and \
         no character begins there"
    )]
    Text { unit: usize, at: usize, len: usize },
}

/// Refuses a map in which a step could lead out of the trie or out of the texts, whatever text is looked up.
pub(in crate::text) fn check(map: &[u8]) -> Result<(), CharsmapError> {
    let len = map.len();
    if len > BYTES_MAX {
        return Err(CharsmapError::Large { len });
    }
    let no_trie = |trie| CharsmapError::Trie { trie, len };
    let (size, rest) = map.split_first_chunk::<4>().ok_or(no_trie(0))?;
    let size = u32::from_le_bytes(*size);
    let (trie, texts) = usize::try_from(size)
        .ok()
        .filter(|size| *size > 0 && size % 4 == 0)
        .and_then(|size| rest.split_at_checked(size))
        .ok_or(no_trie(size.into()))?;
    let texts = std::str::from_utf8(texts).map_err(|error| CharsmapError::NotText {
        at_byte: error.valid_up_to(),
    })?;
    let units: Vec<usize> = trie
        .chunks_exact(4)
        .map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]) as usize)
        .collect();
    for (at, unit) in units.iter().copied().enumerate() {
        // The root is not entered by a byte; another unit is, if its label is one.
        let label = unit & (1 << 31 | 0xFF);
        if at > 0 && label > 0xFF {
            continue;
        }
        let base = at ^ ((unit >> 10) << ((unit & (1 << 9)) >> 6));
        // The next byte picks one of the 256 units around the base.
        let last = base | 0xFF;
        if last >= units.len() {
            return Err(CharsmapError::Leads {
                unit: at,
                to: last,
                units: units.len(),
            });
        }
        let has_text = unit >> 8 & 1 == 1;
        let text = units[base] & ((1 << 31) - 1);
        if has_text && !texts.is_char_boundary(text) {
            return Err(CharsmapError::Text {
                unit: at,
                at: text,
                len: texts.len(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{CharsmapError, check};

    /// A map whose trie has one block of 256 units.
    fn map(change: impl Fn(&mut [u32])) -> Vec<u8> {
        let mut units = [1_u32 << 31; 256];
        // The root leads to its own block; byte 1 leads on, and has the text at byte 2.
        units[0] = 0;
        units[1] = 1 | 1 << 8 | 3 << 10;
        units[2] = 1 << 31 | 2;
        change(&mut units);
        let trie = units.iter().flat_map(|unit| unit.to_le_bytes());
        let size = 1024_u32.to_le_bytes();
        size.into_iter().chain(trie).chain(*b"a\0b\0").collect()
    }

    /// The crate would index with these numbers and panic.
    #[test]
    fn a_step_out_of_the_trie_or_of_the_texts_is_refused() {
        assert_eq!(check(&map(|_| {})), Ok(()));
        let leads = |unit, to| CharsmapError::Leads {
            unit,
            to,
            units: 256,
        };
        assert_eq!(
            check(&map(|units| units[0] = 256 << 10)),
            Err(leads(0, 511))
        );
        assert_eq!(
            check(&map(|units| units[1] |= 1 << 9 | 1 << 18)),
            Err(leads(1, (1 ^ (1 << 8 | 3) << 8) | 0xFF))
        );
        let text = CharsmapError::Text {
            unit: 1,
            at: 5,
            len: 4,
        };
        assert_eq!(check(&map(|units| units[2] = 1 << 31 | 5)), Err(text));
    }

    /// A size that is believed allocates as much as the file asks for.
    #[test]
    fn a_size_that_the_file_has_not_is_refused() {
        let whole = map(|_| {});
        for size in [0_u32, 3, 1025, 1 << 20, u32::MAX] {
            let broken = [&size.to_le_bytes()[..], &whole[4..]].concat();
            let expected = CharsmapError::Trie {
                trie: size.into(),
                len: whole.len(),
            };
            assert_eq!(check(&broken), Err(expected));
        }
        assert!(check(&[1, 0]).is_err() && check(&[]).is_err());
        let not_text = [&whole[..], b"\xFF"].concat();
        assert_eq!(check(&not_text), Err(CharsmapError::NotText { at_byte: 4 }));
    }
}
