//! ClockBound 2, by the segment of shared memory that its daemon keeps in a file.
//!
//! Native byte order, as ClockBound's protocol document gives it:
//!
//! ```text
//!  0 u32 magic 0x414d5a4e, u32 magic 0x43420200       32 i64, i64 void after (s, ns; CLOCK_MONOTONIC_COARSE)
//!  8 u32 size of the segment                          48 i64 bound, ns
//! 12 u16 version = 2, u16 generation                  56 u64 disruption marker
//! 16 i64, i64 as of (s, ns; CLOCK_MONOTONIC_COARSE)   64 u32 drift, ppb   68 i32 status
//! ```
//!
//! The generation is odd while the daemon writes, and another one afterwards. There is no offset, only a bound that
//! holds whatever correction is pending: so `theta` is zero, give or take that bound.
//!
//! The file is read, not mapped: a file that is cut short under a mapping would end the process, and four reads a second
//! cost nothing.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use probe_ebpf::time::{MonoNs, Span};

use super::mapping::mono_now;
use super::source::{OffsetSource, Opinion, SourceError};
use super::{ClockOffset, ClockSource, ClockState, DRIFT_PPB};

/// Bytes that are used.
const LEN: usize = 72;
const MAGIC: [u32; 2] = [0x414d_5a4e, 0x4342_0200];
const VERSION: u16 = 2;
/// Attempts to read between two of the daemon's writes, of which there is one a second.
const ATTEMPTS: usize = 10;
/// A synchronised daemon writes every second; after this long without, ClockBound's own clients call it free-running.
const GRACE: Span = Span::from_secs(5);
/// The daemon's coarse clock is up to a tick of 10 ms behind; beyond it, its times are from the future.
const FUTURE: Span = Span::from_millis(10);

/// Why ClockBound tells no bound.
#[derive(Debug, thiserror::Error)]
pub enum ClockBoundError {
    /// There is no such file.
    #[error("does not run (there is no such file)")]
    Absent,
    /// The file cannot be read.
    #[error("cannot be read ({0})")]
    Io(#[source] io::Error),
    /// Not what ClockBound writes.
    #[error("is no segment of ClockBound's ({0})")]
    Malformed(&'static str),
    /// Of a version that is not known.
    #[error("has version {0} instead of {VERSION}")]
    Version(u16),
    /// It was being written whenever it was read.
    #[error("is being written all the time")]
    Busy,
    /// A field holds what no daemon can mean.
    #[error("has the absurd value {value} as {field}")]
    Absurd {
        /// Which.
        field: &'static str,
        /// As read.
        value: i64,
    },
}

/// What the segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    as_of: MonoNs,
    void_after: MonoNs,
    bound: Span,
    drift_ppb: u32,
    status: i32,
}

fn bytes<const N: usize>(segment: &[u8; LEN], at: usize) -> [u8; N] {
    std::array::from_fn(|i| segment[at + i])
}

fn generation(segment: &[u8; LEN]) -> u16 {
    u16::from_ne_bytes(bytes(segment, 14))
}

impl Segment {
    /// Reads the bytes of a segment, of a moment at which it was not being written.
    pub fn decode(segment: &[u8; LEN]) -> Result<Self, ClockBoundError> {
        let int = |at| i64::from_ne_bytes(bytes(segment, at));
        let word = |at| u32::from_ne_bytes(bytes(segment, at));
        if [word(0), word(4)] != MAGIC {
            return Err(ClockBoundError::Malformed("its first bytes are others"));
        }
        match u16::from_ne_bytes(bytes(segment, 12)) {
            VERSION => {}
            version => return Err(ClockBoundError::Version(version)),
        }
        if (word(8) as usize) < LEN || generation(segment) == 0 {
            return Err(ClockBoundError::Malformed("it is not filled yet"));
        }
        let time = |at, field| {
            let ns = int(at).checked_mul(1_000_000_000).and_then(|ns| ns.checked_add(int(at + 8)));
            let ns = ns.filter(|ns| *ns >= 0).ok_or(ClockBoundError::Absurd { field, value: int(at) })?;
            Ok(MonoNs::from_nanos(ns))
        };
        let drift_ppb = word(64);
        if drift_ppb >= 1_000_000_000 {
            return Err(ClockBoundError::Absurd { field: "drift", value: drift_ppb.into() });
        }
        // A bound of zero would be an exact clock, and a year is no bound.
        let bound = int(48);
        if !(1..=31_536_000_000_000_000).contains(&bound) {
            return Err(ClockBoundError::Absurd { field: "bound", value: bound });
        }
        Ok(Self {
            as_of: time(16, "time of its bound")?,
            void_after: time(32, "end of its bound")?,
            bound: Span::from_nanos(bound),
            drift_ppb,
            status: i32::from_ne_bytes(bytes(segment, 68)),
        })
    }

    /// What it stands for at `now`, and what keeps that from being synchronised.
    pub fn judge(&self, now: MonoNs) -> (ClockOffset, Option<&'static str>) {
        let age = now - self.as_of;
        let (state, doubt) = match self.status {
            _ if age < -FUTURE => (ClockState::Unsynchronised, Some("was written in the future")),
            1 | 2 if now >= self.void_after => {
                (ClockState::Unsynchronised, Some("holds a bound that has run out"))
            }
            1 if age <= GRACE => (ClockState::Synchronised, None),
            1 => (ClockState::FreeRunning, Some("has not been written for a while")),
            2 => (
                ClockState::FreeRunning,
                Some("says that the clock is not compared with anything at present"),
            ),
            3 => (ClockState::Unsynchronised, Some("says that the clock was disrupted")),
            _ => (ClockState::Unsynchronised, Some("says that nothing is known of the clock")),
        };
        let aged = self.bound + age.max(Span::ZERO).drift(self.drift_ppb.max(DRIFT_PPB));
        let bound_at_read = if state == ClockState::Unsynchronised { Span::MAX } else { aged };
        let source = ClockSource::ClockBound;
        let offset =
            ClockOffset { theta: Span::ZERO, bound_at_read, read_at: now, source, state, rate: None };
        (offset, doubt)
    }
}

/// ClockBound as a source.
#[derive(Clone, Debug)]
pub struct ClockBound {
    path: PathBuf,
}

impl ClockBound {
    /// The one that writes this file.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

fn read_once(path: &Path) -> Result<[u8; LEN], ClockBoundError> {
    let mut segment = [0; LEN];
    match File::open(path).and_then(|mut file| file.read_exact(&mut segment)) {
        Ok(()) => Ok(segment),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(ClockBoundError::Absent),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Err(ClockBoundError::Malformed("it is too short"))
        }
        Err(error) => Err(ClockBoundError::Io(error)),
    }
}

/// Reads it twice, until both are the same and whole.
fn read(path: &Path) -> Result<Segment, ClockBoundError> {
    let mut before = read_once(path)?;
    for _ in 0..ATTEMPTS {
        let now = read_once(path)?;
        if now == before && generation(&now).is_multiple_of(2) {
            return Segment::decode(&now);
        }
        before = now;
    }
    Err(ClockBoundError::Busy)
}

impl OffsetSource for ClockBound {
    fn name(&self) -> String {
        format!("ClockBound at {}", self.path.display())
    }

    fn read(&mut self) -> Result<Opinion, SourceError> {
        let at = self.path.display().to_string();
        let segment = read(&self.path).map_err(|source| SourceError::ClockBound { at, source })?;
        let (offset, doubt) = segment.judge(mono_now());
        let doubt = doubt.map(|doubt| format!("{} {doubt}", self.name()));
        Ok(Opinion { offset, doubt, leap: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: MonoNs = MonoNs::from_nanos(100_000_000_000);

    fn segment(as_of_s: i64, status: i32) -> [u8; LEN] {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.map(u32::to_ne_bytes).concat());
        bytes.extend(80u32.to_ne_bytes());
        bytes.extend([2u16, 6].map(u16::to_ne_bytes).concat());
        bytes.extend([as_of_s, 0, as_of_s + 1_000, 0, 300_000].map(i64::to_ne_bytes).concat());
        bytes.extend(7u64.to_ne_bytes());
        bytes.extend(15_000u32.to_ne_bytes());
        bytes.extend(status.to_ne_bytes());
        bytes.try_into().expect("the length")
    }
    fn judged(as_of_s: i64, status: i32) -> (ClockState, Span) {
        let (offset, doubt) = Segment::decode(&segment(as_of_s, status)).expect("good").judge(NOW);
        assert_eq!(doubt.is_none(), offset.state == ClockState::Synchronised);
        assert_eq!((offset.theta, offset.read_at), (Span::ZERO, NOW));
        (offset.state, offset.bound_at_read)
    }

    #[test]
    fn the_bound_ages_and_the_state_is_the_daemons_for_as_long_as_it_writes() {
        let after = |seconds: i64| Span::from_micros(300 + 50 * seconds);
        assert_eq!(judged(100, 1), (ClockState::Synchronised, after(0)));
        assert_eq!(judged(98, 1), (ClockState::Synchronised, after(2)));
        assert_eq!(judged(90, 1), (ClockState::FreeRunning, after(10)), "it writes no more");
        assert_eq!(judged(98, 2), (ClockState::FreeRunning, after(2)));
        for (as_of, status) in [(-901, 1), (98, 0), (98, 3), (98, 4), (98, -1), (101, 1)] {
            let judged = Segment::decode(&segment(as_of.max(0), status)).expect("good");
            let judged =
                if as_of < 0 { judged.judge(MonoNs::from_nanos(i64::MAX)).0 } else { judged.judge(NOW).0 };
            assert_eq!((judged.state, judged.bound_at_read), (ClockState::Unsynchronised, Span::MAX));
        }
    }

    #[test]
    fn what_no_daemon_writes_is_refused_by_reason() {
        let with = |at: usize, new: &[u8]| {
            let mut bytes = segment(98, 1);
            bytes[at..at + new.len()].copy_from_slice(new);
            Segment::decode(&bytes).expect_err("bad").to_string()
        };
        assert_eq!(with(0, &[0]), "is no segment of ClockBound's (its first bytes are others)");
        assert_eq!(with(12, &3u16.to_ne_bytes()), "has version 3 instead of 2");
        assert_eq!(with(14, &[0, 0]), "is no segment of ClockBound's (it is not filled yet)");
        assert_eq!(with(48, &0i64.to_ne_bytes()), "has the absurd value 0 as bound");
        assert_eq!(with(48, &i64::MAX.to_ne_bytes()), format!("has the absurd value {} as bound", i64::MAX));
        assert_eq!(with(64, &u32::MAX.to_ne_bytes()), "has the absurd value 4294967295 as drift");
        assert_eq!(with(16, &(-1i64).to_ne_bytes()), "has the absurd value -1 as time of its bound");
        assert!(with(32, &i64::MAX.to_ne_bytes()).contains("as end of its bound"));
    }

    #[test]
    fn a_file_is_read_and_one_that_is_absent_short_or_half_written_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("shm0");
        let ask = || ClockBound::new(path.clone()).read();
        let said = || ask().expect_err("nothing good there").to_string();
        assert!(said().ends_with("shm0 does not run (there is no such file)"), "{}", said());
        std::fs::write(&path, [0; 40]).expect("write");
        assert!(said().ends_with("(it is too short)"), "{}", said());
        let now = mono_now().as_nanos() / 1_000_000_000;
        let mut bytes = segment(now, 1);
        bytes[14..16].copy_from_slice(&7u16.to_ne_bytes());
        std::fs::write(&path, bytes).expect("write");
        assert!(said().ends_with("is being written all the time"), "{}", said());
        std::fs::write(&path, segment(now, 1)).expect("write");
        let opinion = ask().expect("a bound");
        assert_eq!((opinion.offset.source, opinion.doubt), (ClockSource::ClockBound, None));
        assert!(opinion.offset.bound_at_read >= Span::from_micros(300));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: [[u8; 24]; 3], is_marked: bool, now: i64) {
            let mut segment: [u8; LEN] = bytes.concat().try_into().expect("the length");
            if is_marked {
                segment[..16].copy_from_slice(&self::segment(0, 0)[..16]);
            }
            if let Ok(segment) = Segment::decode(&segment) {
                segment.judge(MonoNs::from_nanos(now));
            }
        }
    }
}
