//! Lists of modules that are left alone, as each project reads them.

/// `quant_method`s that are read.
pub(super) const KNOWN: &str = "bitsandbytes, compressed-tensors, fp8, hqq, gptq or awq";

/// Names of modules that are not packed.
#[derive(Debug, Clone, Default)]
pub(super) struct Excepted(Vec<String>);

impl Excepted {
    pub(super) fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }

    /// As transformers reads its lists: the module itself, what lies below it, and either anywhere in a path.
    pub(super) fn names(&self, module: &str) -> bool {
        let path = format!(".{module}.");
        self.0
            .iter()
            .any(|name| path.contains(&format!(".{name}.")))
    }
}
