//! The values of keys.

use core::fmt;

use super::GgufError;
use super::cursor::{Cursor, HeaderCut};

/// More elements than any list has: merges of vocabularies are half a million.
const ELEMENTS_MAX: u64 = 1 << 22;

/// The value of a key. Numbers of all widths are one kind each.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// A number without a sign.
    Unsigned(u64),
    /// A number with a sign.
    Signed(i64),
    /// A float.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(String),
    /// Values of one kind.
    List(GgufList),
}

/// Values of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufList {
    /// Numbers without a sign.
    Unsigned(Vec<u64>),
    /// Numbers with a sign.
    Signed(Vec<i64>),
    /// Floats.
    Floats(Vec<f64>),
    /// Yes or no, of each.
    Bools(Vec<bool>),
    /// Texts.
    Texts(Vec<String>),
}

/// The number of the type of a list.
const LIST: u32 = 9;

pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<GgufValue, HeaderCut> {
    let number = cursor.u32()?;
    if number != LIST {
        return one(cursor, key, number);
    }
    let number = cursor.u32()?;
    let count = cursor.u64()?;
    let Some(size) = size(number) else {
        return Err(unknown(cursor, key, number));
    };
    cursor.count(&format!("elements of {key}"), count, size, ELEMENTS_MAX)?;
    // A list of an unknown kind has no element to say it.
    let mut list = match number {
        0 | 2 | 4 | 10 => GgufList::Unsigned(Vec::new()),
        1 | 3 | 5 | 11 => GgufList::Signed(Vec::new()),
        6 | 12 => GgufList::Floats(Vec::new()),
        7 => GgufList::Bools(Vec::new()),
        _ => GgufList::Texts(Vec::new()),
    };
    for _ in 0..count {
        match (&mut list, one(cursor, key, number)?) {
            (GgufList::Unsigned(list), GgufValue::Unsigned(value)) => list.push(value),
            (GgufList::Signed(list), GgufValue::Signed(value)) => list.push(value),
            (GgufList::Floats(list), GgufValue::Float(value)) => list.push(value),
            (GgufList::Bools(list), GgufValue::Bool(value)) => list.push(value),
            (GgufList::Texts(list), GgufValue::Text(value)) => list.push(value),
            _ => return Err(unknown(cursor, key, number)),
        }
    }
    Ok(GgufValue::List(list))
}

/// Bytes that a value takes at least.
const fn size(number: u32) -> Option<u64> {
    Some(match number {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10 | 11 | 12 => 8,
        _ => return None,
    })
}

fn one(cursor: &mut Cursor<'_>, key: &str, number: u32) -> Result<GgufValue, HeaderCut> {
    use GgufValue::{Bool, Float, Signed, Text, Unsigned};
    Ok(match number {
        0 => Unsigned(u8::from_le_bytes(cursor.array()?).into()),
        1 => Signed(i8::from_le_bytes(cursor.array()?).into()),
        2 => Unsigned(u16::from_le_bytes(cursor.array()?).into()),
        3 => Signed(i16::from_le_bytes(cursor.array()?).into()),
        4 => Unsigned(cursor.u32()?.into()),
        5 => Signed(i32::from_le_bytes(cursor.array()?).into()),
        6 => Float(f32::from_le_bytes(cursor.array()?).into()),
        7 => match cursor.array::<1>()? {
            [byte @ (0 | 1)] => Bool(byte == 1),
            [byte] => {
                return Err(GgufError::Bool {
                    file: cursor.file(),
                    key: key.to_owned(),
                    byte,
                }
                .into());
            }
        },
        8 => Text(cursor.text(key)?),
        10 => Unsigned(cursor.u64()?),
        11 => Signed(i64::from_le_bytes(cursor.array()?)),
        12 => Float(f64::from_le_bytes(cursor.array()?)),
        _ => return Err(unknown(cursor, key, number)),
    })
}

fn unknown(cursor: &Cursor<'_>, key: &str, number: u32) -> HeaderCut {
    let (file, key) = (cursor.file(), key.to_owned());
    GgufError::ValueType { file, key, number }.into()
}

/// As messages show it: of a list, how many elements there are.
impl fmt::Display for GgufValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::Text(value) => fmt::Debug::fmt(value, f),
            Self::List(list) => {
                let len = match list {
                    GgufList::Unsigned(list) => list.len(),
                    GgufList::Signed(list) => list.len(),
                    GgufList::Floats(list) => list.len(),
                    GgufList::Bools(list) => list.len(),
                    GgufList::Texts(list) => list.len(),
                };
                write!(f, "a list of {len}")
            }
        }
    }
}
