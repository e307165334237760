//! Adapters that do not fit.

use std::{io, path::PathBuf};

use firebox_kernels::format::Format;
use safetensors::SafeTensorError;

use crate::config::{NEW_BLOCKS, TrainType};

/// An adapter that could not be read, put on a model or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A file of the adapter cannot be read or written.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A folder without an adapter.
    #[error(
        "{}: is no folder of an adapter, since it has no {missing}; it has {found}",
        folder.display()
    )]
    NoAdapter {
        /// The folder.
        folder: PathBuf,
        /// The file that it lacks.
        missing: &'static str,
        /// The first files that it has.
        found: String,
    },
    /// `adapter_config.json` is not JSON, or a field of it has another type.
    #[error("{}: {reason}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A setting of `adapter_config.json` that changes numbers in a way that is not computed.
    #[error("{}: `{field}` is {value}, which is not supported: {reason}", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// `adapter_model.safetensors` is damaged.
    #[error("{}: {source}", file.display())]
    Tensors {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: SafeTensorError,
    },
    /// A tensor whose name says nothing that an adapter has.
    #[error(
        "{}: the tensor {tensor} is no factor, magnitude, bias or whole matrix of an adapter",
        file.display()
    )]
    Tensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Two tensors for one place, with different values.
    #[error(
        "{}: the tensors {first} and {second} are of the same place and have different values; leave one of them out",
        file.display()
    )]
    Twice {
        /// The file.
        file: PathBuf,
        /// The first of them.
        first: String,
        /// The other one.
        second: String,
    },
    /// A name in `modules_to_save` without a module.
    #[error(
        "{adapter}: its `modules_to_save` names {name}, and neither the model nor the file of the adapter has such a module: this adapter was trained on another model"
    )]
    NoSaved {
        /// The adapter.
        adapter: String,
        /// The name.
        name: String,
    },
    /// A pattern whose modules are all trained whole.
    #[error(
        "the pattern `{pattern}` names {module} ({count} such modules) and no others, and they are trained whole (`LoraConfig::whole`, whole=…): they get no factors; name them once"
    )]
    TargetsWhole {
        /// The pattern of targets.
        pattern: String,
        /// The first module.
        module: String,
        /// How many there are.
        count: usize,
    },
    /// An adapter of a model before it was expanded, on the expanded model.
    #[error(
        "{adapter}: changes layers up to {last}, and this model has new blocks ({}) among {layers} layers: an adapter of the model before its expansion has other numbers of layers; merge it into that model (firebox merge) and expand the merged one. If it was trained on the expanded model, write `\"{NEW_BLOCKS}\": {new_blocks:?}` into its adapter_config.json",
        new_blocks.len()
    )]
    BeforeExpansion {
        /// The adapter.
        adapter: String,
        /// The last layer that it changes.
        last: usize,
        /// Layers of the model.
        layers: usize,
        /// Those of them that are new.
        new_blocks: Vec<usize>,
    },
    /// A module of the adapter that the model does not have.
    #[error(
        "{adapter}: changes {module} ({count} such modules), which the model does not have; the nearest that it has is {nearest}: this adapter was trained on another model"
    )]
    NoModule {
        /// The adapter.
        adapter: String,
        /// The first module without a counterpart.
        module: String,
        /// How many there are.
        count: usize,
        /// The module of the model with the nearest name.
        nearest: String,
    },
    /// A module that the configuration targets and the file has no factors of.
    #[error(
        "{adapter}: its configuration targets {module} ({count} such modules), and its file has no {missing} for it: the file is not complete"
    )]
    Incomplete {
        /// The adapter.
        adapter: String,
        /// The first module without its tensors.
        module: String,
        /// How many there are.
        count: usize,
        /// The tensor that it lacks.
        missing: &'static str,
    },
    /// Factors of a module that the configuration does not target.
    #[error(
        "{adapter}: its file has factors of {module} ({count} such modules), which its configuration does not target (`target_modules`, `exclude_modules`, `layers_to_transform`): one of the two files is of another adapter"
    )]
    Untargeted {
        /// The adapter.
        adapter: String,
        /// The first module.
        module: String,
        /// How many there are.
        count: usize,
    },
    /// A value that is no number, or too large for one.
    #[error(
        "{adapter}: {tensor} of {module} has values that are not finite ({count} of {len}): its training went wrong; take an earlier checkpoint of the run"
    )]
    NotFinite {
        /// The adapter.
        adapter: String,
        /// The module.
        module: String,
        /// The tensor.
        tensor: &'static str,
        /// How many there are.
        count: usize,
        /// Values of the tensor.
        len: usize,
    },
    /// A tensor of another shape than the module's.
    #[error(
        "{adapter}: {tensor} of {module} has shape {found:?}, and the module needs {expected:?}: this adapter was trained on another model, or its rank is not the one that its configuration says"
    )]
    Shape {
        /// The adapter.
        adapter: String,
        /// The module.
        module: String,
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that fits.
        expected: Vec<usize>,
    },
    /// A rank above what a matrix can have.
    #[error(
        "{module}: rank {rank} is more than its matrix of {out} × {input} has; choose {most} at most"
    )]
    Rank {
        /// The module.
        module: String,
        /// The rank asked for.
        rank: usize,
        /// Rows of the matrix.
        out: usize,
        /// Columns of the matrix.
        input: usize,
        /// The largest rank.
        most: usize,
    },
    /// A pattern that names no module.
    #[error(
        "the pattern `{pattern}` names no module that an adapter can change; the model has {first}, for example"
    )]
    NoTarget {
        /// The pattern.
        pattern: String,
        /// The name of a module that adapters can change.
        first: String,
    },
    /// A module that computes in a way that leaves no place for factors.
    #[error("{module}: {reason}")]
    NotAdaptable {
        /// The module.
        module: String,
        /// Why not.
        reason: &'static str,
    },
    /// New factors where an adapter is merged.
    #[error(
        "{adapter}: new factors change nothing, so that there is nothing to merge; name the folder of an adapter"
    )]
    Untrained {
        /// The adapter.
        adapter: String,
    },
    /// A matrix that the checkpoint has packed, and an adapter that is merged into it.
    #[error(
        "{module}: is packed as {format} in the checkpoint, and an adapter is merged into values; add --requantize (`LoadConfig::requantize`) to pack it again, or --dequantize (`LoadConfig::dequantize`) to save it dense"
    )]
    Packed {
        /// The weight.
        module: String,
        /// Its format.
        format: Format,
    },
    /// A model without factors where some are to be trained.
    #[error(
        "{train} trains factors, and the model has none that are trained; load it with `TrainType::config`, or put factors on it (`adapter::add`)"
    )]
    NoFactors {
        /// The train type.
        train: TrainType,
    },
    /// A packed matrix where all values are to be trained.
    #[error(
        "{module}: is packed as {format}, and words have no gradients; load the model without a quantization (`LoadConfig::dequantize` for a packed checkpoint), or train factors (`adapter::add`)"
    )]
    PackedWhole {
        /// The module.
        module: String,
        /// Its format.
        format: Format,
    },
    /// Matrices that became a part of others before an adapter was merged into them.
    #[error(
        "an adapter changes {before} weights, and {after} of them have a place of their own in this dialect: choose a dialect with a tensor for each expert (--to), or merge into a dense checkpoint first"
    )]
    Stacked {
        /// Weights that the adapter changes.
        before: usize,
        /// Weights that can be changed.
        after: usize,
    },
    /// A model without an adapter of this name.
    #[error("the model has no adapter `{name}`; it has {found}")]
    NoSuchAdapter {
        /// The name asked for.
        name: String,
        /// The names that it has.
        found: String,
    },
    /// A device on which nothing can be trained.
    #[error("{device} records no gradients; train on `T::device(0)?.autodiff()`")]
    NoGradients {
        /// The device.
        device: String,
    },
    /// Layers to be trained that the model does not have.
    #[error(
        "{}; the model has {layers} layers, and those of `Loaded::new_blocks` are new",
        .block.map_or("no layer to train is named".to_owned(), |block| format!("there is no layer {block} to train"))
    )]
    NoBlock {
        /// The number of the layer; `None` where none was named.
        block: Option<usize>,
        /// Layers of the model.
        layers: usize,
    },
    /// A whole or changed matrix whose values are not numbers.
    #[error(
        "{adapter}: {tensor} of {module} has the type {found}, and an adapter needs F32, F16, BF16 or F64"
    )]
    Type {
        /// The adapter.
        adapter: String,
        /// The module.
        module: String,
        /// The tensor.
        tensor: &'static str,
        /// The stored type.
        found: String,
    },
}
