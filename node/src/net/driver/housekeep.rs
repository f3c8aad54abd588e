//! What a driver does once a second, and at last.

use probe_user::clock::mapping::mono_now;
use probe_user::timestamping::receive_buffer_fill;

use super::clocks::tell_honesty;
use super::{Driver, NetError, Record};

impl Driver {
    /// Once a second: clocks, expiry, published levels.
    pub(super) fn housekeep(&mut self) {
        self.look_at_clocks();
        let now = mono_now();
        if let Some(departing) = &mut self.stamping.departing {
            departing.housekeep(&self.socket, now);
        }
        self.further.housekeep(now);
        self.count_drops(now);
        self.journeys.expire(now);
        self.end_journeys();
        if let Some(transition) = self.journeys.judge(&self.clock, now) {
            tell_honesty(&transition.to);
        }
        // What waits in the socket's buffer is what this thread has not come to: read it before the next receive.
        if let Some(loads) = self.loads.read(now, receive_buffer_fill(&self.socket).ok()) {
            self.journeys.set_host(loads, now);
        }
        self.journeys.evaluate(self.core.ring(), &self.clock, now);
        self.core.tell(&self.journeys.judges().summary().encode());
        if let Some(recorder) = &mut self.observer.recorder {
            self.journeys.judges_mut().recorded().for_each(|line| recorder.push(Record::Judged(line)));
        }
        self.stamping.housekeep(now);
        self.publish(now);
    }

    /// Stops sending, takes the filter off, and handles what is queued still, so that the accounting closes.
    pub(super) fn finish(mut self) -> Result<(), NetError> {
        self.sending = false;
        self.stamping.detach();
        while let Ok(n @ 1..) = self.socket.receive(&mut self.batch) {
            self.received(n);
        }
        let now = mono_now();
        self.count_drops(now);
        self.journeys.finish(now);
        self.end_journeys();
        self.stamping.finish(now);
        self.publish(now);
        if let Some(path) = &self.config.final_report {
            let write = |source| NetError::Report { path: path.display().to_string(), source };
            let json = serde_json::to_vec_pretty(&self.report(now)).map_err(|e| write(e.into()))?;
            std::fs::write(path, json).map_err(write)?;
        }
        if let Some(recorder) = self.observer.recorder.take() {
            let path = self.config.record.as_deref().map(|p| p.display().to_string()).unwrap_or_default();
            recorder.finish().map_err(|source| NetError::Record { path, source })?;
        }
        Ok(())
    }
}
