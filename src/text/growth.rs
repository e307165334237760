//! How much longer a text may become by the replacements of a `tokenizer.json`.
//!
//! Eleven replacements of one letter by ten make ten gigabytes of a single letter, and the library carries them out.

use serde_json::Value;

use super::error::BoxError;

/// A file whose replacements together make a text longer by more than this is refused. Those in use: at most 16.
const FACTOR_MAX: u64 = 1 << 16;

/// Bytes that all texts put in front of a text may have together.
const FRONT_BYTES_MAX: u64 = 1 << 20;

/// Bytes of the longest text that may come of a short one.
const BYTES_MAX: u64 = 256 << 20;

/// A factor up to here is that of an honest file, whose texts have no limit.
const HONEST: u64 = 64;

/// The most that texts grow, forth and back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth {
    /// From text to ids.
    pub(super) encode: Factor,
    /// From ids to text.
    pub(super) decode: Factor,
}

/// How many times as long a text may become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factor(u64);

impl Default for Growth {
    fn default() -> Self {
        Self {
            encode: Factor(1),
            decode: Factor(1),
        }
    }
}

impl Factor {
    /// The product of all replacements in a normalizer or a decoder.
    pub(super) fn of(section: &Value, name: &str) -> Result<Self, BoxError> {
        let (mut factor, mut front) = (1_u64, 0_u64);
        let mut open = vec![section];
        while let Some(value) = open.pop() {
            match value {
                Value::Array(list) => open.extend(list),
                Value::Object(map) => {
                    open.extend(map.values());
                    let text = |key: &str| map.get(key).and_then(Value::as_str);
                    if let (Some(content), Some(pattern)) = (text("content"), map.get("pattern")) {
                        factor = factor.saturating_mul(times(content, pattern));
                    }
                    front = front.saturating_add(text("prepend").map_or(0, str::len) as u64);
                }
                _ => {}
            }
        }
        if factor > FACTOR_MAX {
            let message = format!(
                "`{name}`: its replacements make a text {factor} times as long, at most {FACTOR_MAX} times is allowed"
            );
            return Err(message.into());
        }
        if front > FRONT_BYTES_MAX {
            let message = format!(
                "`{name}` puts {front} bytes in front of a text, at most {FRONT_BYTES_MAX} are allowed"
            );
            return Err(message.into());
        }
        Ok(Self(factor))
    }

    /// Refuses a text that may become too long. `bytes` is asked only of a file that is suspicious.
    pub(super) fn check(self, bytes: impl FnOnce() -> usize) -> Result<(), BoxError> {
        if self.0 <= HONEST {
            return Ok(());
        }
        let bytes = bytes() as u64;
        let grown = bytes.saturating_mul(self.0);
        if grown > BYTES_MAX {
            let message = format!(
                "the tokenizer's replacements may make {grown} bytes of {bytes}, at most {BYTES_MAX} are allowed"
            );
            return Err(message.into());
        }
        Ok(())
    }
}

/// How many times as long one replacement makes a text. A regular expression may match nothing, between any two bytes.
fn times(content: &str, pattern: &Value) -> u64 {
    let content = content.len() as u64;
    match pattern["String"].as_str().map(str::len) {
        Some(len) if len > 0 => content.div_ceil(len as u64).max(1),
        _ => content + 1,
    }
}
