//! Waiting for something to become true, with a deadline and a name.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Time since a start.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "the rig's only reading of a clock: how long things take")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Asks `poll` until it has a value, at most for `deadline`, at intervals of 2 to 50 ms.
///
/// An error from `poll` is "not yet"; the last one is told when the deadline passes, along with `what`.
pub fn wait_for<T>(what: &str, deadline: Duration, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait_on(&mut (), what, deadline, |()| Ok(()), |()| poll())
}

/// As [`wait_for`], on something that has to stay `alive`: an error from that ends the wait at once.
pub fn wait_on<S, T>(
    on: &mut S,
    what: &str,
    deadline: Duration,
    mut alive: impl FnMut(&mut S) -> Result<()>,
    mut poll: impl FnMut(&mut S) -> Result<Option<T>>,
) -> Result<T> {
    let started = Stopwatch::start();
    let mut pause = Duration::from_millis(2);
    loop {
        alive(on)?;
        let last = match poll(on) {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if started.elapsed() >= deadline {
            let failure = format!("waited {deadline:?} in vain for {what}");
            match last {
                Some(error) => return Err(error).context(failure),
                None => bail!(failure),
            }
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_the_wait_and_errors_before_it_do_not() {
        let mut asked = 0;
        let value = wait_for("a third answer", Duration::from_secs(10), || {
            asked += 1;
            match asked {
                1 => bail!("not reachable yet"),
                2 => Ok(None),
                _ => Ok(Some(asked)),
            }
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn the_deadline_tells_what_was_waited_for_and_why_it_did_not_come() {
        let never = wait_for("rain", Duration::from_millis(5), || -> Result<Option<()>> { bail!("sun") });
        let text = format!("{:#}", never.unwrap_err());
        assert!(text.contains("rain") && text.contains("sun"), "{text}");
    }

    #[test]
    fn waiting_on_what_is_dead_ends_at_once() {
        let mut looks = 0;
        let alive = |looks: &mut i32| {
            *looks += 1;
            if *looks == 3 { bail!("gone") } else { Ok(()) }
        };
        let never = wait_on(&mut looks, "its answer", Duration::from_secs(600), alive, |_| Ok(None::<()>));
        assert_eq!(format!("{:#}", never.unwrap_err()), "gone");
    }
}
