//! A sum over words, to compare what arrived on a device with what was sent.

#[cfg(feature = "cube")]
pub mod cube;

/// Sum of the whole `u32` words of `bytes`, as `u32` that wraps: lost and torn writes show, whatever the
/// order of the sum. What is left over of a last word does not count.
pub fn checksum(bytes: &[u8]) -> u32 {
    let words = bytes.as_chunks().0.iter();
    words.fold(0, |sum: u32, word| {
        sum.wrapping_add(u32::from_le_bytes(*word))
    })
}
