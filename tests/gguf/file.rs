//! Files that are written for a test, right ones and wrong ones.

use firebox::source::{
    StoredType,
    gguf::{GgufParsed, GgufType, parse},
};

/// The types of values.
pub(crate) const U32: u32 = 4;
pub(crate) const F32: u32 = 6;
pub(crate) const BOOL: u32 = 7;
pub(crate) const TEXT: u32 = 8;
pub(crate) const LIST: u32 = 9;

/// A file that is put together byte by byte, so that any of them can lie.
#[derive(Clone)]
pub(crate) struct GgufFile {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    /// Counts to write in place of those that there are.
    pub(crate) tensor_count: Option<u64>,
    pub(crate) key_count: Option<u64>,
    /// Name, type, bytes of the value.
    pub(crate) keys: Vec<(String, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<FileTensor>,
    pub(crate) alignment: usize,
}

/// A tensor: name, sides with the fastest first, type, offset in place of the right one, bytes.
#[derive(Clone)]
pub(crate) struct FileTensor {
    pub(crate) name: String,
    pub(crate) sides: Vec<u64>,
    pub(crate) number: u32,
    pub(crate) offset: Option<u64>,
    pub(crate) bytes: Vec<u8>,
}

/// A text as files have it.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A list of one type as files have it.
pub(crate) fn list(number: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend(elements);
    bytes
}

impl GgufFile {
    /// A Llama of one layer, 32 features and two heads, of which all values are 0.
    pub(crate) fn right() -> Self {
        let mut file = Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            key_count: None,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        };
        file.say("general.architecture", TEXT, &text("llama"));
        for (key, value) in [
            ("context_length", 64u32),
            ("embedding_length", 32),
            ("block_count", 1),
            ("feed_forward_length", 64),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("rope.dimension_count", 16),
        ] {
            file.say(&format!("llama.{key}"), U32, &value.to_le_bytes());
        }
        let eps = 1e-5f32.to_le_bytes();
        file.say("llama.attention.layer_norm_rms_epsilon", F32, &eps);
        for (name, sides) in [
            ("token_embd.weight", vec![32, 10]),
            ("blk.0.attn_norm.weight", vec![32]),
            ("blk.0.attn_q.weight", vec![32, 32]),
            ("blk.0.attn_k.weight", vec![32, 16]),
            ("blk.0.attn_v.weight", vec![32, 16]),
            ("blk.0.attn_output.weight", vec![32, 32]),
            ("blk.0.ffn_norm.weight", vec![32]),
            ("blk.0.ffn_gate.weight", vec![32, 64]),
            ("blk.0.ffn_up.weight", vec![32, 64]),
            ("blk.0.ffn_down.weight", vec![64, 32]),
            ("output_norm.weight", vec![32]),
        ] {
            let values = sides.iter().product::<u64>() as usize;
            let (number, len) = match sides.len() {
                1 => (0, 4 * values),
                _ => (2, values / 32 * 18),
            };
            file.tensors.push(FileTensor {
                name: name.to_owned(),
                sides,
                number,
                offset: None,
                bytes: vec![0; len],
            });
        }
        file
    }

    /// Adds a key, or changes it.
    pub(crate) fn say(&mut self, key: &str, number: u32, value: &[u8]) {
        let entry = (key.to_owned(), number, value.to_vec());
        match self.keys.iter_mut().find(|(known, ..)| known == key) {
            Some(known) => *known = entry,
            None => self.keys.push(entry),
        }
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        let tensors = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        bytes.extend(tensors.to_le_bytes());
        let keys = self.key_count.unwrap_or(self.keys.len() as u64);
        bytes.extend(keys.to_le_bytes());
        for (key, number, value) in &self.keys {
            bytes.extend(text(key));
            bytes.extend(number.to_le_bytes());
            bytes.extend(value);
        }
        let mut next = 0usize;
        for tensor in &self.tensors {
            bytes.extend(text(&tensor.name));
            bytes.extend((tensor.sides.len() as u32).to_le_bytes());
            for side in &tensor.sides {
                bytes.extend(side.to_le_bytes());
            }
            bytes.extend(tensor.number.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(next as u64).to_le_bytes());
            next = (next + tensor.bytes.len()).next_multiple_of(self.alignment);
        }
        let pad = |bytes: &mut Vec<u8>| {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        };
        pad(&mut bytes);
        for tensor in &self.tensors {
            bytes.extend(&tensor.bytes);
            pad(&mut bytes);
        }
        bytes
    }
}

/// A file whose keys are bytes, and whose tensors can be exchanged.
#[derive(Clone)]
pub(crate) struct RawFile {
    /// How many, and their bytes.
    pub(crate) keys: (u64, Vec<u8>),
    pub(crate) tensors: Vec<RawTensor>,
}

/// Name, sides with the fastest first, type, bytes.
pub(crate) type RawTensor = (String, Vec<u64>, u32, Vec<u8>);

impl RawFile {
    /// Takes a right file apart.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let Ok(GgufParsed::Header(header)) = parse("file", bytes, bytes.len() as u64) else {
            panic!("a right file")
        };
        // The keys lie between the counts and the first tensor.
        let marker = text(&header.tensors[0].name);
        let end = bytes
            .windows(marker.len())
            .rposition(|found| found == marker);
        let end = end.expect("the first tensor");
        let tensors = header.tensors.iter().map(|tensor| {
            let range = tensor.range.start as usize..tensor.range.end as usize;
            let number = match tensor.kind {
                GgufType::Plain(StoredType::F32) => 0,
                GgufType::Plain(StoredType::F16) => 1,
                GgufType::Plain(_) => 30,
                GgufType::Blocks(kind) => kind.number(),
            };
            let sides = tensor.shape.iter().rev().map(|side| *side as u64);
            let bytes = bytes[range].to_vec();
            (tensor.name.clone(), sides.collect(), number, bytes)
        });
        Self {
            keys: (header.keys.len() as u64, bytes[24..end].to_vec()),
            tensors: tensors.collect(),
        }
    }

    /// Adds a number.
    pub(crate) fn say(&mut self, key: &str, number: u32) {
        self.keys.0 += 1;
        self.keys.1.extend(text(key));
        self.keys.1.extend(U32.to_le_bytes());
        self.keys.1.extend(number.to_le_bytes());
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.keys.0.to_le_bytes());
        bytes.extend(&self.keys.1);
        let mut offset = 0u64;
        for (name, sides, kind, values) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((sides.len() as u32).to_le_bytes());
            bytes.extend(sides.iter().flat_map(|side| side.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            offset = (offset + values.len() as u64).next_multiple_of(32);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        for (.., values) in &self.tensors {
            bytes.extend(values);
            bytes.resize(bytes.len().next_multiple_of(32), 0);
        }
        bytes
    }
}
