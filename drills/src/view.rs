//! A view of the repository in which copies are damaged, gone or out of reach.
//!
//! A drill that plays the loss of a region or the rot of a disk must not touch
//! the real copies. So it looks at them through a [`View`]: a [`Lens`] that
//! answers nothing for regions that are cut off, and something else than what is
//! stored for objects that are damaged. What is written through it (repairs, for
//! the greatest part) stays in memory, lies over what is below, and is gone with
//! the view: nothing reaches a store.
//!
//! The view remembers which damage was *served*: handed to a reader. Whoever was
//! handed something damaged must have noticed, and that is what the drill checks.
//!
//! The same view is looked through by the drill's restore and, over the relay,
//! by its recovery; each opens the repository anew.

mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use holdfast_proto::names::{ObjectKey, Region};
use holdfast_repository::store::{BackEnd, Lens};

use store::ViewedStore;

/// What is seen in place of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// One bit of whatever is read of it is wrong.
    Flipped,
    /// Its second half is missing.
    Truncated,
    /// It is not there.
    Gone,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Damage::Flipped => "flipped",
            Damage::Truncated => "truncated",
            Damage::Gone => "gone",
        })
    }
}

/// A copy: the object and the region that holds it.
pub type Copy = (Region, ObjectKey);

/// A view of a repository. Cheap to clone; clones are one view.
#[derive(Debug, Clone, Default)]
pub struct View {
    cut: Arc<BTreeSet<Region>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    damaged: BTreeMap<Copy, Damage>,
    served: BTreeSet<Copy>,
    written: BTreeMap<Copy, Bytes>,
    refused: u64,
}

impl View {
    /// A view in which the regions in `cut` answer nothing.
    pub fn cutting(cut: BTreeSet<Region>) -> Self {
        Self {
            cut: Arc::new(cut),
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these copies are seen damaged, unless they were repaired.
    pub fn damage(&self, damaged: BTreeMap<Copy, Damage>) {
        self.state().damaged.extend(damaged);
    }

    /// The regions that answer nothing.
    pub fn cut(&self) -> &BTreeSet<Region> {
        &self.cut
    }

    /// Damaged copies that somebody was shown.
    pub fn served(&self) -> BTreeMap<Copy, Damage> {
        let state = self.state();
        let damage = |copy: &Copy| Some((copy.clone(), *state.damaged.get(copy)?));
        state.served.iter().filter_map(damage).collect()
    }

    /// What was written over a copy through the view.
    pub fn written(&self, copy: &Copy) -> Option<Bytes> {
        self.state().written.get(copy).cloned()
    }

    /// How many calls to regions that are cut off were refused.
    pub fn refused(&self) -> u64 {
        self.state().refused
    }
}

impl Lens for View {
    fn through(&self, region: &Region, back: BackEnd) -> BackEnd {
        let viewed = Arc::new(ViewedStore::new(self.clone(), region.clone(), &back));
        BackEnd {
            // All of the store is seen through the view; a directory's marker would
            // be looked at beside it.
            history: back.history.is_some().then(|| viewed.clone() as _),
            store: viewed,
            location: back.location,
            // It was the directory that listed in order.
            ordered: back.ordered && back.directory.is_none(),
            directory: None,
        }
    }
}
