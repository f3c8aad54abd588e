//! chronyd as a source.

use std::time::Duration;

use super::judge::Cadence;
use super::query::{ChronyAddr, query};
use crate::clock::Leap;
use crate::clock::mapping::real_now;
use crate::clock::source::{OffsetSource, Opinion, SourceError};

/// How long a chronyd on this host may take to answer: usually it needs less than a millisecond.
const TIMEOUT: Duration = Duration::from_millis(200);

/// A chronyd of this host.
#[derive(Debug)]
pub struct Chronyd {
    addr: ChronyAddr,
    timeout: Duration,
    cadence: Cadence,
}

impl Chronyd {
    /// The chronyd that takes commands at `addr`.
    pub fn new(addr: impl Into<ChronyAddr>) -> Self {
        Self { addr: addr.into(), timeout: TIMEOUT, cadence: Cadence::default() }
    }
}

impl OffsetSource for Chronyd {
    fn name(&self) -> String {
        format!("chronyd at {}", self.addr)
    }

    fn read(&mut self) -> Result<Opinion, SourceError> {
        let (tracking, read_at) = query(&self.addr, self.timeout)
            .map_err(|source| SourceError::Chrony { at: self.addr.to_string(), source })?;
        let interval = self.cadence.observe(&tracking);
        let (offset, doubt) = tracking.judge(read_at, real_now(), interval);
        let doubt = doubt.map(|doubt| format!("{} {doubt}", self.name()));
        Ok(Opinion { offset, doubt, leap: Leap::from_code(tracking.leap) })
    }
}
