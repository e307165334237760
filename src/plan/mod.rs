//! The plan: what happens to every tensor, as a value. It is made before the first weight is read, and can be written as
//! JSON, read back and carried out later.
//!
//! # Without an architecture
//!
//! A checkpoint of an unknown architecture is planned by what names, types and shapes of its tensors say. Such a plan can be
//! saved and verified; only an architecture can load it.
//!
//! | tensor | becomes |
//! |---|---|
//! | the tensors of a packed weight | adopted by the dialect of the checkpoint, as one weight |
//! | a float matrix `….weight`, or of a name without a module | a linear layer: quantized |
//! | such a matrix of a head, an embedding or a router, by its name | dense, unless a rule names it |
//! | a float tensor `[experts, out, in]` of experts, by its name | the matrices of all experts: quantized as one matrix `[experts * out, in]` |
//! | any other float tensor | dense, in its type |
//! | a tensor of any other type | its bytes are carried over |
//!
//! A matrix that the method cannot pack stays dense, unless it is named by a pattern.

mod bind;
mod computes;
mod error;
mod files;
mod gates;
mod given;
mod guess;
mod home;
mod json;
mod map;
mod matrices;
pub mod memory;
mod names;
mod need;
mod order;
mod part;
mod piece;
mod print;
mod renamed;
mod scaling;
mod settle;
mod sizes;
mod slicing;
mod stacks;
mod treatment;
mod unfit;
mod warnings;

pub(crate) use bind::Request;
pub use error::PlanError;
pub(crate) use gates::ExpertFiles;
pub use home::{DeviceFacts, Home, PlacedUnit};
pub use json::Summary;
pub use map::MapError;
pub(crate) use map::MapRequest;
pub(crate) use memory::layer_of;
pub use memory::{DeviceMemory, HostMemory, Lacking, MemoryPlan};
pub(crate) use need::Need;
pub use order::{Compare, Order};
pub use part::RankPart;
pub use piece::Piece;
pub(crate) use piece::made_of;
pub use renamed::names_note;
pub(crate) use renamed::{NameReading, is_inside, read_names};
pub(crate) use scaling::CHUNK;
pub use scaling::Scaling;
pub(crate) use slicing::UncutStep;
pub(crate) use stacks::whole_stacks;
pub use treatment::Treatment;
pub(crate) use unfit::listed;

use core::ops::Range;
use std::sync::Arc;

use firebox_kernels::{arith::float::DType, format::Format, linear::Compute};
use serde::{Deserialize, Serialize};

use crate::{
    adapter::change::MergedAdapters,
    config::{Ranks, Strategy},
    dialect::Adopt,
    model::{Link, Slot},
    quant::QuantSpec,
    source::{StoredType, TensorInfo},
    target::DTypeChoice,
};

/// What happens to every tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The checkpoint, as its source describes itself.
    pub model: String,
    /// The devices that the model computes on.
    pub devices: Vec<DeviceFacts>,
    /// Type of dense weights and activations, but for matrices that stay halves.
    pub dtype: DType,
    /// The type that was asked for, or that the target or the checkpoint would choose: another one than
    /// `dtype` where the device does not compute in it.
    pub dtype_wanted: DType,
    /// Whether matrices that are stored as halves stay so although `dtype` is another type.
    #[serde(default)]
    pub keeps_halves: bool,
    /// The arithmetic of products that is asked for; [`Step::compute`] says which a weight gets.
    #[serde(default)]
    pub compute: Compute,
    /// Where finished weights will live.
    pub strategy: Strategy,
    /// Why, in a sentence's part.
    pub strategy_reason: String,
    /// The parts of the model that stay together, and where they are; none of an architecture that names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<PlacedUnit>,
    /// Whether a map said where they go, and not the strategy alone.
    #[serde(default)]
    pub mapped: bool,
    /// In the order they are read: by file and offset, so that reads only go forward.
    pub steps: Vec<Step>,
    /// Matrices whose columns are balanced before the weights are read; empty unless that was asked for.
    pub links: Vec<Link>,
    /// Slots that no tensor of the checkpoint fills. A plan with any cannot be loaded.
    pub missing: Vec<String>,
    /// Tensors that are known leftovers and are not read.
    pub unused: Vec<String>,
    /// Tensors that nothing wants and nothing explains. They are not read.
    pub unexpected: Vec<String>,
    /// A tensor of the head, where the configuration takes the embedding for the head and the checkpoint has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untied: Option<String>,
    /// The tensor of a head that adapters which are merged make another matrix than the embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_head: Option<String>,
    /// The layers that are new, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new_blocks: Vec<usize>,
    /// Oddities of the files that do no harm to this model, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What adapters keep beside the weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<PlannedAdapter>,
    /// Which of several ranks the plan is for, and what that one has of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<RankShare>,
    /// Matrices that stay dense because the method that is asked for cannot pack them: in a plan without an architecture, and
    /// where no block of GGUF fits their rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfit: Vec<String>,
}

/// What one of several ranks has of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankShare {
    /// Which one, of how many, and what each has.
    #[serde(flatten)]
    pub ranks: Ranks,
    /// Its layers, where each rank has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Range<usize>>,
    /// Bytes of the checkpoint that other ranks read too: of weights that several have, and of those whose scales depend on
    /// all values.
    pub bytes_shared: u64,
}

/// An adapter that a load puts beside the weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedAdapter {
    /// The adapter in words, or its folder.
    pub adapter: String,
    /// Values of all its parameters.
    pub values: u64,
    /// Bytes of them: they are `f32`, and training needs as many again for gradients, and moments.
    pub bytes: u64,
}

/// What happens to one tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The slot that the weight is for.
    pub slot: Slot,
    /// The stored rows that the weight is made of, in the order of its rows. Empty where the checkpoint has the weight
    /// packed: [`Adopt::parts`] are its tensors then.
    pub pieces: Vec<Piece>,
    /// How the checkpoint stores the weight.
    pub stored: Stored,
    /// Which rows of that the weight is, where it is not all of them.
    #[serde(default)]
    pub every: Option<Every>,
    /// How it is put together of that, where it is not the same rows one after another.
    #[serde(default)]
    pub woven: Option<Woven>,
    /// What becomes of it.
    pub action: Action,
    /// What adapters add to its values before anything else. No part of a plan that is written down: the adapters are asked for
    /// by the configuration.
    #[serde(skip)]
    pub(crate) merge: Option<Arc<MergedAdapters>>,
    /// What it is multiplied by on the way. Found when the plan is carried out, for it takes the weights.
    pub scaling: Scaling,
    /// Where the finished weight lives.
    pub home: Home,
    /// The device of [`Plan::devices`] that it is on, or that it comes to when a product needs it.
    #[serde(default)]
    pub device: usize,
    /// What one of several ranks keeps of it; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<RankPart>,
}

/// Some rows of a source: `run` rows from row `first` on, as many from row `first + step` on, and so forth. Of biases, every
/// value counts as a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Every {
    /// The first row.
    pub first: usize,
    /// Rows that follow one another.
    pub run: usize,
    /// Rows from the first of a run to the first of the next.
    pub step: usize,
    /// All rows of the source.
    pub of: usize,
}

/// A stack of matrices that is put together of a source with other matrices, one expert after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Woven {
    /// `[rows, columns]` of an expert in the source; biases have one column.
    pub each: [usize; 2],
    /// The rows of the second half lie between those of the first: g0 u0 g1 u1 … of g0 g1 … u0 u1 …
    pub interleaved: bool,
    /// Each matrix becomes `[columns, rows]`.
    pub turned: bool,
}

impl Every {
    /// The row of the source that the row `nth` of the weight is.
    pub(crate) fn row(self, nth: usize) -> usize {
        self.first + nth / self.run * self.step + nth % self.run
    }
}

/// How a checkpoint stores a weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stored {
    /// Plain numbers of this type.
    Plain(DType),
    /// Packed, in the checkpoint's dialect.
    Packed(Box<Adopt>),
    /// Values of any other type. Their bytes are not looked at.
    Other(StoredType),
}

/// What becomes of one weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Plain numbers of this type: widened or narrowed, or given back by what was packed.
    Dense(DType),
    /// Packed words: what was asked for, and what it gives for this shape.
    Pack(QuantSpec, Format),
    /// Packed words, as the checkpoint has them.
    Adopt(Format),
    /// The bytes of the tensor, as the checkpoint has them. Only a saved folder takes them.
    Carry,
}

impl Action {
    /// The format, where the finished weight is packed.
    pub fn format(&self) -> Option<Format> {
        match self {
            Self::Dense(_) | Self::Carry => None,
            Self::Pack(_, format) | Self::Adopt(format) => Some(*format),
        }
    }
}

impl Step {
    /// The tensors that the weight is read from: one for each piece, or those of a packed weight, codes first.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        let packed = match &self.stored {
            Stored::Packed(adopt) => &adopt.parts[..],
            Stored::Plain(_) | Stored::Other(_) => &[],
        };
        self.pieces.iter().map(|piece| &piece.tensor).chain(packed)
    }

    /// The bytes that are read: the file and the range in it, in the order of [`tensors`](Self::tensors); several ranges of a
    /// tensor of which only some columns are read.
    pub fn reads(&self) -> impl Iterator<Item = (&str, Range<u64>)> {
        let packed = match &self.stored {
            Stored::Packed(adopt) => adopt.reads(),
            Stored::Plain(_) | Stored::Other(_) => Vec::new(),
        };
        let pieces = self.pieces.iter().flat_map(|piece| {
            let ranges = piece.ranges();
            ranges.map(|range| (&*piece.tensor.file, range))
        });
        pieces.chain(packed)
    }

    /// The file that is read first, and where in it.
    pub fn begins(&self) -> (&str, u64) {
        let first = self.reads().next();
        first.map_or(("", 0), |(file, range)| (file, range.start))
    }

    /// The tensor that holds the weight as it is: the same rows, in the same order, and nothing else.
    pub fn whole(&self) -> Option<&TensorInfo> {
        match &self.pieces[..] {
            [piece] if piece.is_whole() => Some(&piece.tensor),
            _ => None,
        }
    }

    /// Bytes of the weight in the checkpoint.
    pub fn bytes_source(&self) -> u64 {
        self.reads().map(|(_, range)| range.end - range.start).sum()
    }

    /// Bytes of the weight on its way to where it is converted: those of the checkpoint, unpacked where it is a source.
    pub(crate) fn bytes_on_way(&self) -> u64 {
        match &self.stored {
            Stored::Packed(_) if self.has_values() => {
                let [rows, cols] = self.matrix();
                (rows * cols * self.float().size()) as u64
            }
            _ => self.bytes_source(),
        }
    }

    /// Whether it is made from values: plain ones of the checkpoint, or those of what the checkpoint has packed.
    pub(crate) fn has_values(&self) -> bool {
        match (&self.stored, &self.action) {
            (Stored::Plain(_), _) => true,
            (Stored::Packed(_), Action::Dense(_) | Action::Pack(..)) => true,
            (Stored::Packed(_), Action::Adopt(_) | Action::Carry) | (Stored::Other(_), _) => false,
        }
    }

    /// The type of the values that it is made from.
    ///
    /// # Panics
    ///
    /// Where the checkpoint has others.
    pub(crate) fn float(&self) -> DType {
        // Adapters are merged in the type that a dense weight gets, where it is the wider one.
        match self.action {
            Action::Dense(DType::F32) if self.merge.is_some() => DType::F32,
            _ => self.float_read(),
        }
    }

    /// The type of the values that are read for it.
    ///
    /// # Panics
    ///
    /// As [`float`](Self::float).
    pub(crate) fn float_read(&self) -> DType {
        match &self.stored {
            Stored::Plain(float) => *float,
            Stored::Packed(_) => DType::F32,
            Stored::Other(_) => {
                panic!("{} has no plain values in the checkpoint", self.slot.name)
            }
        }
    }

    /// Bytes of the finished weight.
    pub fn bytes_finished(&self) -> u64 {
        let weights = self.slot.shape.iter().product::<usize>();
        let bytes = match &self.action {
            Action::Carry => return self.bytes_source(),
            Action::Dense(dtype) => weights * dtype.size(),
            Action::Pack(_, format) | Action::Adopt(format) => format.packed_bytes(self.matrix()),
        };
        bytes as u64
    }

    /// Bytes of the smallest part that the finished weight can be cut into: rows of a matrix, everything
    /// else whole.
    pub(crate) fn bytes_together(&self) -> u64 {
        let shape @ [rows, cols] = self.matrix();
        let bytes = match &self.action {
            Action::Pack(_, format) | Action::Adopt(format) => {
                format.packed_bytes([format.part_rows(shape).min(rows), cols])
            }
            Action::Carry => 1,
            Action::Dense(dtype) if self.slot.shape.len() == 2 => {
                // Halves that stay so are cut where a word ends.
                let together = 1 + cols * dtype.size() % size_of::<u32>() / dtype.size();
                together.min(rows) * cols * dtype.size()
            }
            Action::Dense(dtype) => rows * cols * dtype.size(),
        };
        bytes as u64
    }

    /// Values of the smallest part that the finished weight can be cut into, where it is packed.
    pub(crate) fn values_together(&self) -> usize {
        let shape @ [rows, cols] = self.matrix();
        let format = self.action.format();
        format.map_or(0, |format| format.part_rows(shape).min(rows) * cols)
    }

    /// `[rows, columns]`: the rows count over all axes but the last, and a vector has a row for each value.
    pub(crate) fn matrix(&self) -> [usize; 2] {
        match self.slot.shape[..] {
            [ref outer @ .., cols] if !outer.is_empty() => [outer.iter().product(), cols],
            _ => [self.slot.shape.iter().product(), 1],
        }
    }

    /// The same weight quantized otherwise, or plain in `dtype`; `None` where `quant` cannot pack it.
    pub(crate) fn instead(&self, quant: &QuantSpec, dtype: DType) -> Option<Self> {
        match quant {
            QuantSpec::None => Some(self.clone().dense(dtype)),
            // Open still.
            QuantSpec::Auto(_) | QuantSpec::Mixture(_) => None,
            _ => self.clone().packed(quant).ok(),
        }
    }

    /// The same weight, dense.
    pub(crate) fn dense(self, dtype: DType) -> Self {
        let action = Action::Dense(dtype);
        Self { action, ..self }.turned()
    }

    /// The same weight, packed by the method of `quant`; in blocks that fit its rows, where those of a GGUF type do not.
    pub(crate) fn packed(self, quant: &QuantSpec) -> Result<Self, PlanError> {
        if let QuantSpec::Dense(dtype) = quant {
            return Ok(self.dense(*dtype));
        }
        if quant.method().is_none() {
            return Ok(self);
        }
        let step = self.unturned();
        let quant = &quant.fitting(step.matrix()[1]);
        let Some(method) = quant.method() else {
            return Ok(step);
        };
        let format = method.format(step.matrix(), step.float());
        let format = format.map_err(|source| PlanError::Format {
            tensor: step.slot.name.clone(),
            source,
        })?;
        let action = Action::Pack(quant.clone(), format);
        Ok(Self { action, ..step })
    }

    /// What becomes of it, and of which format, in the words of `--quant`.
    pub fn quant(&self) -> Treatment {
        match (&self.action, &self.stored) {
            (Action::Adopt(format), _) => Treatment::Adopted(*format),
            (Action::Dense(_), Stored::Packed(adopt)) => Treatment::Unpacked(adopt.format),
            (Action::Dense(_) | Action::Carry, _) => Treatment::Dense,
            (Action::Pack(spec, _), Stored::Packed(adopt)) => {
                Treatment::Repacked(adopt.format, spec.clone())
            }
            (Action::Pack(spec, _), _) => Treatment::Packed(spec.clone()),
        }
    }
}

/// Sums over a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Tensors that are loaded.
    pub tensors: usize,
    /// Of these, packed.
    pub packed: usize,
    /// Bytes of these tensors in the checkpoint.
    pub bytes_source: u64,
    /// Bytes of the finished weights.
    #[serde(rename = "bytes_kept")]
    pub bytes_finished: u64,
}

impl Plan {
    /// Packed weights that become plain numbers become those of `to`.
    pub(crate) fn give_back(&mut self, to: DType) {
        for step in &mut self.steps {
            if let (Stored::Packed(_), Action::Dense(dtype)) = (&step.stored, &mut step.action) {
                *dtype = to;
            }
        }
    }

    /// Plain weights of a plan that adapters are merged into become those of `to`.
    pub(crate) fn merge_in(&mut self, to: DType) {
        for step in &mut self.steps {
            if let (Stored::Plain(_), Action::Dense(dtype)) = (&step.stored, &mut step.action) {
                *dtype = to;
            }
        }
    }

    /// The type of dense weights, where adapters are merged into them in another type than the stored one.
    pub(crate) fn merged_in(&self) -> Option<DType> {
        let mut merged = self.steps.iter().filter(|step| step.merge.is_some());
        merged.find_map(|step| match (&step.stored, &step.action) {
            (Stored::Plain(stored), Action::Dense(dtype)) if stored != dtype => Some(*dtype),
            _ => None,
        })
    }

    /// The types other than [`dtype`](Self::dtype) that dense weights are in: of matrices that stay as they are stored.
    pub fn halves(&self) -> Vec<DType> {
        let kept =
            |step: &Step, dtype| step.slot.is_matrix() && step.action == Action::Dense(dtype);
        let others = DType::ALL.into_iter().filter(|dtype| *dtype != self.dtype);
        let kept = others.filter(|dtype| self.steps.iter().any(|step| kept(step, *dtype)));
        kept.collect()
    }

    /// The type that a dense weight of `step` gets.
    pub(crate) fn dense_dtype(&self, step: &Step) -> DType {
        let choice = DTypeChoice {
            wanted: self.dtype_wanted,
            dtype: self.dtype,
            halves: self.keeps_halves,
        };
        match &step.stored {
            Stored::Plain(stored) if step.slot.is_matrix() => choice.of_matrix(*stored),
            _ => self.dtype,
        }
    }

    /// Sums over the steps.
    pub fn totals(&self) -> Totals {
        Totals {
            tensors: self.steps.len(),
            packed: self
                .steps
                .iter()
                .filter(|step| step.action.format().is_some())
                .count(),
            bytes_source: self.steps.iter().map(Step::bytes_source).sum(),
            bytes_finished: self.steps.iter().map(Step::bytes_kept).sum(),
        }
    }
}
