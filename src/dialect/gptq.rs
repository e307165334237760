//! GPTQ, as AutoGPTQ and GPTQModel save it. Read only: its codes come from a calibration that is not made here.
//!
//! ```text
//! X.qweight    I32 [in * bits / 32, out], columns of codes
//! X.qzeros     I32 [groups, out * bits / 32], rows of zero points: smaller by 1, but in `gptq_v2`
//! X.scales     F16 [groups, out]
//! X.g_idx      I32 [in], which group each input belongs to: any with `desc_act`, else in order
//! ```
//!
//! `dynamic` of GPTQModel has regular expressions for modules with other bits, groups or order, and for plain ones.
//!
//! `group_size` -1 is one group for all inputs. What is added to a stored zero point is added to each by itself, so the
//! largest that a field holds stands for none: AutoGPTQ's own kernels take it for 0 or for one more than there are
//! codes, and GPTQModel, which adds to whole words, carries into the next. It is refused.

use std::sync::Arc;

use firebox_kernels::format::{Affine, Along, Format, Offset};
use serde_json::Value;

use super::{
    Adopt, Assembly, CodesAndScales, Dialect, DialectError, Files, Parts,
    compressed_tensors::whole::{columns, filled},
    lookup::Lookup,
    names::Excepted,
    pattern::PythonPattern,
    stream::{BitStream, joined, words_of},
    transposed::{AWQ, GPTQ, awq_words, gptq_words, group_size, parts, transposed},
    whole::{ScaleSpan, Whole},
};
use crate::{
    model::fields::Fields,
    source::{StoredType, TensorInfo},
};

const DYNAMIC: &str = "dynamic";
const SKIP: &str = "modules_to_not_convert";
const FORMATS: [&str; 2] = ["checkpoint_format", "format"];

#[derive(Debug, Clone)]
struct Gptq {
    usual: GptqScheme,
    /// Exceptions of GPTQModel, in the order in which they are looked at.
    dynamic: Vec<(PythonPattern, Option<GptqScheme>)>,
    /// What is added to stored zero points.
    added: u32,
    excepted: Excepted,
}

/// How a module is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GptqScheme {
    bits: usize,
    group: Option<usize>,
    ordered: bool,
}

pub(super) fn declared(config: Fields<'_>) -> Result<Arc<dyn Dialect>, DialectError> {
    let usual = GptqScheme {
        bits: bits(config)?.ok_or_else(|| config.missing("bits"))?,
        group: group_size(config)?,
        ordered: config.flag("desc_act")?.unwrap_or(false),
    };
    Ok(Arc::new(Gptq {
        usual,
        dynamic: dynamic(config, usual)?,
        added: added(config)?,
        excepted: Excepted::new(config, SKIP)?,
    }))
}

fn bits(config: Fields<'_>) -> Result<Option<usize>, DialectError> {
    match config.count("bits")? {
        bits @ (None | Some(2 | 3 | 4 | 8)) => Ok(bits),
        Some(bits) => Err(config.unsupported("bits", bits, "2, 3, 4 or 8").into()),
    }
}

/// `dynamic`: modules that are plain (`-:` and an expression) or packed otherwise (`+:` and an expression, or the expression alone; the
/// value has the fields that differ). As GPTQModel reads it, plain ones are looked at first, and the first match counts.
fn dynamic(
    config: Fields<'_>,
    usual: GptqScheme,
) -> Result<Vec<(PythonPattern, Option<GptqScheme>)>, DialectError> {
    let Some(entries) = config.object(DYNAMIC, "quantization_config.dynamic.")? else {
        return Ok(Vec::new());
    };
    let (mut plain, mut packed) = (Vec::new(), Vec::new());
    for (key, _) in entries.entries() {
        let negative = key.strip_prefix("-:");
        let text = negative.unwrap_or(key.strip_prefix("+:").unwrap_or(key));
        let pattern = PythonPattern::new(text);
        let pattern = pattern.ok_or_else(|| {
            config.value(
                DYNAMIC,
                key,
                "a regular expression, after `+:` or `-:` or alone",
            )
        })?;
        if negative.is_some() {
            plain.push((pattern, None));
            continue;
        }
        let entry = entries.object(key, "quantization_config.dynamic.*.")?;
        let entry = entry.ok_or_else(|| entries.missing(key))?;
        for (field, only) in [
            ("pack_dtype", "int32"),
            ("format", "gptq"),
            ("quant_method", "gptq"),
        ] {
            if let Some(found) = entry.text(field)?
                && found != only
                && config.get(field).and_then(Value::as_str) != Some(found)
            {
                return Err(entry.unsupported(field, found, only).into());
            }
        }
        let group = match entry.get("group_size") {
            Some(_) => group_size(entry)?,
            None => usual.group,
        };
        let scheme = GptqScheme {
            bits: bits(entry)?.unwrap_or(usual.bits),
            group,
            ordered: entry.flag("desc_act")?.unwrap_or(usual.ordered),
        };
        packed.push((pattern, Some(scheme)));
    }
    plain.append(&mut packed);
    Ok(plain)
}

impl Gptq {
    /// How the module of one of these names is packed; `None` where it is plain.
    fn scheme(&self, names: &[String]) -> Result<Option<GptqScheme>, DialectError> {
        for (pattern, scheme) in &self.dynamic {
            for name in names {
                if pattern.is_match(name)? {
                    return Ok(*scheme);
                }
            }
        }
        Ok(Some(self.usual))
    }
}

/// What is added to stored zero points. GPTQModel says it in both fields.
fn added(config: Fields<'_>) -> Result<u32, DialectError> {
    let mut said = None;
    for field in FORMATS {
        let (format, added) = match config.text(field)? {
            None => continue,
            Some(format @ "gptq") => (format, 1),
            Some(format @ "gptq_v2") => (format, 0),
            Some(format) => {
                return Err(config.unsupported(field, format, "gptq or gptq_v2").into());
            }
        };
        if said.is_some_and(|said| said != added) {
            let expected = format!("what `{}` says", FORMATS[0]);
            return Err(config.value(field, format, expected).into());
        }
        said = Some(added);
    }
    Ok(said.unwrap_or(1))
}

/// Places in `Adopt::parts`.
const CODES: usize = 0;
const ZEROS: usize = 1;
const SCALES: usize = 2;
const ORDER: usize = 3;

impl Dialect for Gptq {
    fn name(&self) -> &'static str {
        GPTQ
    }

    fn weight_of(
        &self,
        tensor: &TensorInfo,
        files: &Files<'_>,
    ) -> Result<Option<(String, Vec<usize>)>, DialectError> {
        let (Some(module), &[words, out]) =
            (tensor.name.strip_suffix(".qweight"), &tensor.shape[..])
        else {
            return Ok(None);
        };
        // The list of groups has an entry for each input.
        let order = files.catalog.get(&format!("{module}.g_idx"));
        let inputs = match order.map(|order| &order.shape[..]) {
            Some(&[inputs]) => inputs,
            _ => {
                let scheme = self.scheme(&[module.to_owned()])?.unwrap_or(self.usual);
                words * 32 / scheme.bits
            }
        };
        Ok(Some((format!("{module}.weight"), vec![out, inputs])))
    }

    fn adopt_matrix(&self, lookup: &Lookup<'_>) -> Result<Option<Adopt>, DialectError> {
        let Some(scheme) = self.scheme(&lookup.names())? else {
            return match lookup.beside("qweight") {
                Some(_) => Err(lookup.excepted(DYNAMIC)),
                None => lookup.plain(lookup.weight(), true, DYNAMIC).map(|()| None),
            };
        };
        let Some(codes) = lookup.codes("qweight", &self.excepted)? else {
            return Ok(None);
        };
        let GptqScheme {
            bits,
            group: stated,
            ordered,
        } = scheme;
        let shape @ [o, i] = lookup.shape;
        let group = stated.unwrap_or(i).min(i).max(1);
        let groups = i.div_ceil(group);
        let other = (AWQ, awq_words(shape));
        let shapes = [
            gptq_words(shape, bits),
            [groups, words_of(o, bits)],
            [groups, o],
        ];
        let (mut parts, params) = parts(lookup, codes, other, shapes)?;
        let order = if ordered {
            Some(lookup.need("g_idx")?)
        } else {
            lookup.beside("g_idx")
        };
        if let Some(order) = order {
            lookup.dtype(order, &[StoredType::I32])?;
            lookup.shape(order, &[&[i]])?;
            parts.push(order.clone());
        }

        let along = if groups > 1 && (ordered || !i.is_multiple_of(group)) {
            Along::Ordered
        } else {
            Along::Flat
        };
        let affine = Affine::new(bits, group, along, Offset::Zero, params);
        let affine = lookup.format(affine)?;
        let recipe = Assembly::Gptq {
            ordered,
            added: self.added,
        };
        let adopt = Adopt::new(Format::Affine(affine), parts, recipe);
        // The same words and scales in another order.
        let whole = Whole {
            bits,
            scale: match stated {
                Some(stated) if stated == group => ScaleSpan::Group(group),
                _ => ScaleSpan::Channel,
            },
            symmetric: false,
            words: true,
        };
        Ok(Some(adopt.from(whole.into())))
    }
}

pub(super) fn assemble(
    parts: &Parts<'_>,
    affine: Affine,
    ordered: bool,
    added: u32,
) -> Result<CodesAndScales, DialectError> {
    let shape @ [o, i] = parts.shape();
    let (bits, groups) = (affine.bits, i.div_ceil(affine.group));
    let in_order = |c: usize| (c / affine.group) as u32;
    let mut order: Vec<u32> = (0..i).map(in_order).collect();
    if parts.tensors.len() > ORDER {
        let all_groups = parts.whole[1].div_ceil(affine.group);
        let mut list = columns(parts, ORDER, all_groups)?;
        if parts.cols.len() < list.len() {
            // Groups of the columns that are held, counted from the first of them.
            let first = in_order(parts.cols.start);
            let held = list[parts.cols.clone()].iter();
            list = held.map(|group| group.wrapping_sub(first)).collect();
        }
        if !ordered && list != order {
            let found = "groups in another order";
            return Err(parts.wrong(ORDER, found, "ascending ones, as `desc_act` is false"));
        }
        order = list;
    }
    let across = words_of(o, bits);
    let zero = |r: usize, g: usize| {
        let stream = BitStream {
            start: g * across,
            stride: 1,
            bits,
        };
        stream.get(&parts.words[ZEROS], r) + added
    };
    let mut all = (0..groups).flat_map(|g| (0..o).map(move |r| (r, g)));
    if let Some((r, g)) = all.find(|(r, g)| zero(*r, *g) >> bits != 0) {
        let (largest, r) = ((1 << bits) - 1, parts.rows.start + r);
        let found = format!("{largest} as the zero point of output {r} in group {g}");
        let expected = format!("one below {largest}, since 1 is added in checkpoint_format gptq");
        return Err(parts.wrong(ZEROS, found, expected));
    }
    let stored = parts.stored(SCALES);
    let mut scales = transposed(affine, [o, groups], |r, g| {
        (stored[g * o + r], affine.params.to_bits(zero(r, g) as f32))
    });
    if affine.along == Along::Ordered {
        scales.extend(order);
    }
    let words = joined(bits, shape, |r, c| {
        let column = BitStream {
            start: r,
            stride: o,
            bits,
        };
        column.get(&parts.words[CODES], c)
    });
    Ok((filled(words, affine, shape), scales))
}
