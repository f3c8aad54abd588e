//! A bound on the bytes that all connections hold together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Granularity of the bound in bytes.
const UNIT: usize = 1024;

/// So many bytes for all.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Semaphore>);

/// A share of a [`Budget`]; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    held: OwnedSemaphorePermit,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / UNIT)))
    }

    /// Room for `bytes`, if there is as much.
    pub(super) fn take(&self, bytes: usize) -> Option<Share> {
        let held = Arc::clone(&self.0).try_acquire_many_owned(units(bytes)).ok()?;
        Some(Share { budget: self.clone(), held })
    }

    /// Waits for room for `bytes`.
    pub(super) async fn wait_for(&self, bytes: usize) -> Option<Share> {
        let held = Arc::clone(&self.0).acquire_many_owned(units(bytes)).await.ok()?;
        Some(Share { budget: self.clone(), held })
    }
}

impl Share {
    /// Makes it large enough for `bytes`; false when there is no room.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = units(bytes).saturating_sub(self.held.num_permits() as u32);
        match Arc::clone(&self.budget.0).try_acquire_many_owned(more) {
            Ok(permit) => {
                self.held.merge(permit);
                true
            }
            Err(_) => false,
        }
    }

    /// Gives back what is beyond `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let spare = self.held.num_permits().saturating_sub(units(bytes) as usize);
        drop(self.held.split(spare));
    }
}

/// Units that hold `bytes`. Nothing here is near 4 TiB, where it would not be exact.
fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_grow_shrink_and_come_back() {
        let budget = Budget::new(8 * UNIT);
        let mut first = budget.take(1).unwrap();
        assert!(first.grow_to(5 * UNIT) && first.grow_to(3), "growing to less is nothing");
        assert!(budget.take(4 * UNIT).is_none());
        let second = budget.take(3 * UNIT).unwrap();
        assert!(!first.grow_to(5 * UNIT + 1));
        first.shrink_to(UNIT + 1);
        assert!(budget.take(3 * UNIT).is_some() && budget.take(4 * UNIT).is_none());
        drop((first, second));
        assert!(budget.take(8 * UNIT).is_some());
    }
}
