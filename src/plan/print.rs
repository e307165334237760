//! A plan for people (a table) and for machines (JSON).

use core::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::{Plan, Step};
use crate::{config::Bytes, target::instead};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self
            .steps
            .iter()
            .map(|step| step.slot.name.len())
            .max()
            .unwrap_or(0)
            .max(6);
        let quants: Vec<String> = self
            .steps
            .iter()
            .map(|step| step.quant().to_string())
            .collect();
        let quant = quants.iter().map(String::len).max().unwrap_or(0).max(5);

        writeln!(
            f,
            "{} to {}, dense weights in {}{}",
            self.model,
            self.target(),
            self.dtype,
            instead(self.dtype, self.dtype_wanted)
        )?;
        if !self.strategy_reason.is_empty() {
            writeln!(f, "strategy {}: {}", self.strategy, self.strategy_reason)?;
        }
        writeln!(
            f,
            "{:name$}  {:>14}  {:9}  {:quant$}  {:>10}  {:>10}",
            "tensor", "shape", "role", "quant", "read", "kept"
        )?;
        for (step, becomes) in self.steps.iter().zip(&quants) {
            writeln!(
                f,
                "{:name$}  {:>14}  {:9}  {becomes:quant$}  {:>10}  {:>10}",
                step.slot.name,
                shape(step),
                step.slot.role.name(),
                Bytes(step.bytes_source()).to_string(),
                Bytes(step.bytes_kept()).to_string(),
            )?;
        }
        for (what, names) in [
            ("missing", &self.missing),
            ("unused", &self.unused),
            ("unexpected", &self.unexpected),
        ] {
            for name in names {
                writeln!(f, "{what}: {name}")?;
            }
        }
        let totals = self.totals();
        write!(
            f,
            "{} tensors, {} packed, {} read, {} kept",
            totals.tensors,
            totals.packed,
            Bytes(totals.bytes_source),
            Bytes(totals.bytes_kept)
        )
    }
}

fn shape(step: &Step) -> String {
    let dims: Vec<String> = step.slot.shape.iter().map(usize::to_string).collect();
    dims.join(" x ")
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut plan = serializer.serialize_struct("Plan", 11)?;
        plan.serialize_field("model", &self.model)?;
        plan.serialize_field("target", self.target())?;
        plan.serialize_field("dtype", &self.dtype)?;
        plan.serialize_field("dtype_wanted", &self.dtype_wanted)?;
        plan.serialize_field("strategy", &self.strategy)?;
        plan.serialize_field("strategy_reason", &self.strategy_reason)?;
        plan.serialize_field("totals", &self.totals())?;
        plan.serialize_field("missing", &self.missing)?;
        plan.serialize_field("unused", &self.unused)?;
        plan.serialize_field("unexpected", &self.unexpected)?;
        plan.serialize_field("tensors", &self.steps)?;
        plan.end()
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut step = serializer.serialize_struct("Step", 8)?;
        step.serialize_field("name", &self.slot.name)?;
        step.serialize_field("shape", &self.slot.shape)?;
        step.serialize_field("role", &self.slot.role)?;
        let (file, offset) = self.begins();
        step.serialize_field("file", file)?;
        step.serialize_field("offset", &offset)?;
        step.serialize_field("quant", &self.quant())?;
        step.serialize_field("bytes_read", &self.bytes_source())?;
        step.serialize_field("bytes_kept", &self.bytes_kept())?;
        step.end()
    }
}
