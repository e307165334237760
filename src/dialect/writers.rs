//! Which dialect writes a weight, and its writer.

use firebox_kernels::{
    arith::float::DType,
    format::{Format, Micro, Tile},
    formats::nested,
};

use super::{
    DialectError, Matrices, PackedSlot, Writer, bitsandbytes, compressed_tensors, fp8, gguf, hqq,
    mlx, modelopt, mxfp4,
};
use crate::{config::To, model::Stacks};

/// The dialect in which most libraries read a packed weight.
pub fn usual(weight: &PackedSlot) -> Option<To> {
    if weight.provenance.hqq.is_some() {
        return Some(To::Hqq);
    }
    if weight.provenance.whole.is_some() {
        return Some(To::CompressedTensors);
    }
    match weight.format {
        Format::Micro(Micro::Mxfp4) if weight.provenance.turned => Some(To::Mxfp4),
        Format::Nf4(_) | Format::Fp4(_) | Format::Int8 => Some(To::BitsAndBytes),
        Format::Fp8(_, Tile::Block { rows: 2.., .. }) => Some(To::Fp8),
        Format::Fp8(..) => Some(To::CompressedTensors),
        Format::Micro(micro) if micro.is_global() => Some(To::ModelOpt),
        Format::Affine(_) | Format::Micro(_) => Some(To::Mlx),
        Format::Gguf(_) => Some(To::Gguf),
        _ => None,
    }
}

/// Whether the dialect `to` has the matrices of all experts of `stack` in one tensor. A tensor for each expert is what other
/// projects read elsewhere: where modules are linear layers, and where dense files have the matrices as `[in, out]`.
pub(crate) fn holds_stack(to: To, stack: &PackedSlot) -> bool {
    match to {
        To::Gguf | To::Mlx | To::Mxfp4 => true,
        To::BitsAndBytes | To::Fp8 => !stack.provenance.turned && is_cut(stack),
        To::CompressedTensors | To::Hqq | To::ModelOpt => false,
    }
}

/// Whether files of the dialect `to` with a tensor for each expert have gates and ups apart: those that transformers and
/// llm-compressor write. Elsewhere they stay one matrix, which is packed as it is while the model is loaded.
pub(crate) fn has_gates_apart(to: To, stacks: Stacks) -> bool {
    let halves_follow = !stacks.interleaved;
    match to {
        To::CompressedTensors | To::ModelOpt => halves_follow,
        To::BitsAndBytes => halves_follow && stacks.transposed,
        To::Fp8 | To::Gguf | To::Hqq | To::Mlx | To::Mxfp4 => false,
    }
}

/// Whether no scale of a stack is of two experts, but for one of the whole stack: one expert can be read alone.
fn is_cut(stack: &PackedSlot) -> bool {
    let [_, rows, cols] = stack.slot.shape[..] else {
        return false;
    };
    match stack.format {
        Format::Nf4(blocks) | Format::Fp4(blocks) => {
            let together = if blocks.nested { nested::BLOCK } else { 1 };
            (rows * cols).is_multiple_of(blocks.block * together)
        }
        Format::Fp8(_, Tile::Block { rows: tile, .. }) => rows.is_multiple_of(tile),
        _ => true,
    }
}

/// The writer of a checkpoint's packed weights in the dialect `to`. Most dense weights of the checkpoint are stored as
/// `source`.
///
/// # Errors
///
/// [`DialectError::Unwritable`] for a format that the dialect does not have, [`DialectError::Mixed`] for formats that the
/// dialect does not have in one checkpoint, [`DialectError::NothingPacked`] where nothing is packed.
pub fn writer(to: To, matrices: &Matrices, source: DType) -> Result<Box<dyn Writer>, DialectError> {
    let mut error = match writer_of(to, matrices, source) {
        Ok(writer) => return Ok(writer),
        Err(error) => error,
    };
    let can = |matrices: &Matrices| {
        let can = To::ALL
            .into_iter()
            .filter(|to| writer_of(*to, matrices, source).is_ok());
        can.collect::<Vec<_>>()
    };
    match &mut error {
        DialectError::Unwritable {
            tensor,
            can: others,
            ..
        } => {
            let packed = matrices
                .packed
                .iter()
                .filter(|weight| weight.slot.name == *tensor);
            let packed = packed.cloned().collect();
            *others = can(&Matrices {
                packed,
                ..matrices.clone()
            });
        }
        DialectError::Mixed { can: others, .. } => *others = can(matrices),
        _ => {}
    }
    Err(error)
}

fn writer_of(to: To, matrices: &Matrices, source: DType) -> Result<Box<dyn Writer>, DialectError> {
    match to {
        To::BitsAndBytes => bitsandbytes::writer(matrices, source),
        To::CompressedTensors => compressed_tensors::writer(matrices),
        To::Fp8 => fp8::writer(matrices),
        To::Gguf => gguf::writer(matrices),
        To::Hqq => hqq::writer(matrices),
        To::Mlx => mlx::writer(matrices),
        To::Mxfp4 => mxfp4::writer(matrices),
        To::ModelOpt => modelopt::writer(matrices),
    }
}
