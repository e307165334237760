//! The cache of packed weights: the next load with the same source and configuration reads them.

use core::time::Duration;
use std::{fs, path::Path, sync::Arc, thread, time::Instant};

use super::{LoadRequest, engine::Engine};
use crate::{
    config::{Expand, LoadConfig, PackConfig, Parallel, SaveConfig},
    error::Error,
    model::Architecture,
    place::{
        SaveError,
        folder::{self as save, Identity, Kept},
    },
    plan::{Action, Plan},
    quant::QuantSpec,
    ranks::RankError,
    source::Local,
};

impl Engine {
    /// The files of the checkpoint, and what becomes of its weights, with one checksum for all of them.
    pub(super) fn identity<A: Architecture>(&self) -> Result<serde_json::Value, Error> {
        let plan = self.bind::<A>(&self.model_config::<A>()?)?;
        let to = SaveConfig::new("");
        let identity = Identity::new(&plan, &self.config, &to, self.checkpoint())?;
        Ok(Identity::short(identity.value()))
    }

    /// A loader of the packed weights that the cache `folder` has; they are packed and written there first if it does
    /// not have them. `None` where no weight is to be packed.
    pub(super) fn cached<A: Architecture>(
        &self,
        config: &A::Config,
        folder: &Path,
    ) -> Result<Option<Self>, Error> {
        let plan = self.bind::<A>(config)?;
        let open = matches!(self.config.pack.policy.linear, QuantSpec::Auto(_));
        let packs = |plan: &Plan| {
            let mut steps = plan.steps.iter();
            steps.any(|step| matches!(step.action, Action::Pack(..)))
        };
        if open {
            // A step whose method is still open is planned as dense, which is larger than its result.
            plan.check_complete()?;
        } else if packs(&plan) && self.has_part() {
            // Only a part of it has to fit here.
            plan.check_complete()?;
        } else if packs(&plan) {
            self.check(&plan)?;
        } else {
            return Ok(None);
        }
        let mut known = plan.clone();
        if !open {
            // A choice may depend on the size of plain weights where they are loaded; else all types share the files.
            as_stored(&mut known);
        }
        let to = SaveConfig::for_cache(folder.to_owned());
        let identity = Identity::new(&known, &self.config, &to, self.checkpoint())?;
        let entry = folder.join(identity.key());
        let to = SaveConfig::for_cache(entry.clone());
        let workers = self.settings(&self.observers).pool()?;
        if self.ranks().is_some_and(|ranks| ranks.rank > 0) {
            self.wait_for(&entry, || {
                matches!(save::look(&entry, &identity, &workers), Kept::Whole)
            })?;
            return self.of_entry(&entry).map(Some);
        }
        loop {
            match save::look(&entry, &identity, &workers) {
                Kept::Whole => return self.of_entry(&entry).map(Some),
                Kept::Unfinished => {}
                Kept::Damaged(reason) => {
                    let folder = entry.display();
                    tracing::warn!(%folder, reason, "kept weights are damaged; they are made again");
                    save::forget(&entry)?;
                }
            }
            match self.write_plan(plan.clone(), &to, None, &identity, |plan| {
                as_stored(plan);
                Ok(plan.turn_back()?)
            }) {
                Ok(saved) if saved.resumed == 0 => return self.of_entry(&entry).map(Some),
                // The files of an earlier process are compared first.
                Ok(_) => {}
                // Begun by another at the same time, who is waited for from now on.
                Err(Error::Save(SaveError::Busy { .. })) => {}
                // The next load goes on with it unasked.
                Err(Error::Interrupted { source, .. }) => return Err(*source),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until rank 0 has written a folder of the cache that all ranks share.
    fn wait_for(&self, entry: &Path, is_there: impl Fn() -> bool) -> Result<(), RankError> {
        let deadline = self.config.ranks.deadline();
        let mut last = (written(entry), Instant::now());
        loop {
            if is_there() {
                return Ok(());
            }
            let now = written(entry);
            if now != last.0 {
                last = (now, Instant::now());
            }
            if last.1.elapsed() > deadline {
                return Err(RankError::Cache {
                    folder: entry.display().to_string(),
                    seconds: deadline.as_secs(),
                });
            }
            thread::sleep(POLL);
        }
    }

    /// Whether this process is one of several ranks that each have a part of the model.
    fn has_part(&self) -> bool {
        let ranks = self.ranks();
        ranks.is_some_and(|ranks| ranks.parallel != Parallel::Replicate)
    }

    /// Loads a checkpoint of ours to the same device, with the same types.
    fn of_entry(&self, entry: &Path) -> Result<Self, Error> {
        let config = LoadConfig {
            bare: false,
            // What was expanded is so in the files.
            expand: self.config.expand.map(|expand| Expand {
                blocks: None,
                ..expand
            }),
            pack: PackConfig {
                dtype: self.config.pack.dtype,
                verify: self.config.pack.verify.clone(),
                ..PackConfig::default()
            },
            ..self.config.clone()
        };
        let request = LoadRequest {
            source: Some(Arc::new(Local::open(entry)?)),
            config,
            shared: self.shared.clone(),
            ranks: self.messages.clone(),
            observers: self.observers.clone(),
        };
        let engine = Self::open(request, self.target, self.devices.clone())?;
        // The plain weights that are left may be stored in another type than most were.
        let dtype = self.dtype;
        Ok(Self { dtype, ..engine })
    }
}

/// Between two looks at a folder that another rank writes.
const POLL: Duration = Duration::from_millis(50);

/// Files of a folder, and their bytes, as far as they can be seen: they change while somebody writes there.
fn written(folder: &Path) -> [u64; 2] {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| Some(entry.metadata().ok()?.len()));
    sizes.fold([0, 0], |[files, bytes], size| [files + 1, bytes + size])
}

/// Plain weights stay in the type they are stored in, but for those that are scaled on the way: these are rounded once, to
/// the type that they are loaded in.
fn as_stored(plan: &mut Plan) {
    let links = plan.links.iter();
    let scaled: Vec<String> = links
        .flat_map(|link| link.from.iter().chain(&link.to))
        .cloned()
        .collect();
    let kept = plan.steps.clone();
    save::as_stored(plan);
    for (step, kept) in plan.steps.iter_mut().zip(kept) {
        if scaled.contains(&kept.slot.name) {
            step.action = kept.action;
        }
    }
}
