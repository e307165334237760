//! Lists of modules that are left alone, as each project reads them.

use crate::{
    config::Known,
    model::{ConfigError, fields::Fields},
};

/// The dialects that are read, and the libraries whose files were read. Files of those that are written equal the
/// library's own to the byte.
pub const KNOWN: [Known; 10] = [
    Known::new("bitsandbytes", "bitsandbytes 0.50.2, transformers 5.23.0"),
    Known::new(
        "compressed-tensors",
        "llmcompressor 0.14.0.1, compressed-tensors 0.20.0",
    ),
    Known::new("fp8", "transformers 5.23.0"),
    Known::new("mxfp4", "transformers 5.23.0"),
    // The layout of its exporter and of the readers of vLLM and compressed-tensors; no file of it was at hand.
    Known::new("modelopt", "by its layout"),
    Known::new("hqq", "hqq 0.2.8"),
    Known::new("gptq", "auto_gptq 0.7.1"),
    Known::new("awq", "autoawq 0.2.9"),
    Known::new("gguf", "llama.cpp (ggml 0.25.3)"),
    Known::new("mlx", "mlx-lm 0.32.2"),
];

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
