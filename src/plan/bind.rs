//! Making a plan: slots are bound to tensors, each gets its quantization, sizes are checked against
//! the device.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use firebox_kernels::{error::FormatError, format::Format};

use super::{Action, Plan, Scaling, Step, Stored};
use crate::{
    config::{Policy, Strategy},
    dialect::{Adopt, Dialect, DialectError, plain},
    model::{Link, Slot},
    source::{Catalog, StoredType, TensorInfo},
    target::{Capabilities, DTypeChoice},
};

/// A plan that cannot be made, or cannot be carried out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The checkpoint and its config disagree.
    #[error(
        "{tensor} in {file} is {found:?}, config.json implies {expected:?}; the weights and the config are of different models"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its file.
        file: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape the architecture wants.
        expected: Vec<usize>,
    },
    /// A type that is not a plain float.
    #[error(
        "{tensor} in {file} is stored as {found}; weights of an unquantized checkpoint are F32, F16 or BF16"
    )]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its file.
        file: String,
        /// Its type.
        found: StoredType,
    },
    /// Slots without tensors.
    #[error(
        "{model} lacks {count} of {wanted} tensors, first {first}; the checkpoint is incomplete or of another architecture"
    )]
    Missing {
        /// The checkpoint.
        model: String,
        /// How many are missing.
        count: usize,
        /// How many the architecture wants.
        wanted: usize,
        /// The first of them.
        first: String,
    },
    /// The method cannot pack this weight.
    #[error("{tensor}: {source}")]
    Format {
        /// The tensor.
        tensor: String,
        /// Why not.
        source: FormatError,
    },
    /// The checkpoint's dialect and its tensors disagree.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// The checkpoint has it packed already.
    #[error(
        "{tensor} is packed as {format} in the checkpoint and cannot become {quant}: quantize the model it was made from, or what `firebox convert --dequantize` makes of it"
    )]
    Packed {
        /// The tensor.
        tensor: String,
        /// How it is packed.
        format: Format,
        /// What was asked for.
        quant: String,
    },
    /// More bytes than were asked for, whatever is chosen.
    #[error(
        "{asked} leaves {budget} bytes for the weights that are chosen for, {}; ask for more, or name smaller candidates",
        match needed {
            Some(needed) => format!("the smallest candidates take {needed}"),
            None => "and some of them no candidate can pack".to_owned(),
        }
    )]
    Budget {
        /// What was asked for.
        asked: String,
        /// Bytes that it leaves.
        budget: u64,
        /// Bytes of the smallest candidates; `None` where there is no candidate for some weight.
        needed: Option<u64>,
    },
    /// Its columns can not be balanced any more.
    #[error(
        "{tensor} is packed as {format} in the checkpoint and its columns cannot be balanced; balance the model it was made from"
    )]
    Balance {
        /// The tensor.
        tensor: String,
        /// How it is packed.
        format: Format,
    },
    /// Columns are to be balanced, and nobody says of which weights.
    #[error(
        "the architecture names no layers that share an input, so no columns can be balanced; load without that"
    )]
    NoLinks,
    /// A link of the architecture between weights that do not go together.
    #[error(
        "{tensor} shares {found} features where {expected} are made; `links` of the architecture is wrong"
    )]
    Link {
        /// The tensor.
        tensor: String,
        /// Features that it has.
        found: usize,
        /// Features of what makes them.
        expected: usize,
    },
    /// A pattern without a tensor.
    #[error(
        "pattern `{pattern}` names no weight that can be quantized; `firebox plan` lists the names"
    )]
    IdlePattern {
        /// The pattern.
        pattern: String,
    },
    /// Too large for the device.
    #[error(
        "the finished weights are {needed} bytes and {in_flight} more are in flight, {target} has {memory}; quantize further or choose another target"
    )]
    DoesNotFit {
        /// Bytes of finished weights.
        needed: u64,
        /// Bytes of source weights in flight.
        in_flight: u64,
        /// Bytes the device has.
        memory: u64,
        /// [`Target::NAME`](crate::Target::NAME).
        target: &'static str,
    },
    /// Weights are to be as wide as fits, and nobody knows how much does.
    #[error(
        "{target} does not tell how much memory it has; give a device budget, or a size: auto:size=8GiB"
    )]
    NoBudget {
        /// [`Target::NAME`](crate::Target::NAME).
        target: &'static str,
    },
    /// The host has less memory than the load takes at least, by its budget or by itself.
    #[error(
        "{needed} bytes of host memory are needed at least, {kept} of them for finished weights and {at_once} to read {tensor}, and {budget} may be used; raise the budget, quantize further, or stream from a disk"
    )]
    HostBudget {
        /// Bytes that may be used.
        budget: u64,
        /// Bytes that are needed.
        needed: u64,
        /// Of these, finished weights that stay.
        kept: u64,
        /// Of these, the largest read that cannot be split.
        at_once: u64,
        /// The tensor that is read so.
        tensor: String,
    },
    /// What has to stay together of a weight is too large for one allocation of the device.
    #[error(
        "{tensor} cannot be cut below {needed} bytes, the largest allocation of {target} is {largest}; quantize it otherwise or choose another target"
    )]
    Allocation {
        /// The tensor.
        tensor: String,
        /// Bytes of the smallest part.
        needed: u64,
        /// Bytes of the largest allocation.
        largest: u64,
        /// [`Target::NAME`](crate::Target::NAME).
        target: &'static str,
    },
}

/// What a plan is made from, besides the slots.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) model: String,
    pub(crate) catalog: &'a Catalog,
    pub(crate) dialect: Option<&'a dyn Dialect>,
    pub(crate) policy: &'a Policy,
    /// Whether packed weights become plain numbers.
    pub(crate) dequantize: bool,
    pub(crate) target: &'static str,
    pub(crate) dtype: DTypeChoice,
}

impl Plan {
    /// Binds slots to tensors. `leaves_out` tells known leftovers from surprises.
    pub(crate) fn bind(
        request: &Request<'_>,
        slots: Vec<Slot>,
        leaves_out: impl Fn(&str) -> bool,
    ) -> Result<Self, PlanError> {
        let tensors = slots
            .iter()
            .map(|slot| (&*slot.name, slot.role, &*slot.shape));
        if let Some(pattern) = request.policy.idle(tensors).next() {
            return Err(PlanError::IdlePattern {
                pattern: pattern.to_string(),
            });
        }

        let order: Vec<String> = slots.iter().map(|slot| slot.name.clone()).collect();
        // By the tensor that a slot's weight begins with; and the other tensors that weights are made of.
        let (mut open, mut parts) = (HashMap::new(), HashSet::new());
        for slot in slots {
            let adopt = match request.dialect {
                Some(dialect) => dialect.find(&slot, request.catalog)?,
                None => None,
            };
            let first = match &adopt {
                Some(adopt) => {
                    parts.extend(adopt.parts[1..].iter().map(|part| Arc::clone(&part.name)));
                    adopt.parts[0].name.to_string()
                }
                None => slot.name.clone(),
            };
            open.insert(first, (slot, adopt));
        }
        let (mut steps, mut unused, mut unexpected) = (Vec::new(), Vec::new(), Vec::new());
        for tensor in request.catalog.iter() {
            let name = &*tensor.name;
            let of_dialect = || {
                let dialect = request.dialect;
                dialect.is_some_and(|dialect| dialect.leaves_out(name))
            };
            match open.remove(name) {
                Some((slot, Some(adopt))) => steps.push(adopted(request, slot, adopt)?),
                Some((slot, None)) => steps.push(step(request, tensor, slot)?),
                None if parts.contains(name) => {}
                None if leaves_out(name) || of_dialect() => unused.push(name.to_owned()),
                None => unexpected.push(name.to_owned()),
            }
        }
        let open: HashSet<String> = open.into_values().map(|(slot, _)| slot.name).collect();
        Ok(Self {
            model: request.model.clone(),
            target: request.target,
            dtype: request.dtype.dtype,
            dtype_wanted: request.dtype.wanted,
            strategy: Strategy::Auto,
            strategy_reason: String::new(),
            steps,
            links: Vec::new(),
            missing: order
                .into_iter()
                .filter(|name| open.contains(name))
                .collect(),
            unused,
            unexpected,
        })
    }

    /// Asks for the columns of `links` to be balanced before the weights are read.
    pub(crate) fn link(&mut self, links: Vec<Link>) -> Result<(), PlanError> {
        if links.is_empty() {
            return Err(PlanError::NoLinks);
        }
        for link in &links {
            self.check_link(link)?;
        }
        self.links = links;
        Ok(())
    }

    /// Refuses weights that are packed already, and shapes that do not go together.
    fn check_link(&self, link: &Link) -> Result<(), PlanError> {
        let steps = |names: &[String]| {
            let named = names.iter().map(|name| {
                let step = self.steps.iter().find(|step| step.slot.name == *name);
                if let Some(Step {
                    source: Stored::Packed(adopt),
                    ..
                }) = step
                {
                    let (tensor, format) = (name.clone(), adopt.format);
                    return Err(PlanError::Balance { tensor, format });
                }
                Ok(step)
            });
            // What is missing is told of when the plan is checked.
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

    /// Refuses a plan with slots that no tensor fills.
    pub(crate) fn check_complete(&self) -> Result<(), PlanError> {
        match self.missing.first() {
            None => Ok(()),
            Some(first) => Err(PlanError::Missing {
                model: self.model.clone(),
                count: self.missing.len(),
                wanted: self.steps.len() + self.missing.len(),
                first: first.clone(),
            }),
        }
    }

    /// Refuses a plan that cannot be carried out: something is missing, or it does not fit.
    ///
    /// # Errors
    ///
    /// [`PlanError::Missing`], [`PlanError::DoesNotFit`], [`PlanError::Allocation`].
    pub fn check(&self, capabilities: &Capabilities, in_flight: u64) -> Result<(), PlanError> {
        self.check_complete()?;
        if let Some(largest) = capabilities.largest_allocation
            && let Some((step, needed)) = self.steps.iter().find_map(|step| {
                let needed = step.bytes_together();
                (needed > largest).then_some((step, needed))
            })
        {
            return Err(PlanError::Allocation {
                tensor: step.slot.name.clone(),
                needed,
                largest,
                target: self.target,
            });
        }
        let (totals, needed) = (self.totals(), self.bytes_on_device());
        // A small model never has its whole budget in flight.
        let in_flight = in_flight.min(totals.bytes_source);
        match capabilities.memory {
            Some(memory) if needed + in_flight > memory => Err(PlanError::DoesNotFit {
                needed,
                in_flight,
                memory,
                target: self.target,
            }),
            _ => Ok(()),
        }
    }
}

fn step(request: &Request<'_>, tensor: &TensorInfo, slot: Slot) -> Result<Step, PlanError> {
    let file = || tensor.file.to_string();
    if tensor.shape != slot.shape {
        return Err(PlanError::Shape {
            tensor: slot.name,
            file: file(),
            found: tensor.shape.clone(),
            expected: slot.shape,
        });
    }
    let Some(source) = plain(tensor.dtype) else {
        return Err(PlanError::Dtype {
            tensor: slot.name,
            file: file(),
            found: tensor.dtype,
        });
    };
    let quant = slot.quant(request.policy);
    let action = match (quant.method(), slot.shape[..].try_into()) {
        (Some(method), Ok(shape)) => {
            let format = method.format(shape, source);
            let format = format.map_err(|source| PlanError::Format {
                tensor: slot.name.clone(),
                source,
            })?;
            Action::Pack(quant, format)
        }
        _ => Action::Dense(request.dtype.dtype),
    };
    Ok(Step {
        slot,
        parts: vec![tensor.clone()],
        source: Stored::Plain(source),
        action,
        scaling: Scaling::default(),
    })
}

/// A weight that the checkpoint has packed: kept so, or given back.
fn adopted(request: &Request<'_>, slot: Slot, adopt: Adopt) -> Result<Step, PlanError> {
    let quant = slot.quant(request.policy);
    if quant.method().is_some() {
        return Err(PlanError::Packed {
            tensor: slot.name,
            format: adopt.format,
            quant: quant.to_string(),
        });
    }
    let action = if request.dequantize {
        Action::Dense(request.dtype.dtype)
    } else {
        Action::Keep(adopt.format)
    };
    Ok(Step {
        slot,
        parts: adopt.parts.clone(),
        source: Stored::Packed(adopt),
        action,
        scaling: Scaling::default(),
    })
}
