//! The index of a checkpoint in several shards: bytes to a table, no I/O.
//!
//! ```json
//! { "metadata": { "total_size": 6899712 },
//!   "weight_map": { "lm_head.weight": "model-00002-of-00002.safetensors" } }
//! ```
//!
//! It is the only list of shards there is: a folder may hold shards of another saving, too.

use std::collections::{BTreeMap, BTreeSet};

use super::json;
use super::pairs::KeyValues;
use super::stays_inside;

/// Which file holds which tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Bytes of all tensors, as the writer counted them; for showing, not for believing. Some
    /// writers count parameters, or a tied tensor twice.
    pub total_size: Option<u64>,
    /// Tensor to file.
    pub weight_map: BTreeMap<String, String>,
}

impl Index {
    /// An index from the bytes of `model.safetensors.index.json`. `file` is a name for messages.
    ///
    /// # Errors
    ///
    /// [`IndexError`], by what is wrong.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, IndexError> {
        let raw: RawIndex = json::read(bytes).map_err(|source| IndexError::Json {
            file: file.to_owned(),
            source,
        })?;
        let Some(pairs) = raw.weight_map else {
            return Err(IndexError::NoWeightMap {
                file: file.to_owned(),
            });
        };
        let mut weight_map = BTreeMap::new();
        for (tensor, shard) in pairs.0 {
            let shard = here(shard);
            if !stays_inside(&shard) {
                return Err(IndexError::Escapes {
                    file: file.to_owned(),
                    tensor,
                    shard,
                });
            }
            if let Some(first) = weight_map.get(&tensor)
                && *first != shard
            {
                return Err(IndexError::DuplicateTensor {
                    file: file.to_owned(),
                    first: String::clone(first),
                    second: shard,
                    tensor,
                });
            }
            weight_map.insert(tensor, shard);
        }
        if weight_map.is_empty() {
            return Err(IndexError::NoWeightMap {
                file: file.to_owned(),
            });
        }
        // Written as a float by some tools. As free as the rest of the metadata: what is not a
        // count is no reason to refuse a model.
        let total_size = raw
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.get("total_size"))
            .and_then(|size| size.as_u64().or_else(|| whole(size.as_f64()?)));
        Ok(Self {
            total_size,
            weight_map,
        })
    }

    /// The shards, each once, by name.
    #[must_use]
    pub fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// The name of a file without `./` before it, which some tools write.
fn here(shard: String) -> String {
    match shard.strip_prefix("./") {
        Some(rest) => here(rest.to_owned()),
        None => shard,
    }
}

/// A float that is exactly a count.
fn whole(size: f64) -> Option<u64> {
    // 2^53: above it a float no longer tells neighbours apart.
    (size.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&size)).then_some(size as u64)
}

#[derive(serde::Deserialize)]
struct RawIndex {
    metadata: Option<serde_json::Value>,
    weight_map: Option<KeyValues<String>>,
}

/// An index that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Not the JSON of an index.
    #[error(
        "{file}: does not parse: {source}; fetch it again, or remove it: shards are found without it"
    )]
    Json {
        /// The index.
        file: String,
        /// What and where; it begins with the tensor when the parser was inside one.
        source: serde_json::Error,
    },

    /// An index that places no tensor.
    #[error("{file}: has no weight_map, or an empty one; is it the index of a checkpoint?")]
    NoWeightMap {
        /// The index.
        file: String,
    },

    /// A shard that lies outside the model.
    #[error(
        "{file}: places tensor {tensor} in {shard:?}, which leads out of the model; correct the name"
    )]
    Escapes {
        /// The index.
        file: String,
        /// The tensor.
        tensor: String,
        /// The file name as written.
        shard: String,
    },

    /// One tensor in two places.
    #[error("{file}: places tensor {tensor} twice, in {first} and in {second}; leave one line")]
    DuplicateTensor {
        /// The index.
        file: String,
        /// The tensor.
        tensor: String,
        /// The shard named first.
        first: String,
        /// The shard named second.
        second: String,
    },
}
