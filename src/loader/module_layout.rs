//! Which tensors a module has as a checkpoint: those that its checkpoint has, where their values are dense in the module; packed
//! weights as they lie in memory.
//!
//! | the values of a slot are | the tensors are |
//! |---|---|
//! | dense, and stored in a dense tensor, alone or with other dense slots | that tensor |
//! | dense, else | one of the name and the shape of the slot |
//! | packed, of an expert whose stack is all packed in one format | the stack's words and scales |
//! | packed, else | its words and scales |

use core::ops::Range;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use firebox_kernels::{arith::float::DType, format::Format};

use super::module_source::{FILE, Made, ModuleTensor, ValuesPart};
use crate::{
    dialect::{self, Dialect, HeldFormat, HeldWeights, Provenance, SCALES, plain},
    model::{Origin, Role, Slot, SlotValues},
    plan::{Plan, Step},
    source::{Catalog, Checkpoint, StoredType, TensorInfo},
};

/// A slot, and its values in a module.
#[derive(Debug)]
pub(super) struct Wanted<'s> {
    pub(super) slot: &'s Slot,
    pub(super) held: SlotValues,
    /// The format of words that stay as they are.
    pub(super) keeps: Option<Format>,
    /// Whether its values are to be in `f32`, whatever the checkpoint has.
    pub(super) is_exact: bool,
}

/// A module as a checkpoint.
#[derive(Debug)]
pub(super) struct ModuleLayout {
    pub(super) tensors: Vec<ModuleTensor>,
    pub(super) catalog: Catalog,
    pub(super) dialect: HeldWeights,
    /// The slots of the model, by the names that their tensors have now.
    pub(super) slots: Vec<Slot>,
}

/// Decides about the tensors.
#[derive(Debug)]
pub(super) struct Layouter<'a> {
    /// The checkpoint of the module.
    pub(super) checkpoint: &'a Checkpoint,
    /// The type of dense values that was asked for.
    pub(super) dtype: Option<DType>,
    /// The plan of a load of the checkpoint.
    pub(super) plan: &'a Plan,
    /// Every slot of the module.
    pub(super) wanted: Vec<Wanted<'a>>,
    /// The tensors of an embedding and of a head that has the same values.
    pub(super) copy: Option<&'a [String; 2]>,
}

/// A tensor that is made of the module.
struct NewTensor {
    name: String,
    dtype: StoredType,
    shape: Vec<usize>,
    made: Made,
}

/// Rows of a stored tensor that are values of a slot.
struct StackShare {
    /// The slot, by its number.
    nth: usize,
    /// The first of the values of the slot.
    first: usize,
    rows: Range<usize>,
    transposed: bool,
}

impl Layouter<'_> {
    /// The checkpoint that a module is; `inner` is the dialect of its checkpoint.
    pub(super) fn lay_out(self, inner: Option<Arc<dyn Dialect>>) -> ModuleLayout {
        let shares = self.shares();
        let whole = self.whole(&shares);
        let mut dialect = HeldWeights {
            inner,
            packed: HashMap::new(),
            dense: HashSet::new(),
        };
        let mut new: Vec<NewTensor> = Vec::new();
        let mut laid = vec![false; self.wanted.len()];
        let mut slots: Vec<Slot> = self.wanted.iter().map(|it| it.slot.clone()).collect();
        for (tensor, shares) in &shares {
            if whole.contains(tensor) {
                new.push(self.stored(tensor, shares));
            } else if let Some(held) = self.stack(tensor, shares) {
                let parts = shares.iter().map(|share| &self.wanted[share.nth].held);
                let parts: Vec<SlotValues> = parts.cloned().collect();
                new.extend(words_and_scales(tensor, &held, &parts));
                dialect.packed.insert((*tensor).to_owned(), held);
            } else {
                continue;
            }
            for share in shares {
                laid[share.nth] = true;
            }
        }
        for (nth, wanted) in self
            .wanted
            .iter()
            .enumerate()
            .filter(|(nth, _)| !laid[*nth])
        {
            let slot = &mut slots[nth];
            if let [origin] = &slot.from[..]
                && origin.is_whole()
            {
                // The tensor may be one that other slots take too.
                *slot = slot.clone().made_of([Origin::whole(&*wanted.slot.name)]);
            }
            let name = &wanted.slot.name;
            match wanted.keeps {
                Some(format) => {
                    let held = self.held_format(wanted, format, 1);
                    new.extend(words_and_scales(
                        name,
                        &held,
                        std::slice::from_ref(&wanted.held),
                    ));
                    dialect.packed.insert(name.clone(), held);
                }
                None => new.push(self.alone(wanted)),
            }
        }
        new.extend(self.copied());
        dialect.dense = new.iter().map(|tensor| tensor.name.clone()).collect();
        let (tensors, catalog) = self.with_rest(new);
        ModuleLayout {
            tensors,
            catalog,
            dialect,
            slots,
        }
    }

    /// The slots that dense tensors of the checkpoint have the values of, by tensor.
    fn shares(&self) -> BTreeMap<&str, Vec<StackShare>> {
        let mut shares: BTreeMap<&str, Vec<StackShare>> = BTreeMap::new();
        for (nth, wanted) in self.wanted.iter().enumerate() {
            let mut first = 0;
            for origin in &wanted.slot.from {
                let stored = self.checkpoint.catalog().get(&origin.tensor);
                let [rows, cols] = match stored {
                    Some(stored) => rows_and_columns(&stored.shape),
                    None => [0, 0],
                };
                let rows = origin.rows.clone().unwrap_or(0..rows);
                let values = rows.len() * cols;
                shares.entry(&origin.tensor).or_default().push(StackShare {
                    nth,
                    first,
                    rows,
                    transposed: origin.transposed,
                });
                first += values;
            }
        }
        shares
    }

    /// The dense tensors of the checkpoint that dense slots make up, each of its values once.
    fn whole<'n>(&self, shares: &BTreeMap<&'n str, Vec<StackShare>>) -> HashSet<&'n str> {
        let catalog = self.checkpoint.catalog();
        let is_made = |(tensor, shares): &(&&str, &Vec<StackShare>)| {
            let Some(stored) = catalog.get(tensor) else {
                return false;
            };
            let mut rows: Vec<Range<usize>> = shares.iter().map(|it| it.rows.clone()).collect();
            rows.sort_by_key(|rows| rows.start);
            let follow = rows.windows(2).all(|pair| pair[0].end == pair[1].start);
            let ends = [
                rows.first().map(|it| it.start),
                rows.last().map(|it| it.end),
            ];
            let all = ends == [Some(0), Some(rows_and_columns(&stored.shape)[0])];
            let dense = shares
                .iter()
                .all(|share| self.wanted[share.nth].keeps.is_none());
            plain(stored.dtype).is_some() && dense && follow && all
        };
        let made = shares.iter().filter(is_made).map(|(tensor, _)| *tensor);
        let mut whole: HashSet<&str> = made.collect();
        loop {
            // A slot that is made of several tensors has all of them, or none.
            let lacks = |share: &StackShare| {
                let mut from = self.wanted[share.nth].slot.from.iter();
                from.any(|origin| !whole.contains(&*origin.tensor))
            };
            let broken = whole
                .iter()
                .find(|tensor| shares[**tensor].iter().any(lacks));
            match broken.copied() {
                Some(tensor) => whole.remove(tensor),
                None => return whole,
            };
        }
    }

    /// A tensor of the checkpoint, of the values of the module.
    fn stored(&self, name: &str, shares: &[StackShare]) -> NewTensor {
        let stored = self.checkpoint.catalog().get(name);
        let stored = stored.expect("a whole tensor is in the checkpoint");
        let [_, cols] = rows_and_columns(&stored.shape);
        let wanted = |share: &StackShare| &self.wanted[share.nth];
        let exact = shares.iter().any(|share| wanted(share).is_exact);
        let role = wanted(&shares[0]).slot.role;
        let float = self.float(exact, plain(stored.dtype), role);
        let parts = shares.iter().map(|share| ValuesPart {
            held: wanted(share).held.clone(),
            first: share.first,
            rows: share.rows.clone(),
            transposed: share.transposed,
        });
        NewTensor {
            name: name.to_owned(),
            dtype: dialect::dtype(float),
            shape: stored.shape.clone(),
            made: Made::Values {
                float,
                cols,
                parts: parts.collect(),
            },
        }
    }

    /// A tensor of the name and the shape of a slot.
    fn alone(&self, wanted: &Wanted<'_>) -> NewTensor {
        let slot = wanted.slot;
        let mut origins = slot.from.iter();
        let stored = origins.find_map(|origin| self.checkpoint.catalog().get(&origin.tensor));
        let stored = stored.and_then(|stored| plain(stored.dtype));
        let float = self.float(wanted.is_exact, stored, slot.role);
        let [rows, cols] = rows_and_columns(&slot.shape);
        NewTensor {
            name: slot.name.clone(),
            dtype: dialect::dtype(float),
            shape: slot.shape.clone(),
            made: Made::Values {
                float,
                cols,
                parts: vec![ValuesPart {
                    held: wanted.held.clone(),
                    first: 0,
                    rows: 0..rows,
                    transposed: false,
                }],
            },
        }
    }

    /// The type of dense values: the one that was asked for, else the stored one. Values that decide by their last bits stay
    /// in f32, as they do in a load.
    fn float(&self, exact: bool, stored: Option<DType>, role: Role) -> DType {
        let stored_as = stored.unwrap_or_else(|| self.checkpoint.float_dtype());
        match self.dtype {
            _ if exact => DType::F32,
            Some(_) if role == Role::Other && stored == Some(DType::F32) => DType::F32,
            Some(dtype) => dtype,
            None => stored_as,
        }
    }

    /// How the stack of all experts is packed, if they are all, in the order of the stack, in a format in which no scale is of
    /// two of them.
    fn stack(&self, tensor: &str, shares: &[StackShare]) -> Option<HeldFormat> {
        let first = &self.wanted[shares[0].nth];
        let format = first.keeps.filter(|_| first.slot.role == Role::Expert)?;
        let (count, [out, cols]) = (shares.len(), rows_and_columns(&first.slot.shape));
        let is_part = |(place, share): (usize, &StackShare)| {
            let Wanted { slot, keeps, .. } = &self.wanted[share.nth];
            let each = if share.transposed { cols } else { out };
            let rows = slot.from[0].rows.clone();
            slot.from.len() == 1
                && rows == Some(place * each..(place + 1) * each)
                && (*keeps, &slot.shape) == (Some(format), &first.slot.shape)
        };
        let shape = [count * out, cols];
        let scales: usize = (0..count)
            .flat_map(|nth| format.part_scales(shape, &(nth * out..(nth + 1) * out)))
            .map(|range| range.len())
            .sum();
        let alone =
            scales == format.scales_len(shape) && out.is_multiple_of(format.part_rows(shape));
        let all = count > 1 && shares.iter().enumerate().all(is_part);
        // Its own tensor may not be a slot of another purpose.
        let free = self.wanted.iter().all(|it| it.slot.name != tensor);
        (all && alone && free).then(|| self.held_format(first, format, count))
    }

    fn held_format(&self, wanted: &Wanted<'_>, format: Format, experts: usize) -> HeldFormat {
        let float = self.checkpoint.float_dtype();
        let mut steps = self.plan.steps.iter();
        let planned = steps.find(|step| step.slot.name == wanted.slot.name);
        let planned = planned.and_then(|step| step.packed_slot(float));
        let planned = planned.filter(|planned| planned.format == format);
        HeldFormat {
            format,
            float: planned.as_ref().map_or(float, |planned| planned.stored),
            provenance: planned.map_or(Provenance::default(), |planned| planned.provenance),
            experts,
        }
    }

    /// The copy of a tied embedding that the checkpoint has for the head.
    fn copied(&self) -> Option<NewTensor> {
        let [table, head] = self.copy?;
        let stored = self.checkpoint.catalog().get(head)?;
        let wanted = self.wanted.iter().find(|it| it.slot.name == *table)?;
        plain(stored.dtype).filter(|_| wanted.keeps.is_none())?;
        Some(NewTensor {
            name: head.clone(),
            ..self.alone(wanted)
        })
    }

    /// The new tensors and those of the checkpoint that no slot takes, in the order of the checkpoint.
    fn with_rest(&self, new: Vec<NewTensor>) -> (Vec<ModuleTensor>, Catalog) {
        let stored = self.checkpoint.catalog();
        let places = stored.iter().enumerate();
        let places: HashMap<&str, usize> = places.map(|(k, it)| (&*it.name, k)).collect();
        let steps = self.plan.steps.iter();
        let taken = steps.flat_map(|step| step.tensors().map(|tensor| &*tensor.name));
        let origins = self.wanted.iter().flat_map(|it| &it.slot.from);
        let origins = origins.map(|origin| &*origin.tensor);
        let made: HashSet<&str> = new.iter().map(|tensor| &*tensor.name).collect();
        let taken: HashSet<&str> = taken.chain(origins).collect();
        let head = self.copy.and_then(|[_, head]| head.strip_suffix("weight"));
        let is_head = |name: &str| head.is_some_and(|head| name.starts_with(head));
        let rest = stored.iter().enumerate().filter(|(_, tensor)| {
            let name = &*tensor.name;
            !taken.contains(name) && !made.contains(name) && !is_head(name)
        });
        let mut all: Vec<(usize, TensorInfo, Option<Made>)> = rest
            .map(|(place, tensor)| (place, tensor.clone(), None))
            .collect();
        let first_read = |name: &str| {
            let step = self.plan.steps.iter().find(|step| step.slot.name == name);
            step.and_then(|step: &Step| places.get(&*step.tensors().next()?.name).copied())
        };
        for tensor in new {
            let place = places.get(&*tensor.name).copied();
            let slot = tensor.name.strip_suffix(SCALES).unwrap_or(&tensor.name);
            let place = place.or_else(|| first_read(slot)).unwrap_or(usize::MAX);
            let bytes = tensor.shape.iter().product::<usize>() as u64;
            let bytes = bytes * tensor.dtype.bits() / 8;
            let info = TensorInfo {
                name: tensor.name.into(),
                file: FILE.into(),
                dtype: tensor.dtype,
                shape: tensor.shape,
                range: 0..bytes,
            };
            all.push((place, info, Some(tensor.made)));
        }
        all.sort_by_key(|(place, ..)| *place);
        let (mut tensors, mut infos, mut end) = (Vec::new(), Vec::new(), 0);
        for (_, mut info, made) in all {
            if let Some(made) = made {
                let range = end..end + info.bytes();
                end = range.end;
                info.range = range.clone();
                tensors.push(ModuleTensor { range, made });
            }
            infos.push(info);
        }
        (tensors, infos.into_iter().collect())
    }
}

/// The words and the scales of packed matrices that follow one another.
fn words_and_scales(name: &str, held: &HeldFormat, parts: &[SlotValues]) -> [NewTensor; 2] {
    let shapes = parts.iter().map(SlotValues::shape);
    let shape = shapes.fold([0, 0], |[rows, _], [more, cols]| [rows + more, cols]);
    let of = |name: String, len: usize, made| NewTensor {
        name,
        dtype: StoredType::U32,
        shape: vec![len],
        made,
    };
    let (words, scales) = (parts.to_vec(), parts.to_vec());
    [
        of(
            name.to_owned(),
            held.format.words_len(shape),
            Made::Words(words),
        ),
        of(
            format!("{name}{SCALES}"),
            held.format.scales_len(shape),
            Made::Scales(scales),
        ),
    ]
}

/// A tensor as rows and columns; a vector has a row for each value.
fn rows_and_columns(shape: &[usize]) -> [usize; 2] {
    match shape {
        [] => [1, 1],
        [len] => [*len, 1],
        [outer @ .., cols] => [outer.iter().product(), *cols],
    }
}
