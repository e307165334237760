//! The weights that a device had last, of those that no order foretells: experts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The weights that were used last, up to a number of bytes.
#[derive(Debug)]
pub(super) struct Recent<W> {
    /// Bytes at most.
    limit: u64,
    bytes: u64,
    by_id: HashMap<u64, Held<W>>,
    /// The weight of each use, the latest use of a weight only.
    by_use: BTreeMap<u64, u64>,
    uses: u64,
}

#[derive(Debug)]
struct Held<W> {
    weight: Arc<W>,
    bytes: u64,
    used: u64,
}

impl<W> Recent<W> {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            bytes: 0,
            by_id: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
        }
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A weight that is there, used now.
    pub(super) fn find(&mut self, id: u64) -> Option<Arc<W>> {
        self.uses += 1;
        let held = self.by_id.get_mut(&id)?;
        self.by_use.remove(&held.used);
        held.used = self.uses;
        self.by_use.insert(held.used, id);
        Some(Arc::clone(&held.weight))
    }

    /// Drops the weights that were not used for longest, until another one of `bytes` fits. Nothing is dropped for one
    /// that fits never.
    pub(super) fn make_room(&mut self, bytes: u64) {
        if bytes > self.limit {
            return;
        }
        while self.bytes + bytes > self.limit {
            let Some((_, id)) = self.by_use.pop_first() else {
                return;
            };
            if let Some(held) = self.by_id.remove(&id) {
                self.bytes -= held.bytes;
            }
        }
    }

    /// Holds a weight that was used now, where it fits.
    pub(super) fn hold(&mut self, id: u64, weight: &Arc<W>, bytes: u64) {
        self.make_room(bytes);
        if self.bytes + bytes > self.limit || self.by_id.contains_key(&id) {
            return;
        }
        self.uses += 1;
        self.bytes += bytes;
        self.by_use.insert(self.uses, id);
        let held = Held {
            weight: Arc::clone(weight),
            bytes,
            used: self.uses,
        };
        self.by_id.insert(id, held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(recent: &mut Recent<u64>, id: u64, bytes: u64) -> bool {
        if recent.find(id).is_some() {
            return true;
        }
        recent.hold(id, &Arc::new(id), bytes);
        false
    }

    /// Ten bytes, weights of three: three of them are there. Would catch the weight that was used last dropped in place
    /// of the one that was not used for longest, bytes that are counted twice, and a large weight that drops all others
    /// for nothing.
    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let mut recent = Recent::new(10);
        for id in [1, 2, 3] {
            assert!(!ask(&mut recent, id, 3));
        }
        assert!(ask(&mut recent, 1, 3), "the three fit");
        assert!(!ask(&mut recent, 4, 3), "2 goes");
        assert!(!ask(&mut recent, 5, 11), "fits never");
        for (id, there) in [
            (1, true),
            (3, true),
            (4, true),
            (5, false),
            (2, false),
            (1, false),
        ] {
            let found = recent.find(id).is_some();
            assert_eq!(found, there, "{id}");
            if id == 2 {
                recent.hold(2, &Arc::new(2), 3);
            }
        }
        assert_eq!(recent.bytes(), 9);
        let mut none = Recent::new(0);
        assert!(!ask(&mut none, 1, 3) && !ask(&mut none, 1, 3));
    }
}
