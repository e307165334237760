//! Files whose names begin otherwise than those of the model, recognised by comparing all names of the files with the slots.
//!
//! ```text
//! _orig_mod.model.layers.0.…    torch.compile           stands for    model.layers.0.…
//! module.model.layers.0.…       data parallel training
//! model.model.layers.0.…        a module around the model
//! backbone.layers.0.…           another name of the body
//! ```
//!
//! A reading of the names counts where it fills every slot, and is taken where it is the only one: two readings that fill the slots from
//! different tensors are refused. Weights are saved under the names of the model.

use std::sync::Arc;

use firebox_kernels::{arith::float::DType, linear::Compute};

use super::{PlanError, Request, bind::Found};
use crate::{
    config::Policy,
    dialect,
    model::{Architecture, Role, Slot},
    source::{Catalog, Checkpoint, Renaming},
    target::DTypeChoice,
};

/// More ways to begin are those of no checkpoint, and take long to try.
const RENAMINGS_MAX: usize = 64;

/// A reading of the names of a checkpoint.
#[derive(Debug)]
pub(crate) struct NameReading<C> {
    /// The configuration of the model, named as the catalog names the tensors.
    pub(crate) config: C,
    /// The tensors under other names than in the files; `None` where the names are those of the files.
    pub(crate) catalog: Option<Catalog>,
    /// The difference in a sentence.
    pub(crate) note: Option<String>,
}

/// The names that the model of `config` has in the catalog of `request`. A text model inside another one (`is_inside`) keeps the names that
/// it has there.
pub(crate) fn read_names<A: Architecture>(
    config: A::Config,
    request: &Request<'_>,
    is_inside: bool,
) -> Result<NameReading<A::Config>, PlanError> {
    let own = A::slots(&config);
    let stored = Candidate::<A>::new(&config, request.catalog, request);
    let is_own = |slots: &[Slot]| {
        slots
            .iter()
            .zip(&own)
            .all(|(slot, own)| slot.name == own.name)
    };
    let as_stored = |note| NameReading {
        config: A::named(config.clone(), &|name| request.catalog.get(name).is_some()),
        catalog: None,
        note,
    };
    if stored
        .as_ref()
        .is_some_and(|stored| is_inside || is_own(&stored.slots))
    {
        return Ok(as_stored(None));
    }
    let mut readings: Vec<(Candidate<A>, Catalog, String)> = Vec::new();
    let unwrapped = request.catalog.unwrapped();
    for catalog in [Some(request.catalog), unwrapped.as_ref()]
        .into_iter()
        .flatten()
    {
        let whole = [None].into_iter();
        for renaming in whole.chain(renamings(&own, catalog).into_iter().map(Some)) {
            let (renamed, note) = match renaming {
                Some(renaming) => {
                    let note = note(&renaming.stored, &renaming.named);
                    (catalog.renamed(renaming), note)
                }
                None => (unwrapped.clone(), note("_orig_mod.", "")),
            };
            let Some(renamed) = renamed else {
                continue;
            };
            if let Some(found) = Candidate::new(&config, &renamed, request) {
                readings.push((found, renamed, note));
            }
        }
    }
    if let Some((first, ..)) = readings.first() {
        let mut others = readings.iter();
        let other = others.find(|(other, ..)| other.places != first.places);
        if let Some((_, _, second)) = other {
            return Err(PlanError::Names {
                model: request.model.clone(),
                first: readings[0].2.clone(),
                second: second.clone(),
            });
        }
    }
    let of_family = readings.iter().position(|(found, ..)| is_own(&found.slots));
    let chosen = match is_inside {
        true => (!readings.is_empty()).then_some(0),
        false => of_family.or((stored.is_none() && !readings.is_empty()).then_some(0)),
    };
    Ok(match chosen {
        Some(nth) => {
            let (found, catalog, note) = readings.swap_remove(nth);
            NameReading {
                config: found.config,
                catalog: Some(catalog),
                note: Some(note),
            }
        }
        None => {
            let names = stored
                .as_ref()
                .and_then(|found| found.slots.first().zip(own.first()));
            as_stored(names.map(|(found, own)| {
                format!(
                    "tensors have no prefix: {} is called {}",
                    own.name, found.name
                )
            }))
        }
    })
}

/// The difference between the names of a checkpoint and those of the model `A`, in a sentence, where there is one and the model can be read all
/// the same.
pub fn names_note<A: Architecture>(checkpoint: &Checkpoint) -> Option<String> {
    let config = A::config(checkpoint.config()).ok()?;
    let dialect = dialect::detect(checkpoint.config(), checkpoint.catalog()).ok()?;
    let dtype = DType::F32;
    let request = Request {
        model: String::new(),
        notes: Vec::new(),
        catalog: checkpoint.catalog(),
        dialect: dialect.as_deref(),
        policy: &Policy::default(),
        dequantize: false,
        requantize: false,
        dense: &[],
        new_blocks: &[],
        is_module: false,
        is_save: false,
        is_device: false,
        compute: Compute::F32,
        devices: Vec::new(),
        dtype: DTypeChoice {
            wanted: dtype,
            dtype,
            halves: false,
        },
    };
    let is_inside = is_inside(checkpoint);
    read_names::<A>(config, &request, is_inside).ok()?.note
}

/// Whether the model of a checkpoint may be one inside another.
pub(crate) fn is_inside(checkpoint: &Checkpoint) -> bool {
    let inner = checkpoint.config().get("text_config");
    inner.is_some_and(|inner| !inner.is_null())
}

fn note(stored: &str, named: &str) -> String {
    let instead = match named {
        "" => "which the names of the model do not have".to_owned(),
        named => format!("where the names of the model begin with `{named}`"),
    };
    format!("names in the files begin with `{stored}`, {instead}")
}

/// The slots of a model and the tensors that fill all of them.
struct Candidate<A: Architecture> {
    config: A::Config,
    slots: Vec<Slot>,
    /// The file of each tensor, and where in the file the tensor is.
    places: Vec<(Arc<str>, u64)>,
}

impl<A: Architecture> Candidate<A> {
    /// `None` where a slot is not filled.
    fn new(config: &A::Config, catalog: &Catalog, request: &Request<'_>) -> Option<Self> {
        let config = A::named(config.clone(), &|name| catalog.get(name).is_some());
        let slots = A::slots(&config);
        let request = request.of(catalog);
        let mut places = Vec::with_capacity(slots.len());
        for slot in &slots {
            match request.origin(slot) {
                Ok(None) => return None,
                Ok(Some(found)) => {
                    let tensors = Found::tensors(&found).into_iter();
                    places.extend(tensors.map(|tensor| (tensor.file.clone(), tensor.range.start)));
                }
                // The tensor is there, and something else is wrong with it.
                Err(_) => {}
            }
        }
        Some(Self {
            config,
            slots,
            places,
        })
    }
}

/// The ways in which names of the catalog may begin where those of the slots begin otherwise, short ones first: one slot is looked for by the
/// end of its name.
fn renamings(slots: &[Slot], catalog: &Catalog) -> Vec<Renaming> {
    let number = |slot: &Slot| {
        let mut segments = slot.name.split('.');
        segments.position(|segment| segment.parse::<usize>().is_ok())
    };
    // A norm is never packed, and one of a layer has a long name.
    let norms = || slots.iter().filter(|slot| slot.role == Role::Norm);
    let in_layer = norms().find(|slot| number(slot).is_some());
    let Some(probe) = in_layer.or(norms().next()).or(slots.first()) else {
        return Vec::new();
    };
    let segments: Vec<&str> = probe.name.split('.').collect();
    // The body has a name before that of the layers.
    let most = usize::from(number(probe).is_some_and(|number| number >= 2));
    let mut found: Vec<Renaming> = Vec::new();
    for dropped in 0..=most {
        let (named, end) = segments.split_at(dropped);
        let end = end.join(".");
        for tensor in catalog {
            let Some(stored) = tensor.name.strip_suffix(&end) else {
                continue;
            };
            let Some(stored) = stored.strip_suffix('.') else {
                continue;
            };
            let stored: Vec<&str> = stored.split('.').collect();
            let same = stored.iter().rev().zip(named.iter().rev());
            let same = same.take_while(|(stored, named)| stored == named).count();
            let whole = (&stored[..stored.len() - same], &named[..named.len() - same]);
            // A part of the beginning may be that of a model inside another.
            let parts = (1..whole.0.len()).map(|len| (&stored[..len], &named[..0]));
            for (stored, named) in parts.chain([whole]) {
                let beginning = |segments: &[&str]| {
                    let segments = segments.iter().map(|segment| format!("{segment}."));
                    segments.collect::<String>()
                };
                let renaming = Renaming {
                    stored: beginning(stored),
                    named: beginning(named),
                };
                if found.len() <= RENAMINGS_MAX && !stored.is_empty() && !found.contains(&renaming)
                {
                    found.push(renaming);
                }
            }
        }
    }
    if found.len() > RENAMINGS_MAX {
        return Vec::new();
    }
    found.sort_by_key(|renaming| renaming.stored.len());
    found
}
