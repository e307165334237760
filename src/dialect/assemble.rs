//! From the parts of a packed weight to its words and scales.

use firebox_kernels::format::{Format, Packed};

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
            (Self::Floats, _) => {
                let scales = parts.floats(1);
                Ok((parts.take(0), scales))
            }
            (Self::Pairs, Format::Affine(affine)) => {
                let scales = affine.join(&parts.stored(1), &parts.stored(2));
                Ok((parts.take(0), scales))
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
