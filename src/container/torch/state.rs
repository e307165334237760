//! Which tensors of a pickle are the model.
//!
//! | the pickle | the tensors |
//! |---|---|
//! | a dictionary of tensors | all of them |
//! | dictionaries in dictionaries | all of them, with dots between the keys |
//! | `{"state_dict": …, "epoch": 3, "optimizer": …}` | those under the wrapper, which is reported with what is left out |
//! | a wrapper beside other tensors that are no state of a training | not known: which of them is meant would be a guess |

use std::collections::HashSet;

use super::TorchError;
use crate::source::pickle::{ObjectId, Pickle, PickleObject, PickledTensor};

/// Keys under which trainers put the dictionary of a model.
const WRAPPERS: [&str; 6] = [
    "model",
    "model_state",
    "model_state_dict",
    "module",
    "net",
    "state_dict",
];

/// What a key has in it under which trainers put the state of a training.
const TRAINING: [&str; 7] = [
    "callback", "loop", "loss", "optim", "rng", "scaler", "sched",
];

/// The deepest dictionary that is looked into.
const DEPTH_MAX: usize = 64;

/// More tensors than any file has.
const TENSORS_MAX: usize = 1 << 20;

/// As many keys are listed.
const FEW: usize = 5;

/// The tensors of a model by their names.
pub(super) struct State<'p> {
    pub(super) tensors: Vec<(String, &'p PickledTensor)>,
    /// What is left out, a sentence each.
    pub(super) notes: Vec<String>,
}

/// A walk through the objects of a pickle.
struct Walk<'p> {
    label: &'p str,
    pickle: &'p Pickle,
    /// Whether each object is or holds a tensor, where that was looked at.
    holds: Vec<Option<bool>>,
    tensors: Vec<(String, &'p PickledTensor)>,
    /// Keys of values that are no tensors.
    others: Vec<String>,
    /// Values that were looked at.
    seen: usize,
}

impl<'p> State<'p> {
    pub(super) fn of(label: &'p str, pickle: &'p Pickle) -> Result<Self, TorchError> {
        let mut walk = Walk {
            label,
            pickle,
            holds: vec![None; pickle.len()],
            tensors: Vec::new(),
            others: Vec::new(),
            seen: 0,
        };
        let mut notes = Vec::new();
        let mut root = pickle.root;
        let mut under = Vec::new();
        while let Some((key, inner, left)) = walk.wrapped(root)? {
            under.push(key);
            let of = match left.is_empty() {
                true => String::new(),
                false => format!("; not read: {}", listed(&left)),
            };
            notes.push(format!(
                "{label}: the tensors are those under {}{of}",
                under.join(".")
            ));
            root = inner;
        }
        if !matches!(pickle.object(root), PickleObject::Dict(_)) {
            return Err(TorchError::NoDictionary {
                file: label.to_owned(),
                found: pickle.object(root).kind(),
            });
        }
        walk.flatten(root, "", 0)?;
        if walk.tensors.is_empty() {
            return Err(TorchError::NoTensors {
                file: label.to_owned(),
                keys: listed(&walk.others),
            });
        }
        if !walk.others.is_empty() {
            let others = listed(&walk.others);
            notes.push(format!("{label}: no tensors, and not read: {others}"));
        }
        let mut names = HashSet::new();
        let twice = walk.tensors.iter().find(|(name, _)| !names.insert(name));
        match twice {
            Some((name, _)) => Err(TorchError::Twice {
                file: label.to_owned(),
                tensor: name.clone(),
            }),
            None => Ok(Self {
                tensors: walk.tensors,
                notes,
            }),
        }
    }
}

impl<'p> Walk<'p> {
    fn object(&self, id: ObjectId) -> &'p PickleObject {
        self.pickle.object(id)
    }

    /// The wrapper that a dictionary has: its key, what is under it, and the keys of what is left out.
    fn wrapped(
        &mut self,
        root: ObjectId,
    ) -> Result<Option<(String, ObjectId, Vec<String>)>, TorchError> {
        let PickleObject::Dict(pairs) = self.object(root) else {
            return Ok(None);
        };
        let (mut wrappers, mut others, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for (key, value) in pairs {
            let key = self.key(*key, "")?;
            let is_dict = matches!(self.object(*value), PickleObject::Dict(_));
            match self.holds(*value, 0)? {
                true if is_dict && WRAPPERS.contains(&&*key) => wrappers.push((key, *value)),
                true if TRAINING.iter().any(|part| key.contains(part)) => left.push(key),
                true => others.push(key),
                false => left.push(key),
            }
        }
        match (wrappers.len(), others.len()) {
            (0, _) => Ok(None),
            (1, 0) => {
                let (key, inner) = wrappers.remove(0);
                Ok(Some((key, inner, left)))
            }
            _ => {
                let wrappers = wrappers.into_iter().map(|(key, _)| key);
                let keys: Vec<String> = wrappers.chain(others).collect();
                Err(TorchError::Several {
                    file: self.label.to_owned(),
                    keys: listed(&keys),
                })
            }
        }
    }

    fn key(&self, id: ObjectId, under: &str) -> Result<String, TorchError> {
        match self.object(id) {
            PickleObject::Text(text) => Ok(text.to_string()),
            PickleObject::Whole(number) => Ok(number.to_string()),
            other => Err(TorchError::KeyKind {
                file: self.label.to_owned(),
                under: under.to_owned(),
                found: other.kind(),
            }),
        }
    }

    /// Whether an object is a tensor, or holds one.
    fn holds(&mut self, id: ObjectId, depth: usize) -> Result<bool, TorchError> {
        if let Some(known) = self.holds[id.index()] {
            return Ok(known);
        }
        self.check_depth(depth)?;
        // What an object that is in itself holds is seen elsewhere.
        self.holds[id.index()] = Some(false);
        let inner: Vec<ObjectId> = match self.object(id) {
            PickleObject::Tensor(_) => {
                self.holds[id.index()] = Some(true);
                return Ok(true);
            }
            PickleObject::List(items) | PickleObject::Tuple(items) => items.clone(),
            PickleObject::Dict(pairs) => pairs.iter().map(|(_, value)| *value).collect(),
            _ => return Ok(false),
        };
        let mut found = false;
        for id in inner {
            found |= self.holds(id, depth + 1)?;
        }
        self.holds[id.index()] = Some(found);
        Ok(found)
    }

    fn check_depth(&self, depth: usize) -> Result<(), TorchError> {
        match depth > DEPTH_MAX {
            true => Err(self.too_many("levels of dictionaries", DEPTH_MAX)),
            false => Ok(()),
        }
    }

    fn too_many(&self, what: &'static str, max: usize) -> TorchError {
        TorchError::TooMany {
            file: self.label.to_owned(),
            what,
            max,
        }
    }

    /// Adds all tensors in a dictionary or list, with names that begin with `prefix`.
    fn flatten(&mut self, id: ObjectId, prefix: &str, depth: usize) -> Result<(), TorchError> {
        self.check_depth(depth)?;
        let entries: Vec<(String, ObjectId)> = match self.object(id) {
            PickleObject::Dict(pairs) => {
                let pairs = pairs.iter();
                let pairs = pairs.map(|(key, value)| Ok((self.key(*key, prefix)?, *value)));
                pairs.collect::<Result<_, TorchError>>()?
            }
            PickleObject::List(items) | PickleObject::Tuple(items) => {
                let items = items.iter().enumerate();
                items.map(|(nth, id)| (nth.to_string(), *id)).collect()
            }
            _ => Vec::new(),
        };
        for (key, value) in entries {
            self.seen += 1;
            if self.seen > TENSORS_MAX {
                return Err(self.too_many("values", TENSORS_MAX));
            }
            let name = match prefix {
                "" => key,
                _ => format!("{prefix}.{key}"),
            };
            match self.object(value) {
                PickleObject::Tensor(tensor) => self.tensors.push((name, tensor)),
                _ if self.holds(value, depth)? => self.flatten(value, &name, depth + 1)?,
                _ => self.others.push(name),
            }
        }
        Ok(())
    }
}

/// The first keys of a list, and how many more there are.
fn listed(keys: &[String]) -> String {
    match keys.len().saturating_sub(FEW) {
        0 => keys.join(", "),
        more => format!("{} and {more} more", keys[..FEW].join(", ")),
    }
}
