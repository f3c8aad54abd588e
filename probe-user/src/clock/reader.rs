//! The best offset that this host's sources give, and why it is not a better one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use probe_ebpf::time::Span;

use super::adjtimex::KernelClock;
use super::chrony::ChronyError;
use super::chrony::judge::Cadence;
use super::chrony::query::query;
use super::mapping::{mono_now, real_now};
use super::{ClockOffset, ClockSource, ClockState};

/// Where chronyd listens unless its `cmdport` says otherwise.
pub const CHRONYD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 323);
/// How long a chronyd on this host may take to answer: usually it needs less than a millisecond.
pub const CHRONYD_TIMEOUT: Duration = Duration::from_millis(200);

/// Why a source gives no offset at all. Its text is a whole clause, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// chronyd.
    #[error("chronyd at {addr} {source}: start chronyd, or give its address with --chrony")]
    Chrony {
        /// Who was asked.
        addr: SocketAddr,
        /// What went wrong.
        source: ChronyError,
    },
    /// The kernel.
    #[error("adjtimex is not allowed here ({0})")]
    Adjtimex(#[source] std::io::Error),
}

/// What a source says.
#[derive(Clone, Debug)]
pub struct Opinion {
    /// The offset.
    pub offset: ClockOffset,
    /// What keeps it from being synchronised, as a clause.
    pub doubt: Option<String>,
}

/// Anything that can tell the local clock's offset. `read` may block for a fraction of a second.
pub trait OffsetSource: Send {
    /// Asks it now.
    fn read(&mut self) -> Result<Opinion, SourceError>;
}

/// The chronyd of this host.
#[derive(Debug)]
pub struct Chronyd {
    addr: SocketAddr,
    timeout: Duration,
    cadence: Cadence,
}

impl Chronyd {
    /// The chronyd whose command port is `addr`.
    pub fn new(addr: SocketAddr, timeout: Duration) -> Self {
        Self { addr, timeout, cadence: Cadence::default() }
    }
}

impl OffsetSource for Chronyd {
    fn read(&mut self) -> Result<Opinion, SourceError> {
        let (tracking, read_at) = query(self.addr, self.timeout)
            .map_err(|source| SourceError::Chrony { addr: self.addr, source })?;
        let interval = self.cadence.observe(&tracking);
        let (offset, doubt) = tracking.judge(read_at, real_now(), interval);
        Ok(Opinion { offset, doubt: doubt.map(|doubt| format!("chronyd at {} {doubt}", self.addr)) })
    }
}

/// The kernel's own state.
#[derive(Clone, Copy, Debug)]
pub struct Adjtimex;

impl OffsetSource for Adjtimex {
    fn read(&mut self) -> Result<Opinion, SourceError> {
        let (clock, read_at) = KernelClock::read().map_err(SourceError::Adjtimex)?;
        let offset = clock.judge(read_at);
        let doubt = match offset.state {
            ClockState::Unsynchronised => "the kernel's clock is not synchronised",
            _ => "the kernel does not tell when its clock was last synchronised",
        };
        Ok(Opinion { offset, doubt: Some(doubt.to_owned()) })
    }
}

/// The outcome of asking the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The best offset there is.
    pub offset: ClockOffset,
    /// Why it is not a better one, in one sentence; `None` when all is well.
    pub note: Option<String>,
}

/// Asks its sources in order; the first that has a clock to speak of wins.
pub struct ClockReader {
    sources: Vec<Box<dyn OffsetSource>>,
}

impl ClockReader {
    /// chronyd at `addr`, then the kernel.
    pub fn new(chronyd: SocketAddr) -> Self {
        Self::with_sources(vec![Box::new(Chronyd::new(chronyd, CHRONYD_TIMEOUT)), Box::new(Adjtimex)])
    }

    /// These sources, the best first.
    pub fn with_sources(sources: Vec<Box<dyn OffsetSource>>) -> Self {
        Self { sources }
    }

    /// The local clock's offset now. Blocks while a source does not answer: not for an async task.
    ///
    /// Never fails: where no source knows anything, the offset is zero, unsynchronised, with
    /// [`Span::MAX`] as its bound.
    pub fn read(&mut self) -> Reading {
        let mut clauses = Vec::new();
        let mut unsynchronised = None;
        for source in &mut self.sources {
            match source.read() {
                Ok(Opinion { offset, doubt }) => {
                    clauses.extend(doubt);
                    if offset.state != ClockState::Unsynchronised {
                        return Reading { offset, note: sentence(&clauses) };
                    }
                    unsynchronised.get_or_insert(offset);
                }
                Err(error) => clauses.push(error.to_string()),
            }
        }
        clauses.push("until then one-way times are uncorrected".to_owned());
        Reading { offset: unsynchronised.unwrap_or_else(unknown), note: sentence(&clauses) }
    }
}

fn sentence(clauses: &[String]) -> Option<String> {
    (!clauses.is_empty()).then(|| clauses.join("; "))
}

/// What is known where even the kernel does not answer.
fn unknown() -> ClockOffset {
    ClockOffset {
        theta: Span::ZERO,
        bound_at_read: Span::MAX,
        read_at: mono_now(),
        source: ClockSource::Adjtimex,
        state: ClockState::Unsynchronised,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    /// A source with a fixed answer: a state and its doubt, or an error.
    struct Fixed(Option<(ClockSource, ClockState, Option<&'static str>)>);

    impl OffsetSource for Fixed {
        fn read(&mut self) -> Result<Opinion, SourceError> {
            match self.0 {
                Some((source, state, doubt)) => Ok(Opinion {
                    offset: ClockOffset { source, state, ..unknown() },
                    doubt: doubt.map(str::to_owned),
                }),
                None => Err(SourceError::Adjtimex(std::io::ErrorKind::PermissionDenied.into())),
            }
        }
    }
    fn read(sources: [Fixed; 2]) -> (ClockSource, ClockState, Option<String>) {
        let sources = sources.into_iter().map(|s| Box::new(s) as Box<dyn OffsetSource>).collect();
        let Reading { offset, note } = ClockReader::with_sources(sources).read();
        (offset.source, offset.state, note)
    }
    use ClockSource::{Adjtimex as Kernel, Chrony};
    use ClockState::{FreeRunning, Synchronised, Unsynchronised};

    #[test]
    fn the_first_source_with_a_clock_wins_and_the_note_says_why_not_a_better_one() {
        let kernel = || Fixed(Some((Kernel, FreeRunning, Some("k"))));
        assert_eq!(read([Fixed(Some((Chrony, Synchronised, None))), kernel()]), (Chrony, Synchronised, None));
        assert_eq!(
            read([Fixed(Some((Chrony, FreeRunning, Some("silent")))), kernel()]),
            (Chrony, FreeRunning, Some("silent".to_owned()))
        );
        assert_eq!(
            read([Fixed(Some((Chrony, Unsynchronised, Some("starting")))), kernel()]),
            (Kernel, FreeRunning, Some("starting; k".to_owned()))
        );
        let (source, state, note) = read([Fixed(None), kernel()]);
        assert_eq!((source, state), (Kernel, FreeRunning));
        assert_eq!(note.as_deref(), Some("adjtimex is not allowed here (permission denied); k"));
    }

    #[test]
    fn where_nothing_is_known_it_says_so() {
        let (source, state, note) = read([
            Fixed(Some((Chrony, Unsynchronised, Some("starting")))),
            Fixed(Some((Kernel, Unsynchronised, Some("k")))),
        ]);
        assert_eq!((source, state), (Chrony, Unsynchronised), "the better source of two that know nothing");
        assert_eq!(note.as_deref(), Some("starting; k; until then one-way times are uncorrected"));
        let (_, state, note) = read([Fixed(None), Fixed(None)]);
        assert_eq!(state, Unsynchronised);
        assert!(note.is_some_and(|n| n.ends_with("uncorrected")));
        assert_eq!(unknown().at(mono_now()).bound, Span::MAX);
    }

    /// The real sources, on a host where nothing listens and on one where something does but is silent.
    #[test]
    fn an_absent_chronyd_is_named() {
        let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let addr = silent.local_addr().expect("bound");
        let note = |addr| ClockReader::new(addr).read().note.expect("something to say");
        let said = note(addr);
        let wanted = format!(
            "chronyd at {addr} does not answer (timed out after 200 ms): start chronyd, or give its address with --chrony; the kernel"
        );
        assert!(said.starts_with(&wanted), "{said}");
        drop(silent);
        let said = note(addr);
        assert!(
            said.starts_with(&format!("chronyd at {addr} does not run (the port is closed): start")),
            "{said}"
        );
    }
}
