use super::*;
use crate::clock::source::SourceError;
use std::collections::VecDeque;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};

type Answer = Option<(ClockSource, ClockState, Option<&'static str>)>;

/// A source with a fixed answer: a state and its doubt, or an error.
struct Fixed(Answer);

impl OffsetSource for Fixed {
    fn name(&self) -> String {
        "fixed".to_owned()
    }
    fn read(&mut self) -> Result<Opinion, SourceError> {
        match self.0 {
            Some((source, state, doubt)) => Ok(Opinion {
                offset: ClockOffset { source, state, ..unknown() },
                doubt: doubt.map(str::to_owned),
                leap: Some(Leap::Insert),
            }),
            None => Err(SourceError::Adjtimex(std::io::ErrorKind::PermissionDenied.into())),
        }
    }
}
fn read(answers: [Answer; 2]) -> (ClockSource, ClockState, Option<String>) {
    let sources = answers.into_iter().map(|s| Box::new(Fixed(s)) as Box<dyn OffsetSource>).collect();
    let Reading { offset, note, .. } = ClockReader::with_sources(sources).read();
    (offset.source, offset.state, note)
}
use ClockSource::{Adjtimex as Kernel, Chrony, Sntp};
use ClockState::{FreeRunning, Synchronised, Unsynchronised};

#[test]
fn the_first_source_with_a_clock_wins_and_the_note_says_why_not_a_better_one() {
    let kernel = Some((Kernel, FreeRunning, Some("k")));
    assert_eq!(read([Some((Chrony, Synchronised, None)), kernel]), (Chrony, Synchronised, None));
    assert_eq!(
        read([Some((Chrony, FreeRunning, Some("silent"))), kernel]),
        (Chrony, FreeRunning, Some("silent".to_owned()))
    );
    assert_eq!(
        read([Some((Chrony, FreeRunning, Some("silent"))), Some((Sntp, Synchronised, None))]),
        (Sntp, Synchronised, Some("silent".to_owned())),
        "a synchronised one below is better than one that runs free"
    );
    assert_eq!(
        read([Some((Chrony, Unsynchronised, Some("starting"))), kernel]),
        (Kernel, FreeRunning, Some("starting; k".to_owned()))
    );
    let (source, state, note) = read([None, kernel]);
    assert_eq!((source, state), (Kernel, FreeRunning));
    assert_eq!(note.as_deref(), Some("adjtimex is not allowed here (permission denied); k"));
}

#[test]
fn where_nothing_is_known_it_says_so() {
    let (source, state, note) =
        read([Some((Chrony, Unsynchronised, Some("starting"))), Some((Kernel, Unsynchronised, Some("k")))]);
    assert_eq!((source, state), (Chrony, Unsynchronised), "the better source of two that know nothing");
    assert_eq!(
        note.as_deref(),
        Some("starting; k; until then packets alone correct one-way times, and cannot see which way is slow")
    );
    let (_, state, note) = read([None, None]);
    assert_eq!(state, Unsynchronised);
    assert!(note.is_some_and(|n| n.ends_with("cannot see which way is slow")));
    assert_eq!(unknown().at(mono_now()).bound, Span::MAX);
}

#[test]
fn the_leap_is_that_of_the_source_in_use() {
    let of = |answer| ClockReader::with_sources(vec![Box::new(Fixed(answer))]).read().leap;
    assert_eq!(of(Some((Chrony, Synchronised, None))), Some(Leap::Insert));
    assert_eq!(of(Some((Chrony, Unsynchronised, None))), None);
}

/// A source that gives `(theta, bound)` after the other, in microseconds.
struct Script {
    name: &'static str,
    offsets: VecDeque<(i64, i64)>,
    now: Arc<Mutex<i64>>,
}

impl OffsetSource for Script {
    fn name(&self) -> String {
        self.name.to_owned()
    }
    fn read(&mut self) -> Result<Opinion, SourceError> {
        let (theta, bound) = self.offsets.pop_front().expect("another reading");
        let mut now = self.now.lock().expect("not poisoned");
        *now += 500_000_000;
        let offset = ClockOffset {
            theta: Span::from_micros(theta),
            bound_at_read: Span::from_micros(bound),
            read_at: probe_ebpf::time::MonoNs::from_nanos(*now),
            source: Chrony,
            state: Synchronised,
            rate: None,
        };
        Ok(Opinion { offset, doubt: None, leap: None })
    }
}
fn script(name: &'static str, offsets: impl IntoIterator<Item = (i64, i64)>) -> Box<dyn OffsetSource> {
    Box::new(Script { name, offsets: offsets.into_iter().collect(), now: Arc::default() })
}

#[test]
fn a_contradiction_is_counted_when_it_begins_and_says_who_and_by_how_much() {
    let honest = script("chronyd", [(0, 100); 5]);
    let other = script("server", [(200, 100), (201, 100), (-50_000, 100), (50, 100), (400, 100)]);
    let mut reader = ClockReader::with_sources(vec![honest, other]);
    let mut next = || {
        let reading = reader.read();
        assert_eq!(reading.offset.theta, Span::ZERO, "the order decides, not the majority");
        let found = reading.disagreement.map(|d| (d.apart, d.beyond, d.used, d.other));
        (reading.disagreements, found, reading.note)
    };
    assert_eq!(next(), (0, None, None), "they touch");
    let (count, found, note) = next();
    let wanted = (Span::from_micros(201), Span::from_micros(1), "chronyd".to_owned(), "server".to_owned());
    assert_eq!((count, found), (1, Some(wanted)));
    assert_eq!(
        note.as_deref(),
        Some(
            "server contradicts chronyd by 201.0 us, 1.0 us more than both can be off: one of them is wrong"
        )
    );
    let (count, found, _) = next();
    assert_eq!((count, found.map(|f| f.1)), (1, Some(Span::from_micros(49_800))), "the same one, still");
    assert_eq!(next(), (1, None, None));
    assert_eq!(next().0, 2, "again");
}

#[test]
fn the_rate_of_the_source_in_use_is_in_the_reading() {
    // 20 ppm, two readings a second.
    let mut reader = ClockReader::with_sources(vec![script("chronyd", (0..9).map(|i| (i * 10, 5)))]);
    let rates: Vec<_> = (0..9).map(|_| reader.read().offset.rate.map(|rate| rate.ppb)).collect();
    assert_eq!((rates[3], rates[8]), (None, Some(20_000)));
    assert_eq!(reader.history().rate().map(|rate| rate.ppb), Some(20_000));
}

/// The real sources, on a host where nothing listens and on one where something does but is silent.
#[test]
fn an_absent_chronyd_is_named() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let addr = silent.local_addr().expect("bound");
    let note = |addr| ClockReader::new(addr).read().note.expect("something to say");
    let said = note(addr);
    let wanted = format!(
        "chronyd at {addr} does not answer (timed out after 200 ms): start chronyd, or give its address with --chrony; "
    );
    assert!(said.starts_with(&wanted), "{said}");
    drop(silent);
    let said = note(addr);
    assert!(
        said.starts_with(&format!("chronyd at {addr} does not run (the port is closed): start")),
        "{said}"
    );
}
