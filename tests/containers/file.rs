//! Files of `torch.save` that are put together byte by byte, so that any of them can lie.

use std::sync::Arc;

use firebox::{
    Error, LoadConfig, LoadRequest,
    source::{Checkpoint, Memory, SourceExt},
};

/// The name under which a file is read.
pub(crate) const FILE: &str = "pytorch_model.bin";

/// A pickle under way.
#[derive(Clone, Default)]
pub(crate) struct Pickled(pub(crate) Vec<u8>);

impl Pickled {
    pub(crate) fn new() -> Self {
        Self(b"\x80\x02".to_vec())
    }

    pub(crate) fn op(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend(bytes.as_ref());
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        let len = text.len() as u32;
        self.op("X").op(len.to_le_bytes()).op(text)
    }

    pub(crate) fn number(self, number: i64) -> Self {
        self.op("\u{8a}".chars().map(|c| c as u8).collect::<Vec<_>>())
            .op([8])
            .op(number.to_le_bytes())
    }

    pub(crate) fn numbers(self, numbers: &[i64]) -> Self {
        let open = self.op("(");
        let all = numbers.iter().fold(open, |all, number| all.number(*number));
        all.op("t")
    }

    pub(crate) fn global(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n"))
    }

    pub(crate) fn storage(self, class: &str, key: &str, count: i64) -> Self {
        let id = self.op("(").text("storage").global("torch", class);
        id.text(key).text("cpu").number(count).op("tQ")
    }

    /// A tensor of a storage of floats.
    pub(crate) fn tensor(
        self,
        [key, count]: [i64; 2],
        offset: i64,
        shape: &[i64],
        strides: &[i64],
    ) -> Self {
        let call = self.global("torch._utils", "_rebuild_tensor_v2").op("(");
        let call = call.storage("FloatStorage", &key.to_string(), count);
        let call = call.number(offset).numbers(shape).numbers(strides);
        call.op(b"\x89")
            .global("collections", "OrderedDict")
            .op(")RtR")
    }

    /// The dictionary of one tensor that `value` pushes.
    pub(crate) fn dictionary(value: impl FnOnce(Self) -> Self) -> Self {
        let dictionary = Self::new().op("}").text("weight");
        value(dictionary).op("s.")
    }

    /// Two rows of three values.
    pub(crate) fn right() -> Self {
        Self::dictionary(|pickle| pickle.tensor([0, 6], 0, &[2, 3], &[3, 1]))
    }
}

/// An entry of an archive.
#[derive(Clone)]
pub(crate) struct ZipPart {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) method: u16,
    pub(crate) flags: u16,
    /// What the directory says in place of the right name, length and place.
    pub(crate) listed: (Option<String>, Option<u32>, Option<u32>),
}

/// An archive.
#[derive(Clone)]
pub(crate) struct ZipFile {
    pub(crate) parts: Vec<ZipPart>,
    /// What the end says in place of the right count and place.
    pub(crate) count: Option<u16>,
    pub(crate) directory: Option<u32>,
    pub(crate) after: Vec<u8>,
}

impl ZipFile {
    pub(crate) fn of(pickle: &Pickled) -> Self {
        let values: Vec<u8> = (0..6u8)
            .flat_map(|value| f32::from(value).to_le_bytes())
            .collect();
        let parts = [
            ("archive/data.pkl", pickle.0.clone()),
            ("archive/byteorder", b"little".to_vec()),
            ("archive/data/0", values),
            ("archive/version", b"3\n".to_vec()),
        ];
        let parts = parts.map(|(name, bytes)| ZipPart {
            name: name.to_owned(),
            bytes,
            method: 0,
            flags: 0,
            listed: (None, None, None),
        });
        Self {
            parts: parts.to_vec(),
            count: None,
            directory: None,
            after: Vec::new(),
        }
    }

    pub(crate) fn part(&mut self, name: &str) -> &mut ZipPart {
        let mut parts = self.parts.iter_mut();
        parts.find(|part| part.name == name).expect("a part")
    }

    /// The bytes, the contents of each part at a multiple of 64, as PyTorch has them.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (mut file, mut directory) = (Vec::new(), Vec::new());
        for part in &self.parts {
            let at = file.len();
            let len = (part.bytes.len() as u32).to_le_bytes();
            let about = |name: &str, len: [u8; 4], extra: usize| {
                let [method, flags] = [part.method, part.flags].map(u16::to_le_bytes);
                let name_len = (name.len() as u16).to_le_bytes();
                let extra = (extra as u16).to_le_bytes();
                let parts = [
                    &[0, 0],
                    &flags[..],
                    &method,
                    &[0; 8],
                    &len,
                    &len,
                    &name_len,
                    &extra,
                ];
                parts.concat()
            };
            let padding = 4 + (64 - (at + 34 + part.name.len()) % 64) % 64;
            file.extend(b"PK\x03\x04");
            file.extend(about(&part.name, len, padding));
            file.extend(part.name.as_bytes());
            file.extend(b"FB");
            file.extend((padding as u16 - 4).to_le_bytes());
            file.resize(file.len() + padding - 4, b'Z');
            file.extend(&part.bytes);

            let (name, listed, place) = &part.listed;
            let name = name.as_ref().unwrap_or(&part.name);
            directory.extend(b"PK\x01\x02\x00\x00");
            directory.extend(about(name, listed.map_or(len, u32::to_le_bytes), 0));
            directory.extend([0; 10]);
            directory.extend(place.unwrap_or(at as u32).to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let start = self.directory.unwrap_or(file.len() as u32);
        let count = self.count.unwrap_or(self.parts.len() as u16).to_le_bytes();
        let len = directory.len() as u32;
        file.extend(directory);
        file.extend(b"PK\x05\x06\x00\x00\x00\x00");
        file.extend([count, count].concat());
        file.extend(len.to_le_bytes());
        file.extend(start.to_le_bytes());
        file.extend([0, 0]);
        file.extend(&self.after);
        file
    }
}

/// An older file: five pickles, then the storages.
pub(crate) fn legacy(pickle: &Pickled) -> Vec<u8> {
    let values = (0..6u8).flat_map(|value| f32::from(value).to_le_bytes());
    let magic = Pickled::new().op(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.");
    let rest = [
        Pickled::new().op(b"M\xe9\x03."),
        Pickled::new().op("}."),
        pickle.clone(),
        Pickled::new().op("]").text("0").op("a."),
    ];
    let pickles = [magic].into_iter().chain(rest).flat_map(|pickle| pickle.0);
    let count = 6u64.to_le_bytes();
    pickles.chain(count).chain(values).collect()
}

/// A source of one file.
pub(crate) fn memory(name: &str, bytes: &[u8]) -> LoadRequest {
    let source = Memory::new().with(name, bytes);
    LoadRequest::from(LoadConfig::new("memory").bare()).source(Arc::new(source))
}

/// Opens a file of tensors, and reads each of them.
pub(crate) fn opened(bytes: &[u8]) -> Result<Checkpoint, Error> {
    let checkpoint = memory(FILE, bytes).open()?;
    for tensor in checkpoint.catalog().iter() {
        values_of(&checkpoint, &tensor.name);
    }
    Ok(checkpoint)
}

/// The bytes of a tensor.
pub(crate) fn values_of(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let tensor = checkpoint.catalog().get(name).expect("a tensor");
    let mut bytes = vec![0; tensor.bytes() as usize];
    let read = checkpoint
        .source()
        .read_at(&tensor.file, tensor.range.start, &mut bytes);
    read.expect("reads");
    let mut again = vec![0; bytes.len()];
    let source = checkpoint.source();
    source
        .peek(&tensor.file, tensor.range.start, &mut again)
        .expect("reads");
    assert_eq!(bytes, again, "{name}");
    bytes
}
