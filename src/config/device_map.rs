//! Which part of a model goes to which device.

use core::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::{
    Pattern, Role, RuleError,
    near::{letters, nearest},
};

/// Where a part of a model goes: reads and prints `0`, `cpu` and `disk`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// The device of this index among those of the target. Also read as `cuda:0`.
    Device(usize),
    /// Host memory, from where matrices come to a device when they are needed.
    Host,
    /// A file, in the same way.
    Disk,
}

/// Which part of a model goes to which device: reads `auto`, `balanced`, `balanced-low-0`, `sequential`,
/// `model.layers.0=0,model.layers.1=cpu`, and the JSON of accelerate's `device_map`.
///
/// Layers stay whole, and tied weights are one weight. Matrices that no device holds go to host memory, then to disk where that is
/// allowed.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum DeviceMap {
    /// Every device gets about as much, in the order of the layers: the fullest one has as little as possible.
    #[default]
    Balanced,
    /// The same for all devices but the first, which gets only what the others do not hold: room for a caller's own work.
    BalancedLow0,
    /// Each device is filled before the next one.
    Sequential,
    /// As it is said here. A tensor goes where the longest of the patterns that name it says; of two that are equally long, a
    /// name comes before a pattern with wildcards.
    Explicit(Vec<(Pattern, Destination)>),
}

/// A device map that could not be understood.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceMapError {
    /// Not a word for a map.
    #[error(
        "`{found}` is no device map; write auto, balanced, balanced-low-0, sequential, or PATTERN=DEVICE,… with a device for every \
         tensor, such as *=0,model.layers.9=cpu{}",
        nearest.map_or(String::new(), |nearest| format!("; the nearest is {nearest}"))
    )]
    Word {
        /// The word.
        found: String,
        /// A word that is like it.
        nearest: Option<&'static str>,
    },
    /// An entry without a device.
    #[error(
        "`{entry}` of the device map names no device; write PATTERN=0, PATTERN=cpu or PATTERN=disk"
    )]
    NoDevice {
        /// The entry.
        entry: String,
    },
    /// Not a device.
    #[error("`{found}` is no device; write the index of a device such as 0, or cpu, or disk")]
    Destination {
        /// The word.
        found: String,
    },
    /// A pattern that is none.
    #[error(transparent)]
    Pattern(#[from] RuleError),
    /// One pattern with two devices.
    #[error("the device map has `{pattern}` twice; keep one of both")]
    Twice {
        /// The pattern.
        pattern: String,
    },
    /// Not the JSON of a map.
    #[error("the device map is no JSON object of names and devices: {reason}")]
    Json {
        /// Where, and why not.
        reason: String,
    },
}

/// The words for maps, the first of which is another name for the second.
const WORDS: [(&str, DeviceMap); 4] = [
    ("auto", DeviceMap::Balanced),
    ("balanced", DeviceMap::Balanced),
    ("balanced-low-0", DeviceMap::BalancedLow0),
    ("sequential", DeviceMap::Sequential),
];

impl DeviceMap {
    /// A map that says the device of every tensor.
    ///
    /// # Errors
    ///
    /// [`DeviceMapError::Twice`] for a pattern that is there twice, [`DeviceMapError::Pattern`] for one that is none. An empty
    /// pattern names every tensor.
    pub fn explicit<'p>(
        entries: impl IntoIterator<Item = (&'p str, Destination)>,
    ) -> Result<Self, DeviceMapError> {
        let mut known: Vec<(Pattern, Destination)> = Vec::new();
        for (text, to) in entries {
            let text = if text.is_empty() { "*" } else { text };
            let pattern: Pattern = text.parse()?;
            if known.iter().any(|(other, _)| *other == pattern) {
                let pattern = text.to_owned();
                return Err(DeviceMapError::Twice { pattern });
            }
            known.push((pattern, to));
        }
        Ok(Self::Explicit(known))
    }

    /// Where an explicit map sends the tensor `name`, which has the role `role`, and the entry that says so.
    pub(crate) fn find(&self, name: &str, role: Role) -> Option<(usize, Destination)> {
        let Self::Explicit(entries) = self else {
            return None;
        };
        let named = entries.iter().enumerate();
        let named = named.filter(|(_, (pattern, _))| pattern.is_match(name, role));
        let longest =
            named.max_by_key(|(nth, (pattern, _))| (pattern.closeness(), core::cmp::Reverse(*nth)));
        longest.map(|(nth, (_, to))| (nth, *to))
    }

    /// The devices that an explicit map names.
    pub(crate) fn indices(&self) -> impl Iterator<Item = usize> {
        let entries = match self {
            Self::Explicit(entries) => &entries[..],
            _ => &[],
        };
        entries.iter().filter_map(|(_, to)| match to {
            Destination::Device(index) => Some(*index),
            Destination::Host | Destination::Disk => None,
        })
    }
}

impl FromStr for Destination {
    type Err = DeviceMapError;

    fn from_str(text: &str) -> Result<Self, DeviceMapError> {
        let wrong = || DeviceMapError::Destination {
            found: text.to_owned(),
        };
        match text.trim() {
            "cpu" => Ok(Self::Host),
            "disk" => Ok(Self::Disk),
            text => {
                let index = text.strip_prefix("cuda:").unwrap_or(text);
                let is_number = index.bytes().all(|byte| byte.is_ascii_digit());
                let index = is_number.then(|| index.parse().ok()).flatten();
                index.map(Self::Device).ok_or_else(wrong)
            }
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(index) => index.fmt(f),
            Self::Host => f.write_str("cpu"),
            Self::Disk => f.write_str("disk"),
        }
    }
}

impl FromStr for DeviceMap {
    type Err = DeviceMapError;

    fn from_str(text: &str) -> Result<Self, DeviceMapError> {
        let text = text.trim();
        if text.starts_with('{') {
            let map = serde_json::from_str(text);
            return map.map_err(|error: serde_json::Error| DeviceMapError::Json {
                reason: error.to_string(),
            });
        }
        let word = text.replace('_', "-");
        if let Some((_, map)) = WORDS.into_iter().find(|(name, _)| *name == word) {
            return Ok(map);
        }
        if !text.contains('=') {
            let plain: String = letters(&word).into_iter().collect();
            return Err(DeviceMapError::Word {
                found: text.to_owned(),
                nearest: nearest(&plain, WORDS.into_iter().map(|(name, _)| name)),
            });
        }
        let entries = entries(text).into_iter().map(|entry| {
            let split = entry.rsplit_once('=');
            let (pattern, to) = split.ok_or_else(|| DeviceMapError::NoDevice {
                entry: entry.to_owned(),
            })?;
            Ok((pattern.trim(), to.parse()?))
        });
        let entries = entries.collect::<Result<Vec<_>, DeviceMapError>>()?;
        Self::explicit(entries)
    }
}

/// The parts between commas; those inside of braces belong to a pattern.
fn entries(text: &str) -> Vec<&str> {
    let (mut depth, mut first, mut found) = (0_usize, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                found.push(&text[first..at]);
                first = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[first..]);
    found
}

/// Prints what [`FromStr`] reads back.
impl fmt::Display for DeviceMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Explicit(entries) = self else {
            let mut words = WORDS[1..].iter();
            let word = words.find(|(_, map)| map == self);
            return f.write_str(word.map_or("", |(word, _)| word));
        };
        let mut entries = entries.iter().enumerate();
        entries.try_for_each(|(nth, (pattern, to))| {
            let comma = if nth > 0 { "," } else { "" };
            write!(f, "{comma}{pattern}={to}")
        })
    }
}

impl Serialize for DeviceMap {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceMap {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = DeviceMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a device map: a word, or names and devices")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DeviceMap, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<DeviceMap, M::Error> {
                let mut entries: Vec<(String, Destination)> = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                let entries = entries.iter().map(|(name, to)| (&**name, *to));
                DeviceMap::explicit(entries).map_err(M::Error::custom)
            }
        }
        from.deserialize_any(Words)
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum WrittenDestination {
            Index(usize),
            Word(String),
        }
        match WrittenDestination::deserialize(from)? {
            WrittenDestination::Index(index) => Ok(Self::Device(index)),
            WrittenDestination::Word(word) => word.parse().map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(map: &str, name: &str) -> Option<Destination> {
        let map: DeviceMap = map.parse().unwrap_or_else(|error| panic!("{map}: {error}"));
        map.find(name, Role::Linear).map(|(_, to)| to)
    }

    /// Would catch a map that takes the first entry, commas of a pattern that end an entry, and numbers that are read as text.
    #[test]
    fn the_longest_name_says_where_a_tensor_goes() {
        use Destination::{Device, Disk, Host};
        let map = "*=0,model.layers=1,model.layers.1=cpu,model.layers.{10,11}=disk";
        let json = r#"{"": 0, "model.layers": "cuda:1", "model.layers.1": "cpu", "model.layers.{10,11}": "disk"}"#;
        for map in [map, json] {
            assert_eq!(to(map, "lm_head.weight"), Some(Device(0)), "{map}");
            assert_eq!(
                to(map, "model.layers.0.mlp.up_proj.weight"),
                Some(Device(1))
            );
            assert_eq!(to(map, "model.layers.1.mlp.up_proj.weight"), Some(Host));
            // Not a part of the name `model.layers.1`.
            assert_eq!(
                to(map, "model.layers.12.mlp.up_proj.weight"),
                Some(Device(1))
            );
            assert_eq!(to(map, "model.layers.11.mlp.up_proj.weight"), Some(Disk));
        }
        assert_eq!(to("model.layers=1", "lm_head.weight"), None);
    }

    #[test]
    fn maps_are_printed_as_they_are_read() {
        for text in [
            "balanced",
            "balanced-low-0",
            "sequential",
            "*=0,lm_head=cpu,a.{b,c}=disk",
        ] {
            let map: DeviceMap = text.parse().expect(text);
            assert_eq!(map.to_string(), text);
            let json = serde_json::to_string(&map).expect("plain data");
            assert_eq!(serde_json::from_str::<DeviceMap>(&json).expect(&json), map);
        }
        let auto = "auto".parse::<DeviceMap>();
        assert_eq!(auto, Ok(DeviceMap::Balanced));
        assert_eq!("balanced_low_0".parse(), Ok(DeviceMap::BalancedLow0));
    }

    #[test]
    fn wrong_maps_are_refused_by_name() {
        for (text, named) in [
            ("", "``"),
            ("blanced", "nearest is balanced"),
            ("model.layers.0=gpu", "`gpu`"),
            ("model.layers.0=-1", "`-1`"),
            ("model.layers.0=", "``"),
            ("a=0,b", "`b`"),
            ("a=0,a=1", "`a` twice"),
            ("[=0", "pattern"),
            (r#"{"a": 0, "a": 1}"#, "`a` twice"),
            (r#"{"a": 1.5}"#, "JSON"),
            (r#"{"a": "gpu"}"#, "`gpu`"),
            (r#"{"a": "#, "JSON"),
        ] {
            let error = text.parse::<DeviceMap>().expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
