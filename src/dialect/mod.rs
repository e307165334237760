//! How the Python world writes quantized weights to disk.
//!
//! ```text
//! config.json ─┐
//!              ├─► detect ─► Dialect ──find(slot)──► Adopt: which tensors, which format
//! catalog ─────┘                                       │
//!                            the pipeline reads them ──┴─► assemble ─► packed weight
//! ```
//!
//! A dialect is declared by `config.json` and seen in names, types and shapes of tensors. All of them have to
//! agree: a file that is read in the wrong dialect loads without a complaint and answers nonsense. So nothing
//! is guessed, and every disagreement is an error that names both sides.
//!
//! Codes and scales are adopted, put into our order, and never computed anew.

mod error;
mod find;
mod names;
mod stream;
mod write;

mod awq;
mod bitsandbytes;
mod compressed_tensors;
mod fp8;
mod gptq;
mod hqq;
mod mlx;

use compressed_tensors::whole::Whole;
pub use error::DialectError;
use find::Find;
pub(crate) use write::dtype;
pub use write::{Codes, Elements, Tensor, To, Writer};

use core::fmt;
use std::sync::Arc;

use firebox_kernels::{
    arith::float::DType,
    format::{Format, Packed},
    formats::hqq::Hqq,
};
use serde_json::Value;

use crate::{
    model::{Slot, fields::Fields},
    source::{Catalog, StoredType, TensorInfo},
};

/// How one project writes quantized weights to disk.
pub trait Dialect: fmt::Debug + Send + Sync {
    /// The word for it: `bitsandbytes`.
    fn name(&self) -> &'static str;

    /// What the weight of `slot` is made of, `None` where the checkpoint has it as plain numbers, or not at
    /// all.
    ///
    /// # Errors
    ///
    /// [`DialectError`] when configuration and tensors disagree.
    fn find(&self, slot: &Slot, catalog: &Catalog) -> Result<Option<Adopt>, DialectError> {
        match Find::new(self.name(), slot, catalog) {
            Some(find) => self.adopt(&find),
            None => Ok(None),
        }
    }

    /// The same for a weight that can be packed.
    #[doc(hidden)]
    fn adopt(&self, find: &Find<'_>) -> Result<Option<Adopt>, DialectError>;

    /// Whether `tensor` is one of the dialect's that no weight needs: the scale of activations.
    fn leaves_out(&self, tensor: &str) -> bool {
        let _ = tensor;
        false
    }
}

/// A packed weight of a checkpoint: its tensors, and what they become.
#[derive(Clone)]
pub struct Adopt {
    /// What the packed weight is.
    pub format: Format,
    /// The tensors, codes first.
    pub parts: Vec<TensorInfo>,
    assemble: Arc<Assemble>,
    said: Said,
}

/// What the file says of a weight beyond its format, for whoever writes it again.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Said {
    Nothing,
    /// The type that the weight, and so its scales, had.
    Float(DType),
    /// Scales are powers of two, and stored as such.
    Powers,
    /// In compressed-tensors' words.
    Whole(Whole),
    /// In hqq's.
    Hqq(Hqq),
}

type Assemble = dyn Fn(&mut Parts<'_>) -> Result<Halves, DialectError> + Send + Sync;

/// Words of codes and words of scales.
type Halves = (Vec<u32>, Vec<u32>);

impl Adopt {
    /// `assemble` makes words and scales of the format from what the parts hold.
    fn new(
        format: Format,
        parts: Vec<TensorInfo>,
        assemble: impl Fn(&mut Parts<'_>) -> Result<Halves, DialectError> + Send + Sync + 'static,
    ) -> Self {
        let assemble = Arc::new(assemble);
        Self {
            format,
            parts,
            assemble,
            said: Said::Nothing,
        }
    }

    /// The type that the weight had before it was packed, where the file says it.
    pub(crate) fn float(&self) -> Option<DType> {
        match self.said {
            Said::Float(float) => Some(float),
            _ => None,
        }
    }

    fn saying(self, said: Said) -> Self {
        Self { said, ..self }
    }

    /// The weight of `shape`, from the bytes of its parts in words, filled up with zeros.
    pub(crate) fn assemble(
        &self,
        shape: [usize; 2],
        words: Vec<Vec<u32>>,
    ) -> Result<Packed, DialectError> {
        let mut parts = Parts {
            tensors: &self.parts,
            words,
        };
        let (words, scales) = (self.assemble)(&mut parts)?;
        Packed::new(self.format, shape, words, scales).map_err(|source| DialectError::Format {
            tensor: self.parts[0].name.to_string(),
            source,
        })
    }
}

impl fmt::Debug for Adopt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, parts, .. } = self;
        f.debug_struct("Adopt")
            .field("format", format)
            .field("parts", parts)
            .finish_non_exhaustive()
    }
}

/// What the parts of a packed weight hold, by their place in [`Adopt::parts`].
struct Parts<'a> {
    tensors: &'a [TensorInfo],
    words: Vec<Vec<u32>>,
}

impl Parts<'_> {
    fn tensor(&self, part: usize) -> &TensorInfo {
        &self.tensors[part]
    }

    /// The bytes in words, without a copy.
    fn take(&mut self, part: usize) -> Vec<u32> {
        core::mem::take(&mut self.words[part])
    }

    fn bytes(&self, part: usize) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words[part]);
        &bytes[..self.tensors[part].bytes() as usize]
    }

    /// Floats of any type that [`find`] lets through as scales, as bits of `f32`.
    fn floats(&self, part: usize) -> Vec<u32> {
        let (tensor, bytes) = (self.tensor(part), self.bytes(part));
        match plain(tensor.dtype) {
            Some(float) => {
                let mut values = vec![0.0; tensor.elements() as usize];
                float.widen(bytes, &mut values);
                values.into_iter().map(f32::to_bits).collect()
            }
            // An exponent alone, 2^(byte - 127); 0 is below the normal numbers, 255 is NaN.
            None => bytes
                .iter()
                .map(|byte| match byte {
                    0 => 1 << 22,
                    255 => f32::NAN.to_bits(),
                    exponent => u32::from(*exponent) << 23,
                })
                .collect(),
        }
    }

    /// Plain numbers as they are stored, 16-bit ones in the low half of a word.
    fn stored(&self, part: usize) -> Vec<u32> {
        let bytes = self.bytes(part);
        if self.tensor(part).dtype == StoredType::F32 {
            return bytemuck::pod_collect_to_vec(bytes);
        }
        let (halves, _) = bytes.as_chunks();
        let halves = halves.iter().map(|half| u16::from_le_bytes(*half));
        halves.map(u32::from).collect()
    }

    fn wrong(&self, part: usize, found: impl ToString, expected: impl ToString) -> DialectError {
        DialectError::Value {
            tensor: self.tensor(part).name.to_string(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }
}

/// The float type of plain numbers.
pub(crate) fn plain(dtype: StoredType) -> Option<DType> {
    match dtype {
        StoredType::F32 => Some(DType::F32),
        StoredType::F16 => Some(DType::F16),
        StoredType::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

/// The field that MLX declares itself in; it copies it to `quantization_config`.
const MLX_FIELD: &str = "quantization";
/// Where everybody else does, and where old compressed-tensors files do.
const FIELDS: [&str; 2] = ["quantization_config", "compression_config"];

/// Every field that declares a quantization.
pub(crate) const DECLARED: [&str; 3] = [MLX_FIELD, FIELDS[0], FIELDS[1]];

/// The dialect of a checkpoint, `None` where its weights are plain numbers.
///
/// # Errors
///
/// [`DialectError`] for a dialect that is not read, for a configuration that cannot be, and for tensors of
/// another dialect than the declared one.
pub fn detect(config: &Value, catalog: &Catalog) -> Result<Option<Arc<dyn Dialect>>, DialectError> {
    let dialect = declared(config)?;
    let name = dialect.as_ref().map(|dialect| dialect.name());
    let mut own = false;
    for tensor in catalog.iter() {
        let of = signs(tensor);
        if of.is_empty() {
            continue;
        }
        match name {
            Some(name) if of.contains(&name) => own = true,
            _ => {
                return Err(DialectError::Signs {
                    tensor: tensor.name.to_string(),
                    dtype: tensor.dtype,
                    of: of.join(" or "),
                    declared: name.map_or("nothing", |name| name),
                });
            }
        }
    }
    match name {
        Some(declared) if !own => Err(DialectError::NoSigns { declared }),
        _ => Ok(dialect),
    }
}

fn declared(config: &Value) -> Result<Option<Arc<dyn Dialect>>, DialectError> {
    let root = Fields::root(config)?;
    let mlx = root.object(MLX_FIELD, "quantization.")?;
    let mut others = FIELDS.into_iter().filter(|field| root.get(field).is_some());
    let Some(field) = others.next() else {
        return mlx.map(mlx::declared).transpose();
    };
    if let Some(second) = others.next() {
        return Err(DialectError::Declared {
            first: field.to_owned(),
            second: second.to_owned(),
        });
    }
    let other = root.object(field, "quantization_config.")?;
    let other = other.expect("the field is there");
    match (mlx, other.text("quant_method")?) {
        (Some(mlx), None) if root.get(MLX_FIELD) == root.get(field) => mlx::declared(mlx).map(Some),
        (Some(_), _) => Err(DialectError::Declared {
            first: MLX_FIELD.to_owned(),
            second: field.to_owned(),
        }),
        (None, Some("bitsandbytes")) => bitsandbytes::declared(other).map(Some),
        (None, Some("compressed-tensors")) => compressed_tensors::declared(other).map(Some),
        (None, Some("fp8")) => fp8::declared(other).map(Some),
        (None, Some("hqq")) => hqq::declared(other).map(Some),
        (None, Some("gptq")) => gptq::declared(other).map(Some),
        (None, Some("awq")) => awq::declared(other).map(Some),
        (None, Some("torchao")) => Err(DialectError::Refused {
            dialect: "torchao",
            reason: "its tensors are pickled Python objects or a prototype layout, and its NF4 has \
                     8-bit scales that are not bitsandbytes'",
        }),
        (None, Some(found)) => Err(other
            .unsupported("quant_method", found, names::KNOWN)
            .into()),
        (None, None) => Err(other.missing("quant_method").into()),
    }
}

/// Whether the weight `name` is packed in some dialect, by the tensors that are there.
pub(crate) fn is_packed(name: &str, catalog: &Catalog) -> bool {
    const BESIDE: [&str; 7] = [
        "W_q",
        "qweight",
        "weight_packed",
        "weight_scale",
        "weight_scale_inv",
        "SCB",
        "weight.absmax",
    ];
    let own = catalog.get(name);
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let mut beside = BESIDE.iter();
    own.is_some_and(|tensor| !signs(tensor).is_empty())
        || beside.any(|part| catalog.get(&format!("{module}.{part}")).is_some())
}

/// The dialects that write a tensor of such a name and type; none for plain weights.
fn signs(tensor: &TensorInfo) -> &'static [&'static str] {
    let name = &*tensor.name;
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
    if name.contains(".quant_state.bitsandbytes__") || ends(&[".SCB", ".nested_absmax"]) {
        &["bitsandbytes"]
    } else if ends(&[".weight_scale_inv"]) {
        &["fp8"]
    } else if ends(&[".weight_scale"]) {
        &["compressed-tensors", "fp8"]
    } else if ends(&[".weight_packed", ".weight_shape"]) {
        &["compressed-tensors"]
    } else if ends(&[".W_q"]) {
        &["hqq"]
    } else if ends(&[".qweight", ".qzeros"]) {
        &["gptq", "awq"]
    } else if ends(&[".weight"]) && tensor.dtype == StoredType::U32 {
        &["mlx"]
    } else {
        &[]
    }
}
