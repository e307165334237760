//! Which dialect a checkpoint is in: declared by `config.json`, and seen in names and types of its tensors.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Dialect, DialectError, awq, bitsandbytes, compressed_tensors, fp8, gguf, gptq, hqq, mlx,
    modelopt, mxfp4, names, plain, types::beside_name,
};
use crate::{
    config::Known,
    model::fields::Fields,
    source::{Catalog, StoredType, TensorInfo},
};

/// The field that MLX declares itself in; it copies it to `quantization_config`.
const MLX_FIELD: &str = "quantization";
/// Where everybody else does, and where old compressed-tensors files do.
const FIELDS: [&str; 2] = ["quantization_config", "compression_config"];

/// Fields of bitsandbytes, which old files have without its name.
const OLD: [&str; 2] = ["load_in_4bit", "load_in_8bit"];

/// Every field that declares a quantization.
pub(crate) const DECLARED: [&str; 3] = [MLX_FIELD, FIELDS[0], FIELDS[1]];

/// The dialect of a checkpoint, `None` where its weights are plain numbers.
///
/// # Errors
///
/// [`DialectError`] for a dialect that is not read, for a configuration that cannot be, and for tensors of
/// another dialect than the declared one.
pub fn detect(config: &Value, catalog: &Catalog) -> Result<Option<Arc<dyn Dialect>>, DialectError> {
    let is_plain = || {
        let mut tensors = catalog.iter();
        tensors.all(|tensor| plain(tensor.dtype).is_some())
    };
    let dialect = match declared(config) {
        // Whatever is declared, these are the weights without it.
        Err(_) if is_plain() => return Err(stale(config)),
        dialect => dialect?,
    };
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
        Some(_) if !own => Err(stale(config)),
        _ => Ok(dialect),
    }
}

/// The error of a declaration that no tensor bears out.
fn stale(config: &Value) -> DialectError {
    let said = DECLARED.into_iter().find(|field| !config[*field].is_null());
    let field = said.unwrap_or(FIELDS[0]);
    let method = match field {
        MLX_FIELD => Some(mlx::NAME),
        _ => config[field]["quant_method"].as_str(),
    };
    DialectError::NoSigns {
        declared: method.unwrap_or("a quantization").to_owned(),
        field,
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
        (None, Some("mxfp4")) => mxfp4::declared(other).map(Some),
        (None, Some("modelopt" | "modelopt_fp4")) => modelopt::declared(other).map(Some),
        (None, Some("hqq")) => hqq::declared(other).map(Some),
        (None, Some("gptq")) => gptq::declared(other).map(Some),
        (None, Some("awq")) => awq::declared(other).map(Some),
        (None, Some(gguf::NAME)) => Ok(Some(gguf::declared())),
        (None, Some("torchao")) => Err(DialectError::Refused {
            dialect: "torchao",
            reason: "its tensors are pickled Python objects or a prototype layout, and its NF4 has \
                     8-bit scales that are not bitsandbytes'",
        }),
        (None, Some(found)) => Err(other
            .unsupported("quant_method", found, Known::names(&names::KNOWN[..8]))
            .into()),
        // As transformers wrote it before it had another method.
        (None, None) if OLD.iter().any(|field| other.get(field).is_some()) => {
            bitsandbytes::declared(other).map(Some)
        }
        (None, None) => Err(other.missing("quant_method").into()),
    }
}

/// Whether the weight `name` is packed in some dialect, by the tensors that are there.
pub(crate) fn is_packed(name: &str, catalog: &Catalog) -> bool {
    const BESIDE: [&str; 8] = [
        "W_q",
        "qweight",
        "weight_packed",
        "weight_scale",
        "weight_scale_inv",
        "SCB",
        "weight.absmax",
        mxfp4::BLOCKS,
    ];
    let own = catalog.get(name);
    let mut beside = BESIDE.iter();
    own.is_some_and(|tensor| !signs(tensor).is_empty())
        || gguf::is_packed(name, catalog)
        || beside.any(|part| catalog.get(&beside_name(name, part)).is_some())
}

/// The dialects that write a tensor of such a name and type; none for plain weights.
pub(super) fn signs(tensor: &TensorInfo) -> &'static [&'static str] {
    let name = &*tensor.name;
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
    if name.contains(".quant_state.bitsandbytes__") || ends(&[".SCB", ".nested_absmax"]) {
        &["bitsandbytes"]
    } else if ends(&["_scale_inv"]) {
        &["fp8"]
    } else if ends(&[".weight_scale_2"]) {
        &[modelopt::NAME]
    } else if ends(&[".weight_scale"]) {
        &["compressed-tensors", "fp8", modelopt::NAME]
    } else if ends(&[".weight_packed", ".weight_shape", ".weight_global_scale"]) {
        &["compressed-tensors"]
    } else if ends(&[".W_q"]) {
        &["hqq"]
    } else if ends(&[".qweight", ".qzeros"]) {
        &["gptq", "awq"]
    } else if ends(&[mxfp4::BLOCKS]) && tensor.dtype == StoredType::U8 {
        &[mxfp4::NAME]
    } else if gguf::is_sign(tensor) {
        &[gguf::NAME]
    } else if ends(&[".weight"]) && tensor.dtype == StoredType::U32 {
        &["mlx"]
    } else {
        &[]
    }
}
