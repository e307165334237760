//! Tensors of a container that are several in transformers.

use super::{
    ContainerError,
    names::named,
    order::{RowOrder, delta},
    shown::{ReadModel, ShownTensor, SpanChange, stored_as, unknown},
};
use crate::source::gguf::GgufTensor;

/// Some rows of a tensor; in transformers these rows are a separate tensor.
pub(super) struct TensorHalf {
    /// The name that a file would have for it.
    name: String,
    order: RowOrder,
    /// Its rows: of each matrix, where there are several.
    rows: usize,
}

/// The tensors that one of a file is in transformers, where it is several: gates and ups of experts, and the projections of Qwen 3
/// Next, that of older files included.
pub(super) fn halves(model: &ReadModel, tensor: &GgufTensor) -> Vec<TensorHalf> {
    let of = |old: &str, new: &str, order, rows| {
        let name = tensor.name.strip_suffix(old)?;
        let name = format!("{name}{new}");
        Some(TensorHalf { name, order, rows })
    };
    let every = |first, run, step| RowOrder::Every { first, run, step };
    let mut found = Vec::new();
    if let &[_, rows, _] = &tensor.shape[..] {
        let half = rows / 2;
        const BOTH: &str = "ffn_gate_up_exps.weight";
        if half > 0 && rows.is_multiple_of(2) {
            found.push(of(BOTH, "ffn_gate_exps.weight", every(0, half, rows), half));
            found.push(of(
                BOTH,
                "ffn_up_exps.weight",
                every(half, half, rows),
                half,
            ));
        }
    }
    if let Some(delta) = delta(&model.spec).filter(|_| model.family.name == "qwen3next") {
        let heads = delta.key_heads;
        let each = delta.value_heads / heads;
        let (keys, values) = (delta.key_features, each * delta.value_features);
        const MIXES: &str = "ssm_ba.weight";
        found.push(of(
            MIXES,
            "ssm_beta.weight",
            every(0, each, 2 * each),
            heads * each,
        ));
        found.push(of(
            MIXES,
            "ssm_alpha.weight",
            every(each, each, 2 * each),
            heads * each,
        ));
        const ALL: &str = "ssm_in.weight";
        let order = RowOrder::KeyHeads {
            heads,
            keys,
            values,
        };
        found.push(of(
            ALL,
            "attn_qkv.weight",
            order,
            heads * (2 * keys + values),
        ));
        let step = 2 * keys + 2 * values;
        let order = every(2 * keys + values, values, step);
        found.push(of(ALL, "attn_gate.weight", order, heads * values));
    }
    found.into_iter().flatten().collect()
}

impl TensorHalf {
    /// What is shown of it.
    pub(super) fn shown(
        &self,
        file: &str,
        model: Option<&ReadModel>,
        tensor: &GgufTensor,
    ) -> Result<ShownTensor, ContainerError> {
        let mut name = self.name.clone();
        if let Some(ReadModel { family, spec, .. }) = model {
            (name, _) = named(file, &self.name, family, spec)?;
        }
        let mut shape = tensor.shape.clone();
        let [ref outer @ .., rows, _] = tensor.shape[..] else {
            return Err(unknown(file, tensor, model));
        };
        let matrices = outer.iter().product::<usize>();
        // The last row has to be one of the tensor.
        if self.order.stored(self.rows - 1) >= rows || self.rows >= rows {
            return Err(unknown(file, tensor, model));
        }
        let side = outer.len();
        shape[side] = self.rows;
        let row = (tensor.range.end - tensor.range.start) as usize / (matrices * rows);
        let (name, dtype) = stored_as(name, tensor.kind, &mut shape);
        Ok(ShownTensor {
            name,
            dtype,
            length: (matrices * self.rows * row) as u64,
            shape,
            change: SpanChange::Rows {
                order: self.order,
                row,
            },
        })
    }
}
