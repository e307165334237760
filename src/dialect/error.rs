//! Configurations and tensors that disagree.

use firebox_kernels::format::{Format, FormatError};

use crate::{
    config::To,
    model::{ConfigError, Role},
    source::StoredType,
};

/// A quantized checkpoint that is not what it says, or that is not read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DialectError {
    /// Two fields of `config.json` declare two dialects.
    #[error(
        "config.json: `{first}` and `{second}` declare two quantizations; one of them is of another saving, remove it"
    )]
    Declared {
        /// One field.
        first: String,
        /// The other.
        second: String,
    },
    /// A tensor of a dialect that is not declared.
    #[error(
        "{tensor} ({dtype}) is a tensor of {of}, and config.json declares {declared}; take the config.json that was saved with these weights"
    )]
    Signs {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: StoredType,
        /// Who writes such tensors.
        of: String,
        /// What the configuration says.
        declared: &'static str,
    },
    /// Packed tensors that no file says anything about.
    #[error(
        "{tensor} ({dtype}) is a tensor of {of}, and neither config.json nor a file beside it says how it is packed: `quantization_config` is \
         missing; copy it from the model's page"
    )]
    Undeclared {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: StoredType,
        /// Who writes such tensors.
        of: String,
    },
    /// A declared dialect without a tensor of it.
    #[error(
        "config.json declares {declared} (`{field}`), and no tensor is of it: these are the weights before they were quantized, or \
         others; remove `{field}` to load them as they are"
    )]
    NoSigns {
        /// What the configuration says.
        declared: String,
        /// The field that says so.
        field: &'static str,
    },
    /// A dialect that is known and not read.
    #[error("{dialect} checkpoints are not read: {reason}")]
    Refused {
        /// The dialect.
        dialect: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A field of the configuration cannot be, or asks for something unknown.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A regular expression of the configuration that cannot be looked up in bearable time.
    #[error(
        "config.json: the expression {pattern} goes back more than {steps} times to find out whether it means {module}; write a simpler one"
    )]
    Pattern {
        /// The expression.
        pattern: String,
        /// The name of a module.
        module: String,
        /// The most steps.
        steps: usize,
    },
    /// A part of a packed weight is not there.
    #[error(
        "{weight} is packed by {dialect}, and {part} is missing; the checkpoint is incomplete, fetch its files again"
    )]
    Missing {
        /// The weight.
        weight: String,
        /// The dialect.
        dialect: &'static str,
        /// The tensor that should be there.
        part: String,
    },
    /// A weight that should be packed and is not.
    #[error(
        "{tensor} ({dtype}) is not packed, and `{field}` of config.json does not except it; shards of two savings are mixed, or the list is incomplete"
    )]
    Unpacked {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: StoredType,
        /// The list of exceptions.
        field: &'static str,
    },
    /// A weight that should not be packed and is.
    #[error(
        "{tensor} is packed, and by `{field}` of config.json it is not; take the config.json that was saved with these weights"
    )]
    Excepted {
        /// The tensor.
        tensor: String,
        /// The list of exceptions, or of what is packed.
        field: &'static str,
    },
    /// A tensor contradicts a field of the configuration.
    #[error(
        "{tensor} says {found}, `{field}` of config.json says {declared}; take the config.json that was saved with these weights"
    )]
    Field {
        /// The tensor.
        tensor: String,
        /// What it says.
        found: String,
        /// The field.
        field: String,
        /// What that says.
        declared: String,
    },
    /// A part of another type.
    #[error("{tensor} is {found}, {dialect} has {expected} there")]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: StoredType,
        /// The dialect.
        dialect: &'static str,
        /// What it should be.
        expected: String,
    },
    /// A part of another shape.
    #[error("{tensor} is {found:?}, a weight of {weight:?} has {expected} there in {dialect}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The weight's shape.
        weight: [usize; 2],
        /// The shapes it can have.
        expected: String,
        /// The dialect.
        dialect: &'static str,
    },
    /// A stack without the matrix of an expert.
    #[error(
        "{slot} is matrix {nth} of {tensor}, counted from 0, which is {found:?}: {dialect} has one matrix for each expert there; weights and config are of different models"
    )]
    NoExpert {
        /// The weight of the expert.
        slot: String,
        /// The number of the expert.
        nth: usize,
        /// The tensor of the stack.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The dialect.
        dialect: &'static str,
    },
    /// A part that holds something else than it must.
    #[error("{tensor} holds {found}, expected {expected}")]
    Value {
        /// The tensor.
        tensor: String,
        /// The value in the file.
        found: String,
        /// The value that would be right.
        expected: String,
    },
    /// A tensor that has to describe a weight cannot be read.
    #[error("{tensor} has to say what a packed weight is, and cannot be read: {reason}")]
    Unreadable {
        /// The tensor.
        tensor: String,
        /// Why not.
        reason: String,
    },
    /// A plan from elsewhere makes a packed weight in a way that does not lead to its format.
    #[error(
        "{tensor}: the plan makes {format} by {recipe}, which makes another format; make the plan anew"
    )]
    Recipe {
        /// The tensor.
        tensor: String,
        /// The way.
        recipe: String,
        /// The format.
        format: Format,
    },
    /// A packed weight that the dialect cannot hold.
    #[error(
        "{tensor} ({role}) is packed as {format}, which {dialect} cannot hold there; {}",
        others(can, "it")
    )]
    Unwritable {
        /// The tensor.
        tensor: String,
        /// What it is for.
        role: Role,
        /// How it is packed.
        format: Format,
        /// The dialect.
        dialect: &'static str,
        /// The dialects that can.
        can: Vec<To>,
    },
    /// A stack of gates, which all files but those of the dialect have in one tensor with the other halves.
    #[error(
        "{tensor} has the gates of all experts, as {dialect} has them, and other files have them in one tensor with the other halves; write {dialect}"
    )]
    Apart {
        /// The tensor.
        tensor: String,
        /// The dialect.
        dialect: &'static str,
    },
    /// A matrix that dense files have as `[in, out]`, which only bitsandbytes packs.
    #[error(
        "{tensor} is stored [in, out], and {dialect} has no packed matrices of such a model; choose bitsandbytes (nf4, fp4, int8)"
    )]
    Transposed {
        /// The tensor.
        tensor: String,
        /// The dialect.
        dialect: &'static str,
    },
    /// Nobody has a file for such a weight.
    #[error(
        "{tensor}: no dialect that is written holds it as it is packed; choose another quantization, or leave it dense (`--skip`)"
    )]
    NoDialect {
        /// The tensor.
        tensor: String,
    },
    /// Nothing is packed, so there is nothing to say in a dialect.
    #[error(
        "no weight is packed, so there is nothing to write as {dialect}; ask for a quantization"
    )]
    NothingPacked {
        /// The dialect.
        dialect: &'static str,
    },
    /// Packed weights that the dialect cannot hold side by side.
    #[error(
        "{dialect} has one format in a checkpoint: {first} is {}, {second} is {}; {}",
        .formats[0], .formats[1], others(can, "both")
    )]
    Mixed {
        /// The dialect.
        dialect: &'static str,
        /// One tensor.
        first: String,
        /// Another.
        second: String,
        /// How they are packed.
        formats: Box<[Format; 2]>,
        /// The dialects that hold all weights side by side.
        can: Vec<To>,
    },
    /// The format cannot be.
    #[error("{tensor}: {source}")]
    Format {
        /// The tensor.
        tensor: String,
        /// Why not.
        source: FormatError,
    },
}

/// Advice where other dialects can hold what one cannot.
fn others(can: &[To], what: &str) -> String {
    let names = can.iter().map(|to| format!("`--to {to}`"));
    match &names.collect::<Vec<_>>()[..] {
        [] => "no dialect that is written can: choose another quantization, or leave the weight dense (`--skip`)".to_owned(),
        names => format!("{} can hold {what}, or leave the weight dense (`--skip`)", names.join(", ")),
    }
}
