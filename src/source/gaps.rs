//! Where an index and its files differ without a contradiction: each has something that the other lacks. Only a plan knows whether the
//! model needs it.

use std::sync::Arc;

use super::{Catalog, CatalogError, Index, SourceError};

/// The differences of one checkpoint.
#[derive(Debug, Clone, Default)]
pub(super) struct Gaps {
    /// Files that the index names and the source does not have.
    pub(super) shards: Vec<AbsentShard>,
    /// Tensors that the index places in a file that is there and lacks them, and the file.
    absent: Vec<(String, String)>,
    /// Tensors that the index does not list, and their file.
    unlisted: Vec<(String, String)>,
}

/// A file that the index names and the source does not have.
#[derive(Debug, Clone)]
pub(super) struct AbsentShard {
    pub(super) name: String,
    /// How many tensors the index places in it.
    pub(super) tensors: usize,
    /// The error of the source.
    pub(super) error: Arc<SourceError>,
}

impl Gaps {
    /// The differences of `index` and the tensors of the files that are there; `shards` are not.
    pub(super) fn between(index: &Index, catalog: &Catalog, shards: Vec<AbsentShard>) -> Self {
        let is_there = |file: &str| shards.iter().all(|shard| shard.name != file);
        let placed = index.weight_map.iter();
        let absent =
            placed.filter(|(tensor, file)| is_there(file) && catalog.get(tensor).is_none());
        let absent = absent.map(|(tensor, file)| (tensor.clone(), file.clone()));
        let unlisted = catalog.iter();
        let unlisted = unlisted.filter(|tensor| !index.weight_map.contains_key(&*tensor.name));
        Self {
            absent: absent.collect(),
            unlisted: unlisted
                .map(|tensor| (tensor.name.to_string(), tensor.file.to_string()))
                .collect(),
            shards,
        }
    }

    /// The first tensor that the index promises and no file has.
    pub(super) fn absent_tensor(&self) -> Option<CatalogError> {
        let (tensor, shard) = self.absent.first()?.clone();
        Some(CatalogError::NotInShard { tensor, shard })
    }

    /// Each kind of difference as a sentence.
    pub(super) fn notes(&self) -> Vec<String> {
        let shards = self.shards.iter().map(|shard| {
            let AbsentShard { name, tensors, .. } = shard;
            format!("{name} is missing, in which the index places {tensors} tensors")
        });
        let of = |list: &[(String, String)], what: &str, has: &str| {
            let (first, file) = list.first()?;
            let count = list.len();
            Some(format!(
                "{what} {count} tensors that {has}, first {first} of {file}"
            ))
        };
        let absent = of(&self.absent, "the index lists", "its files lack");
        let unlisted = of(&self.unlisted, "the files have", "the index does not list");
        shards.chain(absent).chain(unlisted).collect()
    }
}
