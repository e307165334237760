//! Packed tensors whose declaration is not in `config.json`: it is in a file of the project beside, or the tensors leave no choice.

use serde_json::{Map, Value, json};

use super::{DialectError, detect::signs};
use crate::source::{Catalog, StoredType, TensorInfo};

/// The field that a declaration goes to.
pub(crate) const FIELD: &str = "quantization_config";

/// A file with a declaration, and the function that makes a `quantization_config` of the file.
type DeclarationFile = (&'static str, fn(Value) -> Option<Value>);

/// Of ModelOpt, AutoGPTQ and AutoAWQ.
pub(crate) const FILES: [DeclarationFile; 3] = [
    ("hf_quant_config.json", modelopt),
    ("quantize_config.json", gptq),
    ("quant_config.json", awq),
];

/// Whether a tensor is packed in some dialect.
pub(crate) fn has_packed(catalog: &Catalog) -> bool {
    catalog.iter().any(|tensor| !signs(tensor).is_empty())
}

fn modelopt(file: Value) -> Option<Value> {
    let mut quantization = file.get("quantization")?.as_object()?.clone();
    quantization.insert("quant_method".to_owned(), json!("modelopt"));
    Some(quantization.into())
}

fn gptq(file: Value) -> Option<Value> {
    let mut fields = file.as_object()?.clone();
    fields.entry("quant_method").or_insert(json!("gptq"));
    Some(fields.into())
}

/// AutoAWQ wrote other words before transformers read its files.
fn awq(file: Value) -> Option<Value> {
    let mut fields = Map::new();
    for (field, value) in file.as_object()? {
        let field = match &**field {
            "w_bit" => "bits",
            "q_group_size" => "group_size",
            field => field,
        };
        fields.insert(field.to_owned(), value.clone());
    }
    fields.entry("quant_method").or_insert(json!("awq"));
    Some(fields.into())
}

/// The declaration that the tensors leave no choice about.
///
/// # Errors
///
/// [`DialectError::Undeclared`] for packed tensors that may mean several things.
pub(crate) fn infer(catalog: &Catalog) -> Result<Option<Value>, DialectError> {
    let mut packed = catalog.iter().filter(|tensor| !signs(tensor).is_empty());
    let Some(first) = packed.next() else {
        return Ok(None);
    };
    let has = |end: &str| catalog.iter().any(|tensor| tensor.name.ends_with(end));
    let declared = match signs(first) {
        ["bitsandbytes"] => bitsandbytes(catalog),
        ["fp8"] => fp8(catalog),
        ["mxfp4"] => Some(json!({ "quant_method": "mxfp4" })),
        _ if has(".weight_global_scale") => Some(nvfp4_of_compressed_tensors(catalog)),
        _ if has(".weight_scale_2") => Some(json!({
            "quant_method": "modelopt",
            "quant_algo": "NVFP4",
            "ignore": plain_modules(catalog, |module| catalog.get(&format!("{module}.weight_scale_2")).is_some()),
        })),
        _ => floats(catalog),
    };
    match declared {
        Some(declared) => Ok(Some(declared)),
        None => Err(DialectError::Undeclared {
            tensor: first.name.to_string(),
            dtype: first.dtype,
            of: signs(first).join(" or "),
        }),
    }
}

/// States say what every 4-bit weight is; weights of 8 bits are of one kind.
fn bitsandbytes(catalog: &Catalog) -> Option<Value> {
    const STATE: &str = ".quant_state.bitsandbytes__";
    let any = |is: &dyn Fn(&str) -> bool| catalog.iter().any(|tensor| is(&tensor.name));
    let skip = plain_modules(catalog, |module| {
        let has = |end: &str| catalog.get(&format!("{module}{end}")).is_some();
        has(".SCB") || has(".weight.absmax")
    });
    let levels =
        ["nf4", "fp4"].map(|levels| any(&|name| name.ends_with(&format!("{STATE}{levels}"))));
    let int8 = any(&|name| name.ends_with(".SCB"));
    let quant_type = match (levels, int8) {
        ([true, false], false) => "nf4",
        ([false, true], false) => "fp4",
        ([false, false], true) => {
            return Some(json!({
                "quant_method": "bitsandbytes",
                "load_in_8bit": true,
                "llm_int8_skip_modules": skip,
            }));
        }
        _ => return None,
    };
    Some(json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": any(&|name| name.ends_with(".nested_absmax")),
        "llm_int8_skip_modules": skip,
    }))
}

/// A scale for each tile of 128 x 128, which all projects have, or one for each weight.
fn fp8(catalog: &Catalog) -> Option<Value> {
    const SIDE: usize = 128;
    const SCALE: &str = "_scale_inv";
    let scales = || catalog.iter().filter(|tensor| tensor.name.ends_with(SCALE));
    let weight = |scale: &TensorInfo| catalog.get(scale.name.strip_suffix(SCALE)?);
    let all = |fits: &dyn Fn(&TensorInfo, &TensorInfo) -> bool| {
        scales().all(|scale| weight(scale).is_some_and(|weight| fits(weight, scale)))
    };
    let of_type = |dtype| all(&|weight, _| weight.dtype == dtype);
    let fmt = match (of_type(StoredType::F8E4M3), of_type(StoredType::F8E5M2)) {
        (true, _) => "e4m3",
        (_, true) => "e5m2",
        _ => return None,
    };
    let tiles =
        |weight: &TensorInfo, scale: &TensorInfo| match (&weight.shape[..], &scale.shape[..]) {
            ([outer @ .., o, i], [scale_outer @ .., down, across]) => {
                outer == scale_outer && [o.div_ceil(SIDE), i.div_ceil(SIDE)] == [*down, *across]
            }
            _ => false,
        };
    let block = match (all(&tiles), all(&|_, scale| scale.elements() == 1)) {
        (true, _) => json!([SIDE, SIDE]),
        (_, true) => Value::Null,
        _ => return None,
    };
    let skip = plain_modules(catalog, |module| {
        catalog.get(&format!("{module}.weight{SCALE}")).is_some()
    });
    Some(json!({
        "quant_method": "fp8",
        "fmt": fmt,
        "weight_block_size": block,
        "modules_to_not_convert": skip,
    }))
}

/// One scale for a weight or for each of its rows is multiplied by in every dialect that calls it `weight_scale`.
fn floats(catalog: &Catalog) -> Option<Value> {
    const SCALE: &str = "_scale";
    let mut scales = catalog.iter().filter(|tensor| !signs(tensor).is_empty());
    let (mut one, mut by_rows) = (true, true);
    scales.try_for_each(|scale| {
        let weight = catalog.get(scale.name.strip_suffix(SCALE)?)?;
        let [rows, _] = weight.shape[..] else {
            return None;
        };
        one &= scale.elements() == 1;
        by_rows &= [&[rows][..], &[rows, 1]].contains(&&scale.shape[..]);
        (weight.dtype == StoredType::F8E4M3).then_some(())
    })?;
    let algorithm = match (one, by_rows) {
        (true, _) => "FP8",
        (_, true) => "FP8_PER_CHANNEL_PER_TOKEN",
        _ => return None,
    };
    let skip = plain_modules(catalog, |module| {
        catalog.get(&format!("{module}.weight{SCALE}")).is_some()
    });
    Some(json!({ "quant_method": "modelopt", "quant_algo": algorithm, "ignore": skip }))
}

fn nvfp4_of_compressed_tensors(catalog: &Catalog) -> Value {
    let weights = json!({
        "num_bits": 4,
        "type": "float",
        "strategy": "tensor_group",
        "group_size": 16,
        "symmetric": true,
    });
    json!({
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "config_groups": { "group_0": { "targets": ["Linear"], "weights": weights } },
        "ignore": plain_modules(catalog, |_| false),
    })
}

/// The modules with a matrix that is not packed.
fn plain_modules(catalog: &Catalog, is_packed: impl Fn(&str) -> bool) -> Vec<&str> {
    let matrices = catalog.iter().filter(|tensor| tensor.shape.len() == 2);
    let modules = matrices.filter_map(|tensor| tensor.name.strip_suffix(".weight"));
    modules.filter(|module| !is_packed(module)).collect()
}
