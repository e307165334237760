//! A JSON object as the pairs that it is written as.

use core::fmt;
use core::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// The pairs of a JSON object in file order, repeated keys included.
///
/// A map would keep the last of two equal keys and say nothing. In a file that places tensors, a
/// key that is there twice is a lie told to one of two readers.
#[derive(Debug)]
pub(super) struct KeyValues<V>(pub(super) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for KeyValues<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::at_most(usize::MAX, deserializer)
    }
}

impl<V> KeyValues<V> {
    /// The pairs of an object that has no more than `max` of them.
    pub(super) fn at_most<'de, D: Deserializer<'de>>(
        max: usize,
        deserializer: D,
    ) -> Result<Self, D::Error>
    where
        V: Deserialize<'de>,
    {
        let values = PhantomData;
        deserializer.deserialize_map(PairsVisitor { max, values })
    }
}

struct PairsVisitor<V> {
    max: usize,
    values: PhantomData<V>,
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
    type Value = KeyValues<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if pairs.len() == self.max {
                let many = format_args!(
                    "{key}: there are {} keys before it, as many as are read",
                    self.max
                );
                return Err(A::Error::custom(many));
            }
            // Without the key, an error in one of a thousand entries says only a column.
            let value = map
                .next_value()
                .map_err(|error| A::Error::custom(format_args!("{key}: {error}")))?;
            pairs.push((key, value));
        }
        Ok(KeyValues(pairs))
    }
}
