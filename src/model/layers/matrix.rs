//! A matrix that is dense or packed, behind one product.

use burn::{
    module::{Module, Param},
    tensor::{DType, Device, FloatDType, Int, Tensor},
};

use firebox_kernels::format::{Format, Packed};

use super::frozen::values;
use crate::{
    model::stream::{HeldWeight, Ring, StreamedWeight},
    quant::{PackedWeight, ops},
};

/// A matrix `[out, in]`, as the checkpoint orients it.
#[derive(Module, Debug)]
pub enum Matrix {
    /// Plain numbers.
    Dense(Param<Tensor<2>>),
    /// Packed words.
    Packed(PackedWeight),
    /// Either, on the device only while it is multiplied.
    Streamed(StreamedWeight),
    /// Rows one after another, where a device has no allocation large enough for all of them.
    Split(Vec<Matrix>),
}

impl Matrix {
    /// One matrix of rows that follow each other.
    pub(crate) fn of_parts(parts: impl Iterator<Item = Self>) -> Self {
        let mut parts: Vec<Self> = parts.collect();
        match parts.len() {
            1 => parts.remove(0),
            _ => Self::Split(parts),
        }
    }

    /// `x` `[m, in]` times the transposed matrix: `[m, out]`.
    pub fn product(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => x.matmul(values(weight).transpose()),
            Self::Packed(packed) => ops::linear(x, packed),
            Self::Streamed(weight) => weight.product(x),
            Self::Split(parts) => {
                let parts = parts.iter().map(|part| part.product(x.clone()));
                Tensor::cat(parts.collect(), 1)
            }
        }
    }

    /// The rows that `ids` `[m]` name: `[m, in]`, those of packed words in `dtype`.
    pub fn rows(&self, ids: Tensor<1, Int>, dtype: FloatDType) -> Tensor<2> {
        let parts = match self {
            Self::Dense(weight) => return values(weight).select(0, ids),
            Self::Packed(packed) => return ops::rows(ids, packed, dtype),
            Self::Streamed(weight) => return weight.rows(ids, dtype),
            Self::Split(parts) => parts,
        };
        let mut first = 0;
        let found = parts.iter().map(|part| {
            let [rows, _] = part.shape();
            let local = ids.clone() - first as i64;
            first += rows;
            // Every part is asked for every row, and answers with some row of its own for those it has not.
            let elsewhere = local
                .clone()
                .lower_elem(0)
                .bool_or(local.clone().greater_equal_elem(rows as i64));
            let found = part.rows(local.clamp(0, rows as i64 - 1), dtype);
            found.mask_fill(elsewhere.unsqueeze_dim(1), 0)
        });
        found
            .reduce(|all, part| all + part)
            .expect("a split matrix has parts")
    }

    /// All of it, dense: `[out, in]`, packed words in `dtype`.
    pub fn to_dense(&self, dtype: FloatDType) -> Tensor<2> {
        match self {
            Self::Dense(weight) => values(weight),
            Self::Packed(packed) => ops::dequantize(packed, dtype),
            Self::Streamed(weight) => weight.to_dense(dtype),
            Self::Split(parts) => {
                let parts = parts.iter().map(|part| part.to_dense(dtype));
                Tensor::cat(parts.collect(), 0)
            }
        }
    }

    /// The format of its words; `None` where its values are plain numbers, halves among them.
    pub fn format(&self) -> Option<Format> {
        let format = match self {
            Self::Dense(_) => None,
            Self::Packed(packed) => Some(packed.layout().format),
            Self::Streamed(weight) => weight.format(),
            Self::Split(parts) => parts.first()?.format(),
        };
        format.filter(|format| !matches!(format, Format::Half(_)))
    }

    /// Its words and scales in host memory; `None` where [`format`](Self::format) is.
    pub(crate) fn to_packed(&self) -> Option<Packed> {
        match self {
            Self::Dense(_) => None,
            Self::Packed(packed) => Some(packed.to_host()),
            Self::Streamed(weight) => weight.to_packed(),
            Self::Split(parts) => {
                let parts = parts.iter().map(Self::to_packed);
                Packed::join(&parts.collect::<Option<Vec<_>>>()?)
            }
        }
    }

    /// The sum of the squares of each row, `[out]` in `f32`, with some rows dense at a time.
    pub(crate) fn row_squares(&self, device: &Device) -> Tensor<1> {
        let _held = self.hold();
        let squares = self.some_rows(device);
        let squares = squares.map(|(_, rows)| rows.square().sum_dim(1).squeeze_dim::<1>(1));
        Tensor::cat(squares.collect(), 0)
    }

    /// The sum of the squares of each column, `[in]` in `f32`, with some rows dense at a time.
    pub(crate) fn column_squares(&self, device: &Device) -> Tensor<1> {
        let _held = self.hold();
        let squares = self.some_rows(device);
        let squares = squares.map(|(_, rows)| rows.square().sum_dim(0).squeeze_dim::<1>(0));
        let squares = squares.reduce(|sum, more| sum + more);
        squares.expect("a matrix has rows")
    }

    /// `x` `[m, out]` times the matrix itself: `[m, in]`.
    pub(crate) fn turned_product(&self, x: Tensor<2>) -> Tensor<2> {
        if let Self::Dense(weight) = self {
            return x.clone().matmul(values(weight).cast(x.dtype()));
        }
        let _held = self.hold();
        let device = x.device();
        let products = self.some_rows(&device).map(|(first, rows)| {
            let [some, _] = rows.dims();
            x.clone()
                .narrow(1, first, some)
                .matmul(rows.cast(x.dtype()))
        });
        let product = products.reduce(|sum, more| sum + more);
        product.expect("a matrix has rows")
    }

    /// All rows in `f32`, some at a time, and the number of the first of them.
    fn some_rows(&self, device: &Device) -> impl Iterator<Item = (usize, Tensor<2>)> {
        /// Rows that are dense at a time.
        const ROWS: usize = 256;
        let [out, _] = self.shape();
        (0..out).step_by(ROWS).map(move |first| {
            let ids = first as i64..(first + ROWS).min(out) as i64;
            let ids = Tensor::<1, Int>::arange(ids, (device, DType::I32));
            (first, self.rows(ids, FloatDType::F32).cast(DType::F32))
        })
    }

    /// Where it is multiplied, whether or not gradients are recorded there.
    pub fn device(&self) -> Device {
        let device = match self {
            Self::Dense(weight) => weight.val().device(),
            Self::Packed(packed) => packed.device(),
            Self::Streamed(weight) => weight.device().clone(),
            Self::Split(parts) => return parts[0].device(),
        };
        device.without_autodiff()
    }

    /// What brings it to its device; `None` where it is there.
    pub fn ring(&self) -> Option<&Ring> {
        match self {
            Self::Streamed(weight) => Some(weight.ring()),
            Self::Split(parts) => parts.first()?.ring(),
            Self::Dense(_) | Self::Packed(_) => None,
        }
    }

    /// Keeps what ranks have some bytes each of on the device: [`StreamedWeight::hold`].
    pub(crate) fn hold(&self) -> Vec<HeldWeight> {
        match self {
            Self::Streamed(weight) => weight.hold().into_iter().collect(),
            Self::Split(parts) => parts.iter().flat_map(Self::hold).collect(),
            Self::Dense(_) | Self::Packed(_) => Vec::new(),
        }
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.val().dims(),
            Self::Packed(packed) => packed.layout().shape,
            Self::Streamed(weight) => weight.shape(),
            Self::Split(parts) => {
                let [_, cols] = parts[0].shape();
                [parts.iter().map(|part| part.shape()[0]).sum(), cols]
            }
        }
    }
}
