//! The mixtures of llama-quantize: a type for most matrices, and more bits for some.

use core::fmt;

use firebox_kernels::format::Gguf;

/// A mixture of block types, which the layers of a model decide.
///
/// Its words are those of llama-quantize where no single type has the same; the others say `mixture`: `q6_k:mixture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mixture {
    /// `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `Q2_K`, `Q6_K` or `IQ4_NL` of llama-quantize, by the type of most matrices.
    Of(Gguf),
    /// `Q3_K_S`.
    Q3KSmall,
    /// `Q3_K_M`.
    Q3KMedium,
    /// `Q3_K_L`.
    Q3KLarge,
    /// `Q4_K_S`.
    Q4KSmall,
    /// `Q4_K_M`.
    Q4KMedium,
    /// `Q5_K_S`.
    Q5KSmall,
    /// `Q5_K_M`.
    Q5KMedium,
}

impl Mixture {
    /// Mixtures whose names are not names of types.
    const NAMED: [(&'static str, Self); 7] = [
        ("q3_k_s", Self::Q3KSmall),
        ("q3_k_m", Self::Q3KMedium),
        ("q3_k_l", Self::Q3KLarge),
        ("q4_k_s", Self::Q4KSmall),
        ("q4_k_m", Self::Q4KMedium),
        ("q5_k_s", Self::Q5KSmall),
        ("q5_k_m", Self::Q5KMedium),
    ];

    /// Types of most matrices of the others.
    const OF: [Gguf; 8] = [
        Gguf::Q4_0,
        Gguf::Q4_1,
        Gguf::Q5_0,
        Gguf::Q5_1,
        Gguf::Q8_0,
        Gguf::Q2K,
        Gguf::Q6K,
        Gguf::Iq4Nl,
    ];

    /// A mixture that has a name, and the name.
    pub(super) fn named(name: &str) -> Option<(&'static str, Self)> {
        Self::NAMED.into_iter().find(|(known, _)| *known == name)
    }

    /// The mixture that has most matrices in this type, and no name but the type's.
    pub(super) fn of(kind: Gguf) -> Option<Self> {
        Self::OF.contains(&kind).then_some(Self::Of(kind))
    }

    /// The type of most matrices.
    pub const fn usual(self) -> Gguf {
        match self {
            Self::Of(kind) => kind,
            Self::Q3KSmall | Self::Q3KMedium | Self::Q3KLarge => Gguf::Q3K,
            Self::Q4KSmall | Self::Q4KMedium => Gguf::Q4K,
            Self::Q5KSmall | Self::Q5KMedium => Gguf::Q5K,
        }
    }
}

impl fmt::Display for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(kind) => write!(f, "{}:mixture", kind.name()),
            _ => {
                let named = Self::NAMED.into_iter().find(|(_, named)| named == self);
                f.write_str(named.map_or("", |(name, _)| name))
            }
        }
    }
}
