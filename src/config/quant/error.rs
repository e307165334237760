//! Errors in the words of a quantization.

use firebox_kernels::format::FormatError;

/// A quantization that could not be understood.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// No such method.
    #[error(
        "unknown quantization `{found}`{}; known are none, nf4, fp4, fp8, mlx, hqq, wna16, mxfp4, mxfp8, nvfp4, int8 and auto (such as {EXAMPLES})",
        nearest.as_ref().map_or(String::new(), |nearest| format!("; the nearest to it is `{nearest}`"))
    )]
    Unknown {
        /// The text that was written.
        found: String,
        /// The quantization that is nearest.
        nearest: Option<String>,
    },
    /// The method has no such option.
    #[error("`{spec}`: {method} has no option `{option}`; it has {known}")]
    Option {
        /// The whole spec.
        spec: String,
        /// The method.
        method: &'static str,
        /// The text that was written.
        option: String,
        /// The texts that are known.
        known: &'static str,
    },
    /// The option has no such value.
    #[error("`{spec}`: `{option}` cannot be `{value}`; write {known}")]
    Value {
        /// The whole spec.
        spec: String,
        /// The option.
        option: &'static str,
        /// The text that was written.
        value: String,
        /// The texts that are known.
        known: &'static str,
    },
    /// Two options say the same thing, be it in the same words.
    #[error("`{spec}`: `{first}` and `{second}` answer the same question; write one")]
    Repeated {
        /// The whole spec.
        spec: String,
        /// The text that was written first.
        first: String,
        /// The text that was written second.
        second: String,
    },
    /// Two options cannot both hold.
    #[error("`{spec}`: `{first}` and `{second}` contradict each other; write one")]
    Contradiction {
        /// The whole spec.
        spec: String,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// The values are out of range.
    #[error("`{spec}`: {source}")]
    Format {
        /// The whole spec.
        spec: String,
        /// The error of the format.
        source: FormatError,
    },
}

const EXAMPLES: &str = "`nf4:block=64,nested`, `fp8:e4m3,scale=channel`, `mlx:bits=4,group=64`";
