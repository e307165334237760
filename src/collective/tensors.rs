//! Tensors across the ranks that a model is divided among.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{Bytes, DType, Device, Tensor, TensorData};

use super::{Collective, CollectiveError};

/// The ranks that a model is divided among.
///
/// Between the products of a forward pass there is no place for an error. After an operation that fails, this one and all later ones give
/// what this rank has, or zeros, and [`check`](Self::check) tells the error at the end of the pass.
#[derive(Debug, Clone)]
pub struct Together {
    ranks: Arc<dyn Collective>,
    failed: Arc<Mutex<Option<CollectiveError>>>,
}

impl Together {
    /// Of these ranks.
    pub fn new(ranks: Arc<dyn Collective>) -> Self {
        Self {
            ranks,
            failed: Arc::default(),
        }
    }

    /// The ranks.
    pub fn ranks(&self) -> &dyn Collective {
        &*self.ranks
    }

    /// Whether all operations so far have succeeded.
    ///
    /// # Errors
    ///
    /// The first [`CollectiveError`].
    pub fn check(&self) -> Result<(), CollectiveError> {
        self.failed().clone().map_or(Ok(()), Err)
    }

    fn failed(&self) -> MutexGuard<'_, Option<CollectiveError>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the first error.
    fn tried<V>(&self, done: Result<V, CollectiveError>) -> Option<V> {
        match done {
            Ok(value) => Some(value),
            Err(error) => {
                self.failed().get_or_insert(error);
                None
            }
        }
    }

    /// The sum of `x` over all ranks, in `f32` and rounded once.
    pub(crate) fn sum<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (device, dtype, shape) = (x.device(), x.dtype(), x.dims());
        let values = x.without_autodiff().cast(DType::F32).into_data();
        let mut values: Vec<f32> = values.try_into_vec().expect("they were cast to f32");
        self.tried(self.ranks.all_reduce_f32(&mut values));
        let sum = TensorData::new(values, shape);
        Tensor::<D>::from_data(sum, (&device, DType::F32)).cast(dtype)
    }

    /// The mean of `x` over all ranks, in `f32`.
    pub(crate) fn mean<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.sum(x.cast(DType::F32)) / self.ranks.size() as f64
    }

    /// The parts of all ranks, beside each other in the last dimension.
    pub(crate) fn beside<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (device, dtype, shape) = (x.device(), x.dtype(), x.dims());
        let mine = x.clone().without_autodiff().into_data();
        let Some(all) = self.tried(self.ranks.all_gather_bytes(mine.as_bytes())) else {
            return Tensor::cat(vec![x; self.ranks.size()], D - 1);
        };
        let part = |bytes: Vec<u8>| {
            let data = TensorData::from_bytes(Bytes::from_bytes_vec(bytes), shape, dtype);
            Tensor::<D>::from_data(data, (&device, dtype))
        };
        Tensor::cat(all.into_iter().map(part).collect(), D - 1)
    }

    /// The tensor of rank `from`, which is the only one to have it: of this shape and type.
    pub(crate) fn share<const D: usize>(
        &self,
        x: Option<Tensor<D>>,
        from: usize,
        shape: [usize; D],
        (device, dtype): (&Device, DType),
    ) -> Tensor<D> {
        let mine = match &x {
            Some(x) => x.clone().without_autodiff().into_data().as_bytes().to_vec(),
            None => Vec::new(),
        };
        let bytes = self.tried(self.ranks.broadcast_bytes(mine, from));
        match (x, bytes) {
            (Some(x), _) => x,
            (None, Some(bytes)) => {
                let data = TensorData::from_bytes(Bytes::from_bytes_vec(bytes), shape, dtype);
                Tensor::from_data(data, (device, dtype))
            }
            (None, None) => Tensor::zeros(shape, (device, dtype)),
        }
    }

    /// The same where only rank `from` knows the shape; of `shape` where the operation fails.
    pub(crate) fn share_any<const D: usize>(
        &self,
        x: Option<Tensor<D>>,
        from: usize,
        shape: [usize; D],
        to: (&Device, DType),
    ) -> Tensor<D> {
        let mine = x.iter().flat_map(|x| x.dims());
        let mine: Vec<u8> = mine.flat_map(|side| (side as u64).to_le_bytes()).collect();
        let sides = self.tried(self.ranks.broadcast_bytes(mine, from));
        let sides = sides.unwrap_or_default();
        let mut shape = shape;
        for (side, bytes) in shape.iter_mut().zip(sides.as_chunks().0) {
            *side = u64::from_le_bytes(*bytes) as usize;
        }
        self.share(x, from, shape, to)
    }

    /// The bytes of all ranks, one after another: `len` of them.
    pub(crate) fn joined(&self, mine: &[u8], len: usize) -> Vec<u8> {
        let all = self.tried(self.ranks.all_gather_bytes(mine));
        let mut all = all.unwrap_or_default().concat();
        all.resize(len, 0);
        all
    }
}
