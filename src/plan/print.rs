//! A plan for people: a table.

use core::fmt;

use super::{Plan, PlannedAdapter, RankShare, Step};
use crate::{
    config::{Bytes, Ranks},
    target::dense_types,
};

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
        let quant = quants
            .iter()
            .map(|quant| quant.chars().count())
            .max()
            .unwrap_or(0)
            .max(5);

        writeln!(
            f,
            "{} to {}, dense weights in {}",
            self.model,
            self.target(),
            dense_types(self.dtype, self.dtype_wanted, &self.halves())
        )?;
        if !self.strategy_reason.is_empty() {
            writeln!(f, "strategy {}: {}", self.strategy, self.strategy_reason)?;
        }
        if let Some(share) = &self.ranks {
            writeln!(f, "{share}")?;
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
        if !self.new_blocks.is_empty() {
            let blocks: Vec<String> = self.new_blocks.iter().map(usize::to_string).collect();
            writeln!(f, "new blocks: {}", blocks.join(", "))?;
        }
        for warning in self.warnings() {
            writeln!(f, "warning: {warning}")?;
        }
        for PlannedAdapter {
            adapter,
            values,
            bytes,
        } in &self.adapters
        {
            let bytes = Bytes(*bytes);
            writeln!(f, "adapter {adapter}: {values} values, {bytes} kept in f32")?;
        }
        let totals = self.totals();
        write!(
            f,
            "{} tensors, {} packed, {} read, {} kept",
            totals.tensors,
            totals.packed,
            Bytes(totals.bytes_source),
            Bytes(totals.bytes_finished)
        )
    }
}

/// `rank 1 of 4, layers 8 to 15; 2.0 MiB of what it reads, other ranks read too`
impl fmt::Display for RankShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ranks {
            rank,
            world_size,
            parallel,
        } = self.ranks;
        write!(f, "rank {rank} of {world_size}, {parallel}")?;
        match &self.layers {
            Some(layers) if layers.len() == 1 => write!(f, ", layer {}", layers.start)?,
            Some(layers) => write!(f, ", layers {} to {}", layers.start, layers.end - 1)?,
            None => {}
        }
        match self.bytes_shared {
            0 => Ok(()),
            bytes => write!(
                f,
                "; {} of what it reads, other ranks read too",
                Bytes(bytes)
            ),
        }
    }
}

fn shape(step: &Step) -> String {
    let dims: Vec<String> = step
        .kept()
        .slot
        .shape
        .iter()
        .map(usize::to_string)
        .collect();
    dims.join(" x ")
}
