//! Tensors that are whole, on their way to a file.

use std::io;

use super::{
    shard::{ShardFile, ShardTensor},
    written::Written,
};
use crate::{container::GgufOut, dialect::Tensor, source::StoredType};

/// What a file has of a tensor: in a GGUF file, it is `out`.
pub(super) fn shard_tensor(
    out: Option<&GgufOut>,
    name: &str,
    dtype: StoredType,
    shape: &[usize],
) -> ShardTensor {
    match out {
        None => ShardTensor::new(name, dtype, shape),
        Some(out) => ShardTensor {
            name: out.name.clone(),
            dtype: out.kind.name(),
            shape: out.shape.clone(),
            bytes: out.bytes(),
        },
    }
}

/// Writes a tensor.
pub(super) fn put(
    shard: &mut ShardFile,
    out: Option<&GgufOut>,
    name: &str,
    dtype: StoredType,
    shape: &[usize],
    bytes: &[u8],
) -> io::Result<Vec<Written>> {
    shard.begin(shard_tensor(out, name, dtype, shape));
    match out {
        None => shard.append(bytes)?,
        Some(out) => shard.append(&out.stored(bytes))?,
    }
    Ok(vec![shard.end()?])
}

/// Writes the tensors of a packed weight.
pub(super) fn put_all(
    shard: &mut ShardFile,
    out: Option<&GgufOut>,
    tensors: &[Tensor],
) -> io::Result<Vec<Written>> {
    let written = tensors.iter().map(|tensor| {
        let Tensor {
            name, dtype, shape, ..
        } = tensor;
        put(shard, out, name, *dtype, shape, &tensor.bytes)
    });
    Ok(written.collect::<io::Result<Vec<_>>>()?.concat())
}
