//! Finished weights on their way to a sink: a rank keeps its part, and the digest of all of it tells whether two loads keep
//! the same.

use core::ops::Range;

use firebox_kernels::format::Packed;
use half::vec::HalfBitsVecExt;
use serde::Serialize;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::shard;
use crate::{
    pipeline::{Dense, Finished, Sink, SinkError, Values, WeightShare},
    plan::{RankPart, Step},
    quant::PackedWeight,
    target::DType,
};

/// The digest of one weight of a rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WeightDigest {
    /// The slot.
    pub name: String,
    /// Format or type, and shape: `nf4:block=64 128x64`, `bf16 64`; for a share of its bytes those of the whole weight.
    pub layout: String,
    /// XXH3 (128 bits) of its codes and scales, or of its dense values, 32 digits.
    pub digest: String,
}

/// Hands on what a rank keeps of each weight.
pub(crate) struct RankSink<'s> {
    inner: &'s mut dyn Sink,
    digests: Vec<WeightDigest>,
}

impl<'s> RankSink<'s> {
    pub(crate) fn new(inner: &'s mut dyn Sink) -> Self {
        let digests = Vec::new();
        Self { inner, digests }
    }

    /// The digests of all weights, sorted by name, and that of the list of them.
    pub(crate) fn finish(mut self) -> (String, Vec<WeightDigest>) {
        self.digests.sort_by(|a, b| a.name.cmp(&b.name));
        let mut all = Xxh3::new();
        for of in &self.digests {
            let line = format!("{} {} {}\n", of.name, of.layout, of.digest);
            all.update(line.as_bytes());
        }
        (hex(all.digest128()), self.digests)
    }
}

impl Sink for RankSink<'_> {
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        let weight = kept(step, weight)?;
        let step = step.kept();
        self.digests.push(WeightDigest {
            name: step.slot.name.clone(),
            layout: layout(&step),
            digest: hex(digest(&step, &weight)?),
        });
        self.inner.place(&step, weight)
    }
}

fn hex(hash: u128) -> String {
    format!("{hash:032x}")
}

fn layout(step: &Step) -> String {
    use crate::plan::Action;
    let sides: Vec<String> = step.slot.shape.iter().map(usize::to_string).collect();
    let sides = sides.join("x");
    match &step.action {
        Action::Dense(dtype) => format!("{dtype} {sides}"),
        Action::Pack(_, format) | Action::Adopt(format) => format!("{format} {sides}"),
        Action::Carry => format!("carried {sides}"),
    }
}

fn digest(step: &Step, weight: &Finished) -> Result<u128, SinkError> {
    let two = |first: &[u8], second: &[u8]| {
        let mut hash = Xxh3::new();
        hash.update(first);
        hash.update(second);
        hash.digest128()
    };
    let of = |packed: &Packed| {
        two(
            bytemuck::cast_slice(&packed.words),
            bytemuck::cast_slice(&packed.scales),
        )
    };
    Ok(match weight {
        Finished::Dense(dense) => xxh3_128(dense.bytes()),
        Finished::Packed(packed) => of(packed),
        Finished::Placed(parts) => of(&on_host(step, parts)?),
        Finished::Carried(bytes) => xxh3_128(bytes),
        Finished::Share(share) => two(&share.values, &share.scales),
    })
}

/// A weight that a device has packed, whole and on the host.
fn on_host(step: &Step, parts: &[PackedWeight]) -> Result<Packed, SinkError> {
    let parts: Vec<Packed> = parts.iter().map(PackedWeight::to_host).collect();
    let joined = match parts.len() {
        1 => parts.into_iter().next(),
        _ => Packed::join(&parts),
    };
    joined.ok_or_else(|| SinkError::new(&*step.slot.name, "its parts do not fit together"))
}

/// What a rank keeps of a finished weight.
fn kept(step: &Step, weight: Finished) -> Result<Finished, SinkError> {
    let Some(part) = &step.part else {
        return Ok(weight);
    };
    if !part.is_cut() {
        return Ok(weight);
    }
    let weight = match weight {
        Finished::Placed(parts) => Finished::Packed(on_host(step, &parts)?),
        weight => weight,
    };
    Ok(match (&part.bytes, weight) {
        (None, Finished::Packed(packed)) => {
            let sliced = packed.slice(&part.rows, part.cols.clone());
            let refused = |_| SinkError::new(&*step.slot.name, "its format is not cut there");
            Finished::Packed(sliced.map_err(refused)?)
        }
        (None, Finished::Dense(dense)) => {
            let [_, cols] = step.matrix();
            Finished::Dense(some_values(&dense, cols, part))
        }
        (Some(bytes), Finished::Packed(packed)) => {
            let first = if part.from_whole {
                0
            } else {
                part.rows[0].start
            };
            let whole = [
                part.of[..part.of.len() - 1].iter().product(),
                part.cols.len(),
            ];
            let all = packed.format.scales_len(whole);
            let before = shard::before(packed.format, whole, first, [packed.scales.len(), all]);
            let [values, scales] = [(&packed.words, 0), (&packed.scales, 1)].map(|(words, nth)| {
                let of_part: &[u8] = bytemuck::cast_slice(words);
                some_bytes(of_part, &bytes[nth], before[nth])
            });
            Finished::Share(WeightShare { values, scales })
        }
        (Some([bytes, _]), Finished::Dense(dense)) => {
            // A vector has exactly the bytes that are kept.
            let first = match (
                part.from_whole,
                step.slot.shape == [bytes.len() / dense.dtype().size()],
            ) {
                (false, true) => bytes.start,
                (false, false) => part.rows[0].start * part.cols.len() * dense.dtype().size(),
                (true, _) => 0,
            };
            Finished::Share(WeightShare {
                values: some_bytes(dense.bytes(), bytes, first),
                scales: Vec::new(),
            })
        }
        (_, weight) => weight,
    })
}

/// Bytes `range` of a buffer, of which `held` begins with the byte `first`.
fn some_bytes(held: &[u8], range: &Range<usize>, first: usize) -> Vec<u8> {
    match range.is_empty() {
        true => Vec::new(),
        false => held[range.start - first..range.end - first].to_vec(),
    }
}

/// The values of some rows and columns of a dense weight with so many columns.
fn some_values(dense: &Dense, width: usize, part: &RankPart) -> Dense {
    let (size, all) = (dense.dtype().size(), dense.bytes());
    let mut bytes = Vec::with_capacity(part.shape().iter().product::<usize>() * size);
    for row in part.rows.iter().cloned().flatten() {
        let at = |col: usize| (row * width + col) * size;
        bytes.extend_from_slice(&all[at(part.cols.start)..at(part.cols.end)]);
    }
    Dense::Owned(match dense.dtype() {
        DType::F32 => Values::F32(bytemuck::pod_collect_to_vec(&bytes)),
        DType::F16 => {
            Values::F16(bytemuck::pod_collect_to_vec::<u8, u16>(&bytes).reinterpret_into())
        }
        DType::Bf16 => {
            Values::Bf16(bytemuck::pod_collect_to_vec::<u8, u16>(&bytes).reinterpret_into())
        }
    })
}
