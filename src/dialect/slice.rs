//! Some rows and columns of a packed weight, as they are packed: the part of one of several ranks, read alone.

use core::ops::Range;

use firebox_kernels::format::{Along, Format, Packed};

use super::{
    Adopt, Assembly, DialectError, adopt::AdoptSlice, excerpt::Excerpt, part_layout::ByteRuns,
};

impl Adopt {
    /// The same weight, of which only these rows and columns are read; `None` where they cannot be read alone as they are
    /// packed.
    pub(crate) fn sliced(
        &self,
        of: [usize; 2],
        rows: &[Range<usize>],
        cols: &Range<usize>,
    ) -> Option<Self> {
        if self.turns || self.matrices().len() != 1 {
            return None;
        }
        let format = self.format.sliced(of, rows, cols).ok()?;
        // Ranges become one weight where parts of that may begin.
        let shape = [rows.iter().map(Range::len).sum(), cols.len()];
        let unit = format.part_rows(shape);
        let mut first = 0;
        for range in rows {
            if !usize::is_multiple_of(first, unit) {
                return None;
            }
            first += range.len();
        }
        let slice = AdoptSlice {
            of,
            rows: rows.to_vec(),
            cols: cols.clone(),
            all_scales: false,
        };
        let excerpts = self.excerpts_of(&slice)?;
        let is_same = |excerpt: &Excerpt| excerpt.format.is_nested() == format.is_nested();
        (rows.len() == 1 || excerpts.iter().all(is_same)).then(|| Self {
            slice: Some(slice),
            ..self.clone()
        })
    }

    /// The same weight, of which only the codes of some rows are read, and all scales: for a share of bytes, where scales lie in
    /// another order than codes. `None` where the parts do not have that.
    pub(crate) fn sliced_codes(&self, of: [usize; 2], rows: Range<usize>) -> Option<Self> {
        let is_apart = match self.recipe {
            Assembly::BitsAndBytes4 { experts } => experts == 1,
            Assembly::Nvfp4 { .. } | Assembly::Stored => true,
            _ => false,
        };
        let fits = is_apart && !self.turns && self.matrices().len() == 1;
        fits.then(|| Self {
            slice: Some(AdoptSlice {
                of,
                rows: vec![rows],
                cols: 0..of[1],
                all_scales: true,
            }),
            ..self.clone()
        })
    }

    /// Bytes that are read of every part of the weight alike.
    pub(crate) fn bytes_of_all(&self) -> u64 {
        match &self.slice {
            Some(slice) if slice.all_scales => {
                let scales = self.parts.iter().skip(1);
                scales.map(crate::source::TensorInfo::bytes).sum()
            }
            _ => 0,
        }
    }

    /// The bytes that are read: the file and the range in it, tensor by tensor.
    pub(crate) fn reads(&self) -> Vec<(&str, Range<u64>)> {
        let Some(excerpts) = self.excerpts() else {
            let parts = self.parts.iter();
            return parts
                .map(|part| (&*part.file, part.range.clone()))
                .collect();
        };
        let parts = excerpts
            .iter()
            .flat_map(|excerpt| self.parts.iter().zip(&excerpt.parts));
        let ranges = parts.flat_map(|(part, runs)| {
            let ranges = runs.iter().flat_map(|runs| runs.ranges());
            ranges.map(|range| {
                let [start, end] = [range.start, range.end].map(|at| part.range.start + at as u64);
                (&*part.file, start..end)
            })
        });
        ranges.collect()
    }

    /// What is read of a slice, one excerpt for each range of rows; `None` for a weight that is read whole.
    pub(crate) fn excerpts(&self) -> Option<Vec<Excerpt>> {
        self.excerpts_of(self.slice.as_ref()?)
    }

    fn excerpts_of(&self, slice: &AdoptSlice) -> Option<Vec<Excerpt>> {
        let AdoptSlice {
            of,
            rows,
            cols,
            all_scales,
        } = slice;
        if *all_scales {
            let [rows] = &rows[..] else {
                return None;
            };
            let mut parts = self.runs(*of, rows, cols)?;
            for (part, runs) in self.parts.iter().zip(&mut parts).skip(1) {
                *runs = vec![ByteRuns::one(0..part.bytes() as usize)];
            }
            return Some(vec![Excerpt {
                format: self.format,
                parts,
                cols: cols.clone(),
                rows: rows.clone(),
            }]);
        }
        let all_cols = *cols == (0..of[1]);
        let reads_columns = match (self.recipe, self.format) {
            (Assembly::Hqq(_), _) => false,
            (Assembly::Whole { order, .. }, _) => order.is_none(),
            (_, Format::Affine(affine)) => affine.along == Along::Flat,
            _ => true,
        };
        if !all_cols && !reads_columns {
            return None;
        }
        let together = self.rows_together(*of);
        let excerpts = rows.iter().map(|rows| {
            let start = rows.start / together * together;
            let rows = start..rows.end.next_multiple_of(together).min(of[0]);
            let format = self.format.sliced(*of, core::slice::from_ref(&rows), cols);
            Some(Excerpt {
                format: format.ok()?,
                parts: self.runs(*of, &rows, cols)?,
                cols: cols.clone(),
                rows,
            })
        });
        excerpts.collect()
    }

    /// The slice, from the bytes of the parts of its excerpts, one excerpt after another, in words that are filled up with
    /// zeros. Of a slice of codes alone, the scales are those of all of the weight.
    pub(crate) fn assemble_slice(&self, mut words: Vec<Vec<u32>>) -> Result<Packed, DialectError> {
        let tensor = || self.parts[0].name.to_string();
        let refused = || DialectError::Recipe {
            tensor: tensor(),
            recipe: "a slice".to_owned(),
            format: self.format,
        };
        let (Some(slice), Some(excerpts)) = (&self.slice, self.excerpts()) else {
            return Err(refused());
        };
        if slice.all_scales {
            let [excerpt] = &excerpts[..] else {
                return Err(refused());
            };
            let mut parts = self.held(slice.of, excerpt, words);
            let shape = [excerpt.rows.len(), slice.of[1]];
            let (words, scales) = self.recipe.codes_and_scales(self.format, &mut parts)?;
            let format = self.format;
            return Ok(Packed {
                format,
                shape,
                words,
                scales,
            });
        }
        let mut parts = Vec::new();
        for (excerpt, rows) in excerpts.iter().zip(&slice.rows) {
            let rest = words.split_off(excerpt.parts.len());
            let here = core::mem::replace(&mut words, rest);
            let packed = self.assemble_excerpt(slice.of, excerpt, here)?;
            let first = excerpt.rows.start;
            let rows = rows.start - first..rows.end - first;
            let cols = 0..packed.shape[1];
            parts.push(packed.slice(&[rows], cols).map_err(|_| refused())?);
        }
        match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => Packed::join(&parts).ok_or_else(refused),
        }
    }
}
