//! A model in one file, or in parts: `NAME-00001-of-00003.gguf` and so on.
//!
//! The keys are those of the first part; of the others, only the number of the part is looked at.

use std::collections::HashMap;

use super::ContainerError;
use crate::source::{
    GGUF, Source, SourceError, SourceExt,
    gguf::{self, GgufHeader, GgufParsed, GgufValue},
};

/// The first bytes that are read of a file.
const FIRST_BYTES: u64 = 1 << 20;

/// What parts say of themselves: which one it is, how many there are, how many tensors all have.
pub(super) const NUMBER: &str = "split.no";
pub(super) const COUNT: &str = "split.count";
pub(super) const TENSORS: &str = "split.tensors.count";

/// Reads bytes of a model, from an offset in one of its files on.
pub(super) type ReadContainer<'a> = &'a dyn Fn(usize, u64, &mut [u8]) -> Result<(), SourceError>;

/// The files of a model.
#[derive(Debug)]
pub(super) struct GgufParts {
    /// Their names.
    pub(super) files: Vec<String>,
    /// The keys of the first, and the tensors of all.
    pub(super) header: GgufHeader,
    /// The number of the file that each tensor is in, where there are several.
    places: HashMap<String, usize>,
}

impl GgufParts {
    /// Opens the file, or all parts of which `file` is one.
    pub(super) fn open(source: &dyn Source, file: &str) -> Result<Self, ContainerError> {
        let label = |file: &str| format!("{}/{file}", source.describe());
        let first = header(source, file)?;
        let said = |header: &GgufHeader, key: &str| match header.keys.get(key) {
            Some(GgufValue::Unsigned(number)) => Some(*number),
            Some(GgufValue::Signed(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let count = said(&first, COUNT).unwrap_or(1);
        if count <= 1 {
            return Ok(Self {
                files: vec![file.to_owned()],
                header: first,
                places: HashMap::new(),
            });
        }
        let Some(base) = base(file, count) else {
            return Err(ContainerError::Part {
                file: label(file),
                found: format!("one of {count} parts by {COUNT}"),
                expected: format!(
                    "named as parts are, NAME-00001-of-{count:05}{GGUF}; give it its name back"
                ),
            });
        };
        let mut parts = Self {
            files: (1..=count).map(|nth| name(base, nth, count)).collect(),
            header: GgufHeader {
                keys: first.keys,
                tensors: Vec::new(),
            },
            places: HashMap::new(),
        };
        let mut wanted = None;
        for (nth, part) in parts.files.iter().enumerate() {
            let header = header(source, part)?;
            let found = [said(&header, NUMBER), said(&header, COUNT)];
            if found != [Some(nth as u64), Some(count)] {
                let say =
                    |number: Option<u64>| number.map_or("absent".to_owned(), |n| n.to_string());
                return Err(ContainerError::Part {
                    file: label(part),
                    found: format!("{NUMBER} {}, {COUNT} {}", say(found[0]), say(found[1])),
                    expected: format!("{nth} and {count}: parts of two models are mixed"),
                });
            }
            let all = said(&header, TENSORS);
            if nth == 0 {
                parts.header.keys = header.keys;
                wanted = all;
            }
            for tensor in header.tensors {
                if parts.places.insert(tensor.name.clone(), nth).is_some() {
                    return Err(ContainerError::Part {
                        file: label(part),
                        found: format!("a part with a second tensor {}", tensor.name),
                        expected: "one without: parts of two models are mixed".to_owned(),
                    });
                }
                parts.header.tensors.push(tensor);
            }
        }
        let found = parts.header.tensors.len() as u64;
        match wanted.filter(|wanted| *wanted != found) {
            None => Ok(parts),
            Some(wanted) => Err(ContainerError::Part {
                file: label(&parts.files[0]),
                found: format!("{TENSORS} {wanted}, and its {count} parts have {found}"),
                expected: "the same number: fetch the parts again".to_owned(),
            }),
        }
    }

    /// The number of the file that a tensor is in.
    pub(super) fn part_of(&self, tensor: &str) -> usize {
        self.places.get(tensor).copied().unwrap_or(0)
    }
}

/// Reads the header of a file.
fn header(source: &dyn Source, file: &str) -> Result<GgufHeader, ContainerError> {
    let label = format!("{}/{file}", source.describe());
    let file_len = source.size(file)?;
    let mut wanted = FIRST_BYTES.min(file_len);
    loop {
        let mut first = vec![0; wanted as usize];
        source.peek(file, 0, &mut first)?;
        match gguf::parse(&label, &first, file_len)? {
            GgufParsed::Header(header) => return Ok(header),
            // Twice as much at least, so that a long header is not read again and again.
            GgufParsed::More(least) => wanted = least.max(2 * wanted).min(file_len),
        }
    }
}

/// The name of a part, counted from 1.
pub(crate) fn name(base: &str, nth: u64, count: u64) -> String {
    format!("{base}-{nth:05}-of-{count:05}{GGUF}")
}

/// What the names of all parts begin with, where `file` is named as one of them.
fn base(file: &str, count: u64) -> Option<&str> {
    let base = file.strip_suffix(&format!("-of-{count:05}{GGUF}"))?;
    let (base, nth) = base.rsplit_once('-')?;
    nth.parse::<u64>().is_ok().then_some(base)
}
