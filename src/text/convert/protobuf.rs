//! The wire format of protocol buffers, as much of it as a sentencepiece model needs.
//!
//! A message is a row of fields, and a field is a key and a value
//! (<https://protobuf.dev/programming-guides/encoding/>). Nothing is allocated: a value borrows from the file, so a
//! length that the file does not have is found before anything is done with it.

/// A message that is not well-formed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum WireError {
    #[error("byte {at} of a message of {len} bytes: a field of {need} bytes begins there")]
    Truncated { at: usize, need: u64, len: usize },

    #[error("byte {at}: an integer has more than 64 bits")]
    Integer { at: usize },

    #[error("byte {at}: field {number} has the wire type {wire_type}; 0, 1, 2 and 5 are in use")]
    WireType {
        at: usize,
        number: u64,
        wire_type: u64,
    },

    #[error("field {number} has another type than sentencepiece_model.proto gives it")]
    Unexpected { number: u64 },

    #[error("field {number} is not UTF-8 from its byte {at_byte} on")]
    NotText { number: u64, at_byte: usize },
}

/// One field.
#[derive(Debug, PartialEq)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    value: Value<'a>,
}

#[derive(Debug, PartialEq)]
enum Value<'a> {
    Integer(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub(super) fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(self.unexpected()),
        }
    }

    pub(super) fn text(&self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|error| WireError::NotText {
            number: self.number,
            at_byte: error.valid_up_to(),
        })
    }

    pub(super) fn float(&self) -> Result<f32, WireError> {
        match self.value {
            Value::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(self.unexpected()),
        }
    }

    /// An `int32` or an `enum`. A negative one has 64 bits in the file; the upper half carries its sign only.
    pub(super) fn int(&self) -> Result<i32, WireError> {
        match self.value {
            Value::Integer(value) => Ok(value as u32 as i32),
            _ => Err(self.unexpected()),
        }
    }

    pub(super) fn bool(&self) -> Result<bool, WireError> {
        match self.value {
            Value::Integer(value) => Ok(value != 0),
            _ => Err(self.unexpected()),
        }
    }

    fn unexpected(&self) -> WireError {
        WireError::Unexpected {
            number: self.number,
        }
    }
}

/// The fields of a message, in the order of the file. Ends after the first error.
pub(super) struct WireFields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> WireFields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn field(&mut self) -> Result<Field<'a>, WireError> {
        let at = self.at;
        let key = self.integer()?;
        let (number, wire_type) = (key >> 3, key & 7);
        let value = match wire_type {
            0 => Value::Integer(self.integer()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let len = self.integer()?;
                Value::Bytes(self.take(len)?)
            }
            5 => {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(self.take(4)?);
                Value::Fixed32(bytes)
            }
            _ => {
                return Err(WireError::WireType {
                    at,
                    number,
                    wire_type,
                });
            }
        };
        Ok(Field { number, value })
    }

    /// Seven bits a byte, the lowest first; the upper bit says that more follow.
    fn integer(&mut self) -> Result<u64, WireError> {
        let at = self.at;
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && byte > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Integer { at })
    }

    fn take(&mut self, need: u64) -> Result<&'a [u8], WireError> {
        let rest = &self.bytes[self.at..];
        let truncated = WireError::Truncated {
            at: self.at,
            need,
            len: self.bytes.len(),
        };
        let Some(taken) = usize::try_from(need).ok().and_then(|need| rest.get(..need)) else {
            return Err(truncated);
        };
        self.at += taken.len();
        Ok(taken)
    }
}

impl<'a> Iterator for WireFields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::{WireError, WireFields};

    /// The examples of the specification, and a negative integer as the reference writes it.
    #[test]
    fn fields_are_read_as_the_specification_writes_them() {
        let read = |bytes: &'static [u8]| WireFields::new(bytes).next().unwrap().unwrap();
        let field = read(&[0x08, 0x96, 0x01]);
        assert_eq!((field.number, field.int()), (1, Ok(150)));
        let field = read(b"\x12\x07testing");
        assert_eq!((field.number, field.text()), (2, Ok("testing")));
        let minus_one = [
            0xD8, 0x02, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1,
        ];
        let field = WireFields::new(&minus_one).next().unwrap().unwrap();
        assert_eq!((field.number, field.int()), (43, Ok(-1)));
        assert_eq!(read(&[0x15, 0, 0, 0x80, 0xBF]).float(), Ok(-1.0));
    }

    /// A length that is believed makes a panic or an allocation of the file's choice; a loop that does not end
    /// after an error, one that never ends.
    #[test]
    fn a_message_that_ends_early_or_is_none_is_an_error() {
        let cases: [(&[u8], WireError); 6] = [
            (
                &[0x12, 0x07, b't'],
                WireError::Truncated {
                    at: 2,
                    need: 7,
                    len: 3,
                },
            ),
            (
                b"\x12\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01",
                WireError::Truncated {
                    at: 11,
                    need: u64::MAX,
                    len: 11,
                },
            ),
            (
                &[0x08, 0x80],
                WireError::Truncated {
                    at: 2,
                    need: 1,
                    len: 2,
                },
            ),
            (
                &[
                    0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2,
                ],
                WireError::Integer { at: 1 },
            ),
            (
                &[0x0B],
                WireError::WireType {
                    at: 0,
                    number: 1,
                    wire_type: 3,
                },
            ),
            (
                &[0x15, 0, 0],
                WireError::Truncated {
                    at: 1,
                    need: 4,
                    len: 3,
                },
            ),
        ];
        for (bytes, expected) in cases {
            let read: Vec<_> = WireFields::new(bytes).collect();
            assert_eq!(read, [Err(expected)], "{bytes:x?}");
        }
    }

    /// A type that is not compared reads a length as a number.
    #[test]
    fn a_field_of_another_type_and_bytes_that_are_no_text_are_errors() {
        let field = WireFields::new(b"\x0A\x02\xC3\x28")
            .next()
            .unwrap()
            .unwrap();
        let unexpected = WireError::Unexpected { number: 1 };
        assert_eq!(field.int(), Err(unexpected));
        let not_text = WireError::NotText {
            number: 1,
            at_byte: 0,
        };
        assert_eq!(field.text(), Err(not_text));
    }
}
