//! A model whose weights lie elsewhere.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Access, FetchTotals, Probe, Source, SourceError, SourceExt, SourceHints, checkpoint::INDEX,
    is_weights,
};

/// The weights of one source, and all other files of another one.
#[derive(Debug)]
pub(crate) struct Apart {
    weights: Arc<dyn Source>,
    others: Arc<dyn Source>,
}

impl Apart {
    pub(crate) fn new(weights: Arc<dyn Source>, others: Arc<dyn Source>) -> Self {
        Self { weights, others }
    }

    /// The source of a file.
    fn of(&self, file: &str) -> &dyn Source {
        match is_of_weights(file) {
            true => &*self.weights,
            false => &*self.others,
        }
    }
}

fn is_of_weights(file: &str) -> bool {
    file == INDEX || is_weights(file) || file.ends_with(".bin.index.json")
}

impl Source for Apart {
    /// The weights: they are what most messages are about.
    fn describe(&self) -> String {
        self.weights.describe()
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        self.of(file).size(file)
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.of(file).read_at(file, offset, into)
    }

    fn hints(&self) -> Option<&dyn SourceHints> {
        Some(self)
    }
}

impl SourceHints for Apart {
    fn peek(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.of(file).peek(file, offset, into)
    }

    fn share(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<Bytes>, SourceError> {
        self.of(file).share(file, offset, len, access)
    }

    fn version(&self) -> Result<Option<String>, SourceError> {
        let both = self.weights.version()?.zip(self.others.version()?);
        Ok(both.map(|(weights, others)| format!("{weights} {others}")))
    }

    fn probe(&self) -> Option<Probe> {
        self.weights.probe()
    }

    fn weights_file(&self) -> Option<&str> {
        self.weights.weights_file()
    }

    fn list(&self) -> Result<Option<Vec<String>>, SourceError> {
        let both = self.weights.list()?.zip(self.others.list()?);
        Ok(both.map(|(mut files, mut others)| {
            files.retain(|file| is_of_weights(file));
            others.retain(|file| !is_of_weights(file));
            files.append(&mut others);
            files.sort();
            files
        }))
    }

    fn unchanged(&self) -> Result<(), SourceError> {
        self.weights.unchanged()?;
        self.others.unchanged()
    }

    fn concurrency(&self) -> usize {
        self.weights.concurrency()
    }

    fn request_bytes(&self) -> Option<u64> {
        self.weights.request_bytes()
    }

    fn fetched(&self) -> Option<FetchTotals> {
        let both = [self.weights.fetched(), self.others.fetched()];
        both.into_iter().flatten().reduce(core::ops::Add::add)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::source::Local;

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Arc<Local>) {
        let folder = tempfile::tempdir().expect("a folder");
        for (file, text) in files {
            fs::write(folder.path().join(file), text).expect("writable");
        }
        let source = Local::open(folder.path()).expect("a folder of files");
        (folder, Arc::new(source))
    }

    /// Would catch weights or an index of the other source, and small files of the weights.
    #[test]
    fn weights_are_of_one_source_and_the_rest_of_the_other() {
        let (_kept, weights) = folder(&[("a.safetensors", "new"), ("config.json", "not this")]);
        let (_kept_too, others) = folder(&[
            ("a.safetensors", "old"),
            (INDEX, "{}"),
            ("config.json", "{}"),
            ("tokenizer.json", "[]"),
        ]);
        let apart = Apart::new(weights, others);
        let read = |file: &str, len| {
            let mut into = vec![0; len];
            apart.read_at(file, 0, &mut into).map(|()| into)
        };
        assert_eq!(read("a.safetensors", 3).expect("weights"), b"new");
        assert_eq!(read("config.json", 2).expect("a small file"), b"{}");
        assert!(apart.size(INDEX).expect_err("no index").is_absent());
        let files = SourceExt::list(&apart)
            .expect("listed")
            .expect("both have lists");
        assert_eq!(files, ["a.safetensors", "config.json", "tokenizer.json"]);
    }
}
