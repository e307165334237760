//! Numbers in JSON that come back to the last bit: a number that is parsed may be its neighbour.

/// An `f64` that may be absent.
pub(super) mod option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    /// As the shortest text that names the number.
    pub(in crate::train) fn serialize<S: Serializer>(
        value: &Option<f64>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|value| value.to_string()).serialize(to)
    }

    pub(in crate::train) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<f64>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom))
            .transpose()
    }
}
