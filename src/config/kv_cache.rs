use core::{fmt, str::FromStr};

use firebox_kernels::arith::float::DType;

/// The type that a cache keeps keys and values in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum KvCacheDtype {
    /// Singles.
    F32,
    /// Halves.
    F16,
    /// Halves with the range of singles.
    Bf16,
    /// Bytes, from -127 to 127, and a factor in `f32` for each head of each token: its largest magnitude over 127.
    Int8,
}

impl KvCacheDtype {
    const ALL: [(Self, &'static str); 4] = [
        (Self::F32, "f32"),
        (Self::F16, "f16"),
        (Self::Bf16, "bf16"),
        (Self::Int8, "int8"),
    ];

    /// The type of the numbers, where they are floats.
    pub const fn float(self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::Bf16),
            Self::Int8 => None,
        }
    }

    /// Bytes of `rows` rows of `features` numbers each.
    pub(crate) const fn bytes(self, rows: u64, features: u64) -> u64 {
        rows * match self {
            Self::F32 => 4 * features,
            Self::F16 | Self::Bf16 => 2 * features,
            // Four in a word.
            Self::Int8 => 4 * features.div_ceil(4) + 4,
        }
    }
}

impl From<DType> for KvCacheDtype {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::Bf16 => Self::Bf16,
        }
    }
}

impl fmt::Display for KvCacheDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(dtype, _)| dtype == self);
        f.pad(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for KvCacheDtype {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.iter().find(|(_, name)| *name == text);
        named
            .map(|(dtype, _)| *dtype)
            .ok_or("write f32, f16, bf16 or int8")
    }
}
