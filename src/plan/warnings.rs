//! What is odd about a checkpoint that can be loaded all the same.

use firebox_kernels::linear::Compute;

use super::{Plan, unfit};

impl Plan {
    /// What the checkpoint and its configuration say differently and which of them is believed, and what else is odd about the files and does
    /// no harm to this model, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let untied = self.untied.iter().map(|tensor| {
            format!(
                "{tensor} differs from the embedding, and config.json takes both for one (`tie_word_embeddings`): the stored \
                 head is used; set the field to false"
            )
        });
        let own_head = self.own_head.iter().map(|tensor| {
            format!(
                "{tensor} gets a tensor of its own, since an adapter changes the embedding or the head alone: config.json of the \
                 merged model does not tie them (`tie_word_embeddings`)"
            )
        });
        let unfit = (!self.unfit.is_empty()).then(|| {
            let (count, names) = (self.unfit.len(), unfit::listed(&self.unfit));
            format!("{count} matrices stay dense, since the quantization cannot pack their shapes: {names}")
        });
        let exact = self.compute != Compute::F32
            && self
                .computes()
                .keys()
                .all(|compute| *compute == Compute::F32);
        let exact = exact.then(|| {
            format!(
                "no weight suits products in {}: all are multiplied in f32",
                self.compute
            )
        });
        let notes = self.notes.iter().cloned();
        notes
            .chain(untied)
            .chain(own_head)
            .chain(unfit)
            .chain(exact)
            .collect()
    }
}
