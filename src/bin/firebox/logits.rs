//! `firebox logits`: load and write logits, for comparing with other programs.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, Int, Tensor, TensorData};
use clap::Args;
use firebox::{
    Loaded, Target,
    model::{CausalLm, NextToken},
    observe::{check_replace, write_whole},
};
use safetensors::{Dtype, tensor::TensorView};

use crate::{
    Failure, OnTarget,
    args::RunArgs,
    load::{Opened, check_positions, check_vocabulary},
    output,
};

#[derive(Debug, Args)]
pub(crate) struct LogitsCommand {
    #[command(flatten)]
    pub(crate) run: RunArgs,

    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_name = "IDS")]
    tokens: Vec<u32>,

    /// A safetensors file to write: `logits`, F32 [tokens, vocabulary]
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl OnTarget for LogitsCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let out = self.out.display();
        let opened = Opened::<T>::new(self.run.joined()?)?;
        let config = opened.config()?;
        check_vocabulary(&config, &self.tokens)?;
        check_positions(&config, self.tokens.len())?;
        // Of several ranks the first writes.
        let writes = output::is_first();
        if writes {
            check_replace(&self.out, is_logits).map_err(|error| format!("{out}: {error}"))?;
        }
        if let Some(folder) = self.out.parent().filter(|folder| !is_folder(folder)) {
            return Err(format!("{out}: there is no folder {}", folder.display()).into());
        }

        let Loaded { model, .. } = opened.load()?;
        let logits = logits(&model, &self.tokens)?;
        if !writes {
            return Ok(());
        }
        let vocabulary = logits.len() / self.tokens.len();
        // Written all the same: where they begin is what one looks for.
        if let Some(first) = logits.iter().position(|logit| !logit.is_finite()) {
            let (token, id) = (first / vocabulary, first % vocabulary);
            tracing::warn!(
                "logit {id} of token {token} is {}; {}",
                logits[first],
                AT_FAULT
            );
        }
        let shape = vec![self.tokens.len(), vocabulary];
        let bytes: Vec<u8> = logits
            .iter()
            .flat_map(|logit| logit.to_le_bytes())
            .collect();
        let view = TensorView::new(Dtype::F32, shape.clone(), &bytes)?;
        let metadata: Option<HashMap<String, String>> = None;
        let file = safetensors::serialize([("logits", view)], metadata)?;
        write_whole(&self.out, &file, is_logits).map_err(|error| format!("{out}: {error}"))?;
        output::line(format_args!("{out}: logits F32 {shape:?}"))
    }
}

/// Where NaN and infinity come from.
pub(crate) const AT_FAULT: &str =
    "the weights are broken, or the type of the activations (--dtype) is too narrow for them";

/// Whether a file begins as one that this command wrote.
fn is_logits(head: &[u8]) -> bool {
    head.get(8..)
        .is_some_and(|json| json.starts_with(b"{\"logits\":"))
}

/// The parent of a bare file name is empty, and means the folder the program runs in.
fn is_folder(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.is_dir()
}

/// Logits `[tokens, vocabulary]` of one independent forward pass, flattened. The ids have been
/// [checked](check_vocabulary).
///
/// # Errors
///
/// More ids than the model has positions.
pub(crate) fn logits(model: &CausalLm, ids: &[u32]) -> Result<Vec<f32>, Failure> {
    let device = model.device();
    let tokens = ids.len();
    let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
    let data = TensorData::new(ids, [1, tokens]);
    let ids = Tensor::<2, Int>::from_data(data, (&device, DType::I32));
    let mut cache = model.cache().with_room(tokens);
    let logits = model.forward_cached(ids, &mut cache)?;
    Ok(logits
        .into_data()
        .convert_dtype(DType::F32)
        .try_into_vec()?)
}
