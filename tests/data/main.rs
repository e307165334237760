//! From files to batches.

#[path = "../common/counting.rs"]
mod counting;

mod answers;
mod faults;
mod memory;
mod order;
mod rows;

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use firebox::{
    text::{Tokenizer, TokenizerFiles},
    train::{Batch, Data, DataConfig, DataError, DataOrder},
};
use serde_json::json;
use tempfile::TempDir;

/// Files of a test, which are removed at its end.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn with(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(name), bytes).expect("writable");
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Data in the order of the files, made on this thread, with rows of some tokens.
    fn config(&self, length: usize) -> DataConfig {
        DataConfig {
            length,
            order: DataOrder::AsWritten,
            workers: 0,
            ..DataConfig::new([self.0.path()])
        }
    }

    fn open(&self, length: usize) -> Result<Data, DataError> {
        Data::open(self.config(length), tokenizer())
    }
}

/// The tokenizer of the model that is shipped: it ends texts with token 1.
fn tokenizer() -> Arc<Tokenizer> {
    static SHIPPED: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(with_template(None)));
    Arc::clone(&SHIPPED)
}

/// The same with a chat template, and with marks of several families as tokens.
fn with_template(template: Option<&str>) -> Tokenizer {
    let config = include_bytes!("../../assets/tinyrust/tokenizer_config.json");
    let model = json!({"eos_token_id": 1});
    Tokenizer::from_bytes(TokenizerFiles {
        tokenizer_json: Some(include_bytes!("../../assets/tinyrust/tokenizer.json")),
        config: Some(config),
        model_config: Some(&model),
        chat_template_jinja: template.map(str::as_bytes),
        ..TokenizerFiles::default()
    })
    .expect("a tokenizer")
}

/// All batches of an epoch.
fn pass(data: &Data) -> Vec<Batch> {
    let batches = data.pass().expect("a start");
    batches.map(|batch| batch.expect("a batch").0).collect()
}

/// Sentences of some length that are not alike, one a line of JSON.
fn lines(count: usize) -> String {
    let line = |nth: usize| {
        let words: Vec<String> = (0..1 + nth * 7 % 23)
            .map(|word| format!("let x{word} = {nth};"))
            .collect();
        json!({"text": words.join(" ")}).to_string() + "\n"
    };
    (0..count).map(line).collect()
}
