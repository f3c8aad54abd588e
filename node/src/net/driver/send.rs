//! What the core left in the outbox, on its way.

use probe_user::analysis::align::PeerClock;
use probe_user::clock::mapping::mono_now;

use super::Driver;
use crate::net::record::Record;
use crate::net::socket;
use crate::proto::Protocol;
use crate::wire::v1;

impl Driver {
    /// Sends what the core left in the outbox, each packet stamped (T1) just before its `sendmsg`.
    pub(super) fn send(&mut self) {
        if !self.sending {
            return;
        }
        let clock_source = self.clock.offset.source;
        for (transmit, bytes) in self.out.packets_mut() {
            let sent = mono_now();
            let (wall, queued) = (self.clock.mapping.wall(sent), sent - transmit.handed_over);
            if transmit.protocol == Protocol::V1 {
                v1::stamp(bytes, wall, queued, &PeerClock::of(&self.clock, sent), clock_source)
                    .expect("the core's own packets have a header");
            }
            let mut parts = [&*bytes, &[]];
            if let Some(to) = transmit.destination.as_ref().filter(|_| transmit.protocol == Protocol::V1) {
                let source = self.further.source(transmit.source);
                self.journeys.sent(to, transmit.id, sent, queued, source, &self.clock);
                if !transmit.limited {
                    self.tail.begin(bytes, self.config.max_packet_bytes);
                    self.journeys.write_reports(to, transmit.answers, sent, &mut self.tail);
                    self.tail.pad(bytes, self.config.pad_packet_bytes);
                    parts = self.tail.split(bytes);
                }
            }
            let further = transmit.source.checked_sub(1).and_then(|place| self.further.get(place));
            let (socket, departing) =
                further.unwrap_or_else(|| (self.socket.sender(), self.stamping.departing.as_mut()));
            match socket::send(&socket, parts, transmit.to) {
                Ok(()) => {
                    if let Some(departing) = departing {
                        let counted = transmit.id.counter > 0;
                        let who = transmit.destination.take().filter(|_| counted);
                        departing.sent(who.map(|to| (to, transmit.id.counter)), sent);
                    }
                    self.observer.metrics.packets_sent.inc();
                    let len = parts.map(<[u8]>::len).iter().sum::<usize>();
                    self.observer.metrics.bytes_sent.inc_by(len as u64);
                }
                // An unreachable or congested peer shows as loss on its side; here it is only counted.
                Err(_) => {
                    self.observer.metrics.send_failed.inc();
                    if let Some(departing) = departing {
                        departing.failed(sent);
                    }
                }
            }
            if let Some(recorder) = &mut self.observer.recorder {
                let (to, id, handed_over) = (transmit.to, transmit.id, transmit.handed_over);
                let epoch = self.clock.mapping.epoch;
                recorder.push(Record::Sent { to, id, handed_over, sent, epoch });
            }
        }
    }
}
