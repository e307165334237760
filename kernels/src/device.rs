//! A packed weight on a device: dequantizes rows. Products with it are in [`linear`](crate::linear).
//!
//! Each operation is the twin of one on the host: [`Format::dequantize_rows`] and [`linear::rows`](crate::linear::rows).

pub(crate) mod read;
mod unpack;

use core::ops::Range;

use cubecl::{client::Client, ir::ElemType, prelude::*};

use crate::arith::float::DType;
use crate::arith::launch::{self, Buffer};
use crate::format::{Along, Format, Gguf};
use crate::{
    arith::pack,
    formats::{
        bits4::levels::{FP4, NF4},
        gguf, nested,
    },
};
use read::{EIGHT, StoredBuffersLaunch};

/// A packed weight in device memory.
#[derive(Debug, Clone)]
pub struct DeviceWeight {
    /// The meaning of the words.
    pub format: Format,
    /// `[o, i]` of the weight, not of the words: fewer than 2^32 weights.
    pub shape: [usize; 2],
    /// Codes: [`Format::words_len`] elements of `u32`.
    pub words: Buffer,
    /// Scales: [`Format::scales_len`] elements of `u32`.
    pub scales: Buffer,
}

impl DeviceWeight {
    /// The rows `rows`, `[rows, i]` in the type `dtype`.
    ///
    /// In `f32` these are the host's bits, but for results, and scales of FP8 and micro formats, below 2^-126,
    /// which a device may take for 0. In a half they are rounded as the device casts.
    ///
    /// # Panics
    ///
    /// When a buffer's length or the range does not fit the shape.
    pub fn dequantize(&self, client: &Client, rows: Range<usize>, dtype: DType) -> Buffer {
        let [o, i] = self.shape;
        assert!(
            rows.start <= rows.end && rows.end <= o,
            "rows {rows:?} of {:?}",
            self.shape
        );
        let out = Buffer::empty(client, rows.len() * i, dtype.size());
        let (stored, shared) = self.stored(client);
        if out.is_empty() {
            return out;
        }
        let (vector, eights, count, dim) = self.units(client, out.len(), dtype);
        // SAFETY: the lengths of the buffers were compared with those that the format implies, and the kernel
        // stays inside `out`.
        unsafe {
            unpack::dequantize::launch_unchecked(
                client,
                count,
                dim,
                vector,
                stored,
                launch::count(rows.start * i),
                out.arg(vector),
                eights,
                shared,
                launch::elem(dtype),
            );
        }
        out
    }

    /// The rows `ids`, `[ids, i]` in the type `dtype`: an embedding. Other rows are not unpacked.
    ///
    /// An id out of range gives a row of NaN, since a device cannot refuse it.
    ///
    /// # Panics
    ///
    /// When a buffer's length does not fit the shape, or `id_type` is none of `i32`, `i64` and `u32`.
    pub fn rows(&self, client: &Client, ids: &Buffer, id_type: ElemType, dtype: DType) -> Buffer {
        let [o, i] = self.shape;
        let id_words = if id_type == i64::elem_type_native() {
            2
        } else {
            let narrow = [i32::elem_type_native(), u32::elem_type_native()];
            assert!(narrow.contains(&id_type), "ids of type {id_type:?}");
            1
        };
        let out = Buffer::empty(client, ids.len() * i, dtype.size());
        let (stored, shared) = self.stored(client);
        if out.is_empty() {
            return out;
        }
        let (vector, eights, count, dim) = self.units(client, out.len(), dtype);
        // SAFETY: as above; the kernel compares ids with the rows there are.
        unsafe {
            unpack::rows::launch_unchecked(
                client,
                count,
                dim,
                vector,
                stored,
                launch::count(o),
                ids.words(id_words),
                out.arg(vector),
                id_words,
                eights,
                shared,
                launch::elem(dtype),
            );
        }
        out
    }

    /// How kernels that give `n` weights back in the type `dtype` are launched: weights of a vector, whether
    /// units give eights, and the grid.
    fn units(&self, client: &Client, n: usize, dtype: DType) -> (usize, bool, CubeCount, CubeDim) {
        let eights = read::in_eights(self.format, self.shape[1]);
        let (vector, unit) = if eights {
            (widest(client, dtype), EIGHT)
        } else {
            (1, 1)
        };
        let (count, dim) = launch::grid(client, n / unit);
        (vector, eights, count, dim)
    }

    /// The weight as a kernel's argument, and the bits of the levels that each cube is to keep.
    pub(crate) fn stored(&self, client: &Client) -> (StoredBuffersLaunch, Option<[u32; 16]>) {
        let Self {
            format,
            shape: shape @ [o, i],
            ref words,
            ref scales,
        } = *self;
        if let Err(error) = format.validate_shape(shape) {
            panic!("{error}");
        }
        assert!(format.on_device(), "{format} has no device half");
        let n = o * i;
        assert!(u32::try_from(n).is_ok(), "a weight of {shape:?}");
        assert_eq!(
            words.len(),
            format.words_len(shape),
            "words of {format} {shape:?}"
        );
        assert_eq!(
            scales.len(),
            format.scales_len(shape),
            "scales of {format} {shape:?}"
        );
        // An empty binding is refused by some drivers.
        let scales = if scales.is_empty() { words } else { scales };
        // Of fewer words no wide read is made, but drivers refuse a binding with room for none.
        let wide = if words.len() < read::WIDE {
            Buffer::empty(client, read::WIDE, 4)
        } else {
            words.clone()
        };
        let levels = match format {
            Format::Nf4(_) => Some(NF4.levels.map(f32::to_bits)),
            Format::Fp4(_) => Some(FP4.levels.map(f32::to_bits)),
            Format::Gguf(Gguf::Iq4Nl) => Some(gguf::LEVELS.map(|level| f32::from(level).to_bits())),
            _ => None,
        };
        let (shared, levels) = match levels {
            Some(levels) if !launch::shares_memory(client) => {
                (None, Buffer::upload(client, &levels))
            }
            _ => (levels, scales.clone()),
        };
        let (map, upper) = match format {
            Format::Nf4(blocks) | Format::Fp4(blocks) if blocks.nested => (
                Buffer::upload(client, &nested::MAP.map(f32::to_bits)),
                blocks.count(n).div_ceil(pack::CODES8),
            ),
            Format::Affine(affine) => {
                let at = match affine.along {
                    Along::Flat => 0,
                    Along::Strided => affine.groups(shape),
                    Along::Ordered => affine.pairs_len(shape),
                };
                (scales.clone(), at)
            }
            _ => (scales.clone(), 0),
        };
        let stored = StoredBuffersLaunch::new(
            words.arg(1),
            wide.whole(read::WIDE),
            scales.arg(1),
            levels.arg(1),
            map.arg(1),
            launch::count(i),
            launch::count(upper),
            0,
            format,
        );
        (stored, shared)
    }
}

/// The most elements of an eight, in the type `dtype`, that a device moves at once.
pub(crate) fn widest(client: &Client, dtype: DType) -> usize {
    let mut sizes = client.io_optimized_vector_sizes(dtype.size());
    sizes.find(|size| *size <= EIGHT).unwrap_or(1)
}
