//! A checkpoint with new blocks, and a checkpoint that has them already.

use std::sync::Arc;

use serde_json::Value;

use super::{ExpandError, Expansion, config, tensors::NamedLayers};
use crate::{
    config::{NEW_BLOCKS, Pattern},
    model::{Architecture, CausalLm, decoder::Spec},
    source::{Checkpoint, CheckpointError, Overlay, Source, SourceExt, checkpoint::INDEX},
};

/// What comes before the two numbers in the name of an expanded folder.
const FOLDER: &str = "_blk_exp-";

/// The checkpoint with `blocks` new blocks. The new blocks of an earlier expansion count as old ones.
pub(crate) fn expanded(checkpoint: &Checkpoint, blocks: usize) -> Result<Checkpoint, ExpandError> {
    let (at, catalog) = (checkpoint.source().describe(), checkpoint.catalog());
    let old = CausalLm::config(checkpoint.config())?;
    let expansion = Expansion::new(old.layers.len(), blocks)?;
    let config = config::expanded(checkpoint.config(), &old, expansion)?;
    let new = CausalLm::config(&config)?;
    let layers = NamedLayers::find(&old, catalog, &at)?;
    let catalog = layers.expanded(catalog, expansion, &new, checkpoint.float_dtype());
    let source = Arc::new(Overlay::new(Arc::clone(checkpoint.source())));
    Ok(checkpoint.viewed(source, config, catalog))
}

/// A folder that another program has expanded says so in its name alone, `…_blk_exp-32-40`: the checkpoint with its
/// `config.json` put right. Of weights that are given `apart` from the model that they are expanded from, the numbers of layers say
/// it too. Any other checkpoint stays as it is.
pub(crate) fn recognised(checkpoint: Checkpoint, apart: bool) -> Result<Checkpoint, ExpandError> {
    let at = checkpoint.source().describe();
    let named = numbers(&at);
    if (named.is_none() && !apart) || checkpoint.config().get(NEW_BLOCKS).is_some() {
        return Ok(checkpoint);
    }
    let says = CausalLm::config(checkpoint.config())?;
    let found = NamedLayers::find(&says, checkpoint.catalog(), &at)?.count(checkpoint.catalog());
    let Some([layers, all]) = named.or(more(&says, found)) else {
        return Ok(checkpoint);
    };
    let wrong = |reason: String| ExpandError::Folder {
        at: at.clone(),
        layers,
        all,
        reason,
    };
    if named.is_none() && says.predicts_further {
        let reason = format!(
            "some of them may be those that predict further tokens; name the folder `…{FOLDER}{layers}-N` with the layers that it has"
        );
        return Err(wrong(reason));
    }
    let expansion = of_numbers(layers, all).map_err(wrong)?;
    if found < all {
        return Err(wrong(format!("its files have tensors of {found} layers")));
    }
    let mut config = checkpoint.config().clone();
    match says.layers.len() {
        says if says == all => config::mark(&mut config, expansion),
        count if count == layers => config = config::expanded(&config, &says, expansion)?,
        count => return Err(wrong(format!("config.json says {count} layers"))),
    }
    let (source, catalog) = (
        Arc::clone(checkpoint.source()),
        checkpoint.catalog().clone(),
    );
    Ok(checkpoint.viewed(source, config, catalog))
}

/// The layers of the configuration, and those of the files where they are more.
fn more(says: &Spec, found: usize) -> Option<[usize; 2]> {
    let layers = says.layers.len();
    (found > layers).then_some([layers, found])
}

/// The source without its index, where that is one of the model before its folder was expanded: it promises tensors of
/// other files.
pub(crate) fn without_stale_index(
    source: Arc<dyn Source>,
) -> Result<Arc<dyn Source>, CheckpointError> {
    let Some([_, all]) = numbers(&source.describe()) else {
        return Ok(source);
    };
    let Some(index) = source.read_optional(INDEX)? else {
        return Ok(source);
    };
    // A damaged index is refused where it is read.
    let Ok(index) = serde_json::from_slice::<Value>(&index) else {
        return Ok(source);
    };
    let tensors = index["weight_map"].as_object().into_iter().flatten();
    let mut layers = tensors.filter_map(|(name, _)| {
        let mut segments = name.split('.');
        segments.find_map(|segment| segment.parse::<usize>().ok())
    });
    Ok(match layers.any(|layer| layer + 1 >= all) {
        true => source,
        false => Arc::new(Overlay::without(source, INDEX)),
    })
}

/// Patterns of the new blocks of a checkpoint.
pub(crate) fn patterns(checkpoint: &Checkpoint) -> Result<Vec<Pattern>, ExpandError> {
    let blocks = config::new_blocks(checkpoint.config())?;
    if blocks.is_empty() {
        return Err(ExpandError::None {
            at: checkpoint.source().describe(),
        });
    }
    let layers = CausalLm::config(checkpoint.config())?.names.layers;
    let patterns = blocks.into_iter().map(|block| {
        let text = format!("*{layers}.{block}");
        text.parse().expect("a star and the name of a module")
    });
    Ok(patterns.collect())
}

/// The numbers in the name of an expanded folder, or of a model of the hub.
fn numbers(at: &str) -> Option<[usize; 2]> {
    let name = at.trim_end_matches(['/', '\\']);
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    let (_, numbers) = name.rsplit_once(FOLDER)?;
    let (layers, all) = numbers.split_once('-')?;
    Some([layers.parse().ok()?, all.parse().ok()?])
}

/// The expansion of `layers` layers to `all`, as the public scripts make it: a copy after every `layers / (all - layers)`.
fn of_numbers(layers: usize, all: usize) -> Result<Expansion, String> {
    let blocks = all.checked_sub(layers).filter(|blocks| *blocks > 0);
    let blocks = blocks.ok_or("the second number has to be the larger one")?;
    let split = layers / blocks;
    if split == 0 {
        return Err(format!("{layers} layers have no {blocks} copies"));
    }
    let expansion = Expansion::every(layers, split);
    match expansion.all() == all {
        true => Ok(expansion),
        false => Err(format!(
            "a copy after every {split} layers makes {} of them",
            expansion.all()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_expanded_folders_have_two_numbers() {
        assert_eq!(numbers("/models/a/b_blk_exp-32-40"), Some([32, 40]));
        assert_eq!(numbers("b_blk_exp-32-35/"), Some([32, 35]));
        assert_eq!(numbers("me/b_blk_exp-4-6@main"), Some([4, 6]));
        for other in ["b", "b_blk_exp-32", "b_blk_exp-32-40-copy", "b_blk_exp-a-b"] {
            assert_eq!(numbers(other), None, "{other}");
        }
    }

    /// The script that makes such folders takes a tenth of 32 layers: 35, with two layers after the last copy. Seven of 32 are
    /// eight.
    #[test]
    fn numbers_of_folders_have_to_go_together() {
        let tenth = of_numbers(32, 35).expect("three copies");
        assert_eq!(tenth.new_blocks(), [10, 21, 32]);
        for (layers, all) in [(32, 39), (32, 32), (40, 32), (4, 9)] {
            assert!(of_numbers(layers, all).is_err(), "{layers} {all}");
        }
    }
}
