//! Making a plan: slots are bound to tensors, each gets its quantization, sizes are checked against
//! the device.

use std::collections::{HashMap, HashSet};

use firebox_kernels::{arith::float::DType, format::PART_VALUES_MAX, linear::Compute};

use super::{
    Action, DeviceFacts, Home, Piece, Plan, PlanError, Scaling, Step, Stored, names, piece, unfit,
};
use crate::{
    config::{Pattern, Policy, Strategy},
    dialect::{self, Adopt, Dialect, stacks_of},
    model::{Link, Origin, Role, Slot},
    quant::QuantSpec,
    source::{Catalog, TensorInfo},
    target::DTypeChoice,
};

/// What a plan is made from, besides the slots.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) model: String,
    /// Oddities of the files, a sentence each.
    pub(crate) notes: Vec<String>,
    pub(crate) catalog: &'a Catalog,
    pub(crate) dialect: Option<&'a dyn Dialect>,
    pub(crate) policy: &'a Policy,
    /// Whether packed weights become plain numbers.
    pub(crate) dequantize: bool,
    /// Whether packed weights are the source of other quantizations.
    pub(crate) requantize: bool,
    /// The weights that become plain numbers in any case.
    pub(crate) dense: &'a [Pattern],
    /// The layers that are new.
    pub(crate) new_blocks: &'a [usize],
    pub(crate) devices: Vec<DeviceFacts>,
    pub(crate) dtype: DTypeChoice,
    /// The arithmetic of products.
    pub(crate) compute: Compute,
    /// Whether weights that are packed as the policy asks stay so.
    pub(crate) is_module: bool,
    /// Whether the weights go to files.
    pub(crate) is_save: bool,
    /// Whether the weights go to a graphics device, which does not read every format.
    pub(crate) is_device: bool,
}

impl Plan {
    /// Binds slots to tensors. `leaves_out` tells known leftovers from surprises.
    pub(crate) fn bind(
        request: &Request<'_>,
        slots: &[Slot],
        leaves_out: impl Fn(&str) -> bool,
    ) -> Result<Self, PlanError> {
        request.check_patterns(slots)?;
        request.check_compute()?;
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for slot in slots {
            match request.origin(slot)? {
                Some(origin) => found.push((slot, origin)),
                None => missing.push(slot.name.clone()),
            }
        }
        request.sort(&mut found);
        let steps = found.into_iter().map(|(slot, found)| {
            let step = match found {
                Found::Packed(adopt) => request.adopted(slot, adopt),
                Found::Pieces(pieces) => request.plain(slot, pieces),
                Found::Other(tensor) => Err(PlanError::Dtype {
                    tensor: tensor.name.to_string(),
                    file: tensor.file.to_string(),
                    found: tensor.dtype,
                }),
            };
            (slot, step)
        });
        let steps = unfit::all(steps, request.policy)?;
        request.check_stacks(&steps)?;
        let used: HashSet<&str> = (steps.iter())
            .flat_map(|step| step.tensors().map(|tensor| &*tensor.name))
            .collect();

        let (mut unused, mut unexpected) = (Vec::new(), Vec::new());
        for tensor in request.catalog.iter() {
            let name = &*tensor.name;
            if used.contains(name) {
                continue;
            }
            if leaves_out(name) || request.leaves_out(name) {
                unused.push(name.to_owned());
            } else {
                unexpected.push(name.to_owned());
            }
        }
        let is_unfit = |step: &&Step| {
            let quant = step.slot.quant(request.policy);
            matches!(step.action, Action::Dense(_)) && !quant.fits(step.matrix()[1])
        };
        let unfit = steps.iter().filter(is_unfit);
        Ok(Self {
            missing,
            unused,
            unexpected,
            unfit: unfit.map(|step| step.slot.name.clone()).collect(),
            ..request.plan(steps)
        })
    }

    /// Asks for the columns of `links` to be balanced before the weights are read. `slots` are those that the plan
    /// was bound for.
    pub(crate) fn link(&mut self, links: Vec<Link>, slots: &[Slot]) -> Result<(), PlanError> {
        if links.is_empty() {
            return Err(PlanError::NoLinks);
        }
        let names: HashSet<&str> = slots.iter().map(|slot| &*slot.name).collect();
        for link in &links {
            let mut named = link.from.iter().chain(&link.to);
            if let Some(name) = named.find(|name| !names.contains(&***name)) {
                return Err(PlanError::LinkName { name: name.clone() });
            }
            self.check_link(link)?;
        }
        // What is multiplied on the way is not rounded once more.
        for step in &mut self.steps {
            let named = |link: &Link| {
                link.from
                    .iter()
                    .chain(&link.to)
                    .any(|name| *name == step.slot.name)
            };
            if let Action::Dense(dtype) = &mut step.action
                && links.iter().any(named)
            {
                *dtype = self.dtype;
            }
        }
        self.links = links;
        Ok(())
    }

    /// Refuses weights that stay packed as they are, and shapes that do not go together.
    fn check_link(&self, link: &Link) -> Result<(), PlanError> {
        let steps = |names: &[String]| {
            let named = names.iter().map(|name| {
                let step = self.steps.iter().find(|step| step.slot.name == *name);
                if let Some(Step {
                    action: Action::Adopt(format),
                    ..
                }) = step
                {
                    let (tensor, format) = (name.clone(), *format);
                    return Err(PlanError::Balance { tensor, format });
                }
                Ok(step)
            });
            // A slot without a tensor is reported when the plan is checked.
            named
                .filter_map(Result::transpose)
                .collect::<Result<Vec<_>, _>>()
        };
        let (from, to) = (steps(&link.from)?, steps(&link.to)?);
        let features = from.first().map_or(0, |step| step.matrix()[0]);
        let fits = |step: &Step, side: usize, expected: usize| {
            let found = step.matrix()[side];
            (found == expected)
                .then_some(())
                .ok_or_else(|| PlanError::Link {
                    tensor: step.slot.name.clone(),
                    found,
                    expected,
                })
        };
        from.iter().try_for_each(|step| fits(step, 0, features))?;
        let columns = features * link.times;
        to.iter().try_for_each(|step| fits(step, 1, columns))
    }

    /// Refuses a plan with slots that no tensor fills, and one of a checkpoint with more layers than its model.
    pub(crate) fn check_complete(&self) -> Result<(), PlanError> {
        names::check(self)
    }

    /// Refuses a plan that cannot be carried out: a tensor is missing, or a device is too small.
    ///
    /// # Errors
    ///
    /// [`PlanError::Missing`], [`PlanError::Allocation`], [`PlanError::DoesNotFit`].
    pub fn check(&self, in_flight: u64) -> Result<(), PlanError> {
        self.check_parts()?;
        for (nth, device) in self.devices.iter().enumerate() {
            let needed = self.bytes_on_device(nth);
            // A small model never has its whole budget in flight, and in host memory tiles are no matter of the device.
            let there = self.steps.iter();
            let there = there.filter(|step| step.home == Home::Device(nth) && !device.on_host);
            let in_flight = in_flight.min(there.map(Step::bytes_on_way).sum());
            if let Some(memory) = device.memory
                && needed + in_flight > memory
            {
                return Err(PlanError::DoesNotFit {
                    needed,
                    in_flight,
                    memory,
                    target: device.target.clone(),
                });
            }
        }
        Ok(())
    }

    /// The same for a device that only has one weight at a time.
    pub(crate) fn check_parts(&self) -> Result<(), PlanError> {
        self.check_complete()?;
        for device in &self.devices {
            let Some(largest) = device.largest_allocation else {
                continue;
            };
            let mut steps = self.steps.iter();
            if let Some(step) = steps.find(|step| step.values_together() > PART_VALUES_MAX) {
                return Err(PlanError::Values {
                    tensor: step.slot.name.clone(),
                    needed: step.values_together(),
                    largest: PART_VALUES_MAX,
                    target: device.target.clone(),
                });
            }
            let mut steps = self.steps.iter();
            if let Some(step) = steps.find(|step| step.bytes_together() > largest) {
                return Err(PlanError::Allocation {
                    tensor: step.slot.name.clone(),
                    needed: step.bytes_together(),
                    largest,
                    target: device.target.clone(),
                });
            }
        }
        Ok(())
    }
}

/// What the checkpoint has for a slot.
pub(super) enum Found {
    Packed(Adopt),
    Pieces(Vec<Piece>),
    /// Values that no slot of a model takes.
    Other(TensorInfo),
}

impl Found {
    pub(super) fn tensors(&self) -> Vec<&TensorInfo> {
        match self {
            Self::Packed(adopt) => adopt.parts.iter().collect(),
            Self::Pieces(pieces) => pieces.iter().map(|piece| &piece.tensor).collect(),
            Self::Other(tensor) => vec![tensor],
        }
    }

    fn first_row(&self) -> usize {
        match self {
            Self::Pieces(pieces) => pieces.first().map_or(0, |piece| piece.rows.start),
            Self::Packed(_) | Self::Other(_) => 0,
        }
    }
}

impl Request<'_> {
    /// A plan of these steps for the devices that were asked for.
    pub(super) fn plan(&self, steps: Vec<Step>) -> Plan {
        Plan {
            model: self.model.clone(),
            devices: self.devices.clone(),
            dtype: self.dtype.dtype,
            dtype_wanted: self.dtype.wanted,
            keeps_halves: self.dtype.halves,
            compute: self.compute,
            strategy: Strategy::Auto,
            strategy_reason: String::new(),
            units: Vec::new(),
            mapped: false,
            steps,
            links: Vec::new(),
            missing: Vec::new(),
            unused: Vec::new(),
            unexpected: Vec::new(),
            untied: None,
            own_head: None,
            adapters: Vec::new(),
            unfit: Vec::new(),
            ranks: None,
            notes: self.notes.clone(),
            new_blocks: self.new_blocks.to_vec(),
        }
    }

    /// The same request for other names of the tensors.
    pub(super) fn of<'c>(&'c self, catalog: &'c Catalog) -> Request<'c> {
        Request {
            model: self.model.clone(),
            notes: self.notes.clone(),
            devices: self.devices.clone(),
            catalog,
            ..*self
        }
    }

    /// Refuses patterns that name no slot.
    pub(super) fn check_patterns(&self, slots: &[Slot]) -> Result<(), PlanError> {
        let tensors = slots.iter();
        let tensors = tensors.map(|slot| (&*slot.name, slot.role, &*slot.shape));
        match self.policy.idle(tensors).next() {
            None => Ok(()),
            Some(pattern) => Err(PlanError::IdlePattern {
                pattern: pattern.to_string(),
            }),
        }
    }

    /// Refuses experts that the checkpoint has and the model does not: a part of a stack that no slot takes.
    fn check_stacks(&self, steps: &[Step]) -> Result<(), PlanError> {
        let mut taken: HashMap<&str, u64> = HashMap::new();
        let experts = steps.iter().filter(|step| step.slot.role == Role::Expert);
        for step in experts {
            for (tensor, (_, range)) in step.tensors().zip(step.reads()) {
                *taken.entry(&tensor.name).or_default() += range.end - range.start;
            }
        }
        let mut tensors = self.catalog.iter();
        let rest = tensors.find(|tensor| {
            let taken = taken.get(&*tensor.name);
            taken.is_some_and(|taken| *taken < tensor.bytes())
        });
        match rest {
            None => Ok(()),
            Some(tensor) => Err(PlanError::Experts {
                tensor: tensor.name.to_string(),
                file: tensor.file.to_string(),
                found: tensor.shape.clone(),
                has: tensor.bytes(),
                taken: taken[&*tensor.name],
            }),
        }
    }

    /// Whether a tensor belongs to the dialect of the checkpoint and to no weight.
    pub(super) fn leaves_out(&self, tensor: &str) -> bool {
        let dialect = self.dialect;
        dialect.is_some_and(|dialect| dialect.leaves_out(tensor))
    }

    /// Sorts slots by the file and the offset of the first rows that they take.
    pub(super) fn sort<S>(&self, found: &mut [(S, Found)]) {
        let places = self.places();
        found.sort_by_key(|(_, found)| {
            let tensors = found.tensors();
            let first = tensors.first().map(|tensor| places[&*tensor.name]);
            (first, found.first_row())
        });
    }

    /// The same for steps.
    pub(crate) fn sort_steps(&self, steps: &mut [Step]) {
        let places = self.places();
        steps.sort_by_key(|step| {
            let first = step.tensors().next().map(|tensor| places[&*tensor.name]);
            (
                first,
                step.pieces.first().map_or(0, |piece| piece.rows.start),
            )
        });
    }

    /// The place of each tensor in the order of files and offsets.
    fn places(&self) -> HashMap<&str, usize> {
        let places = self.catalog.iter().enumerate();
        places.map(|(k, tensor)| (&*tensor.name, k)).collect()
    }

    /// What the checkpoint has for a slot; `None` where a tensor is missing.
    pub(super) fn origin(&self, slot: &Slot) -> Result<Option<Found>, PlanError> {
        if let Some(adopt) = self.adopt(slot)? {
            return Ok(Some(Found::Packed(adopt)));
        }
        let mut pieces = Vec::new();
        for origin in &slot.from {
            match self.catalog.get(&origin.tensor) {
                Some(tensor) => pieces.push(Piece::new(slot, origin, tensor)?),
                None => return self.elsewhere(slot),
            }
        }
        Ok(Some(Found::Pieces(pieces)))
    }

    /// A dense weight under a name that no origin says: the cache has each under the name of its slot, and mlx-lm stacks
    /// experts.
    fn elsewhere(&self, slot: &Slot) -> Result<Option<Found>, PlanError> {
        if let Some(own) = self.catalog.get(&slot.name) {
            return Ok(Some(Found::Pieces(vec![Piece::whole(own)])));
        }
        let mut stacks = stacks_of(&slot.name);
        let found = stacks.find_map(|(stack, nth)| Some((self.catalog.get(&stack)?, nth)));
        let Some((tensor, nth)) = found else {
            return Ok(None);
        };
        let stack = Origin::whole(&*tensor.name);
        let matrix = match slot.shape[..] {
            [rows, _] => stack.rows(nth * rows..(nth + 1) * rows),
            // A row of biases is a column of one value each.
            _ => stack.rows(nth..nth + 1).transposed(),
        };
        let piece = Piece::new(slot, &matrix, tensor)?;
        Ok(Some(Found::Pieces(vec![piece])))
    }

    /// The packed weight that a slot is, where the dialect of the checkpoint has it.
    fn adopt(&self, slot: &Slot) -> Result<Option<Adopt>, PlanError> {
        let Some(dialect) = self.dialect else {
            return Ok(None);
        };
        let adopted = match &slot.from[..] {
            // All of a weight that the checkpoint has under another name: the embedding, as a head.
            [origin] if origin.is_whole() && origin.tensor != slot.name => {
                let stored = Slot::new(&*origin.tensor, &*slot.shape, slot.role);
                dialect::adopt(dialect, &stored, self.catalog)?
            }
            _ => dialect::adopt(dialect, slot, self.catalog)?,
        };
        if adopted.is_some() || matches!(&slot.from[..], [origin] if origin.is_whole()) {
            return Ok(adopted);
        }
        let mut origins = slot.from.iter();
        match origins.find(|origin| dialect::is_packed(&origin.tensor, self.catalog)) {
            None => Ok(None),
            Some(origin) => Err(PlanError::PackedPiece {
                slot: slot.name.clone(),
                tensor: origin.tensor.clone(),
                dialect: dialect.name(),
            }),
        }
    }

    /// A weight of plain values: packed, or left dense.
    pub(super) fn plain(&self, slot: &Slot, pieces: Vec<Piece>) -> Result<Step, PlanError> {
        self.packed(slot, self.dense(slot, pieces)?)
    }

    /// The step of a weight of plain values, packed as it is asked for. In a file, rows that no block of GGUF fits stay dense, as
    /// llama.cpp leaves them.
    fn packed(&self, slot: &Slot, dense: Step) -> Result<Step, PlanError> {
        let quant = slot.quant(self.policy);
        match quant.fits(dense.matrix()[1]) || !self.is_save {
            true => dense.packed(&quant),
            false => Ok(dense),
        }
    }

    /// A weight of plain values that stays dense: in the type of the model, but for values beside matrices that are stored
    /// in f32. Those are few, and decide by their last bits (what corrects the scores of experts).
    pub(super) fn dense(&self, slot: &Slot, pieces: Vec<Piece>) -> Result<Step, PlanError> {
        let stored = piece::check(slot, &pieces)?;
        let dtype = match (slot.role, stored) {
            (Role::Other, DType::F32) => DType::F32,
            _ if slot.is_matrix() => self.dtype.of_matrix(stored),
            _ => self.dtype.dtype,
        };
        Ok(Step {
            stored: Stored::Plain(stored),
            slot: slot.clone(),
            pieces,
            action: Action::Dense(dtype),
            every: None,
            merge: None,
            woven: None,
            scaling: Scaling::default(),
            home: Home::Device(0),
            device: 0,
            part: None,
        })
    }

    /// A weight that the checkpoint has packed: it stays so, is dequantized, or is packed otherwise.
    pub(super) fn adopted(&self, slot: &Slot, adopt: Adopt) -> Result<Step, PlanError> {
        if self.requantize {
            return self.packed(slot, self.unpacked(slot, adopt));
        }
        let quant = slot.quant(self.policy);
        if quant.method().is_some() && !(self.is_module && is_made_by(&quant, slot, &adopt)) {
            return Err(PlanError::Packed {
                tensor: slot.name.clone(),
                format: adopt.format,
                quant: quant.to_string(),
            });
        }
        let mut dense = self.dense.iter();
        let dense = dense.any(|pattern| pattern.is_match(&slot.name, slot.role));
        let unreadable = self.is_module && self.is_device && !adopt.format.on_device();
        Ok(if self.dequantize || dense || unreadable {
            self.unpacked(slot, adopt)
        } else {
            kept(slot, adopt)
        })
    }

    /// A weight that the checkpoint has packed, dequantized.
    pub(super) fn unpacked(&self, slot: &Slot, adopt: Adopt) -> Step {
        kept(slot, adopt).dense(self.dtype.dtype)
    }
}

/// Whether `quant` packs the weight as it is packed.
fn is_made_by(quant: &QuantSpec, slot: &Slot, adopt: &Adopt) -> bool {
    let [rows, cols] = match slot.shape[..] {
        [ref outer @ .., cols] => [outer.iter().product(), cols],
        [] => [1, 1],
    };
    let float = adopt.float().unwrap_or(DType::F32);
    let quant = quant.fitting(cols);
    let format = quant
        .method()
        .map(|method| method.format([rows, cols], float));
    format.is_some_and(|format| format.is_ok_and(|format| format == adopt.format))
}

/// A weight that stays packed as the checkpoint has it.
fn kept(slot: &Slot, adopt: Adopt) -> Step {
    Step {
        slot: slot.clone(),
        pieces: Vec::new(),
        action: Action::Adopt(adopt.format),
        stored: Stored::Packed(adopt.into()),
        every: None,
        merge: None,
        woven: None,
        scaling: Scaling::default(),
        home: Home::Device(0),
        device: 0,
        part: None,
    }
}
