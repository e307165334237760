//! The header of a file that is written.

use super::{ALIGNMENT_USUAL, GgufType, MAGIC};

/// The version that is written.
const VERSION: u32 = 3;

/// The keys of a file that is written, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct GgufKeys {
    count: u64,
    bytes: Vec<u8>,
}

impl GgufKeys {
    /// A key, whose value is of the type `number` and is written by `value`.
    fn say(&mut self, key: &str, number: u32, value: impl FnOnce(&mut Vec<u8>)) {
        self.count += 1;
        text(&mut self.bytes, key);
        self.bytes.extend(number.to_le_bytes());
        value(&mut self.bytes);
    }

    /// A key with a list, whose elements are of the type `number` and are written by `one`.
    fn list<T>(
        &mut self,
        key: &str,
        number: u32,
        list: impl ExactSizeIterator<Item = T>,
        one: impl Fn(&mut Vec<u8>, T),
    ) {
        self.say(key, 9, |bytes| {
            bytes.extend(number.to_le_bytes());
            bytes.extend((list.len() as u64).to_le_bytes());
            list.for_each(|value| one(bytes, value));
        });
    }

    pub(crate) fn u16(&mut self, key: &str, value: u16) {
        self.say(key, 2, |bytes| bytes.extend(value.to_le_bytes()));
    }

    pub(crate) fn i32(&mut self, key: &str, value: i32) {
        self.say(key, 5, |bytes| bytes.extend(value.to_le_bytes()));
    }

    pub(crate) fn u32(&mut self, key: &str, value: u32) {
        self.say(key, 4, |bytes| bytes.extend(value.to_le_bytes()));
    }

    pub(crate) fn f32(&mut self, key: &str, value: f32) {
        self.say(key, 6, |bytes| bytes.extend(value.to_le_bytes()));
    }

    pub(crate) fn flag(&mut self, key: &str, value: bool) {
        self.say(key, 7, |bytes| bytes.push(value.into()));
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) {
        self.say(key, 8, |bytes| text(bytes, value));
    }

    pub(crate) fn texts<'t>(&mut self, key: &str, list: impl ExactSizeIterator<Item = &'t str>) {
        self.list(key, 8, list, text);
    }

    pub(crate) fn i32s(&mut self, key: &str, list: impl ExactSizeIterator<Item = i32>) {
        self.list(key, 5, list, |bytes, value| {
            bytes.extend(value.to_le_bytes());
        });
    }

    pub(crate) fn f32s(&mut self, key: &str, list: impl ExactSizeIterator<Item = f32>) {
        self.list(key, 6, list, |bytes, value| {
            bytes.extend(value.to_le_bytes());
        });
    }

    pub(crate) fn flags(&mut self, key: &str, list: impl ExactSizeIterator<Item = bool>) {
        self.list(key, 7, list, |bytes, value| bytes.push(value.into()));
    }
}

/// A text as files have it: its length in bytes, and them.
fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// The first multiple of the alignment from `bytes` on.
pub(crate) const fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT_USUAL)
}

/// The bytes before the first tensor. Each of `tensors`, which have a name, a type and a shape with the outermost dimension first,
/// begins where the one before ends, [aligned].
pub(crate) fn head<'t>(
    keys: &GgufKeys,
    tensors: impl ExactSizeIterator<Item = (&'t str, GgufType, &'t [usize])>,
) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend(keys.count.to_le_bytes());
    head.extend(&keys.bytes);
    let mut offset = 0u64;
    for (name, kind, shape) in tensors {
        text(&mut head, name);
        head.extend((shape.len() as u32).to_le_bytes());
        for side in shape.iter().rev() {
            head.extend((*side as u64).to_le_bytes());
        }
        head.extend(kind.number().to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset = aligned(offset + kind.bytes(shape));
    }
    head.resize(aligned(head.len() as u64) as usize, 0);
    head
}
