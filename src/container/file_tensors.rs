//! What the tensors of a file say of its model.

use crate::source::gguf::GgufHeader;

/// The tensors of a file, by name.
pub(super) struct FileTensors<'a>(pub(super) &'a GgufHeader);

impl FileTensors<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.tensors.iter().any(|tensor| tensor.name == name)
    }

    /// A side of a tensor, counted from the outermost.
    pub(super) fn side(&self, name: &str, nth: usize) -> Option<usize> {
        let mut tensors = self.0.tensors.iter();
        let tensor = tensors.find(|tensor| tensor.name == name)?;
        tensor.shape.get(nth).copied()
    }
}
