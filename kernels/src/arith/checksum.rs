//! A sum over words: it shows whether a device has the words that were sent.

#[cfg(feature = "cube")]
pub mod cube;

/// Sum of the whole `u32` words of `bytes`, as `u32` that wraps: lost and torn writes show, whatever the
/// order of the sum. Bytes after the last whole word do not count.
pub fn checksum(bytes: &[u8]) -> u32 {
    let words = bytes.as_chunks().0.iter();
    words.fold(0, |sum: u32, word| {
        sum.wrapping_add(u32::from_le_bytes(*word))
    })
}
