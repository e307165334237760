//! Codes in words: the order firebox keeps them in, and the order bitsandbytes writes them in.
//!
//! ```text
//! 4-bit, u32 word     bits 0..4   4..8   8..12  …  28..32
//!                     code 0      1      2         7
//! 8-bit, u32 word     bits 0..8   8..16  16..24    24..32
//!                     code 0      1      2         3
//! 16-bit, u32 word    bits 0..16  16..32
//!                     value 0     1
//! b-bit stream        bits b * k .. b * (k + 1) of all words as one number
//!                     code k
//!
//! bitsandbytes byte   bits 0..4   4..8
//!                     code 1      0        (the earlier code is the high nibble)
//! ```
//!
//! A last word that is not full ends in zero bits.
//!
//! The conversions from and to bytes are for checkpoints that are already packed: bytes as their libraries
//! store them, words as a [`Packed`](crate::format::Packed) holds them.

use std::borrow::Cow;

use pulp::bytemuck::cast_slice;

use crate::arith::lanes::{self, LANES, Lanes, Work};
use crate::arith::number::Narrow;

/// 4-bit codes of a word.
pub const CODES4: usize = 8;

/// 8-bit codes of a word.
pub const CODES8: usize = 4;

/// 16-bit values of a word.
pub const HALVES: usize = 2;

/// The 4-bit code `k`.
///
/// # Panics
///
/// When `words` ends before it.
#[inline]
pub const fn code4(words: &[u32], k: usize) -> u32 {
    (words[k / CODES4] >> (4 * (k % CODES4))) & 0xf
}

/// The 8-bit code `k`.
///
/// # Panics
///
/// When `words` ends before it.
#[inline]
pub const fn code8(words: &[u32], k: usize) -> u32 {
    (words[k / CODES8] >> (8 * (k % CODES8))) & 0xff
}

/// Codes that are whole words of a stream, whatever their bits: as many words as a code has bits.
pub const STREAM: usize = 32;

/// The code `k` of a stream of `bits`-bit codes, 1 to 31. It may end in the word after the one it begins in.
///
/// # Panics
///
/// When `words` ends before it.
#[inline]
pub const fn code(words: &[u32], bits: usize, k: usize) -> u32 {
    let (word, shift) = (bits * k / 32, bits * k % 32);
    let low = words[word] >> shift;
    let high = if shift + bits > 32 {
        words[word + 1] << (32 - shift)
    } else {
        0
    };
    (low | high) & ((1 << bits) - 1)
}

/// `weights(codes)` of the codes `first..first + out.len()` of a stream, as floats. At most 6 bits.
#[inline(always)]
pub(crate) fn unpack_codes<L: Lanes, T: Narrow, const BITS: usize>(
    lanes: L,
    words: &[u32],
    first: usize,
    out: &mut [T],
    weights: impl Fn(L::Floats) -> L::Floats,
) {
    // Single codes up to the next sixteen, and after the last ones.
    let head = out.len().min(first.next_multiple_of(LANES) - first);
    let (head, rest) = out.split_at_mut(head);
    let next = first + head.len();
    let (vectors, tail) = rest.as_chunks_mut::<LANES>();
    for (k, vector) in (next / LANES..).zip(vectors.iter_mut()) {
        let rest = &words[k * LANES * BITS / 32..];
        let four = match rest.first_chunk::<4>() {
            Some(four) => *four,
            None => core::array::from_fn(|k| rest.get(k).copied().unwrap_or_default()),
        };
        let values = if k % 2 == 0 {
            lanes.stream::<BITS>(&four, 0)
        } else {
            lanes.stream::<BITS>(&four, 1)
        };
        T::store(lanes, weights(values), vector);
    }
    let last = next + LANES * vectors.len();
    for (k, to) in (first..).zip(head).chain((last..).zip(tail)) {
        let mut weight = [0.0; LANES];
        let code = lanes.splat(code(words, BITS, k) as f32);
        lanes.store(weights(code), &mut weight);
        *to = T::of(weight[0]);
    }
}

/// The codes from `first` on of a stream, as floats, where they are not whole bytes or nibbles.
///
/// # Panics
///
/// When `bits` is none of 1, 2, 3, 5 and 6, or `words` ends before.
pub(crate) fn stream_codes(bits: usize, words: &[u32], first: usize, out: &mut [f32]) {
    struct Stream<'a>(usize, &'a [u32], usize, &'a mut [f32]);
    impl Work for Stream<'_> {
        type Output = ();

        #[inline(always)]
        fn on<L: Lanes>(self, lanes: L) {
            let Self(bits, words, first, out) = self;
            match bits {
                1 => unpack_codes::<L, f32, 1>(lanes, words, first, out, |codes| codes),
                2 => unpack_codes::<L, f32, 2>(lanes, words, first, out, |codes| codes),
                3 => unpack_codes::<L, f32, 3>(lanes, words, first, out, |codes| codes),
                5 => unpack_codes::<L, f32, 5>(lanes, words, first, out, |codes| codes),
                6 => unpack_codes::<L, f32, 6>(lanes, words, first, out, |codes| codes),
                bits => panic!("a stream of {bits} bits"),
            }
        }
    }
    lanes::run(Stream(bits, words, first, out));
}

/// A stream's words from `bits`-bit codes in their order: as many words as whole streams take.
///
/// # Panics
///
/// When a code is `2^bits` or more, or `bits` is not 1 to 31.
pub fn pack_codes(bits: usize, codes: impl IntoIterator<Item = u32>) -> Vec<u32> {
    assert!((1..32).contains(&bits), "codes of {bits} bits");
    let codes = codes.into_iter();
    let mut words = Vec::with_capacity(codes.size_hint().0.div_ceil(STREAM) * bits);
    // Bits that are not yet a whole word, and their number.
    let (mut pending, mut count) = (0u64, 0);
    for code in codes {
        assert!(code >> bits == 0, "code {code} of {bits} bits");
        pending |= u64::from(code) << count;
        count += bits;
        if count >= 32 {
            words.push(pending as u32);
            (pending, count) = (pending >> 32, count - 32);
        }
    }
    if count > 0 {
        words.push(pending as u32);
    }
    words.resize(words.len().next_multiple_of(bits), 0);
    words
}

/// `size` bits at the lower end of each `width` bits.
const fn low_bits(size: usize, width: usize) -> u64 {
    let ends = if width < 64 {
        u64::MAX / ((1 << width) - 1)
    } else {
        1
    };
    ((1 << size) - 1) * ends
}

/// Eight codes, a byte each and below `2^BITS`, next to each other.
#[inline(always)]
pub(crate) fn join8<const BITS: usize>(codes: [u8; 8]) -> u64 {
    // Neighbours move together, then pairs, then fours.
    let codes = u64::from_le_bytes(codes);
    let low = const { low_bits(BITS, 16) };
    let pairs = codes & low | codes >> (8 - BITS) & low << BITS;
    let low = const { low_bits(2 * BITS, 32) };
    let fours = pairs & low | pairs >> (16 - 2 * BITS) & low << (2 * BITS);
    let low = const { low_bits(4 * BITS, 64) };
    fours & low | fours >> (32 - 4 * BITS) & low << (4 * BITS)
}

/// Codes, a byte each, to the words of a stream. As many words as codes fill; more codes are zero.
#[inline(always)]
pub(crate) fn pack_bytes<const BITS: usize>(codes: &[u8; STREAM]) -> [u32; BITS] {
    // Eight codes are whole bytes.
    let mut bytes = [[0; BITS]; STREAM / 8];
    for (to, codes) in bytes.iter_mut().zip(codes.as_chunks::<8>().0) {
        let joined = join8::<BITS>(*codes).to_le_bytes();
        to.copy_from_slice(&joined[..BITS]);
    }
    let mut words = [0; BITS];
    for (word, four) in words.iter_mut().zip(bytes.as_flattened().as_chunks().0) {
        *word = u32::from_le_bytes(*four);
    }
    words
}

/// Codes, as floats, to the words of a stream.
#[inline(always)]
pub(crate) fn pack_floats(bits: usize, codes: &[f32], words: &mut [u32]) {
    match bits {
        1 => pack_streams::<1>(codes, words),
        2 => pack_streams::<2>(codes, words),
        3 => pack_streams::<3>(codes, words),
        4 => pack_streams::<4>(codes, words),
        5 => pack_streams::<5>(codes, words),
        6 => pack_streams::<6>(codes, words),
        8 => pack_streams::<8>(codes, words),
        bits => panic!("codes of {bits} bits"),
    }
}

#[inline(always)]
fn pack_streams<const BITS: usize>(codes: &[f32], words: &mut [u32]) {
    // At 2^23 an f32 steps by 1: the code is the low bits.
    const WHOLE: f32 = 8_388_608.0;
    let (streams, tail) = codes.as_chunks::<STREAM>();
    let (whole, rest) = words.split_at_mut(streams.len() * BITS);
    for (codes, words) in streams.iter().zip(whole.as_chunks_mut::<BITS>().0) {
        *words = pack_bytes(&codes.map(|code| (code + WHOLE).to_bits() as u8));
    }
    if !tail.is_empty() {
        let mut stream = [0; STREAM];
        for (to, code) in stream.iter_mut().zip(tail) {
            *to = (code + WHOLE).to_bits() as u8;
        }
        rest.copy_from_slice(&pack_bytes::<BITS>(&stream));
    }
}

/// `table[code]` of the 4-bit codes `first..first + out.len()`.
#[inline(always)]
pub(crate) fn look_up4<L: Lanes, T: Narrow>(
    lanes: L,
    words: &[u32],
    first: usize,
    table: L::Floats,
    out: &mut [T],
) {
    // A row may begin inside a word: single codes up to the next word, then two words at a time.
    let head = out.len().min(first.next_multiple_of(CODES4) - first);
    let (head, rest) = out.split_at_mut(head);
    let next = first + head.len();
    let (vectors, tail) = rest.as_chunks_mut::<LANES>();
    for (vector, words) in vectors
        .iter_mut()
        .zip(words[words.len().min(next / CODES4)..].as_chunks().0)
    {
        T::store(lanes, lanes.look_up(table, lanes.codes(words)), vector);
    }
    if head.is_empty() && tail.is_empty() {
        return;
    }
    let mut values = [0.0; LANES];
    lanes.store(table, &mut values);
    let last = next + LANES * vectors.len();
    for (k, value) in (first..).zip(head).chain((last..).zip(tail)) {
        *value = T::of(values[code4(words, k) as usize]);
    }
}

/// `value(code)` of the 8-bit codes `first..first + out.len()`.
#[inline(always)]
pub(crate) fn unpack8<T: Narrow>(
    words: &[u32],
    first: usize,
    out: &mut [T],
    value: impl Fn(u8) -> f32,
) {
    if cfg!(target_endian = "big") {
        for (k, to) in (first..).zip(out) {
            *to = T::of(value(code8(words, k) as u8));
        }
        return;
    }
    // One loop over bytes: of one over words, compilers make vectors of the wrong dimension.
    let codes = &cast_slice::<u32, u8>(words)[first..][..out.len()];
    for (to, code) in out.iter_mut().zip(codes) {
        *to = T::of(value(*code));
    }
}

/// Bytes as 8-bit codes: `[k]` to `[ceil(k / 4)]` words.
pub fn from_bytes(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(CODES8).map(word_of).collect()
}

/// The first `n` 8-bit codes as bytes.
///
/// # Panics
///
/// When `words` holds fewer.
pub fn to_bytes(words: &[u32], n: usize) -> Vec<u8> {
    assert!(
        n <= CODES8 * words.len(),
        "{n} codes from {} words",
        words.len()
    );
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.truncate(n);
    bytes
}

/// `n` 4-bit codes in bitsandbytes' order, `[ceil(n / 2)]` bytes.
///
/// An odd count ends in one code more, `filler`, which bitsandbytes sets to the code of 0
/// ([`Table::zero`](crate::formats::bits4::levels::Table::zero)).
///
/// # Panics
///
/// When `words` holds fewer codes.
pub fn to_bitsandbytes(words: &[u32], n: usize, filler: u8) -> Vec<u8> {
    assert!(
        n <= CODES4 * words.len(),
        "{n} codes from {} words",
        words.len()
    );
    let mut bytes: Vec<u8> = words
        .iter()
        .flat_map(|word| swap_nibbles(*word).to_le_bytes())
        .collect();
    bytes.truncate(n.div_ceil(2));
    if !n.is_multiple_of(2)
        && let Some(last) = bytes.last_mut()
    {
        *last = (*last & 0xf0) | (filler & 0xf);
    }
    bytes
}

/// `n` 4-bit codes from bitsandbytes' order; a last odd nibble is dropped.
///
/// # Panics
///
/// When `bytes` holds fewer codes.
pub fn from_bitsandbytes(bytes: &[u8], n: usize) -> Vec<u32> {
    assert!(
        n.div_ceil(2) <= bytes.len(),
        "{n} codes from {} bytes",
        bytes.len()
    );
    let mut words: Vec<u32> = bytes[..n.div_ceil(2)]
        .chunks(4)
        .map(|four| swap_nibbles(word_of(four)))
        .collect();
    if !n.is_multiple_of(CODES4)
        && let Some(last) = words.last_mut()
    {
        *last &= low_codes4(n % CODES4);
    }
    words
}

/// Keeps the first `count` of a word's codes, 1 to 7 of them.
pub(crate) const fn low_codes4(count: usize) -> u32 {
    (1 << (4 * count)) - 1
}

/// Both nibbles of each byte, exchanged.
const fn swap_nibbles(word: u32) -> u32 {
    (word >> 4 & 0x0f0f_0f0f) | (word & 0x0f0f_0f0f) << 4
}

/// The bytes of words, in their order: the words themselves, except where a processor keeps them the other way round.
pub(crate) fn as_bytes(words: &[u32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "big") {
        Cow::Owned(words.iter().flat_map(|word| word.to_le_bytes()).collect())
    } else {
        Cow::Borrowed(cast_slice(words))
    }
}

/// Up to four bytes, the first one lowest, the missing ones zero.
fn word_of(bytes: &[u8]) -> u32 {
    let mut four = [0; 4];
    four[..bytes.len()].copy_from_slice(bytes);
    u32::from_le_bytes(four)
}
