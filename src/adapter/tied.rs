//! Heads that are the embedding, and adapters that change one of them or both.
//!
//! | the adapter has, for a model that ties both | merged, as in peft |
//! |---|---|
//! | a whole head, or a whole embedding | two matrices, and `tie_word_embeddings` false |
//! | both, equal (`ensure_weight_tying`) | one matrix |
//! | factors of the embedding | one matrix: the head changes along |
//! | factors of the head | two matrices. peft changes the embedding along, and computes something else than before the merge |

use super::{
    file::{AdapterFile, ModuleTensors, StoredTensor},
    sites::is_head,
};

/// Whether an adapter that is merged makes two matrices of a tied embedding and head. `is_table` says which module is the
/// embedding.
pub(crate) fn comes_apart(file: &AdapterFile, is_table: impl Fn(&str) -> bool) -> bool {
    let mut modules = file.modules.iter();
    let head = modules.find_map(|(module, tensors)| is_head(module).then_some(tensors));
    let mut modules = file.modules.iter();
    let table = modules.find_map(|(module, tensors)| is_table(module).then_some(tensors));
    match (table, head) {
        (Some(table), Some(head)) => !is_same(table, head),
        (None, Some(_)) => true,
        // What peft stores beside factors is the matrix that it had.
        (Some(table), None) => table.whole.is_some() && !table.has_factors(),
        (None, None) => false,
    }
}

/// Whether the changes of the embedding and of the head are the same change of one matrix. The factors of a table are those of
/// the transposed matrix.
fn is_same(table: &ModuleTensors, head: &ModuleTensors) -> bool {
    let whole = match (&table.whole, &head.whole) {
        (Some(one), Some(other)) => one.has_values_of(other),
        (one, other) => one.is_none() && other.is_none(),
    };
    let turned = |one: &Option<StoredTensor>, other: &Option<StoredTensor>| match (one, other) {
        (Some(one), Some(other)) => one.turned() == other.floats(),
        (one, other) => one.is_none() && other.is_none(),
    };
    let plain = [table, head]
        .iter()
        .all(|it| it.magnitude.is_none() && it.bias.is_none());
    whole && plain && turned(&table.a, &head.b) && turned(&table.b, &head.a)
}
