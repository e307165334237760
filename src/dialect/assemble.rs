//! From the parts of a packed weight to its words and scales.

use firebox_kernels::format::{Format, Micro, Packed};

use super::{Adopt, Assembly, CodesAndScales, DialectError, Parts, awq, bitsandbytes, gptq, hqq};

impl Adopt {
    /// The weight of `shape`, from the bytes of its parts in words, filled up with zeros.
    pub(crate) fn assemble(
        &self,
        shape: [usize; 2],
        words: Vec<Vec<u32>>,
    ) -> Result<Packed, DialectError> {
        let mut parts = Parts {
            tensors: &self.parts,
            words,
            lens: self
                .parts
                .iter()
                .map(|part| part.bytes() as usize)
                .collect(),
            whole: shape,
            rows: 0..shape[0],
            cols: 0..shape[1],
        };
        let (words, scales) = self.recipe.codes_and_scales(self.format, &mut parts)?;
        self.packed(self.format, shape, words, scales)
    }

    pub(super) fn packed(
        &self,
        format: Format,
        shape: [usize; 2],
        words: Vec<u32>,
        scales: Vec<u32>,
    ) -> Result<Packed, DialectError> {
        Packed::new(format, shape, words, scales).map_err(|source| DialectError::Format {
            tensor: self.parts[0].name.to_string(),
            source,
        })
    }
}

impl Assembly {
    /// The words and scales of the rows that `parts` has of a weight in `format`.
    pub(super) fn codes_and_scales(
        self,
        format: Format,
        parts: &mut Parts<'_>,
    ) -> Result<CodesAndScales, DialectError> {
        match (self, format) {
            (Self::Stored, _) => Ok((parts.take(0), parts.take(1))),
            (Self::Blocks, _) => Ok((parts.take(0), Vec::new())),
            (Self::Floats, _) => {
                let scales = parts.floats(1);
                Ok((parts.take(0), scales))
            }
            (Self::Pairs, Format::Affine(affine)) => {
                let scales = affine.join(&parts.stored(1), &parts.stored(2));
                Ok((parts.take(0), scales))
            }
            (Self::Nvfp4 { divides }, Format::Micro(micro)) if micro.is_global() => {
                nvfp4(parts, micro, divides)
            }
            (Self::BitsAndBytes4 { experts }, Format::Nf4(blocks) | Format::Fp4(blocks)) => {
                bitsandbytes::assemble4(parts, format, blocks, experts)
            }
            (Self::BitsAndBytes8, _) => bitsandbytes::assemble8(parts),
            (
                Self::Whole {
                    whole,
                    zeros,
                    order,
                },
                Format::Affine(affine),
            ) => whole.assemble(parts, affine, zeros, order),
            (Self::Gptq { ordered, added }, Format::Affine(affine)) => {
                gptq::assemble(parts, affine, ordered, added)
            }
            (Self::Awq, Format::Affine(affine)) => Ok(awq::assemble(parts, affine)),
            (Self::Hqq(params), Format::Affine(affine)) => hqq::assemble(parts, params, affine),
            // A plan from elsewhere may hold anything.
            (recipe, format) => Err(DialectError::Recipe {
                tensor: parts.tensor(0).name.to_string(),
                recipe: format!("{recipe:?}"),
                format,
            }),
        }
    }
}

/// A global scale that is divided by becomes the multiplier that is nearest to its inverse, as vLLM has it.
fn nvfp4(
    parts: &mut Parts<'_>,
    micro: Micro,
    divides: bool,
) -> Result<CodesAndScales, DialectError> {
    const SCALES: usize = 1;
    const GLOBAL: usize = 2;
    let global = f32::from_bits(parts.words[GLOBAL][0]);
    let factor = if divides { global.recip() } else { global };
    if !(factor.is_finite() && factor >= 0.0) {
        let expected = match divides {
            true => "a number above 0",
            false => "a number of at least 0",
        };
        return Err(parts.wrong(GLOBAL, global, expected));
    }
    let scales = micro.join(parts.bytes(SCALES), Some(factor));
    Ok((parts.take(0), scales))
}
