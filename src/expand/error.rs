//! Models that get no new blocks.

use crate::model::ConfigError;

/// New blocks that a checkpoint cannot get, or that nobody can tell from the others.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpandError {
    /// The number of new blocks does not go with the number of layers.
    #[error(
        "the model has {layers} layers, after which {blocks} new blocks cannot be spread evenly; ask for a number that divides {layers}: {divisors}"
    )]
    Count {
        /// Layers of the model.
        layers: usize,
        /// New blocks that were asked for.
        blocks: usize,
        /// The numbers that can be asked for.
        divisors: String,
    },

    /// The name of an expanded folder, or the layers that it has, are numbers that cannot be.
    #[error("{at}: {layers} layers became {all}, and {reason}")]
    Folder {
        /// The folder.
        at: String,
        /// Layers before, by its name or the configuration.
        layers: usize,
        /// Layers after, by its name or its files.
        all: usize,
        /// Why that cannot be.
        reason: String,
    },

    /// A model that is not known, or whose configuration is wrong.
    #[error("new blocks need a model of a known family: {0}")]
    Config(#[from] ConfigError),

    /// The tensors of layers do not have the names of the family.
    #[error(
        "{at}: the layers cannot be found: {found} tensors end in `{end}`; new blocks need a checkpoint whose layers have the names of the family"
    )]
    Names {
        /// The checkpoint.
        at: String,
        /// The end of the name that was looked for.
        end: String,
        /// How many tensors end so.
        found: usize,
    },

    /// An expanded model that `config.json` has no words for, or one whose new blocks would change its answers.
    #[error(
        "no new blocks for this model: `{field}` {reason}; train an adapter of the model instead (`--adapter lora:rank=16`)"
    )]
    Field {
        /// The field of `config.json`, or the word of the layer that would differ.
        field: String,
        /// What goes wrong.
        reason: String,
    },

    /// A pattern in the declaration of a quantization that names layers by number.
    #[error(
        "config.json: `{entry}` of the quantization picks layers by number, and numbers change with new blocks; write a name for each layer, such as `model.layers.3.mlp`"
    )]
    Declared {
        /// The pattern.
        entry: String,
    },

    /// The list of new blocks in `config.json` cannot be.
    #[error("config.json: `{field}` is {found}, expected rising numbers of layers below {layers}")]
    NewBlocks {
        /// The field.
        field: &'static str,
        /// What the file says.
        found: String,
        /// Layers of the model.
        layers: usize,
    },

    /// New blocks were to stay dense, and there are none.
    #[error(
        "{at}: has no new blocks to keep dense; make some (`--expand blocks=N,dense`), or name a checkpoint that this program has expanded"
    )]
    None {
        /// The checkpoint.
        at: String,
    },
}
