//! `firebox logits`: load and write logits, for comparing with other programs.

use std::{collections::HashMap, path::PathBuf};

use burn::tensor::{DType, Int, Tensor, TensorData};
use clap::Args;
use firebox::{
    Loaded, Target,
    model::{Decoder, llama::Llama},
};
use safetensors::{Dtype, tensor::TensorView};

use crate::{
    Failure, OnTarget,
    args::{LoadArgs, QuantArgs},
    load::load,
    output,
};

#[derive(Debug, Args)]
pub(crate) struct LogitsCommand {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    #[command(flatten)]
    quant: QuantArgs,

    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_name = "IDS")]
    tokens: Vec<u32>,

    /// A safetensors file to write: `logits`, F32 [tokens, vocabulary]
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl OnTarget for LogitsCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let Loaded { model, .. } = load::<T>(&self.load, &self.quant.quant)?;
        let logits = logits(&model, &self.tokens)?;
        let shape = vec![self.tokens.len(), logits.len() / self.tokens.len()];
        let bytes: Vec<u8> = logits
            .iter()
            .flat_map(|logit| logit.to_le_bytes())
            .collect();
        let view = TensorView::new(Dtype::F32, shape.clone(), &bytes)?;
        let metadata: Option<HashMap<String, String>> = None;
        safetensors::serialize_to_file([("logits", view)], metadata, &self.out)
            .map_err(|error| format!("{}: {error}", self.out.display()))?;
        output::line(format_args!("{}: logits F32 {shape:?}", self.out.display()))
    }
}

/// Logits `[tokens, vocabulary]` of one independent forward pass, flattened.
///
/// # Errors
///
/// An id outside the vocabulary, or more ids than the model has positions.
pub(crate) fn logits(model: &Llama, ids: &[u32]) -> Result<Vec<f32>, Failure> {
    let vocabulary = model.vocabulary();
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
        return Err(format!("token {id} is not below the vocabulary of {vocabulary}").into());
    }
    let device = model.norm.scale.val().device();
    let tokens = ids.len();
    let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
    let data = TensorData::new(ids, [1, tokens]);
    let ids = Tensor::<2, Int>::from_data(data, (&device, DType::I32));
    let logits = model.forward_cached(ids, &mut model.cache())?;
    Ok(logits
        .into_data()
        .convert_dtype(DType::F32)
        .try_into_vec()?)
}
