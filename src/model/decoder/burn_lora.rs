//! Burn's own LoRA on a decoder.

use burn::module::{Lora, Module, QLora};

use super::forward::CausalLm;
use crate::{model::layers::Matrix, quant::kernels::format::Format};

/// Burn's own LoRA on a model whose matrices it does not see.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "{module}: is kept as {}, and Burn's LoRA changes dense parameters alone: it would adapt nothing here, or the embedding; use `firebox::adapter::add` (or `LoadConfig::adapter`), which adapts matrices of every kind{}",
    format.map_or("streamed values".to_owned(), |format| format!("words of {format}")),
    match format {
        Some(Format::Half(_)) => ", or load the model with `LoadConfig::dtype(DType::F32)`",
        _ => "",
    }
)]
pub struct NotDense {
    /// The first module whose matrix is no dense parameter.
    pub module: String,
    /// Its format; `None` where the matrix is streamed.
    pub format: Option<Format>,
}

impl CausalLm {
    /// Burn's own LoRA, [`Module::apply_lora`], on a dense model: factors in the parameters, of which a dense matrix is made for every
    /// product. Their A is `[out, r]` and their B `[r, in]`, since a matrix here is `[out, in]`.
    ///
    /// [`adapter::add`](crate::adapter::add) keeps the matrix as it is, dense or packed, computes beside it and is saved for peft.
    ///
    /// # Errors
    ///
    /// [`NotDense`] where a matrix is packed, kept as halves, or streamed.
    pub fn apply_lora(self, lora: Lora) -> Result<Self, NotDense> {
        self.check_dense()?;
        Ok(Module::apply_lora(self, lora))
    }

    /// Burn's own QLoRA, [`Module::apply_qlora`], on a dense model, whose matrices Burn packs.
    ///
    /// # Errors
    ///
    /// As [`apply_lora`](Self::apply_lora).
    pub fn apply_qlora(self, qlora: QLora) -> Result<Self, NotDense> {
        self.check_dense()?;
        Ok(Module::apply_qlora(self, qlora))
    }

    fn check_dense(&self) -> Result<(), NotDense> {
        let blocks = self.blocks.iter().flat_map(|block| block.linears());
        let linears = blocks.chain(&self.head);
        let linears = linears.map(|linear| (&linear.place, &linear.weight));
        let tables = [(&self.embedding.place, &self.embedding.table)];
        for (place, matrix) in linears.chain(tables) {
            if let Some(format) = not_dense(matrix) {
                let module = place.path.to_string();
                return Err(NotDense { module, format });
            }
        }
        Ok(())
    }
}

/// The format of a matrix that is no dense parameter.
fn not_dense(matrix: &Matrix) -> Option<Option<Format>> {
    match matrix {
        Matrix::Dense(_) => None,
        Matrix::Packed(packed) => Some(Some(packed.layout().format)),
        Matrix::Streamed(weight) => Some(weight.format()),
        Matrix::Split(parts) => parts.iter().find_map(not_dense),
    }
}
