//! The names that are known.

use super::StoredType;

/// A name that a dictionary of tensors needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch.Size`, a tuple.
    Size,
    /// `torch.device`.
    Device,
    /// What makes a tensor of a storage.
    Rebuild(Rebuild),
    /// What makes a parameter of a tensor.
    Parameter(&'static str),
    /// A kind of storage with the type of its elements, `None` of bytes.
    Storage(&'static str, Option<StoredType>),
    /// A type of values, where it is one of safetensors.
    Type(&'static str, Option<StoredType>),
}

/// The functions that make a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rebuild {
    /// Of storage, offset, shape, strides.
    V1,
    /// And whether it has a gradient, hooks, attributes.
    V2,
    /// As the second, with the type after the hooks.
    V3,
}

impl Global {
    /// The name, or `None` of one that is not known.
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch", "Size") => Some(Self::Size),
            ("torch", "device") => Some(Self::Device),
            ("torch._utils", "_rebuild_tensor") => Some(Self::Rebuild(Rebuild::V1)),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::Rebuild(Rebuild::V2)),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::Rebuild(Rebuild::V3)),
            ("torch._utils", _) => {
                let known = PARAMETERS.iter().find(|known| **known == name)?;
                Some(Self::Parameter(known))
            }
            ("torch" | "torch.storage", name) => {
                let storage = STORAGES.iter().find(|(known, _)| *known == name);
                let storage = storage.map(|(name, dtype)| Self::Storage(name, *dtype));
                let dtype = || TYPES.iter().find(|(known, _)| *known == name);
                storage.or_else(|| dtype().map(|(name, dtype)| Self::Type(name, *dtype)))
            }
            _ => None,
        }
    }

    /// The name without its module.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OrderedDict => "OrderedDict",
            Self::Size => "torch.Size",
            Self::Device => "torch.device",
            Self::Rebuild(Rebuild::V1) => "_rebuild_tensor",
            Self::Rebuild(Rebuild::V2) => "_rebuild_tensor_v2",
            Self::Rebuild(Rebuild::V3) => "_rebuild_tensor_v3",
            Self::Parameter(name) | Self::Storage(name, _) | Self::Type(name, _) => name,
        }
    }
}

const PARAMETERS: [&str; 2] = ["_rebuild_parameter", "_rebuild_parameter_with_state"];

const STORAGES: [(&str, Option<StoredType>); 12] = [
    ("BFloat16Storage", Some(StoredType::BF16)),
    ("BoolStorage", Some(StoredType::Bool)),
    ("ByteStorage", Some(StoredType::U8)),
    ("CharStorage", Some(StoredType::I8)),
    ("ComplexFloatStorage", Some(StoredType::C64)),
    ("DoubleStorage", Some(StoredType::F64)),
    ("FloatStorage", Some(StoredType::F32)),
    ("HalfStorage", Some(StoredType::F16)),
    ("IntStorage", Some(StoredType::I32)),
    ("LongStorage", Some(StoredType::I64)),
    ("ShortStorage", Some(StoredType::I16)),
    ("UntypedStorage", None),
];

/// Types of torch; those without one of safetensors can be values of a dictionary, and not of a tensor.
const TYPES: [(&str, Option<StoredType>); 22] = [
    ("bfloat16", Some(StoredType::BF16)),
    ("bool", Some(StoredType::Bool)),
    ("complex128", None),
    ("complex32", None),
    ("complex64", Some(StoredType::C64)),
    ("float16", Some(StoredType::F16)),
    ("float32", Some(StoredType::F32)),
    ("float4_e2m1fn_x2", None),
    ("float64", Some(StoredType::F64)),
    ("float8_e4m3fn", Some(StoredType::F8E4M3)),
    ("float8_e4m3fnuz", Some(StoredType::F8E4M3Fnuz)),
    ("float8_e5m2", Some(StoredType::F8E5M2)),
    ("float8_e5m2fnuz", Some(StoredType::F8E5M2Fnuz)),
    ("float8_e8m0fnu", Some(StoredType::F8E8M0)),
    ("int16", Some(StoredType::I16)),
    ("int32", Some(StoredType::I32)),
    ("int64", Some(StoredType::I64)),
    ("int8", Some(StoredType::I8)),
    ("uint16", Some(StoredType::U16)),
    ("uint32", Some(StoredType::U32)),
    ("uint64", Some(StoredType::U64)),
    ("uint8", Some(StoredType::U8)),
];
