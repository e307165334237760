//! `quant_method: modelopt`: FP8 and NVFP4, as NVIDIA's ModelOpt exports them.
//!
//! ```text
//! quant_algo                   X.weight                        X.weight_scale, multiplied by
//! FP8                          F8_E4M3 [out, in]               F32 [] or [1]
//! FP8_PER_CHANNEL_PER_TOKEN    F8_E4M3 [out, in]               F32 [out] or [out, 1]
//! FP8_PB_WO                    F8_E4M3 [out, in]               F32 [a, b] or [a, 1, b, 1], one for each tile of 128 x 128
//! NVFP4                        U8 [out, in / 2], two codes     F8_E4M3 [out, in / 16], and
//!                              of E2M1, the first one low      X.weight_scale_2 F32 [] or [1], multiplied by too
//! MIXED_PRECISION              `quantized_layers` has the word of each module
//! ```
//!
//! `config.json` has the declaration, or `hf_quant_config.json` beside it. `ignore` there, `exclude_modules` here, list what is plain, with
//! `*` for any letters. `input_scale`, `k_scale` and `v_scale` are of activations, which are not quantized here.

use std::{collections::HashMap, sync::Arc};

use firebox_kernels::{
    arith::float::DType,
    format::{Format, Fp8Kind, Micro, Packed, Tile},
    packing::Packing,
};
use globset::{GlobBuilder, GlobMatcher};
use serde_json::{Map, Value, json};

use super::{
    Adopt, Assembly, Codes, Dialect, DialectError, Files, PackedSlot, Tensor, Writer,
    lookup::Lookup,
    types::{beside, module},
    write::Matrices,
};
use crate::{
    config::To,
    model::{Slot, fields::Fields},
    source::{StoredType, TensorInfo},
};

pub(super) const NAME: &str = To::ModelOpt.name();
const ALGORITHM: &str = "quant_algo";
/// The list of plain modules, by its names in the two files.
const SKIP: [&str; 2] = ["ignore", "exclude_modules"];
const LAYERS: &str = "quantized_layers";
/// Sides of the tiles of FP8_PB_WO.
const SIDE: usize = 128;

/// How a module is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QuantAlgo {
    Fp8(Tile),
    Nvfp4,
}

const KNOWN: [(&str, QuantAlgo); 4] = [
    ("FP8", QuantAlgo::Fp8(Tile::Tensor)),
    ("FP8_PER_CHANNEL_PER_TOKEN", QuantAlgo::Fp8(Tile::Row)),
    (
        "FP8_PB_WO",
        QuantAlgo::Fp8(Tile::Block {
            rows: SIDE,
            cols: SIDE,
        }),
    ),
    ("NVFP4", QuantAlgo::Nvfp4),
];
const MIXED: &str = "MIXED_PRECISION";

#[derive(Debug)]
struct ModelOpt {
    /// `None` where each module has its own.
    all: Option<QuantAlgo>,
    layers: HashMap<String, QuantAlgo>,
    skip: Vec<GlobMatcher>,
    skip_field: &'static str,
}

pub(super) fn declared(config: Fields<'_>) -> Result<Arc<dyn Dialect>, DialectError> {
    // As old versions copied `hf_quant_config.json`.
    let config = config
        .object("quantization", "quantization_config.quantization.")?
        .unwrap_or(config);
    let (mut all, mut layers) = (None, HashMap::new());
    match config.text(ALGORITHM)? {
        Some(MIXED) => {
            let path = "quantization_config.quantized_layers.";
            let listed = config.object(LAYERS, path)?;
            let listed = listed.ok_or_else(|| config.missing(LAYERS))?;
            for (name, _) in listed.entries() {
                let layer = listed.object(name, "quantization_config.quantized_layers.*.")?;
                let layer = layer.ok_or_else(|| listed.missing(name))?;
                layers.insert(name.to_owned(), algorithm(layer)?);
            }
        }
        _ => all = Some(algorithm(config)?),
    }
    let field = SKIP.into_iter().find(|field| config.get(field).is_some());
    let skip_field = field.unwrap_or(SKIP[0]);
    let skip = config.texts(skip_field)?.unwrap_or_default().into_iter();
    let skip = skip.map(|text| {
        let glob = GlobBuilder::new(text).build();
        let glob = glob.map_err(|_| {
            config.value(skip_field, text, "names of modules, with * for any letters")
        });
        Ok::<_, DialectError>(glob?.compile_matcher())
    });
    Ok(Arc::new(ModelOpt {
        all,
        layers,
        skip: skip.collect::<Result<_, _>>()?,
        skip_field,
    }))
}

fn algorithm(config: Fields<'_>) -> Result<QuantAlgo, DialectError> {
    let word = config
        .text(ALGORITHM)?
        .ok_or_else(|| config.missing(ALGORITHM))?;
    let mut known = KNOWN.iter();
    match known.find(|(known, _)| known.eq_ignore_ascii_case(word)) {
        Some((_, QuantAlgo::Nvfp4)) if !matches!(config.count("group_size")?, None | Some(16)) => {
            let found = config.count("group_size")?.unwrap_or_default();
            Err(config.unsupported("group_size", found, "16").into())
        }
        Some((_, algorithm)) => Ok(*algorithm),
        None => {
            let known: Vec<&str> = KNOWN.iter().map(|(known, _)| *known).collect();
            let known = format!("{} or {MIXED}", known.join(", "));
            Err(config.unsupported(ALGORITHM, word, known).into())
        }
    }
}

impl Dialect for ModelOpt {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight_of(
        &self,
        tensor: &TensorInfo,
        files: &Files<'_>,
    ) -> Result<Option<(String, Vec<usize>)>, DialectError> {
        let Some(module) = tensor.name.strip_suffix(".weight") else {
            return Ok(None);
        };
        let has = |part: &str| files.has(&format!("{module}.{part}"));
        Ok(match (tensor.dtype, &tensor.shape[..]) {
            (StoredType::F8E4M3, shape) if has("weight_scale") => {
                Some((tensor.name.to_string(), shape.to_vec()))
            }
            (StoredType::U8, &[out, bytes]) if has("weight_scale_2") => {
                Some((tensor.name.to_string(), vec![out, 2 * bytes]))
            }
            _ => None,
        })
    }

    fn adopt_matrix(&self, lookup: &Lookup<'_>) -> Result<Option<Adopt>, DialectError> {
        let Some(weight) = lookup.weight() else {
            return Ok(None);
        };
        let names = lookup.names();
        let excepted = names.iter().any(|name| {
            let mut skip = self.skip.iter();
            skip.any(|pattern| pattern.is_match(name))
        });
        let mut of_name = names.iter().filter_map(|name| self.layers.get(name));
        let algorithm = of_name.next().copied().or(self.all);
        if super::plain(weight.dtype).is_some() {
            let plain = excepted || algorithm.is_none();
            return lookup
                .plain(Some(weight), plain, self.skip_field)
                .map(|()| None);
        }
        let field = match algorithm {
            Some(_) => self.skip_field,
            None => LAYERS,
        };
        let Some(algorithm) = algorithm.filter(|_| !excepted) else {
            return Err(lookup.excepted(field));
        };
        if let Some(factors) = lookup.beside("pre_quant_scale") {
            lookup.agree(factors, "factors of activations", ALGORITHM, "none")?;
        }
        match algorithm {
            QuantAlgo::Fp8(tile) => fp8(lookup, weight, tile).map(Some),
            QuantAlgo::Nvfp4 => nvfp4(lookup, weight, "weight_scale_2", false).map(Some),
        }
    }

    fn leaves_out(&self, tensor: &str) -> bool {
        let of_activations = [".input_scale", ".k_scale", ".v_scale", ".kv_scale"];
        of_activations.iter().any(|name| tensor.ends_with(name))
    }
}

fn fp8(lookup: &Lookup<'_>, weight: &TensorInfo, tile: Tile) -> Result<Adopt, DialectError> {
    lookup.dtype(weight, &[StoredType::F8E4M3])?;
    lookup.shape(weight, &[&lookup.shape])?;
    let scale = lookup.need("weight_scale")?;
    lookup.floats(scale)?;
    let [down, across] = tile.grid(lookup.shape);
    match tile {
        Tile::Tensor => lookup.shape(scale, &[&[], &[1], &[1, 1]])?,
        Tile::Row => lookup.shape(scale, &[&[down], &[down, 1]])?,
        Tile::Block { .. } => lookup.shape(scale, &[&[down, across], &[down, 1, across, 1]])?,
    }
    let parts = vec![weight.clone(), scale.clone()];
    let format = Format::Fp8(Fp8Kind::E4m3, tile);
    Ok(Adopt::new(format, parts, Assembly::Floats))
}

/// A weight of NVFP4, whose codes are in `codes`. Its scales are multiplied by the value of `global`, or divided where `divides`.
pub(super) fn nvfp4(
    lookup: &Lookup<'_>,
    codes: &TensorInfo,
    global: &str,
    divides: bool,
) -> Result<Adopt, DialectError> {
    let ([o, i], micro) = (lookup.shape, Micro::Nvfp4 { global: true });
    let format = lookup.format(Packing::Micro(micro).format(lookup.shape, DType::F32))?;
    lookup.dtype(codes, &[StoredType::U8])?;
    lookup.shape(codes, &[&[o, i / 2]])?;
    let scales = lookup.need("weight_scale")?;
    lookup.dtype(scales, &[StoredType::F8E4M3])?;
    lookup.shape(scales, &[&[o, i / micro.group()]])?;
    let global = lookup.need(global)?;
    lookup.dtype(global, &[StoredType::F32])?;
    lookup.shape(global, &[&[], &[1]])?;
    let parts = [codes, scales, global].map(TensorInfo::clone);
    Ok(Adopt::new(
        format,
        parts.into(),
        Assembly::Nvfp4 { divides },
    ))
}

/// Writes every packed weight by one algorithm.
#[derive(Debug)]
struct ModelOptWriter {
    algorithm: QuantAlgo,
    excepted: Vec<String>,
}

fn written(weight: &PackedSlot) -> Option<QuantAlgo> {
    match weight.format {
        _ if weight.slot.shape.len() != 2 => None,
        Format::Fp8(Fp8Kind::E4m3, tile) => {
            let known = KNOWN.iter().map(|(_, algorithm)| *algorithm);
            known
                .into_iter()
                .find(|known| *known == QuantAlgo::Fp8(tile))
        }
        Format::Micro(Micro::Nvfp4 { global: true }) => Some(QuantAlgo::Nvfp4),
        _ => None,
    }
}

pub(super) fn writer(matrices: &Matrices) -> Result<Box<dyn Writer>, DialectError> {
    let algorithm = matrices.kind(NAME, written)?;
    let excepted = matrices.excepted().into_iter().map(str::to_owned).collect();
    Ok(Box::new(ModelOptWriter {
        algorithm,
        excepted,
    }))
}

impl Writer for ModelOptWriter {
    fn config(&self) -> Vec<(&'static str, Value)> {
        let mut known = KNOWN.iter();
        let word = known.find(|(_, known)| *known == self.algorithm);
        let word = word.map_or(KNOWN[0].0, |(word, _)| *word);
        let mut weights = Map::new();
        weights.insert("dynamic".to_owned(), json!(false));
        let bits = match self.algorithm {
            QuantAlgo::Fp8(_) => 8,
            QuantAlgo::Nvfp4 => 4,
        };
        weights.insert("num_bits".to_owned(), json!(bits));
        weights.insert("type".to_owned(), json!("float"));
        if self.algorithm == QuantAlgo::Nvfp4 {
            weights.insert("group_size".to_owned(), json!(16));
        }
        let config = json!({
            "config_groups": { "group_0": { "targets": ["Linear"], "weights": weights } },
            SKIP[0]: self.excepted,
            ALGORITHM: word,
            "quant_method": NAME,
        });
        vec![("quantization_config", config)]
    }

    fn codes(&self, slot: &Slot, format: Format) -> Option<Codes> {
        let (dtype, shape) = match self.algorithm {
            QuantAlgo::Fp8(_) => (StoredType::F8E4M3, slot.shape.clone()),
            QuantAlgo::Nvfp4 => (StoredType::U8, vec![slot.shape[0], slot.shape[1] / 2]),
        };
        Some(Codes::new(slot, dtype, &shape, format))
    }

    fn tensors(&self, slot: &Slot, mut packed: Packed, _: DType) -> Vec<Tensor> {
        let codes = self.codes(slot, packed.format);
        let codes = codes.map(|codes| codes.unless_written(core::mem::take(&mut packed.words)));
        let mut tensors = codes.unwrap_or_default();
        let name = beside(slot, "weight_scale");
        let [down, across] = match self.algorithm {
            QuantAlgo::Fp8(tile) => tile.grid(packed.shape),
            QuantAlgo::Nvfp4 => [packed.shape[0], packed.shape[1] / 16],
        };
        match self.algorithm {
            QuantAlgo::Fp8(tile) => {
                let shape: &[usize] = match tile {
                    Tile::Tensor => &[],
                    Tile::Row => &[down],
                    Tile::Block { .. } => &[down, 1, across, 1],
                };
                tensors.push(Tensor::words(name, StoredType::F32, shape, packed.scales));
            }
            QuantAlgo::Nvfp4 => {
                let global = packed.scales.pop().unwrap_or_default();
                let second = format!("{}.weight_scale_2", module(slot));
                let scales = packed.scales;
                tensors.push(Tensor::words(
                    name,
                    StoredType::F8E4M3,
                    &[down, across],
                    scales,
                ));
                tensors.push(Tensor::words(second, StoredType::F32, &[], vec![global]));
            }
        }
        tensors
    }
}
