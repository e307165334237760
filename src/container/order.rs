//! The order of rows and of columns in a container.

use super::family::GgufFamily;
use crate::model::decoder::{DeltaSpec, MixerSpec, Part, Spec};

/// The order of rows in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// Each head has its rows as pairs: those of the first half of a head, each followed by one of the second half.
    Pairs {
        /// Rows of a head.
        head: usize,
    },
    /// Queries of all heads, keys of all, values of all; in transformers, those of each head are together.
    Thirds {
        /// Heads.
        heads: usize,
        /// Rows of a head.
        head: usize,
    },
    /// Some of each `step` rows, which are other rows as well.
    Every {
        /// The first of them.
        first: usize,
        /// How many.
        run: usize,
        /// Rows from the first of one run to the first of the next.
        step: usize,
    },
    /// For each key head its queries, its keys, its values and their gates; in transformers, all queries, all keys and all values.
    KeyHeads {
        /// Key heads.
        heads: usize,
        /// Rows of queries of a key head, and of its keys.
        keys: usize,
        /// Rows of its values.
        values: usize,
    },
    /// Value heads by their number within the key head, after rows that stay; in transformers, by key head.
    Tiled {
        /// Rows that stay.
        kept: usize,
        /// How the heads that follow lie.
        heads: TiledHeads,
        /// Rows of a head.
        head: usize,
    },
}

/// Value heads that llama.cpp has in another order, so that keys are repeated as a whole: `k0v0 k1v0 … k0v1 k1v1 …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TiledHeads {
    /// Key heads.
    pub(super) keys: usize,
    /// Value heads of each.
    pub(super) each: usize,
}

impl TiledHeads {
    /// The heads of a model, where the order makes a difference.
    pub(super) fn of(delta: &DeltaSpec) -> Option<Self> {
        let each = delta.value_heads / delta.key_heads;
        (each > 1 && delta.key_heads > 1).then_some(Self {
            keys: delta.key_heads,
            each,
        })
    }

    /// The head of the container that a head of transformers is.
    pub(super) const fn stored(self, head: usize) -> usize {
        head % self.each * self.keys + head / self.each
    }

    /// All of them.
    pub(super) const fn count(self) -> usize {
        self.keys * self.each
    }
}

/// The delta rule of the layers that have it.
pub(super) fn delta(spec: &Spec) -> Option<&DeltaSpec> {
    spec.layers.iter().find_map(|layer| match &layer.mixer {
        MixerSpec::Delta(delta) => Some(delta),
        _ => None,
    })
}

impl RowOrder {
    /// The row of the container that a row of transformers is.
    pub(super) const fn stored(self, row: usize) -> usize {
        match self {
            Self::Pairs { head } => {
                let (first, within) = (row / head * head, row % head);
                first
                    + match within < head / 2 {
                        true => 2 * within,
                        false => 2 * (within - head / 2) + 1,
                    }
            }
            Self::Thirds { heads, head } => {
                let (group, within) = (row / head, row % head);
                (group % 3 * heads + group / 3) * head + within
            }
            Self::Every { first, run, step } => row / run * step + first + row % run,
            Self::KeyHeads {
                heads,
                keys,
                values,
            } => {
                let each = 2 * keys + 2 * values;
                let all = heads * keys;
                match row / all {
                    0 => row / keys * each + row % keys,
                    1 => (row - all) / keys * each + keys + row % keys,
                    _ => {
                        let row = row - 2 * all;
                        row / values * each + 2 * keys + row % values
                    }
                }
            }
            Self::Tiled { kept, heads, head } => match row < kept {
                true => row,
                false => {
                    let row = row - kept;
                    kept + heads.stored(row / head) * head + row % head
                }
            },
        }
    }

    /// Rows of transformers that follow one another in the container too: each run of them begins at a multiple of this length.
    pub(super) const fn run(self) -> usize {
        match self {
            Self::Pairs { .. } => 1,
            Self::Thirds { head, .. } => head,
            Self::Every { run, .. } => run,
            Self::KeyHeads { keys, values, .. } => common(keys, values),
            Self::Tiled { kept, head, .. } => common(kept, head),
        }
    }

    /// The order that an architecture has for a part, where it is another; `heads` are those of queries and of keys.
    pub(super) fn of(
        family: &GgufFamily,
        spec: &Spec,
        part: Part,
        heads: [usize; 2],
        rows: usize,
    ) -> Option<Self> {
        match part {
            Part::Q if family.pairs => Some(Self::Pairs {
                head: rows / heads[0].max(1),
            }),
            Part::K if family.pairs => Some(Self::Pairs {
                head: rows / heads[1].max(1),
            }),
            Part::Qkv if family.name == "gptneox" => Some(Self::Thirds {
                heads: heads[0],
                head: rows / (3 * heads[0]).max(1),
            }),
            // Qwen 3 Next has its heads as transformers has them.
            _ if family.is_hybrid() && family.name != "qwen3next" => {
                let delta = delta(spec)?;
                let tiled = |kept, head| {
                    let heads = TiledHeads::of(delta)?;
                    Some(Self::Tiled { kept, heads, head })
                };
                match part {
                    Part::DeltaQkv | Part::DeltaConvolution => {
                        let kept = 2 * delta.key_heads * delta.key_features;
                        tiled(kept, delta.value_features)
                    }
                    Part::DeltaGate => tiled(0, delta.value_features),
                    Part::DeltaStrength
                    | Part::DeltaFade
                    | Part::DeltaFadeBias
                    | Part::DeltaFadeFactor => tiled(0, 1),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// The greatest number that divides both; `b` is not 0.
const fn common(mut a: usize, mut b: usize) -> usize {
    while a != 0 {
        (a, b) = (b % a, a);
    }
    b
}
