//! Why a plan cannot be made, or cannot be carried out.

use core::ops::Range;

use firebox_kernels::{
    format::{Format, FormatError},
    linear::Compute,
};

use super::map::MapError;
use crate::{dialect::DialectError, source::StoredType};

impl From<MapError> for PlanError {
    fn from(error: MapError) -> Self {
        Self::Map(error.into())
    }
}

/// A plan that cannot be made, or cannot be carried out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A device is asked to multiply in an arithmetic of host targets.
    #[error(
        "products in {compute} are for targets in host memory, and {target} has an arithmetic of its own; leave `compute` out, or take the \
         cpu target"
    )]
    Compute {
        /// What was asked for.
        compute: Compute,
        /// The target.
        target: String,
    },
    /// The names in the files can be read in two ways.
    #[error(
        "{model}: the slots of the model are filled in two ways, and these are different weights: {first}; {second}. Take one of them out \
         of the files"
    )]
    Names {
        /// The checkpoint.
        model: String,
        /// One way.
        first: String,
        /// The other.
        second: String,
    },
    /// The checkpoint and its config disagree.
    #[error(
        "{tensor} in {file} is {found:?}, config.json implies {expected:?}{sizes}; correct config.json, or take that of these weights"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its file.
        file: String,
        /// Its shape.
        found: Box<[usize]>,
        /// The shape the architecture wants.
        expected: Box<[usize]>,
        /// The fields that say so, with both numbers; empty where it is unknown which do.
        sizes: Box<str>,
    },
    /// A slot takes rows that a tensor does not have.
    #[error(
        "{slot} takes rows {} to {} of {tensor} in {file}, which is {found:?} and has {has} rows; sizes in config.json are of another model (of experts: `num_experts`, `moe_intermediate_size`), or the slot's origin is wrong",
        rows.start,
        rows.end
    )]
    Rows {
        /// The slot.
        slot: String,
        /// The tensor.
        tensor: String,
        /// Its file.
        file: Box<str>,
        /// Its shape.
        found: Box<[usize]>,
        /// The rows that the slot takes.
        rows: Range<usize>,
        /// The rows of the tensor, over all axes but the last.
        has: usize,
    },
    /// A piece of a slot has rows of another length.
    #[error(
        "{slot} is {expected:?} and takes [{}, {}] values of {tensor} in {file}, which is {found:?}; a piece has rows of the slot",
        piece[0],
        piece[1]
    )]
    Piece {
        /// The slot.
        slot: Box<str>,
        /// Its shape.
        expected: Box<[usize]>,
        /// The tensor.
        tensor: String,
        /// Its file.
        file: Box<str>,
        /// Its shape.
        found: Box<[usize]>,
        /// Rows and columns that the slot would take of it.
        piece: Box<[usize; 2]>,
    },
    /// The pieces of a slot do not add up to its rows.
    #[error(
        "{slot} is {expected:?} and its {pieces} pieces have {found} rows together, not {}; correct the sizes in config.json, or take that of these weights",
        rows
    )]
    Pieces {
        /// The slot.
        slot: String,
        /// Its shape.
        expected: Vec<usize>,
        /// How many pieces it has.
        pieces: usize,
        /// Rows of all pieces.
        found: usize,
        /// Rows of the slot.
        rows: usize,
    },
    /// The pieces of a slot are of several types.
    #[error(
        "{slot} is made of {first} ({first_dtype}) and {second} ({second_dtype}); the pieces of a weight have one type; save the checkpoint in one type"
    )]
    PieceTypes {
        /// The slot.
        slot: String,
        /// A tensor.
        first: String,
        /// Its type.
        first_dtype: StoredType,
        /// Another tensor.
        second: String,
        /// Its type.
        second_dtype: StoredType,
    },
    /// A part of a stack that no expert of the model takes.
    #[error(
        "{tensor} in {file} is {found:?} and has {has} bytes, of which the experts that config.json implies take {taken}; correct `num_experts` (`num_local_experts`) and `moe_intermediate_size` in config.json, or take that of these weights"
    )]
    Experts {
        /// The tensor.
        tensor: String,
        /// Its file.
        file: String,
        /// Its shape.
        found: Vec<usize>,
        /// Its bytes.
        has: u64,
        /// The bytes that experts take.
        taken: u64,
    },
    /// Rows of a tensor that the checkpoint has packed.
    #[error(
        "{slot} takes a part of {tensor}, which {dialect} has packed, and a packed tensor is only taken whole; `firebox convert --dequantize` makes a checkpoint that can be loaded"
    )]
    PackedPiece {
        /// The slot.
        slot: String,
        /// The tensor.
        tensor: String,
        /// The dialect of the checkpoint.
        dialect: &'static str,
    },
    /// Experts that one tensor has to hold are not treated alike.
    #[error(
        "{stack} holds the matrices of all experts, and {second} is not treated as {first}, or is balanced with other weights; give all experts of a layer one quantization by a rule (`--rule`), without balancing, or choose a dialect that has a tensor for each (`--to`)"
    )]
    Stack {
        /// The tensor that holds them.
        stack: String,
        /// One expert.
        first: String,
        /// Another one.
        second: String,
    },
    /// A plan that cannot be written, since a custom method has no words.
    #[error(
        "{tensor} is packed by the custom method {method}, which cannot be written as JSON and read back"
    )]
    Custom {
        /// The tensor.
        tensor: String,
        /// The method, as it debugs.
        method: String,
    },
    /// Text that is no plan.
    #[error("this is no plan that can be read back: {reason}")]
    Json {
        /// Where, and why not.
        reason: String,
    },
    /// A plan for another target.
    #[error(
        "the plan is for {planned}, and the model is loaded on {found}; make a plan for {found}"
    )]
    OtherTarget {
        /// The target of the plan.
        planned: String,
        /// The target of the loader.
        found: String,
    },
    /// A plan of another checkpoint or model.
    #[error(
        "{tensor} {planned} and {found}: the plan is of another checkpoint or model; make the plan anew"
    )]
    Stale {
        /// The tensor.
        tensor: String,
        /// What the plan says.
        planned: &'static str,
        /// What is found.
        found: &'static str,
    },
    /// A type that is not a plain float.
    #[error(
        "{tensor} in {file} is stored as {found}; weights of an unquantized checkpoint are F32, F16 or BF16; save it as one of these, or add the `quantization_config` that it was packed by"
    )]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its file.
        file: String,
        /// Its type.
        found: StoredType,
    },
    /// Slots without tensors.
    #[error("{model} lacks {count} of {wanted} tensors: {missing}{others}; {advice}")]
    Missing {
        /// The checkpoint.
        model: String,
        /// How many are missing.
        count: usize,
        /// How many the architecture wants.
        wanted: usize,
        /// The first of them.
        missing: Box<str>,
        /// The first of those that the checkpoint has and the model does not want, in words.
        others: Box<str>,
        /// What may be wrong, and what to do.
        advice: Box<str>,
    },
    /// Another number of layers.
    #[error(
        "{model} has {found} layers and `{field}` of config.json is {expected}: {first} {is}; set the field to {found}, or take \
         the config.json of these weights",
        is = if found > expected { "is of none of them" } else { "is missing" }
    )]
    Layers {
        /// The checkpoint.
        model: String,
        /// Layers that its tensors are of.
        found: usize,
        /// Layers that the configuration asks for.
        expected: usize,
        /// The field.
        field: &'static str,
        /// The first tensor that is too many or missing.
        first: String,
    },
    /// Tensors of an adapter among those of a model.
    #[error(
        "{model} is a training checkpoint of peft: {adapter} is of an adapter{}; merge the adapter into its base in Python \
         (`merge_and_unload`, then `save_pretrained`), or load the base alone",
        base.as_ref().map_or(String::new(), |base| format!(" and {base} is of its base"))
    )]
    Adapter {
        /// The checkpoint.
        model: String,
        /// The first tensor of an adapter.
        adapter: String,
        /// The first tensor of the base under a name that peft gave it.
        base: Option<String>,
    },
    /// The method cannot pack this weight.
    #[error("{tensor}: {source}")]
    Format {
        /// The tensor.
        tensor: String,
        /// Why not.
        source: FormatError,
    },
    /// The method cannot pack some of the weights that it is asked for.
    #[error("{count} of {of} weights cannot be packed as {quant}: {weights}; {advice}")]
    Unfit {
        /// What was asked for.
        quant: Box<str>,
        /// How many cannot be.
        count: usize,
        /// How many were to be packed so.
        of: usize,
        /// All of them, those of all layers as one pattern, with the reason.
        weights: String,
        /// What packs all, and how to leave these dense.
        advice: String,
    },
    /// The model cannot be spread over devices as it is asked for.
    #[error(transparent)]
    Map(Box<MapError>),
    /// The checkpoint's dialect and its tensors disagree.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// The checkpoint has it packed already.
    #[error(
        "{tensor} is packed as {format} in the checkpoint and cannot become {quant}: quantize the model it was made from, or take its values as the source with `--requantize` (`LoadConfig::requantize`)"
    )]
    Packed {
        /// The tensor.
        tensor: String,
        /// How it is packed.
        format: Format,
        /// What was asked for.
        quant: String,
    },
    /// More bytes than were asked for, whatever is chosen.
    #[error(
        "{asked} leaves {budget} bytes for the weights that are chosen for, {}; ask for more, or name smaller candidates",
        match needed {
            Some(needed) => format!("the smallest candidates take {needed}"),
            None => "and some of them no candidate can pack".to_owned(),
        }
    )]
    Budget {
        /// What was asked for.
        asked: String,
        /// Bytes that it leaves.
        budget: u64,
        /// Bytes of the smallest candidates; `None` where there is no candidate for some weight.
        needed: Option<u64>,
    },
    /// Its columns can not be balanced any more.
    #[error(
        "{tensor} is packed as {format} in the checkpoint and its columns cannot be balanced; balance the model it was made from, or take its values as the source with `--requantize`"
    )]
    Balance {
        /// The tensor.
        tensor: String,
        /// How it is packed.
        format: Format,
    },
    /// A dense matrix that is to be saved as it is stored, and balanced.
    #[error(
        "{tensor} is stored [in, out] and stays dense, and such a matrix cannot be balanced in a saved model; quantize it, or do not balance"
    )]
    Turned {
        /// The tensor.
        tensor: String,
    },
    /// A packed matrix that a dense file has the other way round.
    #[error(
        "{tensor} is packed as [out, in], and a dense file has it as [in, out]: it cannot be saved dense; save it packed, or load it"
    )]
    Unturned {
        /// The tensor.
        tensor: String,
    },
    /// Columns are to be balanced, and nobody says of which weights.
    #[error(
        "the architecture names no layers that share an input, so no columns can be balanced; load without that"
    )]
    NoLinks,
    /// A link of the architecture names something else than a slot.
    #[error(
        "a link of the architecture names {name}, and no slot has that name; `links` and `slots` of the architecture disagree"
    )]
    LinkName {
        /// The name.
        name: String,
    },
    /// A link of the architecture between weights that do not go together.
    #[error(
        "{tensor} shares {found} features where {expected} are made; `links` of the architecture is wrong"
    )]
    Link {
        /// The tensor.
        tensor: String,
        /// Features that it has.
        found: usize,
        /// Features of what makes them.
        expected: usize,
    },
    /// A pattern without a tensor.
    #[error(
        "pattern `{pattern}` names no weight that can be quantized; `firebox plan` lists the names"
    )]
    IdlePattern {
        /// The pattern.
        pattern: String,
    },
    /// A type of dense values where no GGUF file is written.
    #[error(
        "`{quant}` is a type of GGUF files: add `--to gguf`, or leave weights as they are stored (`none`); the type of a loaded model is `--dtype`"
    )]
    DenseType {
        /// The type.
        quant: String,
    },
    /// Too large for the device.
    #[error(
        "the finished weights are {needed} bytes and {in_flight} more are in flight, {target} has {memory}; quantize further or choose another target"
    )]
    DoesNotFit {
        /// Bytes of finished weights.
        needed: u64,
        /// Bytes of source weights in flight.
        in_flight: u64,
        /// Bytes the device has.
        memory: u64,
        /// [`Target::NAME`](crate::Target::NAME).
        target: String,
    },
    /// Weights are to be as wide as fits, and nobody knows how much does.
    #[error(
        "{target} does not tell how much memory it has; give a device budget, or a size: auto:size=8GiB"
    )]
    NoBudget {
        /// [`Target::NAME`](crate::Target::NAME).
        target: &'static str,
    },
    /// The host has less memory than the load takes at least, by its budget or by itself.
    #[error(
        "{needed} bytes of host memory are needed at least, {kept} of them for finished weights{} and {at_once} to read {tensor}, and {budget} may be used; raise the budget, quantize further, or stream from a disk",
        if *lists > 0 { format!(", {lists} for the lists of tensors") } else { String::new() }
    )]
    HostBudget {
        /// Bytes that may be used.
        budget: u64,
        /// Bytes that are needed.
        needed: u64,
        /// Of these, finished weights that stay.
        kept: u64,
        /// Of these, what is known about each tensor, where there are many.
        lists: u64,
        /// Of these, the largest read that cannot be split.
        at_once: u64,
        /// The tensor that is read so.
        tensor: String,
    },
    /// What has to stay together of a weight is more than kernels count to.
    #[error(
        "{tensor} cannot be cut below {needed} values, and kernels of {target} count to {largest}; quantize it otherwise or choose another target"
    )]
    Values {
        /// The tensor.
        tensor: String,
        /// Values that stay together.
        needed: usize,
        /// What kernels count to.
        largest: usize,
        /// [`Target::NAME`](crate::Target::NAME).
        target: String,
    },
    /// What has to stay together of a weight is too large for one allocation of the device.
    #[error(
        "{tensor} cannot be cut below {needed} bytes, the largest allocation of {target} is {largest}; quantize it otherwise or choose another target"
    )]
    Allocation {
        /// The tensor.
        tensor: String,
        /// Bytes of the smallest part.
        needed: u64,
        /// Bytes of the largest allocation.
        largest: u64,
        /// [`Target::NAME`](crate::Target::NAME).
        target: String,
    },
}
