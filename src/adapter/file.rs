//! The two files of an adapter, as peft writes and reads them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use burn::tensor::{DType as BurnDType, TensorData};
use firebox_kernels::arith::float::DType;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{change::transposed, error::AdapterError, peft::PeftConfig};

/// The configuration.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// The tensors.
pub(crate) const TENSORS: &str = "adapter_model.safetensors";
/// Bytes of an `adapter_config.json` at most; long ones name every module.
const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// Before the name of every module.
const PREFIX: &str = "base_model.model.";

/// An adapter as its folder has it.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    /// The folder, or the name of an adapter that was never in one.
    pub(crate) name: String,
    /// `adapter_config.json`.
    pub config: PeftConfig,
    /// The tensors, by module: `model.layers.0.self_attn.q_proj`.
    pub(crate) modules: BTreeMap<String, ModuleTensors>,
    /// Tensors that nothing computes with: with `bias: all`, peft writes the bias of a module that is stored whole three times,
    /// once as it was.
    pub(crate) spare: Vec<StoredTensor>,
}

/// The tensors of one module.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ModuleTensors {
    /// `[r, in]`, or `[r, vocabulary]` of an embedding.
    pub(crate) a: Option<StoredTensor>,
    /// `[out, r]`, or `[features, r]` of an embedding.
    pub(crate) b: Option<StoredTensor>,
    /// `[out]`.
    pub(crate) magnitude: Option<StoredTensor>,
    /// `[out]`.
    pub(crate) bias: Option<StoredTensor>,
    /// `[out, in]`, `[vocabulary, features]`, or `[features]` of a norm.
    pub(crate) whole: Option<StoredTensor>,
}

/// A tensor as it is stored, under its own name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredTensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl AdapterFile {
    /// Reads the folder of an adapter.
    ///
    /// # Errors
    ///
    /// [`AdapterError`] for files that are missing, damaged, or describe a change that is not computed.
    pub fn open(folder: &Path) -> Result<Self, AdapterError> {
        let lacks = |missing| AdapterError::NoAdapter {
            folder: folder.to_owned(),
            missing,
            found: listing(folder),
        };
        let config_file = folder.join(CONFIG);
        let text = match read(&config_file, CONFIG_BYTES_MAX) {
            Err(error) if is_absent(&error) => return Err(lacks(CONFIG)),
            text => text.map_err(|source| file_error(&config_file, source))?,
        };
        let text = String::from_utf8(text).map_err(|error| AdapterError::Config {
            file: config_file.clone(),
            reason: format!("is no UTF-8: {}", error.utf8_error()),
        })?;
        let config = PeftConfig::parse(&config_file, text)?;
        let file = folder.join(TENSORS);
        let bytes = match read(&file, u64::MAX) {
            Err(error) if is_absent(&error) => return Err(lacks(TENSORS)),
            bytes => bytes.map_err(|source| file_error(&file, source))?,
        };
        let tensors = SafeTensors::deserialize(&bytes).map_err(|source| AdapterError::Tensors {
            file: file.clone(),
            source,
        })?;
        let mut modules = BTreeMap::<String, ModuleTensors>::new();
        let mut spare = Vec::new();
        for (name, view) in tensors.iter() {
            let tensor = StoredTensor {
                name: name.to_owned(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            if SPARE.iter().any(|end| name.ends_with(end)) {
                spare.push(tensor);
                continue;
            }
            let (module, part) = part(name).ok_or_else(|| AdapterError::Tensor {
                file: file.clone(),
                tensor: name.to_owned(),
            })?;
            let place = modules.entry(module.to_owned()).or_default().part(part);
            match place {
                None => *place = Some(tensor),
                Some(first) if first.has_values_of(&tensor) => spare.push(tensor),
                Some(first) => {
                    return Err(AdapterError::Twice {
                        file,
                        first: first.name.clone(),
                        second: tensor.name,
                    });
                }
            }
        }
        Ok(Self {
            name: folder.display().to_string(),
            config,
            modules,
            spare,
        })
    }

    /// Writes both files into `folder`, which is made. What was read of files of peft is written to the byte.
    ///
    /// # Errors
    ///
    /// [`AdapterError::File`].
    pub fn save(&self, folder: &Path) -> Result<(), AdapterError> {
        fs::create_dir_all(folder).map_err(|source| file_error(folder, source))?;
        let tensors = self.modules.values().flat_map(ModuleTensors::all);
        let views = tensors.chain(&self.spare).map(|tensor| {
            let StoredTensor {
                name,
                dtype,
                shape,
                bytes,
            } = tensor;
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            (name, view.expect("a tensor has the bytes of its shape"))
        });
        let metadata = [("format".to_owned(), "pt".to_owned())];
        let bytes = safetensors::serialize(views, Some(metadata.into()));
        let bytes = bytes.expect("views of a file make a file");
        write(&folder.join(TENSORS), &bytes)?;
        // Last: a folder with a configuration is an adapter.
        write(&folder.join(CONFIG), self.config.text.as_bytes())
    }

    /// The values of a tensor of a module, which has to have the shape `expected`; `name` is for errors.
    pub(super) fn values(
        &self,
        module: &str,
        tensor: &StoredTensor,
        name: &'static str,
        expected: &[usize],
    ) -> Result<Vec<f32>, AdapterError> {
        if tensor.shape != expected {
            return Err(AdapterError::Shape {
                adapter: self.name.clone(),
                module: module.to_owned(),
                tensor: name,
                found: tensor.shape.clone(),
                expected: expected.to_vec(),
            });
        }
        let values = tensor.floats().ok_or_else(|| AdapterError::Type {
            adapter: self.name.clone(),
            module: module.to_owned(),
            tensor: name,
            found: format!("{:?}", tensor.dtype),
        })?;
        match values.iter().filter(|value| !value.is_finite()).count() {
            0 => Ok(values),
            count => Err(AdapterError::NotFinite {
                adapter: self.name.clone(),
                module: module.to_owned(),
                tensor: name,
                count,
                len: values.len(),
            }),
        }
    }

    /// An error of `adapter_config.json`.
    pub(super) fn config_error(&self, reason: String) -> AdapterError {
        AdapterError::Config {
            file: Path::new(&self.name).join(CONFIG),
            reason,
        }
    }

    /// How many values it has of the modules that `counts` names.
    pub(super) fn values_of(&self, counts: impl Fn(&str) -> bool) -> usize {
        let modules = self.modules.iter();
        let modules = modules.filter(|(module, _)| counts(module));
        let tensors = modules.flat_map(|(_, tensors)| tensors.all());
        tensors
            .map(|tensor| tensor.shape.iter().product::<usize>())
            .sum()
    }

    /// The modules that it changes.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }
}

/// A whole file. A pipe or a device, which may have no end, and a file of more than `most` bytes are refused unread.
fn read(file: &Path, most: u64) -> io::Result<Vec<u8>> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if found.len() > most {
        let bytes = found.len();
        return Err(io::Error::other(format!(
            "it has {bytes} bytes, and at most {most} are read"
        )));
    }
    fs::read(file)
}

/// Writes a file by its part, so that nobody reads half of it.
fn write(file: &Path, bytes: &[u8]) -> Result<(), AdapterError> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, file));
    written.map_err(|source| {
        let _ = fs::remove_file(&part);
        file_error(file, source)
    })
}

fn file_error(file: &Path, source: io::Error) -> AdapterError {
    AdapterError::File {
        file: file.to_owned(),
        source,
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The first names of a folder.
fn listing(folder: &Path) -> String {
    let Ok(files) = fs::read_dir(folder) else {
        return "no files, since it is no folder".to_owned();
    };
    let names = files.flatten().map(|file| file.file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into()).collect();
    names.sort();
    names.truncate(8);
    match names.is_empty() {
        true => "no files".to_owned(),
        false => names.join(", "),
    }
}

/// A kind of tensor that an adapter has for a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdapterPart {
    A,
    B,
    Magnitude,
    Bias,
    Whole,
}

/// The ends of names, longer ones first.
const ENDS: [(&str, AdapterPart); 12] = [
    (".lora_A.weight", AdapterPart::A),
    (".lora_B.weight", AdapterPart::B),
    (".lora_embedding_A", AdapterPart::A),
    (".lora_embedding_B", AdapterPart::B),
    (".lora_magnitude_vector.weight", AdapterPart::Magnitude),
    (".lora_magnitude_vector", AdapterPart::Magnitude),
    (".base_layer.bias", AdapterPart::Bias),
    (".base_layer.weight", AdapterPart::Whole),
    (".modules_to_save.weight", AdapterPart::Whole),
    (".modules_to_save.bias", AdapterPart::Bias),
    (".weight", AdapterPart::Whole),
    (".bias", AdapterPart::Bias),
];

/// The ends of the names of tensors that stand for the module as it was before it was trained whole.
const SPARE: [&str; 2] = [".original_module.weight", ".original_module.bias"];

/// The module of a tensor of peft, and what the tensor is to the module.
fn part(name: &str) -> Option<(&str, AdapterPart)> {
    let name = name.strip_prefix(PREFIX)?;
    let of = |(end, part): &(&str, AdapterPart)| Some((name.strip_suffix(end)?, *part));
    let found = ENDS.iter().find_map(of)?;
    // Factors of some other kind end like whole matrices.
    (!found.0.contains("lora_")).then_some(found)
}

/// The name of a tensor of a module, as peft names it.
pub(crate) fn name(module: &str, part: AdapterPart, is_table: bool, has_factors: bool) -> String {
    let end = match (part, is_table) {
        (AdapterPart::A, false) => ".lora_A.weight",
        (AdapterPart::B, false) => ".lora_B.weight",
        (AdapterPart::A, true) => ".lora_embedding_A",
        (AdapterPart::B, true) => ".lora_embedding_B",
        (AdapterPart::Magnitude, _) => ".lora_magnitude_vector",
        // A module with factors is a wrapper around the one that has the bias.
        (AdapterPart::Bias, _) if has_factors => ".base_layer.bias",
        (AdapterPart::Whole, _) if has_factors => ".base_layer.weight",
        (AdapterPart::Bias, _) => ".bias",
        (AdapterPart::Whole, _) => ".weight",
    };
    format!("{PREFIX}{module}{end}")
}

impl ModuleTensors {
    pub(crate) fn part(&mut self, part: AdapterPart) -> &mut Option<StoredTensor> {
        match part {
            AdapterPart::A => &mut self.a,
            AdapterPart::B => &mut self.b,
            AdapterPart::Magnitude => &mut self.magnitude,
            AdapterPart::Bias => &mut self.bias,
            AdapterPart::Whole => &mut self.whole,
        }
    }

    /// Whether there are tensors of factors.
    pub(crate) const fn has_factors(&self) -> bool {
        self.a.is_some() || self.b.is_some()
    }

    fn all(&self) -> impl Iterator<Item = &StoredTensor> {
        let Self {
            a,
            b,
            magnitude,
            bias,
            whole,
        } = self;
        [a, b, magnitude, bias, whole].into_iter().flatten()
    }
}

impl StoredTensor {
    /// Whether another tensor stores the same values.
    pub(crate) fn has_values_of(&self, other: &Self) -> bool {
        (self.dtype, &self.shape, &self.bytes) == (other.dtype, &other.shape, &other.bytes)
    }

    /// The values in `f32`, in which adapters compute; `None` for a type that has no values of that kind.
    pub(crate) fn floats(&self) -> Option<Vec<f32>> {
        let mut floats = vec![0.0; self.shape.iter().product()];
        match self.dtype {
            Dtype::F32 => DType::F32.widen(&self.bytes, &mut floats),
            Dtype::F16 => DType::F16.widen(&self.bytes, &mut floats),
            Dtype::BF16 => DType::Bf16.widen(&self.bytes, &mut floats),
            Dtype::F64 => {
                let doubles = self.bytes.chunks_exact(8);
                for (float, double) in floats.iter_mut().zip(doubles) {
                    let double: [u8; 8] = double.try_into().expect("eight bytes");
                    *float = f64::from_le_bytes(double) as f32;
                }
            }
            _ => return None,
        }
        Some(floats)
    }

    /// The values of the transposed matrix; `None` where it has none, or is no matrix.
    pub(crate) fn turned(&self) -> Option<Vec<f32>> {
        let &[rows, _] = &self.shape[..] else {
            return None;
        };
        Some(transposed(&self.floats()?, rows).to_vec())
    }

    /// The values of a tensor in `f32`.
    pub(crate) fn of(name: String, data: TensorData) -> Self {
        let shape = data.shape().to_vec();
        let floats = data.convert_dtype(BurnDType::F32);
        let floats = floats.try_into_vec::<f32>().expect("f32");
        Self {
            name,
            dtype: Dtype::F32,
            shape,
            bytes: bytemuck::cast_slice(&floats).to_vec(),
        }
    }
}
