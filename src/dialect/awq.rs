//! AWQ, as AutoAWQ saves it in its GEMM layout. Read only: its codes come from a calibration that is not made here.
//!
//! ```text
//! X.qweight    I32 [in, out / 8], eight outputs a word in the order 0 2 4 6 1 3 5 7
//! X.qzeros     I32 [in / group, out / 8], the same
//! X.scales     F16 [in / group, out]
//! ```

use std::sync::Arc;

use firebox_kernels::format::{Affine, Along, Format, Offset};

use super::{
    Adopt, Assembly, CodesAndScales, Dialect, DialectError, Files, Parts,
    compressed_tensors::whole::filled,
    lookup::Lookup,
    names::Excepted,
    stream::joined,
    transposed::{AWQ, GPTQ, awq_words, gptq_words, group_size, parts, transposed},
    whole::{ScaleSpan, Whole},
};
use crate::{model::fields::Fields, source::TensorInfo};

const SKIP: &str = "modules_to_not_convert";
/// AutoAWQ's name for the layout, and GPTQModel's.
const FORMATS: [&str; 3] = ["version", "checkpoint_format", "format"];
const BITS: usize = 4;
/// Where in a word the code of each of eight outputs is.
const PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

#[derive(Debug)]
struct Awq {
    group: Option<usize>,
    excepted: Excepted,
}

pub(super) fn declared(config: Fields<'_>) -> Result<Arc<dyn Dialect>, DialectError> {
    match config.count("bits")? {
        Some(BITS) => {}
        Some(bits) => return Err(config.unsupported("bits", bits, "4").into()),
        None => return Err(config.missing("bits").into()),
    }
    for field in FORMATS {
        if let Some(format) = config.text(field)?
            && !format.eq_ignore_ascii_case("gemm")
        {
            return Err(config.unsupported(field, format, "gemm").into());
        }
    }
    if config.flag("zero_point")? == Some(false) {
        return Err(config.unsupported("zero_point", false, "true").into());
    }
    Ok(Arc::new(Awq {
        group: group_size(config)?,
        excepted: Excepted::new(config, SKIP)?,
    }))
}

impl Dialect for Awq {
    fn name(&self) -> &'static str {
        AWQ
    }

    fn weight_of(
        &self,
        tensor: &TensorInfo,
        files: &Files<'_>,
    ) -> Result<Option<(String, Vec<usize>)>, DialectError> {
        let (Some(module), &[inputs, words]) =
            (tensor.name.strip_suffix(".qweight"), &tensor.shape[..])
        else {
            return Ok(None);
        };
        let scales = files.catalog.get(&format!("{module}.scales"));
        let out = match scales.map(|scales| &scales.shape[..]) {
            Some(&[_, out]) => out,
            _ => words * 32 / BITS,
        };
        Ok(Some((format!("{module}.weight"), vec![out, inputs])))
    }

    fn adopt_matrix(&self, lookup: &Lookup<'_>) -> Result<Option<Adopt>, DialectError> {
        let Some(codes) = lookup.codes("qweight", &self.excepted)? else {
            return Ok(None);
        };
        let shape @ [o, i] = lookup.shape;
        let group = self.group.unwrap_or(i).max(1);
        let (groups, across) = (i.div_ceil(group), o.div_ceil(8));
        let other = (GPTQ, gptq_words(shape, BITS));
        let shapes = [awq_words(shape), [groups, across], [groups, o]];
        let (parts, params) = parts(lookup, codes, other, shapes)?;
        let affine = Affine::new(BITS, group, Along::Flat, Offset::Zero, params);
        let affine = lookup.format(affine)?;
        let format = Format::Affine(affine);
        if !i.is_multiple_of(group) {
            let found = format!("rows of {i} weights");
            let declared = format!("{group}, which does not divide them");
            lookup.agree(codes, found, "group_size", declared)?;
        }
        let adopt = Adopt::new(format, parts, Assembly::Awq);
        let whole = Whole {
            bits: BITS,
            scale: self.group.map_or(ScaleSpan::Channel, ScaleSpan::Group),
            symmetric: false,
            words: true,
        };
        Ok(Some(adopt.from(whole.into())))
    }
}

pub(super) fn assemble(parts: &Parts<'_>, affine: Affine) -> CodesAndScales {
    let shape @ [o, i] = parts.shape();
    let (groups, across) = (i.div_ceil(affine.group), o.div_ceil(8));
    let code = |words: &[u32], row: usize, r: usize| {
        words[row * across + r / 8] >> (BITS * PLACES[r % 8]) & 0xf
    };
    let stored = parts.stored(2);
    let scales = transposed(affine, [o, groups], |r, g| {
        let zero = code(&parts.words[1], g, r);
        (stored[g * o + r], affine.params.to_bits(zero as f32))
    });
    let words = joined(BITS, shape, |r, c| code(&parts.words[0], c, r));
    (filled(words, affine, shape), scales)
}
