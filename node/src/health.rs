//! Whether the gossip thread is alive, as other threads can tell without asking it.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A gossip thread that has not published for so long is not healthy: it publishes once a second.
pub const STALE: Duration = Duration::from_secs(5);

/// Signs of life, written by the gossip thread and read by `/healthz`.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    /// Milliseconds after `started`, plus one; 0 is never.
    beat: AtomicU64,
    /// The gossip socket's last error, 0 when the last operation went well.
    errno: AtomicI32,
}

impl Default for Health {
    fn default() -> Self {
        Self { started: now(), beat: AtomicU64::new(0), errno: AtomicI32::new(0) }
    }
}

impl Health {
    /// How the gossip socket's last operation went: its `errno`, or `None` when it went well.
    pub fn socket(&self, errno: Option<i32>) {
        self.errno.store(errno.unwrap_or(0), Ordering::Relaxed);
    }

    /// The gossip thread is alive.
    pub fn beat(&self) {
        let ms = now().duration_since(self.started).as_millis();
        self.beat.store(u64::try_from(ms).unwrap_or(u64::MAX - 1) + 1, Ordering::Release);
    }

    /// # Errors
    /// Why it is not healthy, in one sentence.
    pub fn check(&self) -> Result<(), String> {
        self.check_at(now())
    }

    fn check_at(&self, now: Instant) -> Result<(), String> {
        let beat = match self.beat.load(Ordering::Acquire) {
            0 => return Err("the gossip thread has not published anything yet".into()),
            ms => self.started + Duration::from_millis(ms - 1),
        };
        let silent = now.saturating_duration_since(beat);
        if silent > STALE {
            return Err(format!("the gossip thread has published nothing for {} s", silent.as_secs()));
        }
        match self.errno.load(Ordering::Relaxed) {
            0 => Ok(()),
            errno => Err(format!("the gossip socket fails: {}", std::io::Error::from_raw_os_error(errno))),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "signs of life are about the thread itself, not about packets")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_while_the_thread_publishes_and_its_socket_works() {
        let health = Health::default();
        assert!(health.check().unwrap_err().contains("not published anything yet"));
        health.beat();
        assert_eq!(health.check(), Ok(()));
        let later = now() + STALE + Duration::from_secs(2);
        assert!(
            health
                .check_at(later)
                .unwrap_err()
                .starts_with("the gossip thread has published nothing for 7 s")
        );
        health.beat();
        health.socket(Some(libc::ENETDOWN));
        assert_eq!(health.check(), Err("the gossip socket fails: Network is down (os error 100)".into()));
        health.socket(None);
        assert_eq!(health.check(), Ok(()));
    }
}
