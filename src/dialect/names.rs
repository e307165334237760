//! Lists of modules that are left alone, as each project reads them.

use crate::model::{ConfigError, fields::Fields};

/// `quant_method`s that are read.
pub(super) const KNOWN: &str = "bitsandbytes, compressed-tensors, fp8, mxfp4, hqq, gptq or awq";

/// Names of modules that are not packed.
#[derive(Debug, Clone)]
pub(super) struct Excepted {
    names: Vec<String>,
    /// What lists them.
    pub(super) field: &'static str,
}

impl Excepted {
    /// The list in `field` of the configuration, empty where there is none.
    pub(super) fn new(config: Fields<'_>, field: &'static str) -> Result<Self, ConfigError> {
        let names = config.texts(field)?.unwrap_or_default();
        let names = names.into_iter().map(str::to_owned).collect();
        Ok(Self { names, field })
    }

    /// As transformers reads its lists: the module itself, what lies below it, and either anywhere in a path.
    pub(super) fn names(&self, module: &str) -> bool {
        let path = format!(".{module}.");
        self.names
            .iter()
            .any(|name| path.contains(&format!(".{name}.")))
    }
}
